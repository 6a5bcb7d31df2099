//! Feeds both ends of a link whatever an unauthenticated peer may send: nothing panics, nothing is proven, and both
//! links end by themselves. `cargo +nightly fuzz run handshake`

#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use proto::link::v1::Part;
use wire::{Admit, Event, Link, LinkKey, PairingSecret, Proof, LinkSettings, StaticKey, frame};

/// Frames each odd portion, with its first byte as the kind, so that the fuzzer need not find counters and checks.
fn portion(number: usize, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match number {
        0 => out.extend_from_slice(&[frame::ENQ, frame::ACK, 0]),
        number if number % 2 == 1 => frame::encode(&[&[number.div_ceil(2) as u8], data].concat(), &mut out),
        _ => out.extend_from_slice(data),
    }
    out
}

fn owner(link: &mut Link, now: Instant) {
    let (own, key) = (StaticKey::from_bytes([9; 32]), LinkKey::from_bytes([1; 32]));
    let mut closed = false;
    while let Some(event) = link.poll_event() {
        assert!(!closed, "nothing follows Closed");
        match event {
            Event::Hello(hello) if hello.part == Part::Pairing => {
                link.admit(Admit::Pairing(&PairingSecret::from_bytes([3; 32])), now);
            }
            Event::Hello(hello) if hello.key_no == 0 => link.admit(Admit::FirstContact(&own), now),
            Event::Hello(hello) if hello.key_no == 1 => link.admit(Admit::Key(&own, &key), now),
            Event::Hello(_) => link.admit(Admit::UnknownKey, now),
            Event::Message(_) => panic!("a message of an unauthenticated peer was decrypted"),
            Event::Closed(_) => closed = true,
            Event::Open | Event::Busy { .. } | Event::UnknownKey | Event::Unintelligible(_) => {}
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let start = Instant::now();
    let key = LinkKey::from_bytes([1; 32]);
    let proof = Proof::Key { responder: StaticKey::from_bytes([9; 32]).public(), key_no: 1, key };
    let initiator = Link::initiator(LinkSettings::default(), Part::Engine, "CP-1", proof, start);
    for mut link in [initiator, Link::responder(LinkSettings::default(), start)] {
        let mut now = start;
        let mut out = Vec::new();
        for (number, data) in std::iter::once(&[][..]).chain(data.split(|byte| *byte == 0xfe)).enumerate() {
            link.handle_bytes(&portion(number, data), now);
            owner(&mut link, now);
            link.transmit(&mut out, now);
        }
        for _ in 0..100 {
            let Some(due) = link.poll_timeout() else { break };
            now = now.max(due);
            link.handle_timeout(now);
            owner(&mut link, now);
            link.transmit(&mut out, now);
        }
        assert!(link.is_closed(), "it ends by itself");
    }
});
