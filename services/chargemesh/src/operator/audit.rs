//! `chargemesh audit`: queried, watched, verified, exported and followed into a file (SPEC 8).

mod verify;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand, builder::PossibleValuesParser};
use proto::{
    central::v1::{AuditEntry, AuditFilter, ListAuditRequest, WatchAuditRequest},
    json_of, timestamp,
};

use super::{
    api_message::{ApiMessage, api_messages},
    connection::OperatorConnection,
    since,
    tables::{entry_time, parameters_text},
    tickets::{Format, spreadsheet_safe},
};
use crate::{
    failure::of_status,
    output::{Output, escaped, line, note},
};

/// Read, watch, verify and export the audit
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  chargemesh audit list --since 1h --action SUPPLY_REQUESTED
  chargemesh audit list --charging-point CP-1
  chargemesh audit watch --follow-into audit.log
  chargemesh audit verify
  chargemesh audit export --format csv --file audit.csv")]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    what: AuditCommand,
    #[command(flatten)]
    connection: OperatorConnection,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// AuditCommand the filter matches, newest first
    List(AuditFilterArgs),
    /// AuditCommand the filter matches from now on
    Watch {
        #[command(flatten)]
        filter: AuditFilterArgs,
        /// Append it to this file too: time | address | who | ACTION | k=v, …
        #[arg(long, value_name = "FILE")]
        follow_into: Option<PathBuf>,
    },
    /// Whether any entry was changed, dropped or added: names the first bad one, in Central's audit and in Registry's
    Verify(verify::RegistryAuditArgs),
    /// AuditCommand the filter matches, as JSON lines or CSV
    Export {
        #[command(flatten)]
        filter: AuditFilterArgs,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// File to write; standard output if not given
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Clone, Debug, Args)]
struct AuditFilterArgs {
    /// From then on: a time ago (7d) or a UTC time
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<i64>,
    /// Before then
    #[arg(long, value_name = "TIME", value_parser = since)]
    until: Option<i64>,
    /// Who did it
    #[arg(long, value_name = "WHO", default_value = "")]
    actor: String,
    /// AuditCommand was done, such as SUPPLY_REQUESTED, in any case; a wrong one is answered with the list
    #[arg(long, value_name = "ACTION", value_parser = actions(), ignore_case = true, hide_possible_values = true)]
    action: Option<String>,
    /// To what, such as charging-point/CP-1, driver/ann or central
    #[arg(long, value_name = "OBJECT", default_value = "", conflicts_with = "charging_point")]
    object: String,
    /// Only what concerns this charging point
    #[arg(long, value_name = "CP-ID")]
    charging_point: Option<proto::ChargingPointId>,
}

/// Central's and Registry's, which hands its own on to Central.
fn actions() -> PossibleValuesParser {
    let all: BTreeSet<_> = central::audit::AuditAction::TEXTS
        .iter()
        .chain(registry::AUDIT_ACTIONS)
        .chain(weather::AUDIT_ACTIONS)
        .copied()
        .collect();
    PossibleValuesParser::new(all)
}

impl From<AuditFilterArgs> for AuditFilter {
    fn from(f: AuditFilterArgs) -> Self {
        Self {
            from_time: f.since.and_then(timestamp),
            until_time: f.until.and_then(timestamp),
            actor: f.actor,
            action: f.action.unwrap_or_default().to_uppercase(),
            object: f.charging_point.map_or(f.object, |id| format!("charging-point/{id}")),
        }
    }
}

impl AuditArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let output = self.output;
        match self.what {
            AuditCommand::List(filter) => {
                let mut all = Vec::new();
                pages(&self.connection, filter, |entry| {
                    all.push(entry);
                    Ok(())
                })
                .await?;
                output.list(&api_messages(all))
            }
            AuditCommand::Watch { filter, follow_into } => watch(&self.connection, filter, follow_into, output).await,
            AuditCommand::Verify(of_registry) => verify::verify(&self.connection, &of_registry, output).await,
            AuditCommand::Export { filter, format, file } => {
                export(&self.connection, filter, format, file.as_deref()).await
            }
        }
    }
}

/// Every entry of every page.
async fn pages(
    connection: &OperatorConnection,
    filter: AuditFilterArgs,
    mut each: impl FnMut(AuditEntry) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut client = connection.audit()?;
    let mut request = ListAuditRequest { filter: Some(filter.into()), page_size: 1000, page_token: String::new() };
    loop {
        let page = client.list(request.clone()).await.map_err(|s| of_status(&s))?.into_inner();
        page.entries.into_iter().try_for_each(&mut each)?;
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

async fn watch(
    connection: &OperatorConnection,
    filter: AuditFilterArgs,
    follow_into: Option<PathBuf>,
    output: Output,
) -> anyhow::Result<()> {
    let mut file = match &follow_into {
        Some(path) => {
            let opened = File::options().append(true).create(true).open(path);
            Some(opened.with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => None,
    };
    let request = WatchAuditRequest { filter: Some(filter.into()) };
    let mut client = connection.audit()?;
    let mut entries = client.watch(request).await.map_err(|s| of_status(&s))?.into_inner();
    while let Some(entry) = entries.message().await.map_err(|s| of_status(&s))? {
        if let Some(file) = &mut file {
            writeln!(file, "{}", plain(&entry)).context("cannot follow the audit into the file")?;
        }
        output.item(&ApiMessage(entry))?;
    }
    anyhow::bail!("Central ended the stream; run it again")
}

/// `time | address | who | ACTION | k=v, …` (SPEC 8.3), as Central's own file has it.
fn plain(entry: &AuditEntry) -> String {
    let said = [format!("object={}", escaped(&entry.object)), parameters_text(entry)];
    let said = said.into_iter().chain([format!("outcome={}", escaped(&entry.outcome))]);
    let said = said.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ");
    let address = if entry.address.is_empty() { "-" } else { &entry.address };
    let [address, actor, action] = [address, &entry.actor, &entry.action].map(escaped);
    format!("{} | {address} | {actor} | {action} | {said}", entry_time(entry))
}

async fn export(
    connection: &OperatorConnection,
    filter: AuditFilterArgs,
    format: Format,
    file: Option<&Path>,
) -> anyhow::Result<()> {
    let mut text = Vec::new();
    let mut count = 0u64;
    match format {
        Format::Jsonl => {
            pages(connection, filter, |entry| {
                count += 1;
                serde_json::to_writer(&mut text, &ApiMessage(entry))?;
                text.push(b'\n');
                Ok(())
            })
            .await?;
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(&mut text);
            csv.write_record([
                "writer",
                "number",
                "time",
                "actor",
                "address",
                "action",
                "object",
                "parameters",
                "outcome",
            ])?;
            pages(connection, filter, |entry| {
                count += 1;
                let e = entry;
                let safe = |text: &str| spreadsheet_safe(text);
                csv.write_record([
                    &e.writer,
                    &e.number.to_string(),
                    &entry_time(&e),
                    &safe(&e.actor),
                    &e.address,
                    &e.action,
                    &safe(&e.object),
                    &safe(&e.parameters.as_ref().map(json_of).unwrap_or_default().to_string()),
                    &safe(&e.outcome),
                ])?;
                Ok(())
            })
            .await?;
            csv.flush()?;
        }
    }
    match file {
        Some(path) => {
            let cannot = || format!("cannot write {}", path.display());
            let mut file = BufWriter::new(File::create(path).with_context(cannot)?);
            file.write_all(&text).and_then(|()| file.flush()).with_context(cannot)?;
            note(&format!("{count} entries written to {}", path.display()));
            Ok(())
        }
        None if text.is_empty() => Ok(()),
        None => line(String::from_utf8_lossy(&text).trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_followed_into_a_file_is_one_plain_line_spec_8_3() {
        let entry = AuditEntry {
            time: timestamp(1_551_421_200_007),
            address: "10.0.0.7".into(),
            actor: "driver/ann".into(),
            action: "REQUEST".into(),
            object: "CP-1".into(),
            parameters: Some(proto::struct_of(r#"{"energy_wh":7500,"note":"a\nb"}"#)),
            outcome: "granted".into(),
            ..AuditEntry::default()
        };
        assert_eq!(
            plain(&entry),
            "2019-03-01T06:20:00.007Z | 10.0.0.7 | driver/ann | REQUEST | object=CP-1, energy_wh=7500, note=a\\nb, outcome=granted"
        );
    }

    #[test]
    fn an_action_is_named_in_any_case_and_a_wrong_one_is_answered_with_the_list_spec_8_3() {
        let asked = |action: &str| {
            let command = AuditFilterArgs::augment_args(clap::Command::new("list"));
            let matches = command.try_get_matches_from(["list", "--action", action])?;
            clap::FromArgMatches::from_arg_matches(&matches)
                .map(|filter: AuditFilterArgs| AuditFilter::from(filter).action)
        };
        assert_eq!(asked("supply_Started").unwrap(), "SUPPLY_STARTED");
        assert_eq!(asked("TOKEN_CREATED").unwrap(), "TOKEN_CREATED", "Registry's");
        let error = asked("SUPLY_STARTED").unwrap_err().to_string();
        assert!(error.contains("SUPPLY_STARTED") && error.contains("TOKEN_REVOKED"), "{error}");
    }
}
