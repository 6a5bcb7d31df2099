//! Commands that must be refused with a message, and the network that they are run against.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use mesh::{
    certs::Authority,
    identity::{TlsIdentity, TlsIdentityError},
};
use proto::{
    Caller,
    enrolment::{EnrolmentToken, Secret},
};
use tempfile::TempDir;
use testbed::{network::PATIENCE, process, wait::until};
use tokio::time::timeout;

const DAY: Duration = Duration::from_secs(86_400);

/// A command that must be refused.
pub(crate) struct RefusedCommand {
    args: Vec<String>,
    env: Vec<(String, String)>,
    says: Vec<String>,
    silent: Vec<String>,
}

impl RefusedCommand {
    pub(crate) fn new(args: &[&str]) -> Self {
        Self { args: words(args), env: Vec::new(), says: Vec::new(), silent: Vec::new() }
    }

    pub(crate) fn flag(args: Vec<String>, flag: &str, value: &str) -> Self {
        Self { args: with(args, flag, value), ..Self::new(&[]) }
    }

    pub(crate) fn variable(args: Vec<String>, name: &str, value: &str) -> Self {
        Self { args, env: vec![(name.to_owned(), value.to_owned())], ..Self::new(&[]) }
    }

    pub(crate) fn says(mut self, texts: &[&str]) -> Self {
        self.says = words(texts);
        self
    }

    pub(crate) fn silent(mut self, texts: &[&str]) -> Self {
        self.silent = words(texts);
        self
    }

    /// Runs it; it must be refused with this exit code and one message that has all expected texts.
    pub(crate) async fn refused(self, code: i32) -> anyhow::Result<()> {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let env = self.env.iter().map(|(name, value)| (name.as_str(), Path::new(value)));
        // With this variable a backtrace would appear wherever an error is printed with `{:?}`.
        let env: Vec<_> = env.chain([("RUST_BACKTRACE", Path::new("1"))]).collect();
        let what =
            format!("{} {}", self.env.iter().map(|(n, v)| format!("{n}={v}")).collect::<String>(), args.join(" "));
        let ran = timeout(PATIENCE, process::run(&args, &env)).await;
        let (ended, out, error) = ran.with_context(|| format!("it goes on: {what}"))??;
        let said = format!("{out}{error}");
        ensure!(ended == code, "it ended with {ended} and not {code}: {what}\n{said}");
        no_backtrace(&said).context(what.clone())?;
        for text in &self.says {
            ensure!(said.contains(text.as_str()), "no word of {text:?}: {what}\n{said}");
        }
        for text in &self.silent {
            ensure!(!said.contains(text.as_str()), "a secret is shown: {what}\n{said}");
        }
        let sentence =
            |line: &&str| line.starts_with("error: ") || line.starts_with("chargemesh: ") || line.contains("ERROR");
        ensure!(said.lines().filter(sentence).count() == 1, "not one sentence: {what}\n{said}");
        Ok(())
    }
}

/// Collects failures, so that a test reports all of them.
#[derive(Default)]
pub(crate) struct Failures(Vec<String>);

impl Failures {
    pub(crate) fn note(&mut self, result: anyhow::Result<()>) {
        self.0.extend(result.err().map(|error| format!("{error:#}")));
    }

    pub(crate) fn none(self) -> anyhow::Result<()> {
        ensure!(self.0.is_empty(), "{} faults\n\n{}", self.0.len(), self.0.join("\n"));
        Ok(())
    }
}

pub(crate) fn no_backtrace(said: &str) -> anyhow::Result<()> {
    for trace in ["panicked", "stack backtrace", "Stack backtrace", "RUST_BACKTRACE", ".rs:"] {
        ensure!(!said.contains(trace), "{trace}: {said}");
    }
    Ok(())
}

/// Certificates and databases for Central and Registry, which do not run.
pub(crate) struct StoppedNetwork {
    pub(crate) folder: TempDir,
    authority: Authority,
}

impl StoppedNetwork {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("chargemesh-").tempdir()?;
        let authority = Authority::create(&folder.path().join("certs/authority"), "chargemesh.test", DAY)?;
        let ground = Self { folder, authority };
        for (role, name) in [(Caller::Central, "central"), (Caller::Registry, "registry")] {
            let out = ground.folder.path().join("certs").join(name);
            ground.authority.issue_role(role, &out, &[], DAY, false)?;
            let url = format!("sqlite:{}", ground.path(&format!("{name}/{name}.db")));
            let (code, out, error) = process::run(&["migrate", name, &url], &[]).await?;
            anyhow::ensure!(code == 0, "{out}{error}");
        }
        let olga = ground.folder.path().join("certs/olga");
        ground.authority.issue_person(Caller::Operator, &"olga".parse()?, &olga, DAY, false)?;
        Ok(ground)
    }

    pub(crate) fn path(&self, tail: &str) -> String {
        self.folder.path().join(tail).display().to_string()
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// All that Central needs to run.
    pub(crate) fn central(&self) -> Vec<String> {
        let mut args = self.role("central", "--link-address");
        args.extend(words(&["--registry", "127.0.0.1:1"]));
        args
    }

    /// All that Registry needs to run.
    pub(crate) fn registry(&self) -> Vec<String> {
        let mut args = self.role("registry", "--https-address");
        args.extend(words(&["--central", "127.0.0.1:1"]));
        args
    }

    pub(crate) fn role(&self, name: &str, second: &str) -> Vec<String> {
        let (data, identity) = (self.path(name), self.path(&format!("certs/{name}")));
        words(&[name, "--data", &data, "--identity", &identity, "--grpc-address", "127.0.0.1:0", second, "127.0.0.1:0"])
    }

    /// A well-formed token that no Registry has created.
    pub(crate) fn token(&self) -> String {
        let secret = Secret::from_bytes([7; 32]);
        let token = EnrolmentToken { id: "none".into(), secret, roots: Vec::new(), pins: Vec::new() };
        token.to_text().to_string()
    }

    /// An expired identity.
    pub(crate) async fn expired(&self) -> anyhow::Result<String> {
        let folder = self.folder.path().join("expired");
        self.authority.issue_role(Caller::Central, &folder, &[], Duration::ZERO, false)?;
        mesh::process::install_cryptography();
        until("a certificate of no life to expire", PATIENCE, async || match TlsIdentity::load(&folder) {
            Err(TlsIdentityError::Expired { .. }) => Ok(()),
            other => Err(format!("{:?}", other.err())),
        })
        .await?;
        Ok(folder.display().to_string())
    }

    /// An identity of another authority, with this network's roots.
    pub(crate) fn foreign(&self) -> anyhow::Result<String> {
        let folder = self.folder.path().join("foreign");
        let other = Authority::create(&self.folder.path().join("other"), "chargemesh.test", DAY)?;
        other.issue_role(Caller::Central, &folder, &[], DAY, false)?;
        std::fs::write(folder.join("ca.pem"), self.authority.roots_pem()?)?;
        Ok(folder.display().to_string())
    }

    pub(crate) fn broken(&self) -> anyhow::Result<String> {
        let folder = self.folder.path().join("broken");
        self.authority.issue_role(Caller::Central, &folder, &[], DAY, false)?;
        std::fs::write(folder.join("cert.pem"), "-----BEGIN NONSENSE-----\n")?;
        Ok(folder.display().to_string())
    }
}

/// Sets a flag, in place of its earlier value.
pub(crate) fn with(mut args: Vec<String>, flag: &str, value: &str) -> Vec<String> {
    match args.iter().position(|word| word == flag) {
        Some(at) => args[at + 1] = value.to_owned(),
        // Joined with `=`, so that a value may begin with a hyphen.
        None => args.push(format!("{flag}={value}")),
    }
    args
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
