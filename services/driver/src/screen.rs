//! The driver's screen (SPEC 11.4): prints each notification as a line or as JSON, and reads commands from the terminal.

use std::io::{self, IsTerminal as _, Write as _};

use mesh::{clock::Now, process::Context};
use proto::link::v1::Ticket;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    DriverHandle, Notification,
    commands::{self, UserCommand},
    event_loop::DriverEvent,
    format,
    ticket::PrintedTicket,
};

#[derive(Serialize)]
struct OutputLine<'a> {
    at_ms: i64,
    #[serde(flatten)]
    notification: &'a Notification,
}

/// Runs until the driver ends, which ends the process: a driver with a file may end by itself.
pub(crate) async fn run(ctx: Context, mut driver: DriverHandle, json: bool) -> anyhow::Result<()> {
    let events = driver.events.clone();
    if io::stdin().is_terminal() {
        if !json {
            print(commands::HELP);
        }
        // Not a task of the process: a read of a terminal cannot be cancelled and would keep the process alive.
        tokio::spawn(async move {
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if !typed(&events, &line).await {
                    return;
                }
            }
        });
    }
    while let Some((now, notification)) = driver.next_notification().await {
        show(now, &notification, json);
    }
    ctx.stop.cancel();
    Ok(())
}

fn show(now: Now, notification: &Notification, json: bool) {
    if json {
        let line = serde_json::to_string(&OutputLine { at_ms: now.wall_ms, notification });
        return print(&line.unwrap_or_default());
    }
    let time = format::utc(now.wall_ms);
    let clock = time.get(11..19).unwrap_or_default();
    print(&format!("{clock}  {}", notification.to_string().replace('\n', "\n          ")));
}

/// Executes a typed line; false once the driver has ended.
async fn typed(events: &tokio::sync::mpsc::Sender<DriverEvent>, line: &str) -> bool {
    let word = match commands::parse(line) {
        None => return true,
        Some(Err(why)) => {
            print(&format!("  {why}"));
            return true;
        }
        Some(Ok(word)) => word,
    };
    // Central's lists come as notifications; the other answers are printed here.
    match &word {
        UserCommand::Tickets | UserCommand::Status | UserCommand::Help => {
            match crate::ask(events, word.clone()).await {
                Ok(value) => print(&in_words(&word, &value)),
                Err(why) => print(&format!("  {why}")),
            }
        }
        UserCommand::Request { .. }
        | UserCommand::Order(_)
        | UserCommand::Load(_)
        | UserCommand::Authenticate
        | UserCommand::Enrol(_)
        | UserCommand::Quit => {
            return events.send(DriverEvent::UserCommand(word, None)).await.is_ok();
        }
    }
    true
}

fn in_words(word: &UserCommand, value: &Value) -> String {
    match word {
        UserCommand::Help => commands::HELP.to_owned(),
        UserCommand::Tickets => {
            let tickets: Vec<Ticket> =
                serde_json::from_value(value.get("tickets").cloned().unwrap_or_default()).unwrap_or_default();
            let all: Vec<String> = tickets.iter().map(|ticket| PrintedTicket(ticket).to_string()).collect();
            if all.is_empty() { "no tickets yet".to_owned() } else { all.join("\n\n") }
        }
        UserCommand::Status
        | UserCommand::Request { .. }
        | UserCommand::Order(_)
        | UserCommand::Load(_)
        | UserCommand::Authenticate
        | UserCommand::Enrol(_)
        | UserCommand::Quit => serde_json::to_string_pretty(value).unwrap_or_default(),
    }
}

fn print(text: &str) {
    // Standard output may be closed; the driver goes on without a screen.
    drop(writeln!(io::stdout().lock(), "{text}"));
}
