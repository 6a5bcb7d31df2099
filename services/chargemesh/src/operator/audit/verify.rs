//! `chargemesh audit verify`: Central verifies its own audit when asked; Registry's chain is read where its data folder
//! or its database can be reached from here, against the keys and checkpoints in its folder (SPEC 8.2).

use std::path::{Path, PathBuf};

use clap::Args;
use mesh::process::Misuse;
use proto::central::v1::{VerifyAuditRequest, VerifyAuditResponse};
use serde_json::{Value, json};
use store::{
    Database,
    audit::{AuditKey, Verification, verify as read_and_verify},
    registry::SCHEMA,
};

use super::Connection;
use crate::{
    failure::of_status,
    output::{Output, escaped, note},
};

#[derive(Debug, Args)]
pub(super) struct OfRegistry {
    /// Registry's data folder, with its checkpoints and audit keys; not given: that of the network in the data folder
    #[arg(long, value_name = "DIR")]
    registry_data: Option<PathBuf>,
    /// Registry's database: sqlite:PATH or postgres://…; not given: registry.db in its data folder
    #[arg(long, value_name = "URL", env = "CHARGEMESH_REGISTRY_DATABASE", hide_env_values = true)]
    registry_database: Option<String>,
}

/// What is said of one audit.
struct Verdict {
    whose: &'static str,
    answer: VerifyAuditResponse,
}

impl Verdict {
    fn sentence(&self) -> String {
        let VerifyAuditResponse { intact, entries, uncovered, writer, number, detail } = &self.answer;
        let whose = self.whose;
        if *intact {
            format!("{whose}'s audit is intact: {entries} entries, {uncovered} of them not covered by a checkpoint yet")
        } else {
            let detail = escaped(detail);
            format!("{whose}'s audit is NOT intact: entry {number} of {writer} is the first bad one: {detail}")
        }
    }

    fn json(&self) -> Value {
        let VerifyAuditResponse { intact, entries, uncovered, writer, number, detail } = &self.answer;
        json!({
            "intact": intact, "entries": entries, "uncovered": uncovered,
            "writer": writer, "number": number, "detail": detail,
        })
    }
}

pub(super) async fn verify(connection: &Connection, of_registry: &OfRegistry, output: Output) -> anyhow::Result<()> {
    let mut client = connection.audit()?;
    let answer = client.verify(VerifyAuditRequest {}).await.map_err(|s| of_status(&s))?.into_inner();
    let central = Verdict { whose: "Central", answer };
    let registry = match of_registry.data(connection) {
        Some(data) => Some(of_registry.verify(&data).await?),
        None => {
            note("Registry's own audit was not read: name its data folder with --registry-data DIR");
            None
        }
    };
    // Central's stand at the top; so it was before Registry's were read too.
    let mut object = central.json();
    object["registry"] = registry.as_ref().map_or(Value::Null, Verdict::json);
    let all: Vec<&Verdict> = [Some(&central), registry.as_ref()].into_iter().flatten().collect();
    let sentences: Vec<String> = all.iter().map(|verdict| verdict.sentence()).collect();
    output.sentence(&sentences.join("\n"), &object)?;
    anyhow::ensure!(all.iter().all(|verdict| verdict.answer.intact), "the audit is not intact");
    Ok(())
}

impl OfRegistry {
    /// The folder that was named, or the one of the network that the command speaks to.
    fn data(&self, connection: &Connection) -> Option<PathBuf> {
        let of_network = || connection.folder().map(|folder| folder.join("registry"));
        self.registry_data.clone().or_else(|| of_network().filter(|data| data.join(KEYS.1).exists()))
    }

    async fn verify(&self, data: &Path) -> anyhow::Result<Verdict> {
        let trusted = trusted(data)?;
        let url = self.registry_database.clone();
        let url = url.unwrap_or_else(|| format!("sqlite:{}", data.join("registry.db").display()));
        let database = Database::open(&url, SCHEMA).await.map_err(|error| Misuse::new(error.to_string()))?;
        let found = read_and_verify(&database, &data.join("audit.checkpoints"), &trusted).await?;
        Ok(Verdict { whose: "Registry", answer: answer(found) })
    }
}

/// The public halves, former ones too; and the secret one, where a folder is older than those.
const KEYS: (&str, &str) = ("audit.pub", "audit.key");

fn trusted(data: &Path) -> anyhow::Result<Vec<String>> {
    let read = |name: &str| std::fs::read_to_string(data.join(name)).map(zeroize::Zeroizing::new);
    if let Ok(text) = read(KEYS.0) {
        return Ok(text.split_whitespace().map(str::to_owned).collect());
    }
    let cannot =
        |why: String| Misuse::new(format!("no audit key of Registry can be read in {}: {why}", data.display()));
    let text = read(KEYS.1).map_err(|error| cannot(error.to_string()))?;
    let key = AuditKey::parse(&text).map_err(|error| cannot(error.to_string()))?;
    Ok(vec![key.public()])
}

fn answer(found: Verification) -> VerifyAuditResponse {
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let bad = found.first_bad;
    VerifyAuditResponse {
        intact: bad.is_none(),
        entries: count(found.entries),
        uncovered: count(found.uncovered),
        writer: bad.as_ref().map(|bad| bad.writer.clone()).unwrap_or_default(),
        number: bad.as_ref().map_or(0, |bad| count(bad.number)),
        detail: bad.map(|bad| bad.detail).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_audit_is_named_in_the_answer_spec_8_2() {
        let answer = VerifyAuditResponse { intact: true, entries: 12, uncovered: 2, ..VerifyAuditResponse::default() };
        let central = Verdict { whose: "Central", answer };
        assert_eq!(
            central.sentence(),
            "Central's audit is intact: 12 entries, 2 of them not covered by a checkpoint yet"
        );
        let bad = store::audit::BadEntry { writer: "registry".into(), number: 3, detail: "its hash is wrong".into() };
        let found = Verification { entries: 5, first_bad: Some(bad), ..Verification::default() };
        let registry = Verdict { whose: "Registry", answer: super::answer(found) };
        assert_eq!(
            registry.sentence(),
            "Registry's audit is NOT intact: entry 3 of registry is the first bad one: its hash is wrong"
        );
    }

    #[test]
    fn registrys_chain_is_verified_with_its_public_keys_or_its_own_spec_8_2() {
        let (folder, text) = (tempfile::tempdir().unwrap(), AuditKey::generate());
        std::fs::write(folder.path().join("audit.key"), &*text).unwrap();
        let public = AuditKey::parse(&text).unwrap().public();
        assert_eq!(trusted(folder.path()).unwrap(), std::slice::from_ref(&public));
        std::fs::write(folder.path().join("audit.pub"), format!("former\n{public}\n")).unwrap();
        assert_eq!(trusted(folder.path()).unwrap(), ["former".to_owned(), public]);
        let nothing = tempfile::tempdir().unwrap();
        assert!(trusted(nothing.path()).unwrap_err().to_string().contains("no audit key of Registry"));
    }
}
