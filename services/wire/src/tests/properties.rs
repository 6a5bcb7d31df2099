//! Properties that hold whatever the line does and whatever a peer sends. `PROPTEST_CASES=20000 cargo test -p wire
//! properties` tries more cases.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};

use crate::{
    Event, Link, LinkSettings,
    frame::{self, Decoder, Token},
    kind,
    pair::{Fate, LinkPair, admit_known, proof, start},
};

fn tokens(portions: &[&[u8]], limit: usize) -> Vec<(Token, Vec<u8>)> {
    let (mut decoder, mut all) = (Decoder::new(limit), Vec::new());
    for portion in portions {
        let mut input = *portion;
        while let Some(token) = decoder.next(&mut input) {
            let body = if token == Token::Frame { decoder.take_body() } else { Vec::new() };
            assert!(body.len() <= limit);
            all.push((token, body));
        }
    }
    all
}

/// Bytes among which the seven control bytes are frequent.
fn bytes(length: usize) -> impl Strategy<Value = Vec<u8>> {
    let control = prop::sample::select(vec![2u8, 3, 4, 5, 6, 0x10, 0x15, 0x42, 0x50]);
    vec(prop_oneof![3 => any::<u8>(), 2 => control], 0..length)
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Deliver),
        1 => Just(Fate::Lose),
        1 => Just(Fate::Repeat),
        1 => (1usize..9).prop_map(Fate::Split),
    ]
}

fn harsh_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => fate(),
        1 => (any::<usize>(), 1u8..).prop_map(|(at, mask)| Fate::Corrupt(at, mask)),
        1 => (any::<usize>(), 1u8..).prop_map(|(at, mask)| Fate::Forge(at, mask)),
        1 => Just(Fate::Reorder),
        1 => any::<u8>().prop_map(Fate::Insert),
    ]
}

/// What the owners do: which end sends, how many messages at once, and after what pause.
fn talk() -> impl Strategy<Value = Vec<(bool, u8, u16)>> {
    vec((any::<bool>(), 0u8..9, 0u16..400), 1..30)
}

/// Lets both ends talk over a line with these fates; the accepted messages of each end are numbered from 0.
fn conversation(talk: &[(bool, u8, u16)], fates: Vec<Fate>) -> (LinkPair, [u32; 2]) {
    let (mut pair, mut sent) = (LinkPair::open(), [0u32; 2]);
    pair.fates.extend(fates);
    for &(up, count, pause) in talk {
        pair.run(Duration::from_millis(pause.into()));
        let (end, number) = if up { (&mut pair.initiator, &mut sent[0]) } else { (&mut pair.responder, &mut sent[1]) };
        for _ in 0..count {
            if end.link.send(&number.to_be_bytes(), pair.now).is_ok() {
                *number += 1;
            }
        }
    }
    pair.run(Duration::from_secs(10));
    (pair, sent)
}

fn numbers(messages: &[&[u8]]) -> Vec<u32> {
    messages.iter().map(|bytes| u32::from_be_bytes((*bytes).try_into().unwrap())).collect()
}

proptest! {
    #[test]
    fn any_body_survives_being_framed(body in bytes(300), before in bytes(40)) {
        let mut framed = Vec::new();
        frame::encode(&body, &mut framed);
        prop_assert_eq!(tokens(&[&framed], 300), [(Token::Frame, body.clone())]);
        // After any garbage as well: it may begin a frame that swallows the first valid frame, but not the second.
        let all = tokens(&[&before, &framed, &framed], 300);
        prop_assert_eq!(all.last(), Some(&(Token::Frame, body)));
    }

    #[test]
    fn any_split_gives_the_same_tokens_spec_4_1(input in bytes(200), cuts in vec(0usize..200, 0..20)) {
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(input.len())).chain([0, input.len()]).collect();
        cuts.sort_unstable();
        let portions: Vec<_> = cuts.windows(2).map(|two| &input[two[0]..two[1]]).collect();
        prop_assert_eq!(tokens(&portions, 64), tokens(&[&input], 64));
    }

    #[test]
    fn no_input_panics_a_link_in_any_phase(input in vec(bytes(120), 0..8), phase in 0usize..4, well_framed: bool) {
        let mut pair = LinkPair::new(proof());
        pair.run(Duration::from_millis(phase as u64));
        for (at, bytes) in input.into_iter().enumerate() {
            let mut portion = bytes;
            if well_framed {
                let mut framed = vec![frame::ENQ];
                let kinds = [kind::HELLO, kind::HANDSHAKE, kind::BUSY, kind::UNKNOWN_KEY, kind::SEALED];
                let kind = kinds[portion.len() % 5];
                frame::encode(&[&[at as u8 + 1, kind], &portion[..]].concat(), &mut framed);
                portion = framed;
            }
            pair.initiator.link.handle_bytes(&portion, pair.now);
            pair.responder.link.handle_bytes(&portion, pair.now);
            pair.run(Duration::from_millis(300));
        }
        pair.run(Duration::from_secs(30));
        for end in [&pair.initiator, &pair.responder] {
            let last = end.seen.iter().position(|event| matches!(event, Event::Closed(_)));
            prop_assert!(last.is_none_or(|last| last + 1 == end.seen.len()), "nothing follows Closed: {:?}", end.seen);
            prop_assert!(end.messages().is_empty(), "nobody here can seal");
        }
    }

    #[test]
    fn a_line_that_loses_repeats_and_splits_loses_no_message_of_a_link_that_lives(
        talk in talk(), fates in vec(fate(), 0..60),
    ) {
        let (pair, sent) = conversation(&talk, fates);
        let lives = pair.initiator.closed().is_none() && pair.responder.closed().is_none();
        for (end, sent) in [(&pair.responder, sent[0]), (&pair.initiator, sent[1])] {
            let got = numbers(&end.messages());
            prop_assert_eq!(&got, &(0..got.len() as u32).collect::<Vec<_>>(), "in order, each once, none left out");
            prop_assert_eq!(end.unintelligible(), 0);
            prop_assert!(!lives || got.len() as u32 == sent, "{} of {sent}", got.len());
        }
    }

    #[test]
    fn whatever_the_line_does_messages_come_in_order_and_what_is_missing_was_reported(
        talk in talk(), fates in vec(harsh_fate(), 0..80),
    ) {
        let (pair, sent) = conversation(&talk, fates);
        for (end, sent) in [(&pair.responder, sent[0]), (&pair.initiator, sent[1])] {
            let got = numbers(&end.messages());
            prop_assert!(got.windows(2).all(|two| two[0] < two[1]), "{got:?}");
            let last = got.last().map_or(0, |last| last + 1);
            prop_assert!(last <= sent && last as usize - got.len() <= end.unintelligible(), "{got:?}");
        }
    }

    #[test]
    fn whatever_happens_to_a_handshake_it_opens_or_ends(fates in vec(harsh_fate(), 0..12)) {
        let mut pair = LinkPair::new(proof());
        pair.fates.extend(fates);
        pair.run(Duration::from_secs(12));
        let opened = pair.initiator.seen.contains(&Event::Open);
        if opened && pair.initiator.closed().is_none() {
            pair.initiator.link.send(b"proof", pair.now).unwrap();
        }
        pair.run(Duration::from_secs(12));
        let proven = pair.responder.messages() == [b"proof"];
        prop_assert!(proven || pair.responder.closed().is_some(), "{:?}", pair.responder.seen);
        prop_assert!(opened || pair.initiator.closed().is_some(), "{:?}", pair.initiator.seen);
    }

    #[test]
    fn a_link_that_is_left_alone_ends_by_itself(input in bytes(100)) {
        let mut now = start();
        let mut link = Link::responder(LinkSettings::default(), now);
        link.handle_bytes(&[&[frame::ENQ][..], &input].concat(), now);
        while let Some(event) = link.poll_event() {
            if let Event::Hello(hello) = &event {
                admit_known(&mut link, hello, now);
            }
        }
        for _ in 0..50 {
            let Some(due) = link.poll_timeout() else { break };
            prop_assert!(due >= now, "a deadline is never left behind");
            now = due;
            link.handle_timeout(now);
        }
        prop_assert!(link.is_closed());
    }
}
