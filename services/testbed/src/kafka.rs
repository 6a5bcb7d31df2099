//! A real Kafka broker, and a consumer of Kafka's own, both by the script `kafka/broker`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// A broker of its own, on a port of its own, which is removed with its data when dropped.
#[derive(Debug)]
pub struct KafkaBroker {
    name: String,
    pub bootstrap: String,
}

/// A message as Kafka's console consumer prints it.
#[derive(Clone, Debug, PartialEq)]
pub struct PrintedMessage {
    pub headers: BTreeMap<String, String>,
    pub key: String,
    /// JSON; a text where it is none.
    pub value: Value,
}

impl KafkaBroker {
    /// Starts a broker; at its first use on a machine it fetches Kafka.
    pub async fn start() -> anyhow::Result<Self> {
        let name = format!("test-{:08x}", rand::random::<u32>());
        let mut broker = Self { bootstrap: String::new(), name };
        broker.bootstrap = broker.up().await?;
        Ok(broker)
    }

    /// Starts it again after [`kill`](Self::kill), on the same port and with its data.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.up().await.map(drop)
    }

    /// As a crash would.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.run(&["kill"]).await.map(drop)
    }

    /// It keeps its connections and answers nothing.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP).await
    }

    pub async fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT).await
    }

    /// Everything that is on a topic now, partition by partition, each in order.
    pub async fn everything(&self, topic: &str) -> anyhow::Result<Vec<PrintedMessage>> {
        let words = ["consume", "--topic", topic, "--from-beginning", "--timeout-ms", "4000"];
        let printing = ["print.headers=true", "print.key=true", "null.literal="];
        let properties = printing.iter().flat_map(|property| ["--formatter-property", property]);
        let words: Vec<&str> = words.into_iter().chain(properties).collect();
        let printed = self.run(&words).await?;
        printed.lines().map(|line| message(line).with_context(|| format!("the consumer printed {line:?}"))).collect()
    }

    /// Runs one of the script's commands.
    pub async fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(script());
        command.args(words).env("KAFKA_NAME", &self.name).env("KAFKA_PORT", "0");
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let error = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{words:?}: {error}");
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn up(&self) -> anyhow::Result<String> {
        let said = self.run(&["up"]).await?;
        let bootstrap = said.lines().find_map(|line| line.strip_prefix("bootstrap="));
        Ok(bootstrap.with_context(|| format!("no bootstrap in {said:?}"))?.to_owned())
    }

    async fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let status = self.run(&["status"]).await?;
        let pid = status.split_whitespace().find_map(|word| word.strip_prefix("pid="));
        let pid = pid.with_context(|| format!("no pid in {status:?}"))?.parse()?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }
}

impl Drop for KafkaBroker {
    fn drop(&mut self) {
        let mut command = Command::new(script());
        drop(command.args(["down", "--wipe"]).env("KAFKA_NAME", &self.name).output());
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/broker")
}

fn message(line: &str) -> Option<PrintedMessage> {
    let mut parts = line.splitn(3, '\t');
    let (headers, key, value) = (parts.next()?, parts.next()?, parts.next()?);
    let headers = headers.split(',').filter_map(|header| header.split_once(':'));
    Some(PrintedMessage {
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        key: key.to_owned(),
        value: serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned())),
    })
}
