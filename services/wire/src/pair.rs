//! Test harness: two ends joined by a line that loses, delays, repeats and corrupts bytes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use proto::link::v1::Part;

use crate::{
    Admit, Closed, Event, Hello, Link, LinkKey, LinkSettings, PairingSecret, Proof, StaticKey,
    frame::{self, Decoder, Token},
};

/// Any instant: tests reckon from it.
#[expect(clippy::disallowed_methods, reason = "an instant cannot be made otherwise; what it is does not matter")]
pub(crate) fn start() -> Instant {
    Instant::now()
}

pub(crate) fn own() -> StaticKey {
    StaticKey::from_bytes([9; 32])
}

pub(crate) fn key(byte: u8) -> LinkKey {
    LinkKey::from_bytes([byte; 32])
}

pub(crate) fn proof() -> Proof {
    Proof::Key { responder: own().public(), key_no: 7, key: key(1) }
}

/// What happens to a portion of bytes on the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Deliver,
    Lose,
    Repeat,
    /// XORs a byte at this position (modulo the length) with this.
    Corrupt(usize, u8),
    /// The same within the body of its first frame, whose check is made right again.
    Forge(usize, u8),
    /// Arrives in pieces of this size.
    Split(usize),
    /// Arrives before the portion that was sent before it.
    Reorder,
    /// Bytes that neither end sent arrive first.
    Insert(u8),
}

/// One end, with what its owner saw.
pub(crate) struct LinkEnd {
    pub(crate) link: Link,
    pub(crate) seen: Vec<Event>,
    /// Bytes on their way to this end, with their time of arrival.
    line: VecDeque<(Instant, Vec<u8>)>,
}

impl LinkEnd {
    fn new(link: Link) -> Self {
        Self { link, seen: Vec::new(), line: VecDeque::new() }
    }

    pub(crate) fn messages(&self) -> Vec<&[u8]> {
        fn message(event: &Event) -> Option<&[u8]> {
            if let Event::Message(bytes) = event { Some(bytes) } else { None }
        }
        self.seen.iter().filter_map(message).collect()
    }

    pub(crate) fn unintelligible(&self) -> usize {
        self.seen.iter().filter(|event| matches!(event, Event::Unintelligible(_))).count()
    }

    pub(crate) fn closed(&self) -> Option<Closed> {
        self.seen.iter().find_map(|event| if let Event::Closed(why) = event { Some(*why) } else { None })
    }
}

/// An initiator and a responder; the responder admits as `admit` says.
pub(crate) struct LinkPair {
    pub(crate) now: Instant,
    pub(crate) initiator: LinkEnd,
    pub(crate) responder: LinkEnd,
    pub(crate) delay: Duration,
    pub(crate) fates: VecDeque<Fate>,
    pub(crate) admit: fn(&mut Link, &Hello, Instant),
    /// Everything that was transmitted: `true` for the initiator's.
    pub(crate) trace: Vec<(bool, Vec<u8>)>,
}

pub(crate) fn admit_known(link: &mut Link, hello: &Hello, now: Instant) {
    match (hello.part, hello.key_no) {
        (Part::Pairing, _) => link.admit(Admit::Pairing(&PairingSecret::from_bytes([3; 32])), now),
        (_, 0) => link.admit(Admit::FirstContact(&own()), now),
        (_, 7) => link.admit(Admit::Key(&own(), &key(1)), now),
        (_, _) => link.admit(Admit::UnknownKey, now),
    }
}

impl LinkPair {
    pub(crate) fn new(proof: Proof) -> Self {
        Self::with(LinkSettings::default(), proof)
    }

    pub(crate) fn with(settings: LinkSettings, proof: Proof) -> Self {
        let part = if matches!(proof, Proof::Pairing(_)) { Part::Pairing } else { Part::Engine };
        Self::made(settings, part, proof)
    }

    pub(crate) fn of_part(part: Part, proof: Proof) -> Self {
        Self::made(LinkSettings::default(), part, proof)
    }

    fn made(settings: LinkSettings, part: Part, proof: Proof) -> Self {
        let now = start();
        let id = if part == Part::Pairing { "" } else { "CP-1" };
        Self {
            now,
            initiator: LinkEnd::new(Link::initiator(settings, part, id, proof, now)),
            responder: LinkEnd::new(Link::responder(settings, now)),
            delay: Duration::from_millis(1),
            fates: VecDeque::new(),
            admit: admit_known,
            trace: Vec::new(),
        }
    }

    /// An open pair whose responder has received a first message.
    pub(crate) fn open() -> Self {
        let mut pair = Self::new(proof());
        pair.run(Duration::from_millis(20));
        pair.initiator.link.send(b"opened", pair.now).unwrap();
        pair.run(Duration::from_millis(20));
        assert_eq!(pair.responder.messages(), [b"opened"]);
        pair.initiator.seen.clear();
        pair.responder.seen.clear();
        pair.trace.clear();
        pair
    }

    /// Lets this much time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.exchange();
            match self.next_instant() {
                Some(next) if next <= end => self.now = self.now.max(next),
                _later => break,
            }
            let now = self.now;
            self.arrive();
            for end in [&mut self.initiator, &mut self.responder] {
                if end.link.poll_timeout().is_some_and(|due| due <= now) {
                    end.link.handle_timeout(now);
                }
            }
        }
        self.now = end;
    }

    fn next_instant(&self) -> Option<Instant> {
        let ends = [&self.initiator, &self.responder];
        let arrivals = ends.iter().filter_map(|end| end.line.front().map(|(at, _)| *at));
        arrivals.chain(ends.iter().filter_map(|end| end.link.poll_timeout())).min()
    }

    /// Moves events and bytes out of both ends until there are none left.
    pub(crate) fn exchange(&mut self) {
        let now = self.now;
        loop {
            while let Some(event) = self.initiator.link.poll_event() {
                self.initiator.seen.push(event);
            }
            while let Some(event) = self.responder.link.poll_event() {
                if let Event::Hello(hello) = &event {
                    (self.admit)(&mut self.responder.link, hello, now);
                }
                self.responder.seen.push(event);
            }
            let (mut up, mut down) = (Vec::new(), Vec::new());
            let said = self.initiator.link.transmit(&mut up, now) | self.responder.link.transmit(&mut down, now);
            for (to_responder, bytes) in [(true, up), (false, down)] {
                if !bytes.is_empty() {
                    self.carry(to_responder, bytes);
                }
            }
            if !said {
                return;
            }
        }
    }

    fn carry(&mut self, to_responder: bool, bytes: Vec<u8>) {
        self.trace.push((to_responder, bytes.clone()));
        let at = self.now + self.delay;
        let fate = self.fates.pop_front().unwrap_or(Fate::Deliver);
        let end = if to_responder { &mut self.responder } else { &mut self.initiator };
        match fate {
            Fate::Deliver => end.line.push_back((at, bytes)),
            Fate::Lose => {}
            Fate::Repeat => end.line.extend([(at, bytes.clone()), (at, bytes)]),
            Fate::Corrupt(position, mask) => {
                let mut bytes = bytes;
                let position = position % bytes.len();
                bytes[position] ^= mask;
                end.line.push_back((at, bytes));
            }
            Fate::Forge(position, mask) => end.line.push_back((at, forged(&bytes, position, mask))),
            Fate::Split(size) => end.line.extend(bytes.chunks(size.max(1)).map(|piece| (at, piece.to_vec()))),
            Fate::Reorder => {
                let before = end.line.pop_back();
                end.line.push_back((at, bytes));
                end.line.extend(before.map(|(_, bytes)| (at, bytes)));
            }
            Fate::Insert(byte) => end.line.extend([(at, vec![byte; 3]), (at, bytes)]),
        }
    }

    fn arrive(&mut self) {
        let now = self.now;
        for end in [&mut self.initiator, &mut self.responder] {
            while end.line.front().is_some_and(|(at, _)| *at <= now) {
                let (_, bytes) = end.line.pop_front().unwrap();
                end.link.handle_bytes(&bytes, now);
            }
        }
    }
}

fn forged(bytes: &[u8], position: usize, mask: u8) -> Vec<u8> {
    let (mut decoder, mut input, mut out) = (Decoder::new(1 << 20), bytes, Vec::new());
    if decoder.next(&mut input) == Some(Token::Frame) {
        let mut body = decoder.take_body();
        let position = position % body.len();
        body[position] ^= mask;
        frame::encode(&body, &mut out);
    }
    out.extend_from_slice(input);
    out
}
