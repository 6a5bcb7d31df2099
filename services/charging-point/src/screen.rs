//! The role's own screen where there is a terminal: single keys, a help line, and a line that shows the state. Each key
//! is a command of the control socket, so that whatever is done here can be done without a terminal (SPEC 1.9).

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    time::Duration,
};

use mesh::{control::Request, process::Context};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use proto::Energy;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

/// How often the line is drawn anew.
const REDRAW: Duration = Duration::from_millis(500);

/// A key and what it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) key: char,
    pub(crate) command: &'static str,
    /// Fixed arguments by name.
    pub(crate) fixed: &'static [(&'static str, &'static str)],
    /// Asked for, by name.
    pub(crate) asks: &'static [&'static str],
    pub(crate) label: &'static str,
}

pub(crate) const ENGINE_KEYS: &[Key] = &[
    key('p', "plug", &[], "plug"),
    key('u', "unplug", &[], "unplug"),
    key('m', "supply", &["driver", "kwh"], "manual supply"),
    key('b', "break", &[], "break"),
    key('r', "repair", &[], "repair"),
    key('s', "spoil-key", &[], "spoil key"),
    key('k', "repair-key", &[], "repair key"),
    key('?', "status", &[], "all"),
];

pub(crate) const MONITOR_KEYS: &[Key] = &[
    key('e', "enrol", &["token"], "enrol"),
    key('x', "remove", &[], "remove"),
    key('a', "authenticate", &[], "authenticate"),
    Key { key: 'm', command: "maintenance", fixed: &[("on", "on")], asks: &[], label: "maintenance" },
    Key { key: 'n', command: "maintenance", fixed: &[("on", "off")], asks: &[], label: "no maintenance" },
    key('d', "disconnect", &[], "disconnect"),
    key('c', "connect", &[], "connect"),
    key('?', "status", &[], "all"),
];

const fn key(key: char, command: &'static str, asks: &'static [&'static str], label: &'static str) -> Key {
    Key { key, command, fixed: &[], asks, label }
}

/// Shows the screen if stdin is a terminal; `line` makes the one line of a status. Until the process stops.
pub(crate) fn start<H, Fut>(ctx: &Context, keys: &'static [Key], handler: H, line: fn(&Value) -> String)
where
    H: Fn(Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Value, String>> + Send + 'static,
{
    let Some(terminal) = Terminal::take() else { return };
    let ctx_in = ctx.clone();
    ctx.spawn("screen", async move {
        let screen = Screen { handler, line, keys, typed: listen(), typing: None };
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
        if !stdin.is_terminal() || !io::stderr().is_terminal() {
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
        write("\r\x1b[K");
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
struct Typing {
    key: Key,
    args: Map<String, Value>,
    text: String,
}

struct Screen<H> {
    handler: H,
    line: fn(&Value) -> String,
    keys: &'static [Key],
    typed: mpsc::Receiver<char>,
    typing: Option<Typing>,
}

impl<H, Fut> Screen<H>
where
    H: Fn(Request) -> Fut,
    Fut: Future<Output = Result<Value, String>>,
{
    async fn run(mut self, ctx: &Context) {
        self.say(&self.help());
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
        if let Some(typing) = &mut self.typing {
            match pressed {
                '\n' | '\r' => return self.enter().await,
                '\x1b' => self.typing = None,
                '\x08' | '\x7f' => drop(typing.text.pop()),
                other if !other.is_control() => typing.text.push(other),
                _ => {}
            }
            return;
        }
        if pressed == 'h' {
            return self.say(&self.help());
        }
        let Some(key) = self.keys.iter().find(|k| k.key == pressed).copied() else { return };
        let args = key.fixed.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
        let typing = Typing { key, args, text: String::new() };
        if key.asks.is_empty() {
            self.order(typing).await;
        } else {
            self.typing = Some(typing);
        }
    }

    /// One argument is complete.
    async fn enter(&mut self) {
        let Some(mut typing) = self.typing.take() else { return };
        let text = std::mem::take(&mut typing.text);
        if let Some(name) = asked(&typing) {
            typing.args.insert(name.to_owned(), Value::from(text));
        }
        if asked(&typing).is_some() {
            self.typing = Some(typing);
        } else {
            self.order(typing).await;
        }
    }

    async fn order(&mut self, typing: Typing) {
        let request = Request::new(typing.key.command, Value::Object(typing.args));
        let said = match (self.handler)(request).await {
            Ok(answer) if typing.key.command == "status" => serde_json::to_string_pretty(&answer).unwrap_or_default(),
            Ok(_) => format!("{}: done", typing.key.label),
            Err(why) => format!("{}: {why}", typing.key.label),
        };
        self.say(&said);
    }

    fn say(&self, text: &str) {
        write(&format!("\r\x1b[K{text}\n"));
    }

    /// Drawn again each time, because log lines pass over it.
    async fn draw(&mut self) {
        let line = match &self.typing {
            Some(typing) => {
                // A token is a secret, and longer than any line.
                let secret = asked(typing) == Some("token");
                let text = if secret { "*".repeat(typing.text.len().min(20)) } else { typing.text.clone() };
                format!("{} {}: {text}", typing.key.label, asked(typing).unwrap_or_default())
            }
            None => match (self.handler)(Request::new("status", Value::Null)).await {
                Ok(status) => (self.line)(&status),
                Err(why) => why,
            },
        };
        let cut: String = line.chars().take(width()).collect();
        // A log line that comes next writes over the state, not behind it; a person types behind the question.
        let end = if self.typing.is_some() { "" } else { "\r" };
        write(&format!("\r\x1b[K{cut}{end}"));
    }
}

/// The argument that is typed now.
fn asked(typing: &Typing) -> Option<&'static str> {
    typing.key.asks.iter().copied().find(|name| !typing.args.contains_key(*name))
}

/// One less than the terminal is wide, so that nothing wraps.
fn width() -> usize {
    crossterm::terminal::size().map_or(120, |(columns, _)| usize::from(columns)).saturating_sub(1)
}

fn write(text: &str) {
    // Nobody looks any more: the role goes on without a screen.
    let mut stderr = io::stderr().lock();
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}

/// An engine in one line.
pub(crate) fn engine_line(status: &Value) -> String {
    let mut line = headline(status);
    if let Some(session) = status.get("session").filter(|s| s.is_object()) {
        let number = |name: &str| session.get(name).and_then(Value::as_u64).unwrap_or(0);
        let energy = Energy::from_wh(number("energy_wh"));
        let amount = session.get("amount").and_then(Value::as_str).unwrap_or_default();
        line = format!("{line} | {energy}  {amount}  {} W", number("power_w"));
        if let Some(percent) = session.get("progress_percent").and_then(Value::as_u64) {
            line = format!("{line}  {percent} %");
        }
    }
    with_notice(line, status)
}

/// A monitor in one line.
pub(crate) fn monitor_line(status: &Value) -> String {
    with_notice(headline(status), status)
}

fn headline(status: &Value) -> String {
    status.get("headline").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn with_notice(line: String, status: &Value) -> String {
    match status.get("notice").and_then(Value::as_str) {
        Some(notice) => format!("{line} | {notice}"),
        None => line,
    }
}
