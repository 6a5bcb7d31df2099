//! The driver's own screen (SPEC 11.4): each step as a line or as JSON, and the person's commands from the terminal.

use std::io::{self, IsTerminal as _, Write as _};

use mesh::{clock::Now, process::Context};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    Driver, TicketText, Told,
    drive::Ask,
    ticket,
    words::{self, Word},
};

#[derive(Serialize)]
struct Line<'a> {
    at_ms: i64,
    #[serde(flatten)]
    told: &'a Told,
}

/// Until the driver ends. Its end ends the process: with a file it may be over by itself.
pub(crate) async fn run(ctx: Context, mut driver: Driver, json: bool) -> anyhow::Result<()> {
    let asks = driver.asks.clone();
    if io::stdin().is_terminal() {
        if !json {
            print(words::HELP);
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
    while let Some((now, told)) = driver.told().await {
        show(now, &told, json);
    }
    ctx.stop.cancel();
    Ok(())
}

fn show(now: Now, told: &Told, json: bool) {
    if json {
        let line = serde_json::to_string(&Line { at_ms: now.wall_ms, told });
        return print(&line.unwrap_or_default());
    }
    let time = ticket::at(now.wall_ms);
    let clock = time.get(11..19).unwrap_or_default();
    print(&format!("{clock}  {}", told.to_string().replace('\n', "\n          ")));
}

/// Whether the driver still listens.
async fn typed(asks: &tokio::sync::mpsc::Sender<Ask>, line: &str) -> bool {
    let word = match words::parse(line) {
        None => return true,
        Some(Err(why)) => {
            print(&format!("  {why}"));
            return true;
        }
        Some(Ok(word)) => word,
    };
    // Lists come as steps: they are Central's to give. The rest is answered here.
    match &word {
        Word::Tickets | Word::Status | Word::Help => match crate::ask(asks, word.clone()).await {
            Ok(value) => print(&in_words(&word, &value)),
            Err(why) => print(&format!("  {why}")),
        },
        Word::Request { .. } | Word::Order(_) | Word::Load(_) | Word::Authenticate | Word::Enrol(_) | Word::Quit => {
            return asks.send(Ask::Word(word, None)).await.is_ok();
        }
    }
    true
}

fn in_words(word: &Word, value: &Value) -> String {
    match word {
        Word::Help => words::HELP.to_owned(),
        Word::Tickets => {
            let tickets: Vec<TicketText> =
                serde_json::from_value(value.get("tickets").cloned().unwrap_or_default()).unwrap_or_default();
            let all: Vec<String> = tickets.iter().map(ToString::to_string).collect();
            if all.is_empty() { "no tickets yet".to_owned() } else { all.join("\n\n") }
        }
        Word::Status
        | Word::Request { .. }
        | Word::Order(_)
        | Word::Load(_)
        | Word::Authenticate
        | Word::Enrol(_)
        | Word::Quit => serde_json::to_string_pretty(value).unwrap_or_default(),
    }
}

fn print(text: &str) {
    // Nobody reads any more: the driver goes on without a screen.
    drop(writeln!(io::stdout().lock(), "{text}"));
}
