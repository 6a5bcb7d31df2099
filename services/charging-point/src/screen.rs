//! The terminal screen of an engine or a monitor: single keys, a help line, and lines that show the state. Each key stands
//! for a command of the control socket, so that everything can be done without a terminal, too (SPEC 1.9).

mod line;

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    time::Duration,
};

use mesh::{control::ControlRequest, process::Context, screen::escaped};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

pub(crate) use line::{engine_line, monitor_line};

#[cfg(test)]
mod tests;

/// How often the state is drawn again.
const REDRAW: Duration = Duration::from_millis(500);

/// A key and the command that it stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyBinding {
    pub(crate) key: char,
    pub(crate) command: &'static str,
    /// Arguments that the key itself gives, by name.
    pub(crate) fixed: &'static [(&'static str, &'static str)],
    /// Names of the arguments that the person is asked for.
    pub(crate) prompts: &'static [&'static str],
    pub(crate) label: &'static str,
    pub(crate) confirmation: Confirmation,
}

/// How a person confirms a key before it takes effect, so that a mistyped key does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    None,
    /// The person types y or n.
    YesOrNo,
    /// The person types the charging point's id.
    TypeId,
}

pub(crate) const ENGINE_KEYS: &[KeyBinding] = &[
    key('p', "plug", &[], "plug"),
    key('u', "unplug", &[], "unplug"),
    key('m', "supply", &["driver", "kwh"], "manual supply"),
    key('b', "break", &[], "break").confirmed_by(Confirmation::YesOrNo),
    key('r', "repair", &[], "repair"),
    key('s', "spoil-key", &[], "spoil key").confirmed_by(Confirmation::YesOrNo),
    key('k', "repair-key", &[], "repair key"),
    key('?', "status", &[], "all"),
];

pub(crate) const MONITOR_KEYS: &[KeyBinding] = &[
    key('e', "enrol", &["token"], "enrol"),
    key('x', "remove", &[], "remove").confirmed_by(Confirmation::TypeId),
    key('a', "authenticate", &[], "authenticate"),
    key('m', "maintenance", &[], "maintenance").with(&[("on", "on")]),
    key('n', "maintenance", &[], "no maintenance").with(&[("on", "off")]),
    key('d', "disconnect", &[], "disconnect"),
    key('c', "connect", &[], "connect"),
    key('?', "status", &[], "all"),
];

const fn key(key: char, command: &'static str, prompts: &'static [&'static str], label: &'static str) -> KeyBinding {
    KeyBinding { key, command, fixed: &[], prompts, label, confirmation: Confirmation::None }
}

impl KeyBinding {
    const fn confirmed_by(self, confirmation: Confirmation) -> Self {
        Self { confirmation, ..self }
    }

    const fn with(self, fixed: &'static [(&'static str, &'static str)]) -> Self {
        Self { fixed, ..self }
    }
}

/// Shows the screen until the process stops, if stdin is a terminal. `line` turns a status into one line.
pub(crate) fn start<H, Fut>(ctx: &Context, keys: &'static [KeyBinding], handler: H, line: fn(&Value) -> String)
where
    H: Fn(ControlRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Value, String>> + Send + 'static,
{
    let Some(terminal) = Terminal::take() else { return };
    let ctx_in = ctx.clone();
    ctx.spawn("screen", async move {
        let screen = Screen { handler, line, keys, typed: listen(), pending: None };
        screen.run(&ctx_in).await;
        drop(terminal);
        Ok(())
    });
}

/// The terminal, switched to give each key at once and without echo until this is dropped. Ctrl-C and the other signal
/// keys keep working.
struct Terminal(Termios);

impl Terminal {
    fn take() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        if !io::stderr().is_terminal() {
            tracing::info!("no screen: standard error is not a terminal; use `chargemesh ctl` instead");
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        write("\r\x1b[J");
        // The terminal may be gone; then there is nothing to restore.
        let _restored = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Reads the terminal in a thread that does not keep the process alive, because such a read cannot be cancelled.
fn listen() -> mpsc::Receiver<char> {
    let (typed, keys) = mpsc::channel(64);
    std::thread::spawn(move || {
        let mut read = [0; 64];
        while let Ok(length @ 1..) = io::stdin().read(&mut read) {
            for byte in read.iter().take(length) {
                if typed.blocking_send(char::from(*byte)).is_err() {
                    return;
                }
            }
        }
    });
    keys
}

/// A command whose arguments are being typed.
struct PendingCommand {
    key: KeyBinding,
    args: Map<String, Value>,
    text: String,
    /// To be typed, where the key prompts for it.
    id: String,
    confirmed: bool,
}

/// What the person is asked for now.
enum Question<'a> {
    Argument(&'static str),
    YesOrNo,
    Id(&'a str),
}

struct Screen<H> {
    handler: H,
    line: fn(&Value) -> String,
    keys: &'static [KeyBinding],
    typed: mpsc::Receiver<char>,
    pending: Option<PendingCommand>,
}

impl<H, Fut> Screen<H>
where
    H: Fn(ControlRequest) -> Fut,
    Fut: Future<Output = Result<Value, String>>,
{
    async fn run(mut self, ctx: &Context) {
        self.print(&self.help());
        let mut redraw = tokio::time::interval(REDRAW);
        loop {
            tokio::select! {
                () = ctx.stop.cancelled() => return,
                Some(key) = self.typed.recv() => self.press(key).await,
                _ = redraw.tick() => {}
            }
            self.draw().await;
        }
    }

    fn help(&self) -> String {
        let all: Vec<String> = self.keys.iter().map(|k| format!("[{}] {}", k.key, k.label)).collect();
        format!("{}  [h] help  Ctrl-C ends", all.join("  "))
    }

    async fn press(&mut self, pressed: char) {
        if let Some(pending) = &mut self.pending {
            if let Some(Question::YesOrNo) = pending.question() {
                pending.confirmed = pressed == 'y';
                return self.proceed().await;
            }
            match pressed {
                '\n' | '\r' => return self.enter().await,
                '\x1b' => self.pending = None,
                '\x08' | '\x7f' => drop(pending.text.pop()),
                other if !other.is_control() => pending.text.push(other),
                _ => {}
            }
            return;
        }
        if pressed == 'h' {
            return self.print(&self.help());
        }
        let Some(key) = self.keys.iter().find(|k| k.key == pressed).copied() else { return };
        let args = key.fixed.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
        let id = if key.confirmation == Confirmation::TypeId { self.id().await } else { String::new() };
        // Without an id the command does no harm: it answers that there is none.
        let confirmed =
            key.confirmation == Confirmation::None || (key.confirmation == Confirmation::TypeId && id.is_empty());
        let pending = PendingCommand { key, args, text: String::new(), id, confirmed };
        match pending.question() {
            Some(_) => self.pending = Some(pending),
            None => self.execute(pending).await,
        }
    }

    /// The charging point's id; empty: it has none.
    async fn id(&self) -> String {
        let status = (self.handler)(ControlRequest::new("status", Value::Null)).await.unwrap_or_default();
        status.get("charging_point").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The person has pressed Enter: one argument is complete.
    async fn enter(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        let text = std::mem::take(&mut pending.text);
        match pending.question() {
            Some(Question::Argument(name)) => drop(pending.args.insert(name.to_owned(), Value::from(text))),
            Some(Question::Id(id)) => pending.confirmed = text.trim() == id,
            Some(Question::YesOrNo) | None => {}
        }
        self.proceed().await;
    }

    /// Asks the next question or executes the command; a command that was not confirmed is dropped.
    async fn proceed(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        match pending.question() {
            Some(Question::Argument(_)) => self.pending = Some(pending),
            Some(Question::YesOrNo | Question::Id(_)) => self.print(&format!("{}: not done", pending.key.label)),
            None => self.execute(pending).await,
        }
    }

    async fn execute(&mut self, pending: PendingCommand) {
        let request = ControlRequest::new(pending.key.command, Value::Object(pending.args));
        let said = match (self.handler)(request).await {
            Ok(answer) if pending.key.command == "status" => serde_json::to_string_pretty(&answer).unwrap_or_default(),
            Ok(_) => format!("{}: done", pending.key.label),
            Err(why) => format!("{}: {why}", pending.key.label),
        };
        self.print(&said);
    }

    fn print(&self, text: &str) {
        // An answer may contain text of Central and line breaks.
        let lines: Vec<_> = text.lines().map(escaped).collect();
        write(&format!("\r\x1b[J{}\n", lines.join("\n")));
    }

    /// Draws the state again, because log lines may have overwritten it.
    async fn draw(&mut self) {
        if let Some(pending) = &self.pending {
            // The person types at the end of the line, so its end must be visible.
            let line = escaped(&pending.line());
            let over = line.chars().count().saturating_sub(width());
            return write(&format!("\r\x1b[J{}", line.chars().skip(over).collect::<String>()));
        }
        let line = match (self.handler)(ControlRequest::new("status", Value::Null)).await {
            Ok(status) => (self.line)(&status),
            Err(why) => why,
        };
        let lines = wrapped(&escaped(&line), width());
        // The cursor goes back to the first line, so that the next log line overwrites the state.
        let up = match lines.len() {
            0 | 1 => String::new(),
            many => format!("\x1b[{}A", many - 1),
        };
        write(&format!("\r\x1b[J{}\r{up}", lines.join("\r\n")));
    }
}

impl PendingCommand {
    fn question(&self) -> Option<Question<'_>> {
        let argument = self.key.prompts.iter().find(|name| !self.args.contains_key(**name));
        match (argument, self.confirmed, self.key.confirmation) {
            (Some(name), _, _) => Some(Question::Argument(name)),
            (None, true, _) | (None, false, Confirmation::None) => None,
            (None, false, Confirmation::YesOrNo) => Some(Question::YesOrNo),
            (None, false, Confirmation::TypeId) => Some(Question::Id(&self.id)),
        }
    }

    fn line(&self) -> String {
        let label = self.key.label;
        match self.question() {
            // A token is a secret, and longer than a line.
            Some(Question::Argument("token")) => format!("{label}, token: {}", "*".repeat(self.text.len().min(20))),
            Some(Question::Argument(name)) => format!("{label}, {}: {}", in_words(name), self.text),
            Some(Question::YesOrNo) => format!("{label}: sure? [y/n] "),
            Some(Question::Id(id)) => format!("{label} {id} at Registry: type its id to do it: {}", self.text),
            None => String::new(),
        }
    }
}

/// The question for an argument, with the meaning of an empty answer.
fn in_words(argument: &'static str) -> &'static str {
    match argument {
        "driver" => "driver (empty: the charging point's own account)",
        "kwh" => "kWh (empty: until unplugged)",
        other => other,
    }
}

/// Wraps `text` to lines of at most `width` characters, between words where possible.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        for letter in word.chars() {
            if line.chars().count() == width {
                lines.push(std::mem::take(&mut line));
            }
            line.push(letter);
        }
    }
    lines.push(line);
    lines
}

/// One column less than the terminal has, so that the terminal itself never wraps.
fn width() -> usize {
    crossterm::terminal::size().map_or(120, |(columns, _)| usize::from(columns)).saturating_sub(1)
}

fn write(text: &str) {
    // The terminal may be gone; the process goes on without a screen.
    let mut stderr = io::stderr().lock();
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}
