//! The two facts of a certificate that the TLS library keeps to itself or gives one by one: until when it is valid,
//! and its URIs. Reads DER that may be anything, so nothing here can panic.

use rustls_pki_types::CertificateDer;
use x509_cert::{Certificate, der::Decode as _, time::Time};

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// From `tbsCertificate.validity` of RFC 5280, 4.1.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let validity = Certificate::from_der(certificate).ok()?.tbs_certificate.validity;
    let seconds = |time: Time| i64::try_from(time.to_unix_duration().as_secs()).ok();
    Some(Validity { not_before: seconds(validity.not_before)?, not_after: seconds(validity.not_after)? })
}

/// The URI names of its subject.
pub(crate) fn uris(certificate: &CertificateDer<'_>) -> Vec<String> {
    webpki::EndEntityCert::try_from(certificate)
        .map(|cert| cert.valid_uri_names().map(str::to_owned).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(until: time::OffsetDateTime) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::default();
        params.not_before = time::macros::datetime!(1999-12-31 23:59:59 UTC);
        params.not_after = until;
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn validity_is_read_from_both_forms_of_time() {
        for until in
            [time::macros::datetime!(2049-12-31 00:00:00 UTC), time::macros::datetime!(2051-02-03 04:05:06 UTC)]
        {
            let validity = validity(&certificate(until)).unwrap();
            assert_eq!((validity.not_before, validity.not_after), (946_684_799, until.unix_timestamp()));
        }
    }

    #[test]
    fn a_cut_certificate_has_no_validity_and_does_no_harm() {
        let whole = certificate(time::macros::datetime!(2049-12-31 00:00:00 UTC));
        for length in 0..60 {
            assert_eq!(validity(&CertificateDer::from(whole[..length].to_vec())), None);
        }
    }
}
