//! Connects to one of a role's addresses, and says in plain words why it could not.

use std::{
    error::Error as StdError,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::Status;

use crate::identity::{ALPN_H2, TlsIdentity};

/// A role and the addresses at which it may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleAddress {
    role: &'static str,
    addresses: Arc<[String]>,
}

impl RoleAddress {
    /// The server's certificate must name `role`. `addresses` are `host:port`; names are resolved at each connection,
    /// and the addresses are tried in turn.
    pub fn new<A: Into<String>>(role: &'static str, addresses: impl IntoIterator<Item = A>) -> Self {
        Self { role, addresses: addresses.into_iter().map(Into::into).collect() }
    }

    pub fn role(&self) -> &'static str {
        self.role
    }
}

/// Parses a `host:port` setting, for `#[arg(value_parser = mesh::client::host_and_port)]`. The name is resolved later,
/// at each connection.
///
/// # Errors
/// A sentence that shows what an address looks like.
pub fn host_and_port(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(1..))) if !host.is_empty() && !host.contains(['/', ' ']) => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is no address: a host and a port, such as central.example:7443 or [::1]:7443")),
    }
}

/// As [`host_and_port`], but also accepts an `https://` URL without a path.
///
/// # Errors
/// A sentence that shows what an address looks like.
pub fn https_address(text: &str) -> Result<String, String> {
    let host = text.trim().trim_start_matches("https://").trim_end_matches('/');
    host_and_port(host).map(|_| text.trim().to_owned())
}

impl fmt::Display for RoleAddress {
    /// `central at 127.0.0.1:7443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.role, self.addresses.join(", "))
    }
}

/// No address of a role could be connected to.
#[derive(Debug, thiserror::Error)]
#[error("{role} cannot be reached: {}", .tries.join("; "))]
pub struct ConnectError {
    role: &'static str,
    tries: Vec<String>,
}

/// The status that a caller gets for an error that is not a server's response.
pub(super) fn in_words(target: &RoleAddress, error: &(dyn StdError + 'static)) -> Status {
    let chain = || causes(error);
    if let Some(status) = chain().find_map(|error| error.downcast_ref::<Status>()) {
        return status.clone();
    }
    let refused = chain().find_map(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error.downcast_ref().or_else(|| inner.and_then(|inner| inner.downcast_ref::<ConnectError>()))
    });
    match refused {
        Some(refused) => Status::unavailable(refused.to_string()),
        None => {
            let cause = chain().last().map(ToString::to_string).unwrap_or_default();
            Status::unavailable(format!("the connection to {target} was lost: {cause}"))
        }
    }
}

/// The chain of an error and its causes.
pub(super) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> + Clone {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| StdError::source(*error))
}

/// Opens the connections of one channel.
#[derive(Clone)]
pub(super) struct Connector {
    identity: TlsIdentity,
    target: RoleAddress,
    timeout: Duration,
    /// Index of the address to try first, different each time, so that clients spread over the replicas of a role.
    turn: Arc<AtomicUsize>,
}

/// Buffered, because [`Connector::secure`] reads ahead.
type BufferedTls = TokioIo<BufReader<TlsStream<TcpStream>>>;

impl Connector {
    pub(super) fn new(identity: TlsIdentity, target: RoleAddress, timeout: Duration) -> Self {
        Self { identity, target, timeout, turn: Arc::new(AtomicUsize::new(rand::random::<u16>().into())) }
    }

    pub(super) async fn connect(&self) -> Result<BufferedTls, io::Error> {
        let (mut tries, all) = (Vec::new(), &self.target.addresses);
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for number in 0..all.len() {
            let Some(address) = all.get(first.wrapping_add(number) % all.len()) else { continue };
            let tried = tokio::time::timeout(self.timeout, self.address(address)).await;
            match tried.unwrap_or_else(|_| Err(format!("no answer within {} ms", self.timeout.as_millis()))) {
                Ok(stream) => return Ok(stream),
                Err(why) => tries.push(format!("{address}: {why}")),
            }
        }
        if all.is_empty() {
            tries.push("no address of it is given".into());
        }
        Err(io::Error::other(ConnectError { role: self.target.role, tries }))
    }

    /// Connects to one address, whose name may resolve to several hosts.
    async fn address(&self, address: &str) -> Result<BufferedTls, String> {
        let resolved = tokio::net::lookup_host(address).await;
        let mut hosts: Vec<_> = resolved.map_err(|error| format!("the name does not resolve ({error})"))?.collect();
        let count = hosts.len().max(1);
        hosts.rotate_left(self.turn.load(Ordering::Relaxed) % count);
        let mut why = "the name has no address".to_owned();
        for host in hosts {
            match TcpStream::connect(host).await {
                Ok(tcp) => match self.secure(tcp).await {
                    Ok(stream) => return Ok(TokioIo::new(stream)),
                    Err(error) => why = handshake_in_words(&error, self.target.role),
                },
                Err(error) => why = tcp_in_words(&error),
            }
        }
        Err(why)
    }

    async fn secure(&self, tcp: TcpStream) -> io::Result<BufReader<TlsStream<TcpStream>>> {
        tcp.set_nodelay(true)?;
        let config = self.identity.client().map_err(io::Error::other)?;
        let name = ServerName::try_from(self.target.role).map_err(io::Error::other)?;
        let tls = TlsConnector::from(config).connect(name, tcp).await?;
        if tls.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
            return Err(io::Error::other("it does not speak gRPC there"));
        }
        // In TLS 1.3 the client's handshake ends before the server has verified the client's certificate. A server that
        // accepts it sends first (HTTP/2 SETTINGS); otherwise it sends an alert, whose reason would be lost in a later
        // call.
        let mut stream = BufReader::new(tls);
        if stream.fill_buf().await?.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(stream)
    }
}

fn tcp_in_words(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return "connection refused; is it running?".into();
    }
    error.to_string()
}

pub(super) fn handshake_in_words(error: &io::Error, role: &str) -> String {
    if let Some(inner) = error.get_ref() {
        if let Some(tls) = inner.downcast_ref() {
            return tls_in_words(tls, role);
        }
        // Each layer of a client wraps the error once more.
        if let Some(inner) = inner.downcast_ref() {
            return handshake_in_words(inner, role);
        }
    }
    if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
        return "it closed the connection during the handshake; it may have no identity yet, or be full".into();
    }
    error.to_string()
}

fn tls_in_words(error: &rustls::Error, role: &str) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "of the many TLS errors these are the ones a person can mend")]
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is foreign: none of our roots (ca.pem) has signed it".into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".into(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet; are both clocks right?".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("its certificate is not for {role:?}; something else listens there")
            }
            other => format!("its certificate is not good: {other}"),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA | AlertDescription::DecryptError | AlertDescription::BadCertificate => {
                "it refuses our certificate: foreign to its roots".into()
            }
            AlertDescription::CertificateExpired => "it refuses our certificate: expired".into(),
            AlertDescription::CertificateRequired => "it demands a certificate of the mesh".into(),
            AlertDescription::NoApplicationProtocol => "it does not speak gRPC there".into(),
            other => format!("it refuses the connection ({other:?})"),
        },
        rustls::Error::InvalidMessage(_) => "what listens there does not speak TLS".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["127.0.0.1:7443", "central.example:1", "[::1]:7443", " central:7443 "] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good.trim()));
        }
        for bad in ["", "central", ":7443", "central:", "central:0", "central:70000", "https://central:7443", "a b:1"] {
            assert!(host_and_port(bad).unwrap_err().contains("is no address"), "{bad}");
        }
    }
}
