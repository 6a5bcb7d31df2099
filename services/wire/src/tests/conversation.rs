//! The conversation between two ends over simulated time.

use std::time::Duration;

use proto::link::v1::Part;

use crate::{
    Admit, Closed, Event, Hello, Link, LinkSettings, PairingSecret, Proof, SendError, Unintelligible, frame, kind,
    pair::{Fate, LinkPair, key, own, proof, start},
};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn all_proofs() -> [Proof; 3] {
    let responder = own().public();
    [Proof::FirstContact { responder }, proof(), Proof::Pairing(PairingSecret::from_bytes([3; 32]))]
}

#[test]
fn each_handshake_opens_the_link_and_messages_go_both_ways_spec_4_4() {
    for proof in all_proofs() {
        let mut pair = LinkPair::new(proof);
        pair.run(10 * MILLI);
        assert_eq!(pair.initiator.seen, [Event::Open]);
        assert!(matches!(pair.responder.seen[..], [Event::Hello(_), Event::Open]), "{:?}", pair.responder.seen);
        pair.initiator.link.send(b"up", pair.now).unwrap();
        pair.responder.link.send(b"down", pair.now).unwrap();
        pair.run(10 * MILLI);
        assert_eq!((pair.responder.messages(), pair.initiator.messages()), (vec![&b"up"[..]], vec![&b"down"[..]]));
    }
}

#[test]
fn a_hello_says_who_and_with_which_key() {
    let mut pair = LinkPair::new(proof());
    pair.run(10 * MILLI);
    let hello = Hello { part: Part::Engine, id: "CP-1".into(), key_no: 7, pin: own().public().pin() };
    assert_eq!(pair.responder.seen.first(), Some(&Event::Hello(hello)));
}

#[test]
fn nothing_sealed_travels_in_clear_spec_4_5() {
    let mut pair = LinkPair::open();
    for _ in 0..100 {
        pair.initiator.link.send(b"a secret of some length", pair.now).unwrap();
        pair.run(MILLI * 5);
    }
    assert_eq!(pair.responder.messages().len(), 100);
    assert!(!pair.trace.iter().any(|(_, bytes)| bytes.windows(6).any(|part| part == b"secret")));
}

#[test]
fn an_unknown_key_and_a_wrong_key_get_the_same_answer_spec_4_8() {
    let responder = own().public();
    let (wrong, unknown) = ((7, key(2)), (8, key(1)));
    let mut answers = Vec::new();
    for (key_no, key) in [wrong, unknown] {
        let mut pair = LinkPair::new(Proof::Key { responder, key_no, key });
        pair.run(10 * MILLI);
        assert_eq!(pair.initiator.seen, [Event::UnknownKey, Event::Closed(Closed::UnknownKey)]);
        answers.push(pair.trace.iter().filter(|(up, _)| !up).map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>());
        let failed = [Event::Unintelligible(Unintelligible::Handshake), Event::Closed(Closed::HandshakeFailed)];
        assert_eq!(pair.responder.seen[1..] == failed, key_no == 7);
    }
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn a_busy_responder_answers_a_call_by_nack_one_busy_frame_and_eot_spec_4_2() {
    let mut pair = LinkPair::new(proof());
    pair.responder.link.admit(Admit::Busy(Duration::from_secs(5)), pair.now);
    pair.run(10 * MILLI);
    let busy = Event::Busy { retry_after: Duration::from_secs(5) };
    assert_eq!(pair.initiator.seen, [busy, Event::Closed(Closed::Busy)]);
    assert_eq!(pair.responder.seen, [Event::Closed(Closed::Busy)]);
    let (_, answer) = &pair.trace[1];
    assert!(answer.starts_with(&[frame::NACK, 0, frame::STX]) && answer.ends_with(&[frame::EOT]));
}

#[test]
fn a_responder_may_find_itself_busy_after_the_hello_too() {
    let mut pair = LinkPair::new(proof());
    pair.admit = |link, _, now| link.admit(Admit::Busy(SECOND), now);
    pair.run(10 * MILLI);
    assert_eq!(pair.initiator.seen, [Event::Busy { retry_after: SECOND }, Event::Closed(Closed::Busy)]);
}

#[test]
fn a_forged_busy_answer_is_capped_at_sixty_seconds_and_means_nothing_on_an_open_link_spec_4_2() {
    let forged = |counter: u8| {
        let mut bytes = vec![frame::NACK, 0];
        frame::encode(&[counter, kind::BUSY, 0x08, 0xff, 0xff, 0xff, 0xff, 0x0f], &mut bytes);
        bytes
    };
    let now = start();
    let mut link = Link::initiator(LinkSettings::default(), Part::Driver, "d", proof(), now);
    link.handle_bytes(&forged(1), now);
    assert_eq!(link.poll_event(), Some(Event::Busy { retry_after: Duration::from_secs(60) }));

    let mut pair = LinkPair::open();
    pair.initiator.link.handle_bytes(&forged(2), pair.now);
    pair.responder.link.handle_bytes(&forged(4), pair.now);
    pair.run(10 * MILLI);
    assert_eq!(pair.initiator.seen, [Event::Unintelligible(Unintelligible::Clear)]);
    assert_eq!(pair.responder.seen, [Event::Unintelligible(Unintelligible::Clear)]);
}

#[test]
fn an_idle_initiator_gives_a_life_sign_each_half_second_and_the_ack_is_the_sign_in_return_spec_2_4() {
    let mut pair = LinkPair::open();
    pair.run(10 * SECOND);
    assert!(pair.initiator.seen.is_empty() && pair.responder.seen.is_empty(), "life signs are no events");
    let signs = pair.trace.iter().filter(|(up, _)| *up).count();
    assert!((19..=20).contains(&signs), "{signs}");
    assert_eq!(pair.trace.iter().filter(|(up, bytes)| !up && bytes[0] == frame::ACK).count(), signs);
}

#[test]
fn a_dead_peer_and_a_half_open_connection_are_found_after_three_missed_signs_spec_2_4() {
    let mut pair = LinkPair::open();
    pair.run(10 * SECOND);
    pair.fates.extend([Fate::Lose; 1000]);
    let cut = pair.now;
    pair.run(2 * SECOND - MILLI);
    assert_eq!(pair.initiator.closed(), Some(Closed::Silent));
    assert_eq!(pair.responder.closed(), Some(Closed::Silent));
    assert!(pair.now < cut + 2 * SECOND);
}

#[test]
fn any_traffic_counts_as_a_sign_of_life_spec_2_4() {
    let mut pair = LinkPair::open();
    for _ in 0..50 {
        pair.run(400 * MILLI);
        pair.responder.link.send(b"x", pair.now).unwrap();
    }
    pair.run(10 * MILLI);
    assert_eq!(pair.initiator.messages().len(), 50);
    let frames_up = pair.trace.iter().filter(|(up, bytes)| *up && bytes[0] == frame::STX).count();
    assert!(frames_up <= 1, "an end that acknowledges twice a second needs no sign besides: {frames_up}");
}

#[test]
fn garbage_is_no_sign_of_life_but_a_frame_that_is_still_coming_is() {
    for (bytes, dead) in [(&b"x"[..], true), (&[frame::STX, 1, 0x20], false)] {
        let mut pair = LinkPair::open();
        pair.fates.extend([Fate::Lose; 100]);
        for _ in 0..8 {
            pair.responder.link.handle_bytes(bytes, pair.now);
            pair.run(300 * MILLI);
        }
        assert_eq!(pair.responder.closed().is_some(), dead, "{bytes:?}");
    }
}

#[test]
fn an_interval_of_the_profile_holds_instead_of_the_default_spec_2_4() {
    let settings = LinkSettings { life_sign: 30 * SECOND, ..LinkSettings::default() };
    let mut pair = LinkPair::with(settings, proof());
    pair.run(10 * MILLI);
    pair.initiator.link.send(b"opened", pair.now).unwrap();
    pair.run(10 * MILLI);
    pair.responder.link.set_life_sign(30 * SECOND);
    pair.run(600 * SECOND);
    assert_eq!((pair.initiator.closed(), pair.responder.closed()), (None, None));
    pair.fates.extend([Fate::Lose; 1000]);
    pair.run(91 * SECOND);
    assert_eq!(pair.responder.closed(), Some(Closed::Silent));
}

#[test]
fn a_batch_of_frames_is_acknowledged_once_and_a_window_bounds_it_spec_4_2() {
    let mut pair = LinkPair::open();
    for _ in 0..40 {
        pair.initiator.link.send(b"x", pair.now).unwrap();
    }
    pair.run(SECOND / 10);
    assert_eq!(pair.responder.messages().len(), 40);
    let down: Vec<_> = pair.trace.iter().filter(|(up, _)| !up).collect();
    assert_eq!(down.len(), 2, "32 and 8: {down:?}");
}

#[test]
fn a_full_queue_refuses_and_takes_again_when_acknowledged() {
    let mut pair = LinkPair::open();
    let accepted = (0..1000).take_while(|_| pair.initiator.link.send(b"x", pair.now).is_ok()).count();
    assert_eq!(accepted, LinkSettings::default().queue);
    assert_eq!(pair.initiator.link.send(b"x", pair.now), Err(SendError::Full));
    pair.run(SECOND / 10);
    assert!(pair.initiator.link.ready());
}

#[test]
fn what_is_lost_or_corrupted_is_sent_again_and_comes_once_spec_4_2() {
    for fate in [Fate::Lose, Fate::Corrupt(7, 0x80), Fate::Corrupt(0, 0xff), Fate::Repeat, Fate::Split(1)] {
        let mut pair = LinkPair::open();
        pair.fates.push_back(fate);
        for text in ["one", "two", "three"] {
            pair.initiator.link.send(text.as_bytes(), pair.now).unwrap();
            pair.run(MILLI * 3);
        }
        pair.run(3 * SECOND);
        assert_eq!(pair.responder.messages(), [&b"one"[..], b"two", b"three"], "{fate:?}");
        assert_eq!((pair.responder.unintelligible(), pair.responder.closed()), (0, None), "{fate:?}");
    }
}

#[test]
fn a_lost_ack_is_made_good_by_the_next() {
    let mut pair = LinkPair::open();
    pair.fates.extend([Fate::Deliver, Fate::Lose]);
    pair.initiator.link.send(b"x", pair.now).unwrap();
    pair.run(SECOND);
    assert_eq!((pair.responder.messages().len(), pair.initiator.link.counts().resent), (1, 0));
    assert!(pair.initiator.link.poll_timeout().is_some());
}

#[test]
fn three_tries_and_the_link_is_closed_spec_4_2() {
    let settings = LinkSettings { life_sign: 60 * SECOND, ..LinkSettings::default() };
    let mut pair = LinkPair::with(settings, proof());
    pair.run(10 * MILLI);
    pair.trace.clear();
    pair.fates.extend([Fate::Lose; 1000]);
    pair.initiator.link.send(b"x", pair.now).unwrap();
    pair.run(20 * SECOND);
    assert_eq!(pair.initiator.closed(), Some(Closed::Unanswered));
    let sendings: Vec<_> = pair.trace.iter().filter(|(up, bytes)| *up && bytes[0] == frame::STX).collect();
    assert_eq!(sendings.len(), 3);
    assert!(sendings.windows(2).all(|two| two[0] == two[1]), "byte for byte");
}

#[test]
fn a_link_closes_in_order_behind_what_was_sent_spec_4_2() {
    let mut pair = LinkPair::open();
    pair.initiator.link.send(b"last", pair.now).unwrap();
    pair.initiator.link.close(pair.now);
    assert_eq!(pair.initiator.link.send(b"later", pair.now), Err(SendError::NotOpen));
    pair.run(10 * MILLI);
    assert_eq!(pair.responder.messages(), [b"last"]);
    assert_eq!((pair.initiator.closed(), pair.responder.closed()), (Some(Closed::ByUs), Some(Closed::ByPeer)));
    assert_eq!(pair.trace.last().map(|(up, bytes)| (*up, bytes.as_slice())), Some((true, &[frame::EOT][..])));
}

#[test]
fn a_stream_that_ends_without_farewell_is_cut() {
    let mut pair = LinkPair::open();
    pair.responder.link.handle_end();
    pair.exchange();
    assert_eq!(pair.responder.closed(), Some(Closed::Cut));
    assert_eq!(pair.responder.link.poll_timeout(), None);
}

#[test]
fn a_spoiled_end_and_its_peer_cannot_read_each_other_until_repaired_and_no_restart_is_needed_spec_4_8() {
    let mut pair = LinkPair::open();
    pair.initiator.link.spoil(true);
    for _ in 0..3 {
        pair.initiator.link.send(b"spoiled up", pair.now).unwrap();
        pair.responder.link.send(b"spoiled down", pair.now).unwrap();
        pair.run(10 * MILLI);
    }
    assert_eq!((pair.responder.unintelligible(), pair.initiator.unintelligible()), (3, 3));
    pair.run(5 * SECOND);
    assert_eq!((pair.responder.closed(), pair.initiator.closed()), (None, None), "it is alive all the while");
    assert!(pair.responder.messages().is_empty() && pair.initiator.messages().is_empty());
    pair.initiator.link.spoil(false);
    pair.initiator.link.send(b"up", pair.now).unwrap();
    pair.responder.link.send(b"down", pair.now).unwrap();
    pair.run(10 * MILLI);
    assert_eq!((pair.responder.messages(), pair.initiator.messages()), (vec![&b"up"[..]], vec![&b"down"[..]]));
}

/// The next counter of an initiator that has sent Hello, handshake, `opened` and one message.
const NEXT: u8 = 5;

/// An overheard sealed frame, under another counter.
fn recounted(bytes: &[u8], counter: u8) -> Vec<u8> {
    let (mut decoder, mut input, mut out) = (frame::Decoder::new(4096), bytes, Vec::new());
    assert_eq!(decoder.next(&mut input), Some(frame::Token::Frame));
    let mut body = decoder.take_body();
    body[0] = counter;
    frame::encode(&body, &mut out);
    out
}

#[test]
fn a_recorded_message_sent_again_is_dropped_and_what_follows_is_not_broken_spec_4_5() {
    let mut pair = LinkPair::open();
    pair.initiator.link.send(b"one", pair.now).unwrap();
    pair.run(10 * MILLI);
    let (_, recorded) = pair.trace[0].clone();
    // As it was: a repetition. Under the counter that is next: a replay, and the real frame still finds its place.
    pair.responder.link.handle_bytes(&recorded, pair.now);
    pair.responder.link.handle_bytes(&recounted(&recorded, NEXT), pair.now);
    pair.run(10 * MILLI);
    pair.initiator.link.send(b"two", pair.now).unwrap();
    pair.initiator.link.send(b"three", pair.now).unwrap();
    pair.run(10 * MILLI);
    assert_eq!(pair.responder.messages(), [&b"one"[..], b"two", b"three"]);
    let why: Vec<_> = pair.responder.seen.iter().filter(|event| matches!(event, Event::Unintelligible(_))).collect();
    assert_eq!(why, [&Event::Unintelligible(Unintelligible::Replayed)]);
    assert_eq!(pair.responder.link.counts().repeated, 1);
}

#[test]
fn a_message_of_another_link_or_direction_does_not_open_spec_4_8() {
    let (mut one, mut other) = (LinkPair::open(), LinkPair::open());
    for pair in [&mut one, &mut other] {
        pair.initiator.link.send(b"mine", pair.now).unwrap();
        pair.run(10 * MILLI);
    }
    let (_, foreign) = other.trace[0].clone();
    one.responder.link.handle_bytes(&recounted(&foreign, NEXT), one.now);
    one.run(10 * MILLI);
    assert_eq!((one.responder.messages().len(), one.responder.unintelligible()), (1, 1));
}

#[test]
fn a_replayed_handshake_opens_but_proves_nothing_and_ends_by_itself_spec_4_9() {
    let mut pair = LinkPair::new(proof());
    pair.run(10 * MILLI);
    let recorded: Vec<_> = pair.trace.iter().filter(|(up, _)| *up).map(|(_, bytes)| bytes.clone()).collect();

    let now = pair.now;
    let (mut link, mut seen) = (Link::responder(LinkSettings::default(), now), Vec::new());
    for bytes in recorded {
        link.handle_bytes(&bytes, now);
        while let Some(event) = link.poll_event() {
            if let Event::Hello(hello) = &event {
                crate::pair::admit_known(&mut link, hello, now);
            }
            seen.push(event);
        }
    }
    assert!(matches!(seen[..], [Event::Hello(_), Event::Open]), "a first message may be a replay: {seen:?}");
    let limit = now + LinkSettings::default().handshake_timeout;
    assert_eq!(link.poll_timeout().map(|due| due <= limit), Some(true));
    let mut out = Vec::new();
    link.transmit(&mut out, now);
    for second in 0..10 {
        link.handle_bytes(&[frame::ACK, 1], now + second * SECOND);
    }
    link.handle_timeout(limit);
    assert_eq!(link.poll_event(), Some(Event::Closed(Closed::HandshakeTimeout)));
}

#[test]
fn an_unfinished_handshake_has_a_time_limit_and_little_memory() {
    let now = start();
    for sent in [&[][..], &[frame::ENQ], &[frame::ENQ, frame::STX, 1]] {
        let mut link = Link::responder(LinkSettings::default(), now);
        link.handle_bytes(sent, now);
        link.handle_bytes(&[b'x'; 3000], now);
        let due = link.poll_timeout();
        if let Some(due) = due {
            assert!(due <= now + LinkSettings::default().handshake_timeout);
            link.handle_timeout(due);
        }
        assert!(link.is_closed(), "{sent:?}");
    }
}

#[test]
fn a_peer_that_does_not_begin_with_enq_is_refused_at_once() {
    let now = start();
    for sent in [&b"GET / HTTP/1.1\r\n"[..], &[frame::ACK, 0], &[0x16, 3, 1], &[frame::NACK, 0]] {
        let mut link = Link::responder(LinkSettings::default(), now);
        link.handle_bytes(sent, now);
        assert!(matches!(link.poll_event(), Some(Event::Closed(Closed::Protocol(_)))), "{sent:?}");
    }
}

#[test]
fn a_link_that_hears_nothing_but_garbage_ends() {
    let mut pair = LinkPair::open();
    for _ in 0..200 {
        pair.responder.link.handle_bytes(&[frame::STX, 1, frame::ETX, 0x77], pair.now);
    }
    pair.exchange();
    assert!(matches!(pair.responder.closed(), Some(Closed::Protocol(_))));
}

#[test]
fn a_message_longer_than_a_frame_is_refused_by_the_sender_and_one_that_fits_arrives() {
    let mut pair = LinkPair::open();
    let max = LinkSettings::default().max_frame - 26;
    assert_eq!(pair.initiator.link.send(&vec![0x02; max + 1], pair.now), Err(SendError::TooLarge));
    pair.initiator.link.send(&vec![0x02; max], pair.now).unwrap();
    pair.run(SECOND / 10);
    assert_eq!(pair.responder.messages()[0].len(), max);

    let mut pair = LinkPair::new(proof());
    pair.run(10 * MILLI);
    let sent = pair.initiator.link.send(&[0; 4071], pair.now);
    assert_eq!(sent, Err(SendError::TooLarge), "an unproven peer gets no more memory than this");
    pair.initiator.link.send(&[0; 4070], pair.now).unwrap();
    pair.run(10 * MILLI);
    assert_eq!(pair.responder.messages().len(), 1);
}

#[test]
fn a_first_contact_earns_no_larger_frames_for_anybody_can_open_its_channel_spec_4_4() {
    let mut pair = LinkPair::new(Proof::FirstContact { responder: own().public() });
    pair.run(20 * MILLI);
    for length in [100, 4_000, 5_000] {
        pair.initiator.link.send(&vec![b'a'; length], pair.now).unwrap();
        pair.run(20 * MILLI);
    }
    let taken: Vec<_> = pair.responder.messages().iter().map(|message| message.len()).collect();
    assert_eq!(taken, [100, 4_000]);
}

#[test]
fn another_version_is_told_apart_from_a_broken_hello() {
    let now = start();
    for (content, why) in [
        (&[0x08, 2][..], Closed::Version(2)),
        (&[0xff, 0xff], Closed::Protocol("a Hello that cannot be read")),
        (&[0x08, 1], Closed::Protocol("a Hello without a known part, id or pin")),
    ] {
        let mut link = Link::responder(LinkSettings::default(), now);
        let mut bytes = vec![frame::ENQ];
        frame::encode(&[&[1, kind::HELLO], content].concat(), &mut bytes);
        link.handle_bytes(&bytes, now);
        assert_eq!(link.poll_event(), Some(Event::Closed(why)));
    }
}

#[test]
fn a_call_is_repeated_three_times_and_given_up() {
    let mut pair = LinkPair::new(proof());
    pair.fates.extend([Fate::Lose; 100]);
    pair.run(20 * SECOND);
    assert_eq!(pair.initiator.closed(), Some(Closed::Unanswered));
    assert_eq!(pair.trace.iter().filter(|(up, bytes)| *up && bytes == &[frame::ENQ]).count(), 3);
}
