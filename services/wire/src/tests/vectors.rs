//! Byte-for-byte test vectors in `services/wire/vectors`, for implementations in other languages. Each test computes
//! one file and compares it. After a deliberate change of the wire format, rewrite them:
//!
//! ```text
//! WIRE_VECTORS=write cargo test -p wire vectors
//! ```

use std::{fs, path::Path, time::Duration};

use prost::Message as _;
use proto::link::v1::{Authorisation, Hello, Part, Reading, Reason, Ticket};
use serde_json::{Value, json};

use crate::{
    LinkKey, PairingSecret, Proof, StaticKey, VERSION, frame,
    handshake::{Initiating, NK, NK_PSK0, NN_PSK0, Responding, TrafficKeys},
    kind,
    pair::LinkPair,
    proof::Admit,
    signature::{DocumentKey, DocumentKeys, DocumentKind},
    telemetry::{Opener, Sealer},
};

const STATIC: [u8; 32] = [0x11; 32];
const INITIATOR_EPHEMERAL: [u8; 32] = [0x22; 32];
const RESPONDER_EPHEMERAL: [u8; 32] = [0x33; 32];
const LINK_KEY: [u8; 32] = [0x44; 32];
const PAIRING_SECRET: [u8; 32] = [0x66; 32];
const STREAM: [u8; 16] = [0x77; 16];
const KEY_NO: u64 = 42;
const DOCUMENT_SEED: [u8; 32] = [0x55; 32];

fn held_against(file: &str, worked_out: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file);
    if std::env::var("WIRE_VECTORS").is_ok_and(|order| order == "write") {
        fs::write(&path, serde_json::to_string_pretty(worked_out).unwrap() + "\n").unwrap();
    }
    let kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(&kept, worked_out, "{file} differs: the wire has changed");
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(body, &mut out);
    out
}

fn counted(control: u8, counter: u8) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode_counter(control, counter, &mut out);
    out
}

#[test]
fn frames_are_as_written_down() {
    let bodies: [(&str, Vec<u8>); 6] = [
        ("a plain body", vec![0x01, 0x20, 0x61, 0x62, 0x63]),
        ("every control byte", vec![0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x15]),
        ("a check byte that is escaped", vec![0x01, 0x21, 0x30]),
        ("an escape's second byte, which needs none itself", vec![0x42, 0x43, 0x50, 0x55]),
        ("the least body: counter and kind", vec![0xff, 0x20]),
        ("every byte there is", (0..=255).collect()),
    ];
    let frames: Vec<_> = bodies
        .iter()
        .map(|(what, body)| {
            let lrc = format!("{:02x}", frame::lrc(body));
            json!({ "what": what, "body": hex::encode(body), "lrc": lrc, "frame": hex::encode(framed(body)) })
        })
        .collect();
    let counters: Vec<_> = [0u8, 1, 2, 6, 0x10, 0x15, 0x42, 255]
        .map(|counter| {
            let (ack, nack) = (counted(frame::ACK, counter), counted(frame::NACK, counter));
            json!({ "counter": counter, "ack": hex::encode(ack), "nack": hex::encode(nack) })
        })
        .into();
    let malformed = json!([
        { "what": "the check byte is wrong", "bytes": "0201206103ff" },
        { "what": "DLE before a byte that needs no escape", "bytes": "020110610341" },
        { "what": "a control byte within a body", "bytes": "0201046103" },
        { "what": "bytes outside a frame", "bytes": "6162" },
    ]);
    for case in malformed.as_array().unwrap() {
        let bytes = hex::decode(case["bytes"].as_str().unwrap()).unwrap();
        let token = frame::Decoder::new(64).next(&mut bytes.as_slice());
        assert!(matches!(token, Some(frame::Token::Malformed(_))), "{case}");
    }
    held_against("frames.json", &json!({ "frames": frames, "counters": counters, "malformed": malformed }));
}

fn proofs() -> [(&'static str, Part, Proof); 3] {
    let responder = StaticKey::from_bytes(STATIC).public();
    let key = LinkKey::from_bytes(LINK_KEY);
    [
        (NK, Part::Monitor, Proof::FirstContact { responder }),
        (NK_PSK0, Part::Engine, Proof::Key { responder, key_no: KEY_NO, key }),
        (NN_PSK0, Part::Pairing, Proof::Pairing(PairingSecret::from_bytes(PAIRING_SECRET))),
    ]
}

fn psk(proof: &Proof) -> Option<String> {
    match proof {
        Proof::FirstContact { .. } => None,
        Proof::Key { key, .. } => Some(hex::encode(*key.psk())),
        Proof::Pairing(secret) => Some(hex::encode(*secret.psk())),
    }
}

fn with_admission<T>(proof: &Proof, f: impl FnOnce(Admit<'_>) -> T) -> T {
    let (own, key, secret) =
        (StaticKey::from_bytes(STATIC), LinkKey::from_bytes(LINK_KEY), PairingSecret::from_bytes(PAIRING_SECRET));
    f(match proof {
        Proof::FirstContact { .. } => Admit::FirstContact(&own),
        Proof::Key { .. } => Admit::Key(&own, &key),
        Proof::Pairing(_) => Admit::Pairing(&secret),
    })
}

/// Hello, both handshake messages and the traffic keys, made from the building blocks without a link.
fn agreed(part: Part, proof: &Proof) -> (Vec<u8>, Vec<u8>, Vec<u8>, TrafficKeys) {
    let (id, pin) = (if part == Part::Pairing { "" } else { "CP-1" }, proof.pin().map(Vec::from).unwrap_or_default());
    let (part, key_no) = (part.into(), proof.key_no());
    let hello = Hello { version: VERSION, part, id: id.into(), key_no, pin }.encode_to_vec();
    let (_, first) = Initiating::begin(proof, &hello, Some(INITIATOR_EPHEMERAL)).unwrap();
    let responding = with_admission(proof, |admit| Responding::prepare(admit, &hello, Some(RESPONDER_EPHEMERAL)));
    let (keys, second) = responding.unwrap().answer(&first).unwrap();
    (hello, first, second, keys)
}

#[test]
fn handshakes_are_as_written_down() {
    let cases: Vec<_> = proofs()
        .into_iter()
        .map(|(pattern, part, proof)| {
            let (hello, first, second, keys) = agreed(part, &proof);
            json!({
                "pattern": pattern,
                "responder_static_private": hex::encode(STATIC),
                "responder_static_public": hex::encode(StaticKey::from_bytes(STATIC).public().as_bytes()),
                "initiator_ephemeral_private": hex::encode(INITIATOR_EPHEMERAL),
                "responder_ephemeral_private": hex::encode(RESPONDER_EPHEMERAL),
                "link_key": matches!(proof, Proof::Key { .. }).then(|| hex::encode(LINK_KEY)),
                "pairing_secret": matches!(proof, Proof::Pairing(_)).then(|| hex::encode(PAIRING_SECRET)),
                "psk": psk(&proof),
                "hello": hex::encode(&hello),
                "message_1": hex::encode(first),
                "message_2": hex::encode(second),
                "traffic_key_to_responder": hex::encode(*keys.to_responder),
                "traffic_key_to_initiator": hex::encode(*keys.to_initiator),
            })
        })
        .collect();
    held_against("handshakes.json", &json!(cases));
}

/// A whole conversation: opening, a message each way, a life sign, the farewell.
fn conversation(part: Part, proof: Proof) -> LinkPair {
    let mut pair = LinkPair::of_part(part, proof);
    pair.initiator.link.ephemeral = Some(INITIATOR_EPHEMERAL);
    pair.responder.link.ephemeral = Some(RESPONDER_EPHEMERAL);
    pair.admit = |link, hello, now| {
        let proof = match (hello.part, hello.key_no) {
            (Part::Pairing, _) => Proof::Pairing(PairingSecret::from_bytes(PAIRING_SECRET)),
            (_, 0) => Proof::FirstContact { responder: StaticKey::from_bytes(STATIC).public() },
            (_, key_no) => {
                let responder = StaticKey::from_bytes(STATIC).public();
                Proof::Key { responder, key_no, key: LinkKey::from_bytes(LINK_KEY) }
            }
        };
        with_admission(&proof, |admit| link.admit(admit, now));
    };
    pair.run(Duration::from_millis(100));
    pair.initiator.link.send(b"up", pair.now).unwrap();
    pair.run(Duration::from_millis(100));
    pair.responder.link.send(b"down", pair.now).unwrap();
    pair.run(Duration::from_secs(1) - Duration::from_millis(300));
    pair.initiator.link.close(pair.now);
    pair.run(Duration::from_millis(100));
    assert_eq!((pair.responder.messages(), pair.initiator.messages()), (vec![&b"up"[..]], vec![&b"down"[..]]));
    pair
}

#[test]
fn conversations_are_as_written_down() {
    let cases: Vec<_> = proofs()
        .into_iter()
        .map(|(pattern, part, proof)| {
            let (hello, first, second, keys) = agreed(part, &proof);
            let pair = conversation(part, proof);
            let all: Vec<_> =
                pair.trace.iter().map(|(up, bytes)| (if *up { "initiator" } else { "responder" }, bytes)).collect();
            let opening = [
                framed(&[&[1, kind::HELLO], &hello[..]].concat()),
                framed(&[&[2, kind::HANDSHAKE], &first[..]].concat()),
            ];
            assert!(all.iter().any(|(_, bytes)| **bytes == opening.concat()), "the opening is made of the parts");
            let answer = framed(&[&[1, kind::HANDSHAKE], &second[..]].concat());
            assert!(all.iter().any(|(_, bytes)| bytes.ends_with(&answer)));
            let portions: Vec<_> =
                all.iter().map(|(from, bytes)| json!({ "from": from, "bytes": hex::encode(bytes) })).collect();
            json!({
                "pattern": pattern,
                "traffic_key_to_responder": hex::encode(*keys.to_responder),
                "traffic_key_to_initiator": hex::encode(*keys.to_initiator),
                "what": "call, opening, \"up\", \"down\", a life sign, farewell; portions as they were written",
                "portions": portions,
            })
        })
        .collect();
    held_against("conversations.json", &json!(cases));
}

#[test]
fn sealed_frames_are_as_written_down() {
    let (_, part, proof) = proofs()[1].clone();
    let (_, _, _, keys) = agreed(part, &proof);
    let sending = crate::seal::CipherStates::new(&keys, part, true);
    let answering = crate::seal::CipherStates::new(&keys, part, false);
    let cases: Vec<_> =
        [(3u64, true, &b""[..]), (4, true, b"a message"), (0x0102_0304, true, &[0x10; 20]), (2, false, b"an answer")]
            .into_iter()
            .map(|(sequence, up, plaintext)| {
                let body = if up { &sending } else { &answering }.seal(sequence, plaintext).unwrap();
                let mut data = vec![1, part as u8, u8::from(!up)];
                data.extend_from_slice(&sequence.to_be_bytes());
                json!({
                    "key": hex::encode(if up { *keys.to_responder } else { *keys.to_initiator }),
                    "to": if up { "responder" } else { "initiator" },
                    "sequence": sequence,
                    "nonce": format!("00000000{sequence:016x}"),
                    "associated_data": hex::encode(data),
                    "plaintext": hex::encode(plaintext),
                    "body": hex::encode(&body),
                    "frame": hex::encode(framed(&body)),
                })
            })
            .collect();
    held_against("sealed.json", &json!(cases));
}

#[test]
fn telemetry_is_as_written_down() {
    let key = LinkKey::from_bytes(LINK_KEY);
    let reading =
        Reading { sequence: 5, at_ms: 1_750_000_000_000, meter_wh: 12_345, power_w: 11_000, ..Reading::default() };
    let mut sealer = Sealer::new(&key, KEY_NO, "CP-1", STREAM);
    let sealed = sealer.seal(&reading).unwrap();
    assert_eq!(Opener::new("CP-1").open(&sealed, &key, 0).unwrap().0, reading);
    let data = [&STREAM[..], &KEY_NO.to_be_bytes(), &5u64.to_be_bytes(), b"CP-1"].concat();
    held_against(
        "telemetry.json",
        &json!({
            "link_key": hex::encode(LINK_KEY),
            "charging_point": "CP-1",
            "stream_id": hex::encode(STREAM),
            "key_no": KEY_NO,
            "sequence": 5,
            "stream_key": hex::encode(*key.telemetry(&STREAM)),
            "nonce": format!("00000000{:016x}", 5),
            "associated_data": hex::encode(data),
            "reading": hex::encode(reading.encode_to_vec()),
            "ciphertext": hex::encode(&sealed.ciphertext),
            "sealed_reading": hex::encode(sealed.encode_to_vec()),
        }),
    );
}

#[test]
fn signatures_are_as_written_down() {
    let key = DocumentKey::from_seed(&DOCUMENT_SEED);
    let keys = DocumentKeys::parse(&key.public()).unwrap();
    let ticket = Ticket {
        session_id: "s-1".into(),
        driver_id: "ann".into(),
        charging_point_id: "CP-1".into(),
        place: "Calle Mayor 1".into(),
        started_at_ms: 1_750_000_000_000,
        ended_at_ms: 1_750_003_600_000,
        energy_wh: 4_216,
        price_e4: 3_950,
        amount_minor: 167,
        currency: "EUR".into(),
        reason: Reason::Unplugged.into(),
        meter_start_wh: 10,
        meter_end_wh: 4_226,
        ..Ticket::default()
    };
    let authorisation = Authorisation {
        session_id: "s-1".into(),
        driver_id: "ann".into(),
        charging_point_id: "CP-1".into(),
        place: "Calle Mayor 1".into(),
        price_e4: 3_950,
        currency: "EUR".into(),
        energy_wh: 7_500,
        reserved_at_ms: 1_749_999_990_000,
        epoch: 1 << 32 | 3,
        request_id: "r-1".into(),
        manual: false,
    };
    let documents = [
        ("ticket", DocumentKind::Ticket, ticket.document()),
        ("authorisation", DocumentKind::Authorisation, authorisation.encode_to_vec()),
    ];
    let cases: Vec<_> = documents
        .into_iter()
        .map(|(name, kind, document)| {
            let signed = key.sign(kind, document);
            assert_eq!(keys.verify(kind, &signed), Ok(()));
            let message = [format!("chargemesh {name} 1\n{}\n", key.id()).as_bytes(), &signed.document].concat();
            json!({
                "kind": name,
                "document": hex::encode(&signed.document),
                "key_id": signed.key_id,
                "message": hex::encode(message),
                "signature": hex::encode(&signed.signature),
                "signed_document": hex::encode(signed.encode_to_vec()),
            })
        })
        .collect();
    let seed = hex::encode(DOCUMENT_SEED);
    held_against("signatures.json", &json!({ "seed": seed, "public_key": key.public(), "documents": cases }));
}
