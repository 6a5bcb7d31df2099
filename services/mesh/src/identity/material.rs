//! Checks the three files of an identity against each other and makes the TLS configurations of them.

use std::{fs, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _};

use super::TlsIdentityError;
use crate::{
    principal::domain_of,
    x509::{self, Validity},
};

pub(crate) const ALPN_H2: &[u8] = b"h2";

pub(super) struct Material {
    pub(super) mutual: Arc<ServerConfig>,
    pub(super) open_door: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) roots_pem: Arc<str>,
    pub(super) uri: String,
    pub(super) domain: Arc<str>,
    pub(super) validity: Validity,
}

impl Material {
    pub(super) fn read(dir: &Path, now: i64) -> Result<Self, TlsIdentityError> {
        let (ca, cert) = (dir.join("ca.pem"), dir.join("cert.pem"));
        let roots_pem = read(&ca)?;
        let chain = certificates(&cert, &read(&cert)?)?;
        let roots = Arc::new(root_store(&ca, &roots_pem)?);
        let certified = Arc::new(pair(dir, chain)?);
        let validity = check(&cert, &certified, &roots, now)?;
        let uri = one_uri(&cert, &certified)?;
        let domain = domain_of(&uri).ok_or(TlsIdentityError::Nameless { path: cert })?.into();
        let unusable = |error: rustls::Error| TlsIdentityError::Unusable(format!("{}: {error}", dir.display()));
        Ok(Self {
            mutual: Arc::new(mutual(&certified, &roots)?),
            open_door: Arc::new(open_door(&certified).map_err(unusable)?),
            client: Arc::new(client(&certified, &roots).map_err(unusable)?),
            roots,
            roots_pem: roots_pem.into(),
            uri,
            domain,
            validity,
        })
    }
}

fn read(path: &Path) -> Result<String, TlsIdentityError> {
    fs::read_to_string(path).map_err(|error| TlsIdentityError::Unreadable { path: path.into(), error })
}

fn certificates(path: &Path, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsIdentityError> {
    let not_pem = |error: String| TlsIdentityError::NotPem { path: path.into(), what: "certificate", error };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| not_pem(error.to_string()))?;
    if all.is_empty() { Err(not_pem("there is none in it".into())) } else { Ok(all) }
}

fn root_store(path: &Path, pem: &str) -> Result<RootCertStore, TlsIdentityError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(path, pem)? {
        roots.add(root).map_err(|error| TlsIdentityError::NotPem {
            path: path.into(),
            what: "certificate of an authority",
            error: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn pair(dir: &Path, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, TlsIdentityError> {
    let path = dir.join("key.pem");
    let pem = zeroize::Zeroizing::new(read(&path)?);
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| TlsIdentityError::NotPem {
        path,
        what: "key",
        error: error.to_string(),
    })?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|_| TlsIdentityError::Mismatch { dir: dir.into() })
}

/// Checks what a peer would check as well, so that the error is reported here and names the file.
fn check(path: &Path, pair: &CertifiedKey, roots: &RootCertStore, now: i64) -> Result<Validity, TlsIdentityError> {
    let path = path.to_owned();
    let foreign = || TlsIdentityError::Foreign { path: path.clone() };
    let leaf = pair.cert.first().ok_or_else(foreign)?;
    let validity = x509::validity(leaf).ok_or_else(|| TlsIdentityError::NotPem {
        path: path.clone(),
        what: "certificate",
        error: "its validity cannot be read".into(),
    })?;
    if now > validity.not_after {
        return Err(TlsIdentityError::Expired { at: crate::clock::in_words(validity.not_after), path });
    }
    if now < validity.not_before {
        return Err(TlsIdentityError::NotYet { at: crate::clock::in_words(validity.not_before), path });
    }
    if is_signed_by(&pair.cert, roots, now) { Ok(validity) } else { Err(foreign()) }
}

/// Whether a listener with these roots admits a client with this chain at `now`, in seconds since 1970.
pub(crate) fn is_signed_by(chain: &[CertificateDer<'_>], roots: &RootCertStore, now: i64) -> bool {
    let Some((leaf, rest)) = chain.split_first() else { return false };
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
    let verified = webpki::EndEntityCert::try_from(leaf).and_then(|cert| {
        let usage = webpki::KeyUsage::client_auth();
        let algorithms = provider().signature_verification_algorithms.all;
        cert.verify_for_usage(algorithms, &roots.roots, rest, at, usage, None, None).map(drop)
    });
    verified.is_ok()
}

fn one_uri(path: &Path, pair: &CertifiedKey) -> Result<String, TlsIdentityError> {
    let uris = pair.cert.first().map(x509::uris).unwrap_or_default();
    <[String; 1]>::try_from(uris).map(|[uri]| uri).map_err(|_| TlsIdentityError::Nameless { path: path.into() })
}

fn mutual(pair: &Arc<CertifiedKey>, roots: &Arc<RootCertStore>) -> Result<ServerConfig, TlsIdentityError> {
    let unusable = |error: &dyn std::error::Error| TlsIdentityError::Unusable(error.to_string());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(&error))?
        .with_client_cert_verifier(verifier.map_err(|error| unusable(&error))?)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(pair))));
    Ok(fresh(config, &[ALPN_H2]))
}

fn open_door(pair: &Arc<CertifiedKey>) -> Result<ServerConfig, rustls::Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(pair))));
    Ok(fresh(config, &[ALPN_H2, b"http/1.1"]))
}

/// Without session resumption; see the module.
fn fresh(mut config: ServerConfig, alpn: &[&[u8]]) -> ServerConfig {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

fn client(pair: &Arc<CertifiedKey>, roots: &Arc<RootCertStore>) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots.clone())
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(pair))));
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(config)
}

/// The configuration of a client that has no identity of the mesh but knows its roots: charging points and drivers.
pub(crate) fn anonymous_client(roots_pem: &str) -> Result<ClientConfig, TlsIdentityError> {
    let roots = root_store(Path::new("the roots given"), roots_pem)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsIdentityError::Unusable(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
