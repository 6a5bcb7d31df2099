//! The identity of this process: certificate, key and roots, from three files of one folder.
//!
//! The files are checked at every connection, so that a rotated file is in use at the next handshake without a restart.
//! Files that are unreadable, do not match, are expired or not signed by a known root never replace valid ones: the old
//! ones stay in use, and the log says why. Without valid files no connection is made or accepted (fail closed).
//! TLS 1.3 only, and no session resumption: a resumed session would keep a certificate that was rotated or removed.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use prometheus_client::metrics::gauge::Gauge;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::{
    clock::Clock,
    health::Component,
    process::{Context, Misuse},
};

mod material;

use material::Material;
pub(crate) use material::{ALPN_H2, anonymous_client, is_signed_by};

/// Days before a certificate expires at which a warning is logged (SPEC 10.7).
const WARN_DAYS: [i64; 2] = [30, 7];
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The folder of this process's identity.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Identity")]
#[group(skip)]
pub struct IdentityConfig {
    /// Folder with this process's certificate (cert.pem), its key (key.pem) and the roots it trusts (ca.pem), as
    /// `chargemesh certs` makes them; changed files are used at the next connection
    #[arg(long, env = "CHARGEMESH_IDENTITY", value_name = "DIR")]
    pub identity: PathBuf,
}

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsIdentityError {
    #[error("cannot read {path}: {error}; `chargemesh certs` makes it", path = .path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{path} is no {what} in PEM form: {error}", path = .path.display())]
    NotPem { path: PathBuf, what: &'static str, error: String },
    #[error("the key in {dir} does not belong to the certificate beside it", dir = .dir.display())]
    Mismatch { dir: PathBuf },
    #[error("the certificate {path} expired on {at}; `chargemesh certs` renews it", path = .path.display())]
    Expired { path: PathBuf, at: String },
    #[error("the certificate {path} is not valid before {at}; is this host's clock right?", path = .path.display())]
    NotYet { path: PathBuf, at: String },
    #[error("the certificate {path} is foreign: none of the roots in ca.pem beside it has signed it",
        path = .path.display())]
    Foreign { path: PathBuf },
    #[error("the certificate {path} names nobody of a mesh: it needs one URI such as spiffe://<domain>/central",
        path = .path.display())]
    Nameless { path: PathBuf },
    #[error("{path}: this identity is {whose}; {role} needs {role}'s, as `chargemesh certs` makes it",
        path = .path.display())]
    Another { path: PathBuf, whose: String, role: &'static str },
    #[error("{0}")]
    Unusable(String),
}

impl TlsIdentityError {
    fn is_missing(&self) -> bool {
        matches!(self, Self::Unreadable { error, .. } if error.kind() == std::io::ErrorKind::NotFound)
    }
}

/// The identity of this process in TLS. Cheap to clone; clones share one state.
#[derive(Clone)]
pub struct TlsIdentity(Arc<TlsIdentityState>);

struct TlsIdentityState {
    dir: PathBuf,
    clock: Clock,
    current: ArcSwapOption<Material>,
    seen: Mutex<SeenFiles>,
    expiry: Gauge,
    component: Option<Component>,
    /// The role that the certificate must name; `None`: any, for a command.
    role: Option<&'static str>,
}

#[derive(Default)]
struct SeenFiles {
    /// Stamp of the files in use.
    used: Option<Stamp>,
    /// Stamp of the invalid files that the log has reported.
    refused: Option<Stamp>,
}

/// Metadata of the three files; changes whenever one of them is replaced.
type Stamp = [Option<(u64, i64, i64, u64)>; 3];

impl TlsIdentity {
    /// Opens the identity of a role. While files are missing, the role waits and is not ready; invalid files are an
    /// error.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn open(ctx: &Context, config: &IdentityConfig) -> anyhow::Result<Self> {
        let expiry = ctx.metrics.register(
            "certificate_expiry_seconds",
            "When the certificate of this process expires, in seconds since 1970",
            Gauge::default(),
        );
        let component = Some(ctx.health.component("identity"));
        let identity = Self::new(&config.identity, ctx.clock, expiry, component, Some(ctx.role));
        match identity.read() {
            Ok(()) => {}
            Err(error) if error.is_missing() => identity.waits(&error),
            Err(error) => return Err(Misuse::new(error.to_string()).into()),
        }
        let (watched, stop) = (identity.clone(), ctx.stop.clone());
        ctx.spawn("identity", async move {
            watched.watch(stop).await;
            Ok(())
        });
        Ok(identity)
    }

    /// Loads the identity of a command.
    ///
    /// # Errors
    /// Where a file is missing or invalid.
    pub fn load(dir: &Path) -> Result<Self, TlsIdentityError> {
        let identity = Self::new(dir, Clock::system(), Gauge::default(), None, None);
        identity.read()?;
        Ok(identity)
    }

    fn new(dir: &Path, clock: Clock, expiry: Gauge, component: Option<Component>, role: Option<&'static str>) -> Self {
        let (current, seen) = (ArcSwapOption::empty(), Mutex::default());
        Self(Arc::new(TlsIdentityState { dir: dir.to_owned(), clock, current, seen, expiry, component, role }))
    }

    /// The configuration of a listener that requires a certificate of the mesh.
    pub(crate) fn mutual(&self) -> Result<Arc<ServerConfig>, TlsIdentityError> {
        self.current().map(|material| material.mutual.clone())
    }

    /// The configuration of a listener for clients without a certificate.
    pub(crate) fn open_door(&self) -> Result<Arc<ServerConfig>, TlsIdentityError> {
        self.current().map(|material| material.open_door.clone())
    }

    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, TlsIdentityError> {
        self.current().map(|material| material.client.clone())
    }

    /// The trust domain of this process, to which peers must belong.
    pub(crate) fn domain(&self) -> Result<Arc<str>, TlsIdentityError> {
        self.current().map(|material| material.domain.clone())
    }

    /// The roots that peers' certificates are judged by now.
    pub(crate) fn roots(&self) -> Result<Arc<RootCertStore>, TlsIdentityError> {
        self.current().map(|material| material.roots.clone())
    }

    /// The roots as PEM; enrolment tokens contain them for peers without an identity of the mesh.
    ///
    /// # Errors
    /// Where there is no usable identity yet.
    pub fn roots_pem(&self) -> Result<Arc<str>, TlsIdentityError> {
        self.current().map(|material| material.roots_pem.clone())
    }

    /// The identity for a connection that begins now.
    fn current(&self) -> Result<Arc<Material>, TlsIdentityError> {
        self.refresh();
        self.0.current.load_full().map_or_else(|| self.material().map(Arc::new), Ok)
    }

    /// Reads the files again unless they are those in use; also where reading failed before, since that may have been
    /// temporary.
    fn refresh(&self) {
        let now = Some(stamp(&self.0.dir));
        if self.seen().used == now {
            return;
        }
        let Err(error) = self.read() else { return };
        if self.0.current.load().is_none() {
            self.waits(&error);
        } else if std::mem::replace(&mut self.seen().refused, now) != now {
            tracing::warn!(error = error.to_string(), "keeping the identity in use: the new files are not valid");
        }
    }

    fn read(&self) -> Result<(), TlsIdentityError> {
        // The stamp is taken before reading: a file that changes in between is read again.
        let now = stamp(&self.0.dir);
        let material = self.material()?;
        self.seen().used = Some(now);
        self.0.expiry.set(material.validity.not_after);
        let until = crate::clock::in_words(material.validity.not_after);
        tracing::info!(identity = material.uri, until, "identity read");
        self.0.current.store(Some(Arc::new(material)));
        self.report();
        Ok(())
    }

    /// Reads the files and checks that the certificate names this role.
    fn material(&self) -> Result<Material, TlsIdentityError> {
        let material = Material::read(&self.0.dir, self.now())?;
        let whose = crate::principal::whose(&material.uri, &material.domain);
        match self.0.role {
            Some(role) if whose != role => {
                Err(TlsIdentityError::Another { path: self.0.dir.join("cert.pem"), whose: in_words(whose), role })
            }
            Some(_) | None => Ok(material),
        }
    }

    async fn watch(&self, stop: tokio_util::sync::CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            self.refresh();
            self.report();
        }
    }

    /// Reports the remaining lifetime of the certificate to health, which logs each change once.
    fn report(&self) {
        let (Some(component), Some(material)) = (&self.0.component, self.0.current.load_full()) else { return };
        let left_days = (material.validity.not_after - self.now()).div_euclid(86_400);
        let file = self.0.dir.join("cert.pem");
        let until = crate::clock::in_words(material.validity.not_after);
        match WARN_DAYS.iter().rev().find(|days| left_days < **days) {
            _ if left_days < 0 => component.degraded(format!(
                "the certificate {} expired on {until}: peers refuse it; `chargemesh certs` renews it",
                file.display()
            )),
            Some(days) => component.degraded(format!(
                "the certificate {} expires within {days} days, on {until}; `chargemesh certs` renews it",
                file.display()
            )),
            None => component.ready(),
        }
    }

    fn waits(&self, error: &TlsIdentityError) {
        if let Some(component) = &self.0.component {
            component.starting(format!("waits for an identity: {error}"));
        }
    }

    fn now(&self) -> i64 {
        self.0.clock.wall_ms().div_euclid(1000)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, SeenFiles> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.0.dir).finish()
    }
}

fn in_words(whose: &str) -> String {
    match whose {
        "operator" => "an operator's".to_owned(),
        "viewer" => "a viewer's".to_owned(),
        role => format!("{role}'s"),
    }
}

fn stamp(dir: &Path) -> Stamp {
    ["ca.pem", "cert.pem", "key.pem"].map(|name| {
        let of = fs::metadata(dir.join(name)).ok()?;
        Some((of.ino(), of.mtime(), of.mtime_nsec(), of.len()))
    })
}
