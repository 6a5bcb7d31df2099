//! Enrolment at Registry's HTTPS door with a token (SPEC 7.4): the credential comes back once and is on disk before
//! anything is done with it.
//!
//! The token carries Registry's roots, so that nobody else can be taken for it, whatever address was given. The request
//! id is on disk first: a lost answer, or a crash before the credential was kept, costs nothing within ten minutes.

use std::{fs, path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mesh::{
    client::{ClientConfig, Https, explain, https},
    link::Backoff,
    process::Context,
};
use proto::{
    DriverId,
    enrolment::{EnrolBody, Enrolled, EnrolmentStatus, EnrolmentToken, PeerKind, RefusalBody, SecretText, TextError},
    link::v1::Reason,
};

use crate::data_dir::{DataDir, DataDirError, DriverEnrolment};

/// Of the role's health: what an enrolment waits for.
pub(crate) const COMPONENT: &str = "enrolment";

/// Where and with what to enrol.
#[derive(Clone, Debug)]
pub struct EnrolSettings {
    /// Registry's HTTPS address, `https://host:port`.
    pub registry: String,
    pub token: SecretText,
}

/// Why there is no enrolment.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error(transparent)]
    Token(#[from] TextError),
    #[error("{address:?} is no address of Registry ({why}): give https://host:port")]
    Address { address: String, why: String },
    #[error("Registry refused to enrol {driver} ({}): {message}", reason.code())]
    Refused { driver: DriverId, reason: Reason, message: String },
    #[error("cannot reach Registry at {address}: {why}")]
    Unreachable { address: String, why: String },
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("stopped while enrolling")]
    Stopped,
}

/// Enrols, however long Registry takes to be there; a refusal ends it.
pub(crate) async fn enrol(
    ctx: &Context,
    settings: &EnrolSettings,
    driver: &DriverId,
    data_dir: &DataDir,
) -> Result<DriverEnrolment, EnrolError> {
    let token: EnrolmentToken = settings.token.expose().parse()?;
    let door = Door::new(&settings.registry, &token.roots)?;
    let body = body(settings, driver, data_dir)?;
    let component = ctx.health.component(COMPONENT);
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    let enrolled = loop {
        match door.enrol(driver, &body).await {
            Ok(enrolled) => break enrolled,
            Err(EnrolError::Unreachable { address, why }) => {
                component.starting(format!("cannot reach Registry at {address}: {why}; trying again"));
                let wait = backoff.wait(rand::random());
                if ctx.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                    return Err(EnrolError::Stopped);
                }
            }
            Err(error) => return Err(error),
        }
    };
    component.forget();
    keep(settings, driver, enrolled, data_dir)
}

/// Enrols anew, with one try: after a removal, or with an operator's one-use token.
pub(crate) async fn enrol_again(
    settings: &EnrolSettings,
    driver: &DriverId,
    data_dir: &DataDir,
) -> Result<DriverEnrolment, EnrolError> {
    let token: EnrolmentToken = settings.token.expose().parse()?;
    let door = Door::new(&settings.registry, &token.roots)?;
    let enrolled = door.enrol(driver, &body(settings, driver, data_dir)?).await?;
    keep(settings, driver, enrolled, data_dir)
}

fn body(settings: &EnrolSettings, driver: &DriverId, data_dir: &DataDir) -> Result<EnrolBody, EnrolError> {
    Ok(EnrolBody {
        request_id: request_id(data_dir)?,
        id: driver.to_string(),
        token: settings.token.clone(),
        ..EnrolBody::default()
    })
}

fn keep(
    settings: &EnrolSettings,
    driver: &DriverId,
    enrolled: Enrolled,
    data_dir: &DataDir,
) -> Result<DriverEnrolment, EnrolError> {
    let enrolment = DriverEnrolment {
        driver: driver.to_string(),
        credential: enrolled.credential,
        pins: enrolled.status.trust.pins.iter().map(|pin| hex::encode(&pin.0)).collect(),
        roots: enrolled.status.trust.roots,
        registry: settings.registry.clone(),
    };
    data_dir.save_enrolment(&enrolment)?;
    // The next enrolment is another request.
    drop(fs::remove_file(data_dir.folder().join(ENROLLING)));
    Ok(enrolment)
}

/// Central's keys, where Registry did not know them yet at enrolment. Waits until it does.
pub(crate) async fn learn_pins(
    ctx: &Context,
    enrolment: &mut DriverEnrolment,
    data_dir: &DataDir,
) -> Result<(), EnrolError> {
    let roots: Vec<Vec<u8>> = enrolment.roots.iter().map(|root| root.0.clone()).collect();
    let door = Door::new(&enrolment.registry, &roots)?;
    let component = ctx.health.component(COMPONENT);
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    while enrolment.pins.is_empty() {
        match door.status(enrolment).await {
            Ok(status) => {
                component.starting("Registry has not met Central yet; asking again");
                enrolment.pins = status.trust.pins.iter().map(|pin| hex::encode(&pin.0)).collect();
            }
            Err(EnrolError::Unreachable { address, why }) => {
                component.starting(format!("cannot reach Registry at {address}: {why}; trying again"));
            }
            Err(error) => return Err(error),
        }
        let wait = if enrolment.pins.is_empty() { backoff.wait(rand::random()) } else { Duration::ZERO };
        if ctx.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return Err(EnrolError::Stopped);
        }
    }
    data_dir.save_enrolment(enrolment)?;
    component.forget();
    Ok(())
}

/// How Registry says that this driver stands, and which keys Central has now. One try.
pub(crate) async fn ask(enrolment: DriverEnrolment) -> Result<EnrolmentStatus, EnrolError> {
    let roots: Vec<Vec<u8>> = enrolment.roots.iter().map(|root| root.0.clone()).collect();
    Door::new(&enrolment.registry, &roots)?.status(&enrolment).await
}

const ENROLLING: &str = "enrolling";

/// Kept over restarts until the credential is.
fn request_id(data_dir: &DataDir) -> Result<String, EnrolError> {
    let path: PathBuf = data_dir.folder().join(ENROLLING);
    if let Ok(id) = fs::read_to_string(&path) {
        return Ok(id.trim().to_owned());
    }
    let id = hex::encode(rand::random::<[u8; 16]>());
    let written = fs::write(&path, &id).map_err(|source| DataDirError::Io { what: "write", path, source });
    written.map(|()| id).map_err(EnrolError::from)
}

/// Registry's HTTPS door, trusted by the roots of the token alone.
struct Door {
    address: String,
    https: Https,
}

impl Door {
    fn new(address: &str, roots: &[Vec<u8>]) -> Result<Self, EnrolError> {
        let bad = |why: String| EnrolError::Address { address: address.to_owned(), why };
        // A person may paste either a URL or host:port.
        let host = address.trim_start_matches("https://").trim_end_matches('/');
        let settings = ClientConfig::default();
        let https = https("registry", host, &pem(roots), &settings).map_err(|error| bad(format!("{error:#}")))?;
        Ok(Self { address: host.to_owned(), https })
    }

    async fn enrol(&self, driver: &DriverId, body: &EnrolBody) -> Result<Enrolled, EnrolError> {
        let path = format!("/v1/{}", PeerKind::Driver.collection());
        self.answer(driver, self.https.post(&path).json(body)).await
    }

    async fn status(&self, enrolment: &DriverEnrolment) -> Result<EnrolmentStatus, EnrolError> {
        let driver = enrolment.driver.parse::<DriverId>();
        let driver = driver.map_err(|e| EnrolError::Address { address: self.address.clone(), why: e.to_string() })?;
        let path = format!("/v1/{}/{driver}", PeerKind::Driver.collection());
        self.answer(&driver, self.https.get(&path).bearer_auth(enrolment.credential.expose())).await
    }

    async fn answer<T: serde::de::DeserializeOwned>(
        &self,
        driver: &DriverId,
        request: reqwest::RequestBuilder,
    ) -> Result<T, EnrolError> {
        let unreachable = |why: String| EnrolError::Unreachable { address: self.address.clone(), why };
        let response = request.send().await.map_err(|error| unreachable(explain(&error)))?;
        let status = response.status();
        let text = response.bytes().await.map_err(|error| unreachable(explain(&error)))?;
        if status.is_success() {
            return serde_json::from_slice(&text).map_err(|error| unreachable(format!("its answer is none: {error}")));
        }
        match serde_json::from_slice::<RefusalBody>(&text) {
            Ok(refusal) if refusal.is_undecided(status.as_u16()) => Err(unreachable(refusal.message)),
            Ok(refusal) => {
                let (driver, reason) = (driver.clone(), refusal.reason());
                Err(EnrolError::Refused { driver, reason, message: refusal.message })
            }
            Err(_) => Err(unreachable(format!("it answered {status}"))),
        }
    }
}

/// DER certificates as one PEM text.
fn pem(roots: &[Vec<u8>]) -> String {
    let one = |der: &Vec<u8>| {
        let body = STANDARD.encode(der);
        let lines: Vec<&str> = (0..body.len()).step_by(64).map(|at| &body[at..body.len().min(at + 64)]).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    roots.iter().map(one).collect()
}
