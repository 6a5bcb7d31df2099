//! The address of a database: `sqlite:PATH` or `postgres://USER:PASSWORD@HOST:PORT/NAME?…`.
//!
//! Three parameters are handled here and removed before the rest is given to tokio-postgres: `sslrootcert=FILE` (the
//! certificate authorities that may have signed the server's certificate), `sslcert=FILE` and `sslkey=FILE` (a client
//! certificate). There is no silent fallback to plaintext: without `sslrootcert` only a server on this machine is
//! accepted, unless the address says `sslmode=disable`.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::OpenDatabaseError;

/// A parsed address. `Debug` and `Display` never show the password.
#[derive(Clone)]
pub(crate) enum Address {
    Sqlite(PathBuf),
    Postgres(Box<PostgresAddress>),
}

/// The settings for tokio-postgres, and the TLS files.
#[derive(Clone)]
pub(crate) struct PostgresAddress {
    pub(crate) config: tokio_postgres::Config,
    pub(crate) roots: Option<PathBuf>,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, OpenDatabaseError> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            if path.is_empty() || path.contains(":memory:") {
                return Err(OpenDatabaseError::Address(
                    "sqlite: needs the path of a file, as sqlite:data/central.db".into(),
                ));
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return PostgresAddress::parse(url).map(|address| Self::Postgres(Box::new(address)));
        }
        // The text may contain a password, so only the scheme is repeated.
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        Err(OpenDatabaseError::Address(format!(
            "the scheme {scheme:?} is not known; write sqlite:PATH or postgres://USER@HOST/NAME"
        )))
    }

    pub(crate) fn sqlite_path(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }
}

impl PostgresAddress {
    fn parse(url: &str) -> Result<Self, OpenDatabaseError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut roots, mut cert, mut key, mut kept) = (None, None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("sslrootcert", file) => roots = Some(PathBuf::from(percent_decoded(file)?)),
                ("sslcert", file) => cert = Some(PathBuf::from(percent_decoded(file)?)),
                ("sslkey", file) => key = Some(PathBuf::from(percent_decoded(file)?)),
                // With root certificates, chain and host name are always verified, so both modes mean `require`.
                ("sslmode", "verify-full" | "verify-ca") => kept.push("sslmode=require"),
                _ => kept.push(pair),
            }
        }
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(OpenDatabaseError::Address("sslcert and sslkey go together".into())),
        };
        let text = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        // The parser's error names the parameter and never its value.
        let mut config: tokio_postgres::Config =
            text.parse().map_err(|error: tokio_postgres::Error| OpenDatabaseError::Address(chain(&error)))?;
        forbid_plaintext(&mut config, roots.is_some(), kept.contains(&"sslmode=disable"))?;
        bound_waits(&mut config);
        Ok(Self { config, roots, identity })
    }
}

fn forbid_plaintext(config: &mut tokio_postgres::Config, roots: bool, disabled: bool) -> Result<(), OpenDatabaseError> {
    use tokio_postgres::config::{Host, SslMode};
    if roots {
        config.ssl_mode(SslMode::Require);
        return Ok(());
    }
    if config.get_ssl_mode() == SslMode::Require {
        return Err(OpenDatabaseError::Address(
            "sslmode=require needs sslrootcert=FILE, the authorities to trust".into(),
        ));
    }
    let local = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
        Host::Unix(_) => true,
    });
    if !local && !disabled {
        return Err(OpenDatabaseError::Address(
            "a database on another host needs sslrootcert=FILE (or, in the clear, sslmode=disable)".into(),
        ));
    }
    config.ssl_mode(SslMode::Disable);
    Ok(())
}

/// Notices a vanished host within seconds also where no statement waits; the kernel would take a quarter of an hour.
fn bound_waits(config: &mut tokio_postgres::Config) {
    config.connect_timeout(Duration::from_secs(5));
    config.tcp_user_timeout(Duration::from_secs(4));
    config.keepalives_idle(Duration::from_secs(2));
    config.keepalives_interval(Duration::from_secs(1));
    config.keepalives_retries(2);
    config.application_name("chargemesh");
}

fn percent_decoded(text: &str) -> Result<String, OpenDatabaseError> {
    let bad =
        || OpenDatabaseError::Address(format!("{text:?} holds a % that is not followed by two hexadecimal digits"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok()).ok_or_else(bad)?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use tokio_postgres::config::Host;
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(address) => {
                let config = &address.config;
                let host = match config.get_hosts().first() {
                    Some(Host::Tcp(name)) => name.clone(),
                    Some(Host::Unix(path)) => path.display().to_string(),
                    None => "localhost".to_owned(),
                };
                let port = config.get_ports().first().copied().unwrap_or(5432);
                let name = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
                write!(f, "postgres://{host}:{port}/{name}")
            }
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let address = Address::parse("postgres://u:secret@localhost:15432/central").unwrap();
        assert_eq!(format!("{address:?} {address}").matches("secret").count(), 0);
        assert_eq!(address.to_string(), "postgres://localhost:15432/central");
        for wrong in ["mysql://u:secret@h/x", "postgres://u:secret@localhost/x?sslmode=nonsense"] {
            assert!(!Address::parse(wrong).unwrap_err().to_string().contains("secret"), "{wrong}");
        }
    }

    #[test]
    fn a_remote_database_is_never_reached_in_the_clear_by_accident() {
        assert!(Address::parse("postgres://u@db.example/central").is_err());
        assert!(Address::parse("postgres://u@db.example/central?sslmode=prefer").is_err());
        assert!(Address::parse("postgres://u@db.example/central?sslmode=require").is_err());
        assert!(Address::parse("postgres://u@db.example/central?sslmode=disable").is_ok());
        let Ok(Address::Postgres(tls)) =
            Address::parse("postgres://u@db.example/central?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem")
        else {
            panic!("a verified address is fine")
        };
        assert_eq!(tls.roots.as_deref(), Some(Path::new("/etc/ca.pem")));
        assert_eq!(tls.config.get_ssl_mode(), tokio_postgres::config::SslMode::Require);
    }

    #[test]
    fn what_is_not_an_address_is_refused_in_words() {
        for bad in ["", "central.db", "sqlite:", "sqlite::memory:", "postgres://h/x?sslcert=a&sslmode=disable"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
