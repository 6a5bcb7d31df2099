//! The certificate that opened a connection, judged again for as long as the connection lives: what a handshake of now
//! would refuse opens nothing on a connection of before either (SPEC 10.8).

use std::sync::{Arc, Mutex, PoisonError};

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;

use crate::{
    identity::{TlsIdentity, is_signed_by},
    x509,
};

/// Why a certificate opens nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lapse {
    /// In seconds since 1970.
    Expired(i64),
    /// The root that signed it is trusted no more.
    Retired,
}

/// The certificate of a peer, with those between it and its root.
pub(super) struct ShownCertificate {
    chain: Vec<CertificateDer<'static>>,
    not_after: Option<i64>,
    /// The roots against which it was found good; they change rarely, and the check is a signature.
    good_by: Mutex<Option<Arc<RootCertStore>>>,
}

impl ShownCertificate {
    pub(super) fn new(chain: &[CertificateDer<'_>]) -> Self {
        let not_after = chain.first().and_then(x509::validity).map(|validity| validity.not_after);
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Self { chain, not_after, good_by: Mutex::default() }
    }

    /// Names the certificate's holder, if it names any.
    pub(super) fn uris(&self) -> Vec<String> {
        self.chain.first().map(x509::uris).unwrap_or_default()
    }

    /// # Errors
    /// Why the certificate would be refused now.
    pub(super) fn judge(&self, identity: &TlsIdentity, now: i64) -> Result<(), Lapse> {
        let not_after = self.not_after.unwrap_or_default();
        if now > not_after {
            return Err(Lapse::Expired(not_after));
        }
        // Without any identity of its own, this process cannot say that a root is retired.
        let Ok(roots) = identity.roots() else { return Ok(()) };
        let mut good_by = self.good_by.lock().unwrap_or_else(PoisonError::into_inner);
        if good_by.as_ref().is_some_and(|known| Arc::ptr_eq(known, &roots)) {
            return Ok(());
        }
        if !is_signed_by(&self.chain, &roots, now) {
            return Err(Lapse::Retired);
        }
        *good_by = Some(roots);
        Ok(())
    }
}
