//! An attacker controls the line of an open link and drops, repeats, damages and inserts portions as the data says.
//! Messages arrive in order, each at most once, and every message missing before the last one was reported.
//! `cargo +nightly fuzz run messages`

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use proto::link::v1::Part;
use wire::{Admit, Event, Link, LinkKey, Proof, LinkSettings, StaticKey};

struct FuzzEnd {
    link: Link,
    got: Vec<u32>,
    unintelligible: usize,
}

impl FuzzEnd {
    fn new(link: Link) -> Self {
        Self { link, got: Vec::new(), unintelligible: 0 }
    }

    fn take(&mut self, now: Instant) {
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::Hello(_) => {
                    let (own, key) = (StaticKey::from_bytes([9; 32]), LinkKey::from_bytes([1; 32]));
                    self.link.admit(Admit::Key(&own, &key), now);
                }
                Event::Message(bytes) => self.got.push(u32::from_be_bytes((*bytes).try_into().unwrap())),
                Event::Unintelligible(_) => self.unintelligible += 1,
                Event::Open | Event::Busy { .. } | Event::UnknownKey | Event::Closed(_) => {}
            }
        }
    }
}

/// What the attacker makes of a portion.
fn touched(fate: u8, argument: u8, mut bytes: Vec<u8>, recorded: &[Vec<u8>]) -> Vec<u8> {
    let at = usize::from(argument) % bytes.len().max(1);
    match fate % 8 {
        1 => bytes.clear(),
        2 => bytes = [bytes.clone(), bytes].concat(),
        3 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= fate | 1),
        4 => bytes.truncate(at),
        5 => bytes = [recorded.get(usize::from(argument)).cloned().unwrap_or_default(), bytes].concat(),
        6 => bytes.insert(at, fate),
        _ => {}
    }
    bytes
}

fn carry(from: &mut FuzzEnd, to: &mut FuzzEnd, fate: [u8; 2], recorded: &mut Vec<Vec<u8>>, now: Instant) {
    let mut bytes = Vec::new();
    if from.link.transmit(&mut bytes, now) {
        recorded.push(bytes.clone());
        to.link.handle_bytes(&touched(fate[0], fate[1], bytes, recorded), now);
        to.take(now);
    }
}

fuzz_target!(|data: &[u8]| {
    let mut now = Instant::now();
    let proof = Proof::Key {
        responder: StaticKey::from_bytes([9; 32]).public(),
        key_no: 1,
        key: LinkKey::from_bytes([1; 32]),
    };
    let mut near = FuzzEnd::new(Link::initiator(LinkSettings::default(), Part::Engine, "CP-1", proof, now));
    let mut far = FuzzEnd::new(Link::responder(LinkSettings::default(), now));
    let mut recorded = Vec::new();
    for _ in 0..4 {
        carry(&mut near, &mut far, [0; 2], &mut recorded, now);
        carry(&mut far, &mut near, [0; 2], &mut recorded, now);
    }
    assert!(near.link.is_open() && far.link.is_open());
    let (mut sent_up, mut sent_down) = (0u32, 0u32);
    for step in data.chunks_exact(4).take(200) {
        let [who, fate @ .., pause] = step else { return };
        for (end, number, bit) in [(&mut near, &mut sent_up, 1), (&mut far, &mut sent_down, 2)] {
            if who & bit != 0 && end.link.send(&number.to_be_bytes(), now).is_ok() {
                *number += 1;
            }
        }
        carry(&mut near, &mut far, [fate[0], fate[1]], &mut recorded, now);
        carry(&mut far, &mut near, [fate[1], fate[0]], &mut recorded, now);
        now += Duration::from_millis(u64::from(*pause) * 2);
        for end in [&mut near, &mut far] {
            if end.link.poll_timeout().is_some_and(|due| due <= now) {
                end.link.handle_timeout(now);
            }
            end.take(now);
        }
    }
    for (end, sent) in [(&far, sent_up), (&near, sent_down)] {
        assert!(end.got.windows(2).all(|two| two[0] < two[1]), "{:?}", end.got);
        let last = end.got.last().map_or(0, |last| last + 1);
        assert!(last <= sent && last as usize - end.got.len() <= end.unintelligible, "{:?}", end.got);
    }
});
