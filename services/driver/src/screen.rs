//! The driver's own screen (SPEC 11.4): each step as a line or as JSON, and the person's commands from the terminal.

use std::io::{self, IsTerminal as _, Write as _};

use mesh::{clock::Now, process::Context};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    DriverHandle, Notification, TicketText,
    commands::{self, DriverCommand},
    drive::Ask,
    format,
};

#[derive(Serialize)]
struct OutputLine<'a> {
    at_ms: i64,
    #[serde(flatten)]
    notification: &'a Notification,
}

/// Until the driver ends. Its end ends the process: with a file it may be over by itself.
pub(crate) async fn run(ctx: Context, mut driver: DriverHandle, json: bool) -> anyhow::Result<()> {
    let asks = driver.asks.clone();
    if io::stdin().is_terminal() {
        if !json {
            print(commands::HELP);
        }
        // Not one of the process's tasks: a read of a terminal cannot be ended, and must not keep the process.
        tokio::spawn(async move {
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if !typed(&asks, &line).await {
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

/// Whether the driver still listens.
async fn typed(asks: &tokio::sync::mpsc::Sender<Ask>, line: &str) -> bool {
    let word = match commands::parse(line) {
        None => return true,
        Some(Err(why)) => {
            print(&format!("  {why}"));
            return true;
        }
        Some(Ok(word)) => word,
    };
    // Lists come as steps: they are Central's to give. The rest is answered here.
    match &word {
        DriverCommand::Tickets | DriverCommand::Status | DriverCommand::Help => {
            match crate::ask(asks, word.clone()).await {
                Ok(value) => print(&in_words(&word, &value)),
                Err(why) => print(&format!("  {why}")),
            }
        }
        DriverCommand::Request { .. }
        | DriverCommand::Order(_)
        | DriverCommand::Load(_)
        | DriverCommand::Authenticate
        | DriverCommand::Enrol(_)
        | DriverCommand::Quit => {
            return asks.send(Ask::DriverCommand(word, None)).await.is_ok();
        }
    }
    true
}

fn in_words(word: &DriverCommand, value: &Value) -> String {
    match word {
        DriverCommand::Help => commands::HELP.to_owned(),
        DriverCommand::Tickets => {
            let tickets: Vec<TicketText> =
                serde_json::from_value(value.get("tickets").cloned().unwrap_or_default()).unwrap_or_default();
            let all: Vec<String> = tickets.iter().map(ToString::to_string).collect();
            if all.is_empty() { "no tickets yet".to_owned() } else { all.join("\n\n") }
        }
        DriverCommand::Status
        | DriverCommand::Request { .. }
        | DriverCommand::Order(_)
        | DriverCommand::Load(_)
        | DriverCommand::Authenticate
        | DriverCommand::Enrol(_)
        | DriverCommand::Quit => serde_json::to_string_pretty(value).unwrap_or_default(),
    }
}

fn print(text: &str) {
    // Nobody reads any more: the driver goes on without a screen.
    drop(writeln!(io::stdout().lock(), "{text}"));
}
