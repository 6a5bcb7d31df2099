//! The role's own screen where there is a terminal: single keys, a help line, and lines that show the state. Each key
//! is a command of the control socket, so that whatever is done here can be done without a terminal (SPEC 1.9).

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

/// How often the state is drawn anew.
const REDRAW: Duration = Duration::from_millis(500);

/// A key and what it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyBinding {
    pub(crate) key: char,
    pub(crate) command: &'static str,
    /// Fixed arguments by name.
    pub(crate) fixed: &'static [(&'static str, &'static str)],
    /// Asked for, by name.
    pub(crate) prompts: &'static [&'static str],
    pub(crate) label: &'static str,
    pub(crate) confirmation: Confirmation,
}

/// What is asked for before a key takes effect, so that a slip of a finger breaks nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    None,
    /// y or n.
    YesOrNo,
    /// The charging point's id, letter by letter.
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

/// Shows the screen if stdin is a terminal; `line` makes the one line of a status. Until the process stops.
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

/// The terminal, giving out each key at once and unechoed until it is dropped. Signals keep their keys.
struct Terminal(Termios);

impl Terminal {
    fn take() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        if !io::stderr().is_terminal() {
            tracing::info!("no screen and no keys: standard error is not a terminal; `chargemesh ctl` does the same");
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
        // Nothing more can be done for a terminal that is gone.
        let _restored = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// A thread of its own, which does not keep the process: a read of a terminal cannot be ended.
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

/// What a person is asked now.
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
        // Where there is no id there is nothing to lose: the order itself says so.
        let confirmed =
            key.confirmation == Confirmation::None || (key.confirmation == Confirmation::TypeId && id.is_empty());
        let pending = PendingCommand { key, args, text: String::new(), id, confirmed };
        match pending.question() {
            Some(_) => self.pending = Some(pending),
            None => self.execute(pending).await,
        }
    }

    /// Which charging point this is.
    async fn id(&self) -> String {
        let status = (self.handler)(ControlRequest::new("status", Value::Null)).await.unwrap_or_default();
        status.get("charging_point").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// One argument is complete.
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

    /// To the next question, the order, or nothing: an order that somebody is not sure of is dropped.
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
        // An answer may hold words of Central's, and has its own lines.
        let lines: Vec<_> = text.lines().map(escaped).collect();
        write(&format!("\r\x1b[J{}\n", lines.join("\n")));
    }

    /// Drawn again each time, because log lines pass over it.
    async fn draw(&mut self) {
        if let Some(pending) = &self.pending {
            // A person types behind the question, so its end is what must be seen.
            let line = escaped(&pending.line());
            let over = line.chars().count().saturating_sub(width());
            return write(&format!("\r\x1b[J{}", line.chars().skip(over).collect::<String>()));
        }
        let line = match (self.handler)(ControlRequest::new("status", Value::Null)).await {
            Ok(status) => (self.line)(&status),
            Err(why) => why,
        };
        let lines = wrapped(&escaped(&line), width());
        // A log line that comes next writes over the state, not behind it.
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
            // A token is a secret, and longer than any line.
            Some(Question::Argument("token")) => format!("{label}, token: {}", "*".repeat(self.text.len().min(20))),
            Some(Question::Argument(name)) => format!("{label}, {}: {}", in_words(name), self.text),
            Some(Question::YesOrNo) => format!("{label}: sure? [y/n] "),
            Some(Question::Id(id)) => format!("{label} {id} at Registry: type its id to do it: {}", self.text),
            None => String::new(),
        }
    }
}

/// An argument as a person is asked for it, with what nothing typed means.
fn in_words(argument: &'static str) -> &'static str {
    match argument {
        "driver" => "driver (empty: the charging point's own account)",
        "kwh" => "kWh (empty: until unplugged)",
        other => other,
    }
}

/// Lines of at most `width` characters, broken between words where there are any.
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

/// One less than the terminal is wide, so that the terminal itself wraps nothing.
fn width() -> usize {
    crossterm::terminal::size().map_or(120, |(columns, _)| usize::from(columns)).saturating_sub(1)
}

fn write(text: &str) {
    // Nobody looks any more: the role goes on without a screen.
    let mut stderr = io::stderr().lock();
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}
