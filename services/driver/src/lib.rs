//! A driver (SPEC 1.5): asks for supplies by hand, from a file or at random, shows every step, and stores its tickets.
//!
//! ```text
//!  terminal, ctl ─▶ commands ──┐                           ┌─▶ mesh::peer ─▶ Central, Registry
//!  file ─▶ file_queue ─────────┤ event_loop ─▶ trip (pure) ┼─▶ data_dir: a request before it is sent, a ticket before its receipt
//!  Central ─▶ mesh::peer ──────┘                           └─▶ notification: each step, as a line or as JSON
//! ```
//!
//! Guarantees: a request and its id are on disk before it is sent, so it is never made twice (SPEC 3.10); a ticket is on
//! disk before it is acknowledged (3.9); the credential is sent in a first contact only (4.4); credential and key are in
//! files of mode 0600.

mod commands;
mod data_dir;
mod event_loop;
mod file_queue;
mod format;
mod notification;
mod random_requests;
mod request;
mod request_file;
mod screen;
mod ticket;
mod trip;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mesh::{
    clock::Now,
    control,
    health::Health,
    peer::{self, EnrolleeSettings, PeerSettings, StoredIdentity},
    process::Misuse,
};
use proto::{
    DriverId,
    enrolment::{EnrolmentToken, SecretText},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    commands::UserCommand,
    event_loop::{DriverEvent, DriverLoop},
};
pub use crate::{
    data_dir::DataDir,
    event_loop::DriverSettings,
    format::utc,
    notification::{Notification, Offer},
    request::{ConfirmPolicy, DriverRequest, RequestOutcome, RunningSupply},
    request_file::parse_kwh,
    ticket::PrintedTicket,
};

/// Notifications that may wait for their reader; a slow reader delays the event loop instead of filling the memory.
const NOTIFICATIONS: usize = 256;
const EVENTS: usize = 64;

/// A driver's settings.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Driver")]
pub struct Config {
    /// Id of the driver
    #[arg(long, env = "CHARGEMESH_DRIVER_ID", value_name = "ID")]
    pub id: DriverId,
    /// Link addresses of Central, tried in turn
    #[arg(long, env = "CHARGEMESH_CENTRAL_LINK", value_name = "HOST:PORT", value_delimiter = ',',
          value_parser = mesh::client::host_and_port, default_value = "127.0.0.1:7400")]
    pub central: Vec<String>,
    /// Registry's HTTPS address, used for the enrolment
    #[arg(long, env = "CHARGEMESH_REGISTRY_HTTPS", value_name = "URL", default_value = "https://127.0.0.1:7580",
          value_parser = mesh::client::https_address)]
    pub registry: String,
    /// Enrolment token, needed at the first start
    #[arg(long, env = "CHARGEMESH_TOKEN", value_name = "TOKEN", value_parser = secret, hide_env_values = true)]
    pub token: Option<SecretText>,
    /// File that holds the enrolment token
    #[arg(long, env = "CHARGEMESH_TOKEN_FILE", value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Folder of the driver's credential, key, requests in flight and tickets
    #[arg(long, env = "CHARGEMESH_DATA", value_name = "DIR", default_value = "data/driver")]
    pub data: PathBuf,
    /// File of requests to work through: one CP-ID[,kWh] per line, with # comments
    #[arg(long, env = "CHARGEMESH_FILE", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Ask for one supply after another at random charging points that are available; the number seeds the random choice
    #[arg(long, env = "CHARGEMESH_ROAM", value_name = "SEED", conflicts_with = "file")]
    pub random_requests: Option<u64>,
    /// Pause between the end of a request and the next one, with --file or --random-requests
    #[arg(long, env = "CHARGEMESH_PAUSE", value_name = "DURATION", default_value = "4s",
          value_parser = mesh::duration::parse)]
    pub pause: std::time::Duration,
    /// How to answer manual supplies that name this driver
    #[arg(long, env = "CHARGEMESH_CONFIRM", value_enum, default_value_t)]
    pub confirm: ConfirmPolicy,
    /// End the process when every request of the file has ended
    #[arg(long, env = "CHARGEMESH_EXIT_WHEN_DONE", requires = "file")]
    pub exit_when_done: bool,
    /// Print each notification as a JSON object, one per line
    #[arg(long, env = "CHARGEMESH_JSON")]
    pub json: bool,
    /// Interval at which to send Central a sign of life
    #[arg(long, env = "CHARGEMESH_LIFE_SIGN", value_name = "DURATION", default_value = "500ms",
          value_parser = mesh::duration::parse_some)]
    pub life_sign: std::time::Duration,
    /// Time after which an unanswered message is sent again
    #[arg(long, env = "CHARGEMESH_REPEAT", value_name = "DURATION", default_value = "5s",
          value_parser = mesh::duration::parse_some)]
    pub repeat: std::time::Duration,
    /// Time after which a request made by hand ends, if Central could not be reached
    #[arg(long, env = "CHARGEMESH_REQUEST_EXPIRES", value_name = "DURATION", default_value = "60s",
          value_parser = mesh::duration::parse)]
    pub request_expires: std::time::Duration,
    /// Wait after the first failure to reach Central; doubled with each further one, and jittered
    #[arg(long, env = "CHARGEMESH_RETRY_MIN", value_name = "DURATION", default_value = "250ms",
          value_parser = mesh::duration::parse_some)]
    pub retry_min: std::time::Duration,
    /// Longest wait between attempts to reach Central
    #[arg(long, env = "CHARGEMESH_RETRY_MAX", value_name = "DURATION", default_value = "5s",
          value_parser = mesh::duration::parse_some)]
    pub retry_max: std::time::Duration,
    /// Wait before authenticating again after a refusal; Central may ask for a longer one
    #[arg(long, env = "CHARGEMESH_AUTHENTICATE_AGAIN", value_name = "DURATION", default_value = "5s",
          value_parser = mesh::duration::parse)]
    pub authenticate_again: std::time::Duration,
    /// Number of refused credentials after which the driver stops authenticating, until the command authenticate
    #[arg(long, env = "CHARGEMESH_REFUSALS", value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub refusals: u32,
    /// Wait before asking Registry again, when it could not be reached
    #[arg(long, env = "CHARGEMESH_REGISTRY_AGAIN", value_name = "DURATION", default_value = "1s",
          value_parser = mesh::duration::parse_some)]
    pub registry_again: std::time::Duration,
    #[command(flatten)]
    pub conversation: mesh::link::Config,
    #[command(flatten)]
    pub clock: mesh::skew::Config,
}

fn secret(text: &str) -> Result<SecretText, std::convert::Infallible> {
    Ok(SecretText::new(text.trim()))
}

impl Config {
    fn settings(&self) -> anyhow::Result<DriverSettings> {
        let (central, registry) = (self.central.clone(), self.registry.clone());
        let usual = DriverSettings::new(&self.id, central, registry, self.token()?);
        let enrollee = EnrolleeSettings {
            life_sign: self.life_sign,
            authenticate_again: self.authenticate_again,
            refusals: self.refusals,
            registry_again: self.registry_again,
            peer: PeerSettings {
                retry_min: self.retry_min,
                retry_max: self.retry_max,
                repeat: self.repeat,
                wire: self.conversation.wire(self.life_sign),
                clock: self.clock.reading(),
            },
            ..usual.enrollee
        };
        Ok(DriverSettings {
            enrollee,
            request_expires: self.request_expires,
            confirm: self.confirm,
            pause: self.pause,
            file: self.file.clone(),
            random_requests: self.random_requests,
            exit_when_done: self.exit_when_done,
            ..usual
        })
    }

    fn token(&self) -> anyhow::Result<Option<SecretText>> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|e| Misuse::new(format!("cannot read the token file {}: {e}", file.display())))?;
                if text.trim().is_empty() {
                    return Err(Misuse::new(format!("the token file {} is empty", file.display())).into());
                }
                SecretText::new(text.trim())
            }
            (None, None) => return Ok(None),
        };
        if let Err(error) = token.expose().parse::<EnrolmentToken>() {
            return Err(Misuse::new(format!("the enrolment token is not one: {error}")).into());
        }
        Ok(Some(token))
    }
}

/// Runs the role until it is stopped. Its screen and control socket are there before the driver is enrolled.
pub async fn run(config: Config, ctx: mesh::process::Context) -> anyhow::Result<()> {
    let driver = begin(&ctx, config.settings()?, &config.data, Some(ctx.health.clone()))?;
    if let Some(path) = ctx.control_socket() {
        let events = driver.events.clone();
        control::serve(&ctx, path, move |request| answer(events.clone(), request)).await?;
    }
    screen::run(ctx, driver, config.json).await
}

/// A running driver, of which one process may have many.
#[derive(Debug)]
pub struct DriverHandle {
    events: mpsc::Sender<DriverEvent>,
    notifications: mpsc::Receiver<(Now, Notification)>,
}

/// Opens the folder and runs a driver until `ctx` stops or the file has ended. It enrols by itself where need be, and
/// waits for Registry and Central.
///
/// # Errors
/// Where the folder cannot be used, or there is nothing to enrol with.
pub fn start(ctx: &mesh::process::Context, settings: DriverSettings, folder: &Path) -> anyhow::Result<DriverHandle> {
    begin(ctx, settings, folder, None)
}

/// `health`: that of the process, where the driver is alone in it.
fn begin(
    ctx: &mesh::process::Context,
    settings: DriverSettings,
    folder: &Path,
    health: Option<Health>,
) -> anyhow::Result<DriverHandle> {
    // Checked before a token is spent on a driver that would end at once.
    if let Some(Err(error)) = settings.file.as_ref().map(std::fs::File::open) {
        let file = settings.file.as_deref().unwrap_or(folder).display();
        return Err(Misuse::new(format!("cannot read the file of requests {file}: {error}")).into());
    }
    let lock = mesh::data_folder::lock(folder, "driver")?;
    let data_dir = DataDir::open(folder).map_err(|e| Misuse::new(e.to_string()))?;
    let stored = StoredIdentity::load(&data_dir.identity()).map_err(|e| Misuse::new(e.to_string()))?;
    let id = settings.enrollee.enrolment.id.as_str();
    if let Some(other) = stored.id.as_deref().filter(|stored| *stored != id) {
        let (folder, own) = (folder.display(), "give each driver a folder of its own");
        return Err(Misuse::new(format!("{folder} holds the credential of {other}, not of {id}; {own}")).into());
    }
    if stored.credential.is_none() && settings.enrollee.token.is_none() {
        return Err(Misuse::new(format!("{id} is not enrolled: give an enrolment token with --token")).into());
    }
    let (events, happened) = mpsc::channel(EVENTS);
    let (notify, notifications) = mpsc::channel(NOTIFICATIONS);
    let (name, file) = (format!("driver {id}"), settings.file.clone());
    let mut driver = DriverLoop::new(settings, data_dir, stored, ctx.clock, events.clone(), notify, health)?;
    let (stop, clock) = (ctx.stop.clone(), ctx.clock);
    ctx.spawn(name, async move {
        if let Some(file) = file {
            driver.load(file, true).await?;
        }
        let done = peer::run(driver, happened, stop, clock).await;
        // The folder stays locked until the last write.
        drop(lock);
        done
    });
    Ok(DriverHandle { events, notifications })
}

impl DriverHandle {
    /// Makes a request with an id that the caller chose; a repeated id gets the first answer.
    pub async fn request(&self, request: DriverRequest) -> anyhow::Result<()> {
        self.events.send(DriverEvent::Request(request)).await.ok().context("the driver has ended")
    }

    /// The next notification, and when it was made; nothing once the driver has ended.
    pub async fn next_notification(&mut self) -> Option<(Now, Notification)> {
        self.notifications.recv().await
    }

    /// Executes a command as a person types it.
    ///
    /// # Errors
    /// What is wrong with the command, or why it was refused.
    pub async fn execute(&self, line: &str) -> Result<serde_json::Value, String> {
        match commands::parse(line) {
            Some(word) => ask(&self.events, word?).await,
            None => Ok(serde_json::Value::Null),
        }
    }
}

async fn answer(
    events: mpsc::Sender<DriverEvent>,
    request: control::ControlRequest,
) -> Result<serde_json::Value, control::ControlRefusal> {
    let word = commands::from_control(&request.command, &request.args).map_err(control::ControlRefusal::misuse)?;
    Ok(ask(&events, word).await?)
}

async fn ask(events: &mpsc::Sender<DriverEvent>, word: UserCommand) -> Result<serde_json::Value, String> {
    let (answer, answered) = oneshot::channel();
    let ended = || "the driver is ending".to_owned();
    events.send(DriverEvent::UserCommand(word, Some(answer))).await.map_err(|_| ended())?;
    answered.await.unwrap_or(Ok(serde_json::Value::Null))
}
