//! `chargemesh tickets`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use driver::PrintedTicket;
use proto::{
    central::v1::{
        CorrectTicketRequest, GetTicketKeysRequest, GetTicketRequest, ListTicketsRequest, SettleDisputeRequest, Ticket,
    },
    link::v1 as link,
    timestamp,
};
use serde::Serialize;

use super::{
    api_message::{ApiMessage, api_messages},
    connection::{AskedRole, OperatorConnection},
    order_call::RequestArgs,
    sessions::WhoseArgs,
    since,
    verify_tickets::VerifyTicketsArgs,
};
use crate::{
    failure::of_status,
    output::{Output, line, note},
};

/// See, correct and export the tickets
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  chargemesh tickets list --driver ann --since 7d
  chargemesh tickets correct SESSION --amount-minor=-120 --reason 'charged twice by mistake'
  chargemesh tickets export --format csv --file tickets.csv
  chargemesh tickets keys > tickets.pub; chargemesh tickets verify tickets.jsonl --key tickets.pub")]
pub(crate) struct TicketsArgs {
    #[command(subcommand)]
    what: TicketsCommand,
    #[command(flatten)]
    connection: OperatorConnection,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum TicketsCommand {
    /// All, or of one charging point, driver or time
    List(TicketFilterArgs),
    /// One ticket, to print
    Get { session: String },
    /// A new entry that names the ticket and changes what is owed
    Correct {
        session: String,
        /// Watt-hours more (or, negative, less)
        #[arg(long, value_name = "WH", default_value_t = 0, allow_negative_numbers = true)]
        energy_wh: i64,
        /// Minor units of the currency more (or, negative, less)
        #[arg(long, value_name = "MINOR", allow_negative_numbers = true)]
        amount_minor: i64,
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// Decide on energy past the rated power: how much of it is owed after all
    SettleDispute {
        session: String,
        /// Watt-hours that are owed; the rest is waived
        #[arg(long, value_name = "WH")]
        owed_wh: u64,
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// All as JSON lines or CSV
    Export {
        #[command(flatten)]
        filter: TicketFilterArgs,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// File to write; standard output if not given
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Whether Central signed the tickets of a file, without Central
    #[command(after_help = "Exit codes: 0 all are valid, 1 a key is not in the key file, 3 a signature is wrong.")]
    Verify(VerifyTicketsArgs),
    /// The public keys that sign tickets, the current one first, for `tickets verify --key`
    Keys,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TicketFilterArgs {
    #[command(flatten)]
    of: WhoseArgs,
    /// Only those that ended from then on: a time ago (7d) or a UTC time
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<i64>,
    /// Only those that ended before
    #[arg(long, value_name = "TIME", value_parser = since)]
    until: Option<i64>,
}

/// How exports look.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Jsonl,
    Csv,
}

impl TicketsArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let output = self.output;
        let client = || self.connection.sessions();
        let ticket: Ticket = match self.what {
            TicketsCommand::Verify(verify) => return verify.run(output),
            TicketsCommand::Keys => {
                let keys = client()?.get_ticket_keys(GetTicketKeysRequest {}).await.map_err(|s| of_status(&s))?;
                let keys = keys.into_inner();
                let lines: Vec<_> = keys.keys.iter().map(|key| key.public_key.as_str()).collect();
                return output.sentence(&lines.join("\n"), &ApiMessage(keys.clone()));
            }
            TicketsCommand::List(filter) => {
                let all = list(&self.connection, filter).await?;
                return output.list(&api_messages(all));
            }
            TicketsCommand::Export { filter, format, file } => {
                let all = list(&self.connection, filter).await?;
                let text = export(&all, format)?;
                return match file {
                    Some(path) => {
                        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
                        note(&format!("{} tickets written to {}", all.len(), path.display()));
                        Ok(())
                    }
                    None => line(text.trim_end()),
                };
            }
            TicketsCommand::Get { session } => {
                let request = GetTicketRequest { session_id: session };
                client()?.get_ticket(request).await.map_err(|s| of_status(&s))?.into_inner()
            }
            TicketsCommand::Correct { session, energy_wh, amount_minor, reason, request } => {
                let call = request.announce(&self.connection, AskedRole::Central)?;
                let request = CorrectTicketRequest {
                    request_id: call.id(),
                    session_id: session,
                    energy_delta_wh: energy_wh,
                    amount_delta_minor: amount_minor,
                    reason,
                };
                call.answered(client()?.correct_ticket(request).await)?
            }
            TicketsCommand::SettleDispute { session, owed_wh, reason, request } => {
                let call = request.announce(&self.connection, AskedRole::Central)?;
                let request =
                    SettleDisputeRequest { request_id: call.id(), session_id: session, owed_wh: Some(owed_wh), reason };
                call.answered(client()?.settle_dispute(request).await)?
            }
        };
        output.sentence(&PrintedTicket(&ticket.clone().into()).to_string(), &ApiMessage(ticket))
    }
}

/// All pages.
pub(crate) async fn list(connection: &OperatorConnection, filter: TicketFilterArgs) -> anyhow::Result<Vec<Ticket>> {
    let mut client = connection.sessions()?;
    let mut request = ListTicketsRequest {
        charging_point_id: filter.of.charging_point,
        driver_id: filter.of.driver,
        from_time: filter.since.and_then(timestamp),
        until_time: filter.until.and_then(timestamp),
        page_size: 1000,
        page_token: String::new(),
    };
    let mut all = Vec::new();
    loop {
        let page = client.list_tickets(request.clone()).await.map_err(|s| of_status(&s))?.into_inner();
        all.extend(page.tickets);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

/// Columns of a CSV line behind those of the ticket: what it comes to with its corrections.
#[derive(Serialize)]
struct CsvTotals {
    owed_minor: i64,
    still_disputed_wh: u64,
}

fn export(tickets: &[Ticket], format: Format) -> anyhow::Result<String> {
    match format {
        Format::Jsonl => {
            let lines = tickets.iter().map(|ticket| serde_json::to_string(&ApiMessage(ticket.clone())));
            let lines = lines.collect::<Result<Vec<_>, _>>()?;
            Ok(lines.iter().map(|line| format!("{line}\n")).collect())
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(Vec::new());
            for ticket in tickets.iter().cloned().map(link::Ticket::from) {
                let totals =
                    CsvTotals { owed_minor: ticket.owed_minor(), still_disputed_wh: ticket.still_disputed_wh() };
                let place = spreadsheet_safe(&ticket.place);
                csv.serialize((link::Ticket { place, corrections: Vec::new(), signed: None, ..ticket }, totals))?;
            }
            Ok(String::from_utf8(csv.into_inner().context("cannot write CSV")?)?)
        }
    }
}

/// Text from outside that a spreadsheet would take for a formula.
pub(crate) fn spreadsheet_safe(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_has_a_line_a_ticket_and_no_formula_from_outside() {
        let ticket =
            Ticket { session_id: "s1".into(), place: "=1+1, \"north\"".into(), energy_wh: 7, ..Ticket::default() };
        let csv = export(std::slice::from_ref(&ticket), Format::Csv).unwrap();
        assert_eq!(csv.lines().count(), 2);
        assert!(csv.contains("\"'=1+1, \"\"north\"\"\""), "{csv}");
        let header = "session_id,driver_id,charging_point_id,place,started_at_ms,ended_at_ms,energy_wh,price_e4,\
                      amount_minor,currency,reason,disputed_wh,meter_start_wh,meter_end_wh,owed_minor,still_disputed_wh";
        assert_eq!(csv.lines().next(), Some(header));
        let json = export(&[ticket.clone(), ticket], Format::Jsonl).unwrap();
        assert_eq!(json.lines().count(), 2);
    }
}
