//! A driver (SPEC 1.5): asks for supplies by hand, from a file or by chance, sees every step, and gets a ticket.
//!
//! ```text
//!  terminal, ctl ─▶ words ─┐                      ┌─▶ link ─▶ Central
//!  file ─▶ queue ──────────┤ drive ─▶ trip (pure) ┼─▶ data_dir: position before a request, ticket before its receipt
//!  link ◀─ Central ────────┘                      └─▶ told: each step, as a line or as JSON
//! ```
//!
//! Guarantees: a request has its id and is on disk before it is sent, so it is never asked twice (SPEC 3.10); a ticket
//! is on disk before it is acknowledged (3.9); the credential is used for a first contact alone (4.4), and both secrets
//! are files of mode 0600.

mod anteroom;
mod commands;
mod contact;
mod data_dir;
mod drive;
mod enrolment;
mod file_queue;
mod format;
mod link;
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
use mesh::{clock::Now, control, health::Health, process::Misuse};
use proto::{DriverId, enrolment::SecretText};
use tokio::sync::{mpsc, oneshot};

use crate::{commands::DriverCommand, data_dir::DriverEnrolment, drive::Ask};
pub use crate::{
    data_dir::DataDir,
    drive::Settings,
    enrolment::{EnrolError, EnrolSettings},
    format::utc,
    notification::{Notification, Offer},
    request::{ConfirmPolicy, RequestOutcome, RunningSupply, SupplyRequest},
    request_file::parse_kwh,
    ticket::{CorrectionText, TicketText},
};

/// Steps that may wait for whoever is told; a slow screen holds the loop back, never the memory up.
const NOTIFICATIONS: usize = 256;
const ASKS: usize = 64;
const EVENTS: usize = 64;

/// A driver's settings.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Driver")]
pub struct Config {
    /// Who this driver is
    #[arg(long, env = "CHARGEMESH_DRIVER_ID", value_name = "ID")]
    pub id: DriverId,
    /// Central's link addresses, tried in turn
    #[arg(long, env = "CHARGEMESH_CENTRAL_LINK", value_name = "HOST:PORT", value_delimiter = ',',
          value_parser = mesh::client::host_and_port, default_value = "127.0.0.1:7400")]
    pub central: Vec<String>,
    /// Registry's HTTPS address, for the enrolment
    #[arg(long, env = "CHARGEMESH_REGISTRY_HTTPS", value_name = "URL", default_value = "https://127.0.0.1:7580",
          value_parser = mesh::client::https_address)]
    pub registry: String,
    /// DriverEnrolment token, needed at the first start only
    #[arg(long, env = "CHARGEMESH_TOKEN", value_name = "TOKEN", value_parser = secret, hide_env_values = true)]
    pub token: Option<SecretText>,
    /// File that holds the enrolment token
    #[arg(long, env = "CHARGEMESH_TOKEN_FILE", value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Folder for credential, key, position and tickets
    #[arg(long, env = "CHARGEMESH_DATA", value_name = "DIR", default_value = "data/driver")]
    pub data: PathBuf,
    /// File of requests to work off: one CP-ID[,kWh] a line, # comments
    #[arg(long, env = "CHARGEMESH_FILE", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Ask by chance, one supply after another, at whatever is available; the number seeds the chance
    #[arg(long, env = "CHARGEMESH_ROAM", value_name = "SEED", conflicts_with = "file")]
    pub random_requests: Option<u64>,
    /// From the end of a request of the file to the next one
    #[arg(long, env = "CHARGEMESH_PAUSE", value_name = "DURATION", default_value = "4s",
          value_parser = mesh::duration::parse)]
    pub pause: std::time::Duration,
    /// What to do with manual supplies that name this driver
    #[arg(long, env = "CHARGEMESH_CONFIRM", value_enum, default_value_t)]
    pub confirm: ConfirmPolicy,
    /// End when the file is over and every request of it has ended
    #[arg(long, env = "CHARGEMESH_EXIT_WHEN_DONE", requires = "file")]
    pub exit_when_done: bool,
    /// Print every step as a JSON object, one a line
    #[arg(long, env = "CHARGEMESH_JSON")]
    pub json: bool,
    /// Say something to Central at least this often
    #[arg(long, env = "CHARGEMESH_LIFE_SIGN", value_name = "DURATION", default_value = "500ms",
          value_parser = mesh::duration::parse_some)]
    pub life_sign: std::time::Duration,
    /// An unanswered message is sent again after this
    #[arg(long, env = "CHARGEMESH_REPEAT", value_name = "DURATION", default_value = "5s",
          value_parser = mesh::duration::parse_some)]
    pub repeat: std::time::Duration,
    /// A request made by hand is over where Central cannot be reached within this
    #[arg(long, env = "CHARGEMESH_REQUEST_EXPIRES", value_name = "DURATION", default_value = "60s",
          value_parser = mesh::duration::parse)]
    pub request_expires: std::time::Duration,
    /// Wait after a first failure to reach Central; doubled with each further one
    #[arg(long, env = "CHARGEMESH_RETRY_MIN", value_name = "DURATION", default_value = "250ms",
          value_parser = mesh::duration::parse_some)]
    pub retry_min: std::time::Duration,
    /// Longest wait between tries to reach Central
    #[arg(long, env = "CHARGEMESH_RETRY_MAX", value_name = "DURATION", default_value = "5s",
          value_parser = mesh::duration::parse_some)]
    pub retry_max: std::time::Duration,
    /// Authenticate again this long after a refusal; later where Central asks for that
    #[arg(long, env = "CHARGEMESH_AUTHENTICATE_AGAIN", value_name = "DURATION", default_value = "5s",
          value_parser = mesh::duration::parse)]
    pub authenticate_again: std::time::Duration,
    /// So many refusals end the tries, until the command authenticate
    #[arg(long, env = "CHARGEMESH_REFUSALS", value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub refusals: u32,
    #[command(flatten)]
    pub conversation: mesh::link::Config,
    #[command(flatten)]
    pub clock: mesh::skew::Config,
}

fn secret(text: &str) -> Result<SecretText, std::convert::Infallible> {
    Ok(SecretText::new(text.trim()))
}

impl Config {
    fn settings(&self) -> Settings {
        Settings {
            wire: self.conversation.wire(self.life_sign),
            clock: self.clock.reading(),
            repeat: self.repeat,
            request_expires: self.request_expires,
            retry_min: self.retry_min,
            retry_max: self.retry_max,
            authenticate_again: self.authenticate_again,
            refusals: self.refusals,
            confirm: self.confirm,
            pause: self.pause,
            file: self.file.clone(),
            random_requests: self.random_requests,
            exit_when_done: self.exit_when_done,
            ..Settings::new(self.id.clone(), self.central.clone())
        }
    }

    fn enrol(&self) -> anyhow::Result<Option<EnrolSettings>> {
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
        Ok(Some(EnrolSettings { registry: self.registry.clone(), token }))
    }
}

/// The role: a driver with its screen and its control socket, both there before he is enrolled, until it is told to
/// stop.
pub async fn run(config: Config, ctx: mesh::process::Context) -> anyhow::Result<()> {
    let (settings, enrol) = (config.settings(), config.enrol()?);
    let (driver, mut channels) = DriverHandle::new();
    channels.health = Some(ctx.health.clone());
    if let Some(path) = ctx.control_socket() {
        let asks = driver.asks.clone();
        control::serve(&ctx, path, move |request| answer(asks.clone(), request)).await?;
    }
    let begun = begin(&ctx, settings, enrol, &config.data, channels);
    let (begun, shown) = tokio::join!(begun, screen::run(ctx.clone(), driver, config.json));
    begun.and(shown)
}

/// A driver that runs: many may in one process.
#[derive(Debug)]
pub struct DriverHandle {
    asks: mpsc::Sender<Ask>,
    notifications: mpsc::Receiver<(Now, Notification)>,
}

/// The other ends of a [`DriverHandle`]'s channels.
#[derive(Debug)]
struct LoopChannels {
    asked: mpsc::Receiver<Ask>,
    notifications: mpsc::Sender<(Now, Notification)>,
    /// Where a driver is alone in his process.
    health: Option<Health>,
}

/// Opens the folder, enrols if need be, and drives until `ctx` stops or the file is over.
///
/// # Errors
/// Where the folder is not usable or Registry refuses; an unreachable Registry or Central is waited for.
pub async fn start(
    ctx: &mesh::process::Context,
    settings: Settings,
    enrol: Option<EnrolSettings>,
    folder: &Path,
) -> anyhow::Result<DriverHandle> {
    let (driver, channels) = DriverHandle::new();
    begin(ctx, settings, enrol, folder, channels).await?;
    Ok(driver)
}

/// Returns once the driver drives, in a task of its own.
async fn begin(
    ctx: &mesh::process::Context,
    settings: Settings,
    enrol: Option<EnrolSettings>,
    folder: &Path,
    channels: LoopChannels,
) -> anyhow::Result<()> {
    // Before a token is spent on a driver that would end at once.
    if let Some(Err(error)) = settings.file.as_ref().map(std::fs::File::open) {
        let file = settings.file.as_deref().unwrap_or(folder).display();
        return Err(Misuse::new(format!("cannot read the file of requests {file}: {error}")).into());
    }
    let lock = mesh::process::lock(folder, "driver")?;
    let data_dir = DataDir::open(folder).map_err(|e| Misuse::new(e.to_string()))?;
    let LoopChannels { mut asked, notifications, health } = channels;
    let waits = anteroom::Waits { ctx, driver: &settings.driver };
    let enrolled =
        anteroom::meanwhile(enrolled(ctx, &settings, enrol, &data_dir, &notifications), &mut asked, &waits).await;
    // Otherwise somebody has said `quit`.
    let Some(enrolment) = enrolled.transpose()? else { return Ok(()) };
    let (events, happened) = mpsc::channel(EVENTS);
    let (name, ctx_in) = (format!("driver {}", settings.driver), ctx.clone());
    let drive = drive::Drive::new(settings, data_dir, enrolment, ctx.clock, events, notifications)?.shown(health);
    ctx.spawn(name, async move {
        let done = drive.run(&ctx_in, asked, happened).await;
        // Held until nothing is kept any more.
        drop(lock);
        done
    });
    Ok(())
}

/// The enrolment on disk or a new one, with Central's keys.
async fn enrolled(
    ctx: &mesh::process::Context,
    settings: &Settings,
    enrol: Option<EnrolSettings>,
    data_dir: &DataDir,
    notifications: &mpsc::Sender<(Now, Notification)>,
) -> anyhow::Result<DriverEnrolment> {
    let mut enrolment = match (data_dir.enrolment()?, enrol) {
        (Some(enrolment), _) if enrolment.driver == settings.driver.as_str() => enrolment,
        (Some(enrolment), _) => {
            let text = format!(
                "{} holds the credential of {}, not of {}; give each driver a folder of its own",
                data_dir.folder().display(),
                enrolment.driver,
                settings.driver
            );
            return Err(Misuse::new(text).into());
        }
        (None, Some(enrol)) => {
            let enrolment = enrolment::enrol(ctx, &enrol, &settings.driver, data_dir).await.map_err(to_be_mended)?;
            drop(
                notifications
                    .send((ctx.clock.now(), Notification::Enrolled { driver: settings.driver.to_string() }))
                    .await,
            );
            enrolment
        }
        (None, None) => {
            let text = format!("{} is not enrolled: give an enrolment token with --token", settings.driver);
            return Err(Misuse::new(text).into());
        }
    };
    if enrolment.pins.is_empty() {
        enrolment::learn_pins(ctx, &mut enrolment, data_dir).await?;
    }
    Ok(enrolment)
}

impl DriverHandle {
    fn new() -> (Self, LoopChannels) {
        let (asks, asked) = mpsc::channel(ASKS);
        let (notify, notifications) = mpsc::channel(NOTIFICATIONS);
        (Self { asks, notifications }, LoopChannels { asked, notifications: notify, health: None })
    }

    /// A request with an id of the caller's own: asked again with the same id, it gets the first answer.
    pub async fn request(&self, request: SupplyRequest) -> anyhow::Result<()> {
        self.asks.send(Ask::Request(request)).await.ok().context("the driver has ended")
    }

    /// The next step of whatever is going on; nothing when the driver has ended.
    pub async fn next_notification(&mut self) -> Option<(Now, Notification)> {
        self.notifications.recv().await
    }

    /// One command as a person types it.
    ///
    /// # Errors
    /// What is wrong with it, or why it was refused.
    pub async fn execute(&self, line: &str) -> Result<serde_json::Value, String> {
        match commands::parse(line) {
            Some(word) => ask(&self.asks, word?).await,
            None => Ok(serde_json::Value::Null),
        }
    }
}

/// What another token, or another address, mends is wrong use.
fn to_be_mended(error: EnrolError) -> anyhow::Error {
    match error {
        EnrolError::Token(_) | EnrolError::Address { .. } | EnrolError::Refused { .. } => {
            Misuse::new(error.to_string()).into()
        }
        EnrolError::Unreachable { .. } | EnrolError::DataDir(_) | EnrolError::Stopped => error.into(),
    }
}

async fn answer(
    asks: mpsc::Sender<Ask>,
    request: control::ControlRequest,
) -> Result<serde_json::Value, control::ControlRefusal> {
    let word = commands::from_control(&request.command, &request.args).map_err(control::ControlRefusal::misuse)?;
    Ok(ask(&asks, word).await?)
}

async fn ask(asks: &mpsc::Sender<Ask>, word: DriverCommand) -> Result<serde_json::Value, String> {
    let (answer, answered) = oneshot::channel();
    let ended = || "the driver is ending".to_owned();
    asks.send(Ask::DriverCommand(word, Some(answer))).await.map_err(|_| ended())?;
    answered.await.unwrap_or(Ok(serde_json::Value::Null))
}
