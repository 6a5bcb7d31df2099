//! The certificate authority for development: makes identities for roles and persons, and rotates its root with an
//! overlap.
//!
//! The authority is a folder with `ca.pem` (the valid roots, newest first), `ca-key.pem` (key of the newest) and
//! `authority.json`. An identity is a folder with `ca.pem`, `cert.pem`, `key.pem` and `identity.json` (what is needed
//! to issue it again). Key files have mode 0600; each file is written whole or not at all, and overwritten only on
//! request.
//!
//! Rotating the root without refusing a connection takes three steps, each in effect at every peer before the next
//! begins: [`Authority::roll`] adds a second root to every identity folder, [`Authority::renew`] issues a certificate
//! by the new root for each folder, and [`Authority::retire`] removes the old root.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use proto::{Caller, OperatorName};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{clock::Clock, principal::role_of, x509};

pub(crate) mod files;

use files::{Overwrite, read, write};

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    #[error("{path} exists already; choose another folder", path = .0.display())]
    Exists(PathBuf),
    #[error("the identity {path} has a certificate of an older root and would be refused from now on; renew it first \
             (`chargemesh certs renew`), and see that its host has it", path = .0.display())]
    OfOlderRoot(PathBuf),
    #[error("cannot use {path}: {error}", path = .path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{path} is damaged or was not written by this command: {text}", path = .path.display())]
    Broken { path: PathBuf, text: String },
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
    #[error("{0:?} is no trust domain: lower-case letters, digits, '.' and '-', such as chargemesh.local")]
    Domain(String),
    #[error("cannot make a certificate: {0}")]
    Making(#[from] rcgen::Error),
}

/// The authority in one folder.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    clock: Clock,
    about: AuthorityRecord,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct AuthorityRecord {
    trust_domain: String,
}

/// The content of `identity.json`: what is needed to issue the identity again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Issued {
    uri: String,
    /// DNS names and IP addresses. Empty: a client only.
    names: Vec<String>,
    lifetime_s: u64,
}

impl Authority {
    /// Creates an authority in `dir`.
    ///
    /// # Errors
    /// [`CertsError::Exists`] where the folder holds one already.
    pub fn create(dir: &Path, trust_domain: &str, lifetime: Duration) -> Result<Self, CertsError> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
        if trust_domain.is_empty() || !trust_domain.chars().all(good) {
            return Err(CertsError::Domain(trust_domain.into()));
        }
        let about = AuthorityRecord { trust_domain: trust_domain.into() };
        let authority = Self { dir: dir.into(), clock: Clock::system(), about };
        let marker = authority.file("authority.json");
        if marker.exists() {
            return Err(CertsError::Exists(marker));
        }
        let (root, key) = authority.self_signed(lifetime)?;
        write(&authority.file("ca-key.pem"), &key, 0o600, Overwrite::Refuse)?;
        write(&authority.file("ca.pem"), &root, 0o644, Overwrite::Refuse)?;
        let about = serde_json::to_string_pretty(&authority.about).unwrap_or_default();
        write(&marker, &about, 0o644, Overwrite::Refuse)?;
        Ok(authority)
    }

    /// Opens an authority that [`Self::create`] made.
    ///
    /// # Errors
    /// Where the folder holds none.
    pub fn open(dir: &Path) -> Result<Self, CertsError> {
        let path = dir.join("authority.json");
        let about = serde_json::from_str(&read(&path)?)
            .map_err(|error| CertsError::Broken { path, text: error.to_string() })?;
        Ok(Self { dir: dir.into(), clock: Clock::system(), about })
    }

    /// Opens the authority in `dir`, or creates it where there is none.
    ///
    /// # Errors
    /// As [`Self::create`] and [`Self::open`].
    pub fn open_or_create(dir: &Path, trust_domain: &str, lifetime: Duration) -> Result<Self, CertsError> {
        if dir.join("authority.json").exists() { Self::open(dir) } else { Self::create(dir, trust_domain, lifetime) }
    }

    pub fn trust_domain(&self) -> &str {
        &self.about.trust_domain
    }

    /// The valid roots, newest first.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn roots_pem(&self) -> Result<String, CertsError> {
        read(&self.file("ca.pem"))
    }

    /// Issues the identity of a role, valid for its own name, `localhost`, the loopback addresses, and `names` (DNS
    /// names and IP addresses at which others reach it).
    ///
    /// # Errors
    /// [`CertsError::Exists`] where `out` holds an identity and `overwrite` is false.
    pub fn issue_role(
        &self,
        role: Caller,
        out: &Path,
        names: &[String],
        lifetime: Duration,
        overwrite: bool,
    ) -> Result<(), CertsError> {
        let own = [role_of(role), "localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let extra = names.iter().filter(|name| !own.contains(name)).cloned();
        let names = own.iter().cloned().chain(extra).collect();
        let uri = format!("spiffe://{}/{}", self.about.trust_domain, role_of(role));
        self.issue(out, &Issued { uri, names, lifetime_s: lifetime.as_secs() }, overwrite)
    }

    /// Issues the identity of a person: `role` is [`Caller::Operator`] or [`Caller::Viewer`].
    ///
    /// # Errors
    /// As [`Self::issue_role`].
    pub fn issue_person(
        &self,
        role: Caller,
        name: &OperatorName,
        out: &Path,
        lifetime: Duration,
        overwrite: bool,
    ) -> Result<(), CertsError> {
        let uri = format!("spiffe://{}/{}/{name}", self.about.trust_domain, role_of(role));
        self.issue(out, &Issued { uri, names: Vec::new(), lifetime_s: lifetime.as_secs() }, overwrite)
    }

    /// Issues an identity again, with a new key and certificate.
    ///
    /// # Errors
    /// Where `identity` is no folder that this module wrote.
    pub fn renew(&self, identity: &Path) -> Result<(), CertsError> {
        let path = identity.join("identity.json");
        let issued = serde_json::from_str(&read(&path)?)
            .map_err(|error| CertsError::Broken { path, text: error.to_string() })?;
        self.issue(identity, &issued, true)
    }

    /// Creates a new root and adds it to each folder of `identities`. From then on the new root signs.
    ///
    /// # Errors
    /// Where a file cannot be written; the new root signs nothing before every folder has it.
    pub fn roll(&self, lifetime: Duration, identities: &[PathBuf]) -> Result<(), CertsError> {
        let old = self.roots_pem()?;
        let (root, key) = self.self_signed(lifetime)?;
        let roots = format!("{root}{old}");
        for dir in identities {
            write(&dir.join("ca.pem"), &roots, 0o644, Overwrite::Allow)?;
        }
        write(&self.file("ca.pem"), &roots, 0o644, Overwrite::Allow)?;
        write(&self.file("ca-key.pem"), &key, 0o600, Overwrite::Allow)
    }

    /// Removes all roots but the newest, here and in `identities`: peers refuse certificates of older roots from then
    /// on.
    ///
    /// # Errors
    /// [`CertsError::OfOlderRoot`] where an identity still has a certificate of an older root; where a file cannot be
    /// written.
    pub fn retire(&self, identities: &[PathBuf]) -> Result<(), CertsError> {
        let (all, path) = (self.roots_pem()?, self.file("ca.pem"));
        let end = "-----END CERTIFICATE-----";
        let newest = all.split_inclusive(end).next().filter(|first| first.ends_with(end));
        let newest = newest.ok_or_else(|| CertsError::Broken { path: path.clone(), text: "no certificate".into() })?;
        for dir in identities {
            if !signed_by(&read(&dir.join("cert.pem"))?, newest) {
                return Err(CertsError::OfOlderRoot(dir.clone()));
            }
        }
        for file in identities.iter().map(|dir| dir.join("ca.pem")).chain([path]) {
            write(&file, &format!("{newest}\n"), 0o644, Overwrite::Allow)?;
        }
        Ok(())
    }

    fn issue(&self, out: &Path, issued: &Issued, overwrite: bool) -> Result<(), CertsError> {
        let overwrite = if overwrite { Overwrite::Allow } else { Overwrite::Refuse };
        for name in ["ca.pem", "cert.pem", "key.pem"].map(|name| out.join(name)) {
            if overwrite == Overwrite::Refuse && name.exists() {
                return Err(CertsError::Exists(name));
            }
        }
        let key = KeyPair::generate()?;
        let certificate = self.leaf(issued)?.signed_by(&key, &self.issuer()?)?;
        let about = serde_json::to_string_pretty(issued).unwrap_or_default();
        write(&out.join("ca.pem"), &self.roots_pem()?, 0o644, overwrite)?;
        // The key first: a process that reads in between sees a pair that does not match and keeps the old one.
        write(&out.join("key.pem"), &zeroize::Zeroizing::new(key.serialize_pem()), 0o600, overwrite)?;
        write(&out.join("cert.pem"), &certificate.pem(), 0o644, overwrite)?;
        write(&out.join("identity.json"), &about, 0o644, Overwrite::Allow)
    }

    fn leaf(&self, issued: &Issued) -> Result<CertificateParams, CertsError> {
        let mut params = CertificateParams::default();
        let (_, name) = issued.uri.split_at(issued.uri.find("//").map_or(0, |at| at + 2));
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(rand::random::<u64>() >> 1));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !issued.names.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        for name in &issued.names {
            params.subject_alt_names.push(subject_name(name)?);
        }
        params.subject_alt_names.push(SanType::URI(issued.uri.as_str().try_into()?));
        self.valid_for(&mut params, Duration::from_secs(issued.lifetime_s));
        Ok(params)
    }

    fn self_signed(&self, lifetime: Duration) -> Result<(String, zeroize::Zeroizing<String>), CertsError> {
        let key = KeyPair::generate()?;
        let mut params = self.root();
        self.valid_for(&mut params, lifetime);
        Ok((params.self_signed(&key)?.pem(), zeroize::Zeroizing::new(key.serialize_pem())))
    }

    /// The newest root as an issuer; made from the same name and usages, so that no certificate has to be parsed.
    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, CertsError> {
        let key = zeroize::Zeroizing::new(read(&self.file("ca-key.pem"))?);
        Ok(Issuer::new(self.root(), KeyPair::from_pem(&key)?))
    }

    fn root(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // All roots have the same name: a verifier tries each root of that name by its key.
        let name = format!("chargemesh authority of {}", self.about.trust_domain);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    fn valid_for(&self, params: &mut CertificateParams, lifetime: Duration) {
        let now = OffsetDateTime::from_unix_timestamp(self.clock.wall_ms().div_euclid(1000));
        let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        // Backdated, so that hosts whose clocks are slightly behind accept a new certificate.
        params.not_before = now - time::Duration::minutes(5);
        params.not_after = now.saturating_add(time::Duration::try_from(lifetime).unwrap_or(time::Duration::MAX));
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Whether this root has signed the certificate, expired or not.
fn signed_by(certificate: &str, root: &str) -> bool {
    let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).ok();
    let (Some(leaf), Some(root)) = (read(certificate), read(root)) else { return false };
    let Some(validity) = x509::validity(&leaf) else { return false };
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(validity.not_before).unwrap_or(0)));
    let (Ok(leaf), Ok(anchor)) = (webpki::EndEntityCert::try_from(&leaf), webpki::anchor_from_trusted_cert(&root))
    else {
        return false;
    };
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    leaf.verify_for_usage(algorithms, &[anchor], &[], at, webpki::KeyUsage::client_auth(), None, None).is_ok()
}

fn subject_name(name: &str) -> Result<SanType, CertsError> {
    match name.parse() {
        Ok(IpAddr::V4(ip)) if ip == Ipv4Addr::UNSPECIFIED => Err(CertsError::Name(name.into())),
        Ok(IpAddr::V6(ip)) if ip == Ipv6Addr::UNSPECIFIED => Err(CertsError::Name(name.into())),
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => {
            rustls_pki_types::DnsName::try_from(name).map_err(|_| CertsError::Name(name.into()))?;
            Ok(SanType::DnsName(name.try_into()?))
        }
    }
}

/// The folders below `dir` that hold an identity, sorted.
///
/// # Errors
/// Where `dir` cannot be read.
pub fn identities_in(dir: &Path) -> Result<Vec<PathBuf>, CertsError> {
    let failed = |error| CertsError::File { path: dir.into(), error };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.join("identity.json").exists() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_root_is_retired_only_when_every_identity_hangs_on_the_newer_one_spec_10_7() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("authority"), "test.local", 365 * DAY).unwrap();
        let identity = |name: &str| dir.path().join(name);
        authority.issue_role(Caller::Central, &identity("central"), &[], 90 * DAY, false).unwrap();
        let anna = "anna".parse().unwrap();
        authority.issue_person(Caller::Operator, &anna, &identity("operator-anna"), 90 * DAY, false).unwrap();
        let all = identities_in(dir.path()).unwrap();

        authority.roll(365 * DAY, &all).unwrap();
        authority.renew(&identity("central")).unwrap();
        let both = authority.roots_pem().unwrap();
        let refused = authority.retire(&all).unwrap_err();
        assert!(matches!(&refused, CertsError::OfOlderRoot(path) if path.ends_with("operator-anna")), "{refused}");
        assert!(refused.to_string().contains("chargemesh certs renew"), "{refused}");
        assert_eq!(authority.roots_pem().unwrap(), both, "nothing was done");

        authority.renew(&identity("operator-anna")).unwrap();
        authority.retire(&all).unwrap();
        assert_eq!(authority.roots_pem().unwrap().matches("BEGIN CERTIFICATE").count(), 1);
    }
}
