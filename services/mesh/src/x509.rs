//! The two facts of a certificate that the TLS library keeps to itself or gives one by one: until when it is valid,
//! and its URIs. Reads DER that may be anything, so nothing here can panic.

use rustls_pki_types::CertificateDer;
use time::{PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const GENERALIZED: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day][hour][minute][second]Z");

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// From `tbsCertificate.validity` of RFC 5280, 4.1.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (certificate, _) = element(certificate.as_ref(), SEQUENCE)?;
    let (tbs, _) = element(certificate, SEQUENCE)?;
    let rest = element(tbs, VERSION).map_or(tbs, |(_, rest)| rest);
    // serialNumber, signature, issuer
    let rest = (0..3).try_fold(rest, |rest, _| any(rest).map(|(_, _, rest)| rest))?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let (tag, not_before, rest) = any(validity)?;
    let not_before = seconds(tag, not_before)?;
    let (tag, not_after, _) = any(rest)?;
    Some(Validity { not_before, not_after: seconds(tag, not_after)? })
}

/// The URI names of its subject.
pub(crate) fn uris(certificate: &CertificateDer<'_>) -> Vec<String> {
    webpki::EndEntityCert::try_from(certificate)
        .map(|cert| cert.valid_uri_names().map(str::to_owned).collect())
        .unwrap_or_default()
}

fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    any(der).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// Tag, content and what follows.
fn any(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let full = match tag {
        // RFC 5280, 4.1.2.5.1: two digits of the year, from 1950 to 2049.
        UTC_TIME => format!("{}{text}", if text.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" }),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    Some(PrimitiveDateTime::parse(&full, GENERALIZED).ok()?.assume_utc().unix_timestamp())
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
