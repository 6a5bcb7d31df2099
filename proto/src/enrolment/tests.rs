use proptest::prelude::*;

use super::*;
use crate::link::v1::Reason;

fn kind() -> impl Strategy<Value = PeerKind> {
    prop_oneof![Just(PeerKind::ChargingPoint), Just(PeerKind::Driver)]
}

proptest! {
    #[test]
    fn a_credential_survives_its_text_whatever_dots_and_dashes_its_id_has_spec_7_4(
        kind in kind(), id in "[A-Za-z0-9][A-Za-z0-9._-]{0,63}", secret: [u8; 32], tag: [u8; 16],
    ) {
        let holder = kind.peer(&id).unwrap();
        let made = Credential { holder: holder.clone(), secret: Secret::from_bytes(secret), tag };
        let read: Credential = format!(" {}\n", made.to_text().as_str()).parse().unwrap();
        prop_assert_eq!(read.holder, holder);
        prop_assert_eq!(read.secret.as_bytes(), &secret);
        prop_assert_eq!(read.tag, tag);
    }

    #[test]
    fn a_token_survives_its_text_spec_7_4(
        id in "[a-z0-9]{1,32}", secret: [u8; 32],
        roots in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..900), 0..3),
        pins in proptest::collection::vec(any::<[u8; 32]>(), 0..3),
    ) {
        let made = EnrolmentToken { id: id.clone(), secret: Secret::from_bytes(secret), roots: roots.clone(), pins: pins.clone() };
        let read: EnrolmentToken = made.to_text().parse().unwrap();
        prop_assert_eq!((read.id, *read.secret.as_bytes(), read.roots, read.pins), (id, secret, roots, pins));
    }

    #[test]
    fn no_text_panics_and_what_is_read_is_canonical(text in "(cmc1\\.|cmt1\\.)?[ -~]{0,120}") {
        if let Ok(credential) = text.parse::<Credential>() {
            let canonical = credential.to_text();
            prop_assert_eq!(canonical.as_str(), text.trim());
        }
        let _ = text.parse::<EnrolmentToken>();
    }
}

#[test]
fn secrets_show_nothing_in_debug_spec_8_1() {
    let secret = Secret::from_bytes([0xAB; 32]);
    let credential = Credential { holder: PeerKind::Driver.peer("D1").unwrap(), secret, tag: [0; 16] };
    let shown = format!("{credential:?} {:?}", SecretText::new(credential.to_text().as_str()));
    assert!(!shown.contains("q6ur") && !shown.contains("171"), "{shown}");
}

#[test]
fn an_unknown_field_in_a_wish_to_enrol_is_refused() {
    let good = r#"{"request_id":"r","id":"CP-1"}"#;
    assert!(serde_json::from_str::<EnrolBody>(good).is_ok());
    assert!(serde_json::from_str::<EnrolBody>(r#"{"request_id":"r","id":"CP-1","toke":"x"}"#).is_err());
}

#[test]
fn roots_are_given_as_pem_with_lines_of_64() {
    let token =
        EnrolmentToken { id: "t".into(), secret: Secret::from_bytes([0; 32]), roots: vec![vec![0; 60]], pins: vec![] };
    let body = format!("{}\n{}\n", "A".repeat(64), "A".repeat(16));
    assert_eq!(token.roots_pem(), format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"));
}

#[test]
fn a_refusal_for_a_reason_newer_than_this_build_is_repeated_as_its_status_says() {
    let refusal = |reason: &str| RefusalBody { reason: reason.to_owned(), message: String::new() };
    assert!(refusal("TOO_MANY_ATTEMPTS").is_undecided(429));
    assert!(!refusal("TOKEN_SPENT").is_undecided(403));
    for (status, undecided) in [(503, true), (429, true), (500, false), (403, false), (410, false)] {
        assert_eq!(refusal("NEWER_THAN_THIS").is_undecided(status), undecided, "{status}");
    }
    assert_eq!(refusal("NEWER_THAN_THIS").reason(), Reason::Unrecognised);
}
