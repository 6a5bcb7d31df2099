//! `chargemesh audit verify`: Central verifies its own audit when asked; Registry's chain is read where its data folder
//! or its database can be reached from here, against the keys and checkpoints in its folder (SPEC 8.2).

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use mesh::process::Misuse;
use proto::central::v1::{BadAuditEntry, VerifyAuditRequest, VerifyAuditResponse};
use serde::Serialize;
use store::{
    Database,
    audit::{Verification, verify as read_and_verify},
    registry::SCHEMA,
};

use super::{ApiMessage, OperatorConnection};
use crate::{
    failure::of_status,
    output::{Output, escaped, note},
};

/// Where Registry's audit is. The variable of a database counts only for the folder that no flag has named, unless that
/// folder holds no database of its own.
#[derive(Debug)]
pub(super) struct RegistryAuditArgs {
    registry_data: Option<PathBuf>,
    registry_database: Option<String>,
    /// Whether the folder was named by a flag and the database was not.
    folder_first: bool,
}

/// The flags and the variable.
#[derive(Debug, Args)]
struct RegistryAuditFlags {
    /// Registry's data folder, with its checkpoints and audit keys; not given: that of the network in the data folder
    #[arg(long, value_name = "DIR")]
    registry_data: Option<PathBuf>,
    /// Registry's database: sqlite:PATH or postgres://…; not given: registry.db in its data folder
    #[arg(long, value_name = "URL", env = "CHARGEMESH_REGISTRY_DATABASE", hide_env_values = true)]
    registry_database: Option<String>,
}

impl FromArgMatches for RegistryAuditArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let RegistryAuditFlags { registry_data, registry_database } = RegistryAuditFlags::from_arg_matches(matches)?;
        let is_flag = |id: &str| {
            matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)
        };
        let folder_first = (is_flag("data") || is_flag("registry_data")) && !is_flag("registry_database");
        Ok(Self { registry_data, registry_database, folder_first })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for RegistryAuditArgs {
    fn augment_args(command: Command) -> Command {
        RegistryAuditFlags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        RegistryAuditFlags::augment_args_for_update(command)
    }
}

/// What is said of one audit.
struct AuditVerdict {
    whose: &'static str,
    answer: VerifyAuditResponse,
}

/// Both audits, as programs read it.
#[derive(Debug, Serialize)]
struct BothAudits {
    central: ApiMessage<VerifyAuditResponse>,
    /// Nothing where it was not read.
    registry: Option<ApiMessage<VerifyAuditResponse>>,
}

impl AuditVerdict {
    fn sentence(&self) -> String {
        let VerifyAuditResponse { entries, uncovered, first_bad, .. } = &self.answer;
        let whose = self.whose;
        match first_bad {
            None => format!(
                "{whose}'s audit is intact: {entries} entries, {uncovered} of them not covered by a checkpoint yet"
            ),
            Some(BadAuditEntry { writer, number, detail }) => {
                let detail = escaped(detail);
                format!("{whose}'s audit is NOT intact: entry {number} of {writer} is the first bad one: {detail}")
            }
        }
    }
}

pub(super) async fn verify(
    connection: &OperatorConnection,
    of_registry: &RegistryAuditArgs,
    output: Output,
) -> anyhow::Result<()> {
    let mut client = connection.audit()?;
    let answer = client.verify(VerifyAuditRequest {}).await.map_err(|s| of_status(&s))?.into_inner();
    let central = AuditVerdict { whose: "Central", answer };
    let registry = match of_registry.data(connection) {
        Some(data) => Some(of_registry.verify(&data).await?),
        None => {
            note("Registry's own audit was not read: name its data folder with --registry-data DIR");
            None
        }
    };
    let all: Vec<&AuditVerdict> = [Some(&central), registry.as_ref()].into_iter().flatten().collect();
    let sentences: Vec<String> = all.iter().map(|verdict| verdict.sentence()).collect();
    let intact = all.iter().all(|verdict| verdict.answer.intact);
    let registry = registry.map(|verdict| ApiMessage(verdict.answer));
    output.sentence(&sentences.join("\n"), &BothAudits { central: ApiMessage(central.answer), registry })?;
    anyhow::ensure!(intact, "the audit is not intact");
    Ok(())
}

impl RegistryAuditArgs {
    /// The folder that was named, or the one of the network that the command speaks to.
    fn data(&self, connection: &OperatorConnection) -> Option<PathBuf> {
        let of_network = || connection.folder().map(|folder| folder.join("registry"));
        self.registry_data.clone().or_else(|| of_network().filter(|data| data.join(PUBLIC_KEYS).exists()))
    }

    fn database(&self, data: &Path) -> String {
        let own = data.join("registry.db");
        let given = self.registry_database.clone().filter(|_| !(self.folder_first && own.exists()));
        given.unwrap_or_else(|| format!("sqlite:{}", own.display()))
    }

    async fn verify(&self, data: &Path) -> anyhow::Result<AuditVerdict> {
        let trusted = trusted(data)?;
        let url = self.database(data);
        let database = Database::open(&url, SCHEMA).await.map_err(|error| Misuse::new(error.to_string()))?;
        let found = read_and_verify(&database, &data.join("audit.checkpoints"), &trusted).await?;
        Ok(AuditVerdict { whose: "Registry", answer: answer(found) })
    }
}

/// The public halves of Registry's audit keys, former ones too.
const PUBLIC_KEYS: &str = "audit.pub";

fn trusted(data: &Path) -> anyhow::Result<Vec<String>> {
    let read = std::fs::read_to_string(data.join(PUBLIC_KEYS));
    let text = read
        .map_err(|error| Misuse::new(format!("no audit key of Registry can be read in {}: {error}", data.display())))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn answer(found: Verification) -> VerifyAuditResponse {
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    VerifyAuditResponse {
        intact: found.first_bad.is_none(),
        entries: count(found.entries),
        uncovered: count(found.uncovered),
        first_bad: found.first_bad.map(|bad| BadAuditEntry {
            writer: bad.writer,
            number: count(bad.number),
            detail: bad.detail,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_audit_is_named_in_the_answer_spec_8_2() {
        let answer = VerifyAuditResponse { intact: true, entries: 12, uncovered: 2, ..VerifyAuditResponse::default() };
        let central = AuditVerdict { whose: "Central", answer };
        assert_eq!(
            central.sentence(),
            "Central's audit is intact: 12 entries, 2 of them not covered by a checkpoint yet"
        );
        let bad = store::audit::BadEntry { writer: "registry".into(), number: 3, detail: "its hash is wrong".into() };
        let found = Verification { entries: 5, first_bad: Some(bad), ..Verification::default() };
        let registry = AuditVerdict { whose: "Registry", answer: super::answer(found) };
        assert_eq!(
            registry.sentence(),
            "Registry's audit is NOT intact: entry 3 of registry is the first bad one: its hash is wrong"
        );
    }

    #[test]
    fn a_folder_that_a_flag_names_is_not_overruled_by_the_variable_of_a_database_spec_7_3() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let args = |folder_first| RegistryAuditArgs {
            registry_data: None,
            registry_database: Some("postgres://other".into()),
            folder_first,
        };
        assert_eq!(args(true).database(data), "postgres://other", "the folder has no database");
        std::fs::write(data.join("registry.db"), "").unwrap();
        assert_eq!(args(false).database(data), "postgres://other");
        assert_eq!(args(true).database(data), format!("sqlite:{}/registry.db", data.display()));

        let command =
            RegistryAuditArgs::augment_args(Command::new("x")).mut_arg("registry_database", |arg| arg.env(None));
        let parsed = |words: &[&str]| {
            let matches = command.clone().try_get_matches_from([&["x"], words].concat()).unwrap();
            RegistryAuditArgs::from_arg_matches(&matches).unwrap().folder_first
        };
        assert!(parsed(&["--registry-data", "d"]) && !parsed(&[]));
        assert!(!parsed(&["--registry-data", "d", "--registry-database", "sqlite:x"]));
    }

    #[test]
    fn registrys_chain_is_verified_with_its_public_keys_former_ones_too_spec_8_2() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("audit.pub"), "former\npresent\n").unwrap();
        assert_eq!(trusted(folder.path()).unwrap(), ["former", "present"]);
        let nothing = tempfile::tempdir().unwrap();
        assert!(trusted(nothing.path()).unwrap_err().to_string().contains("no audit key of Registry"));
    }
}
