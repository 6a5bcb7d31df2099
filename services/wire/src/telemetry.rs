//! Seals readings under a key of their own (SPEC 4.5, 5.2), so that they can be relayed without being decrypted, over
//! the link or over Kafka; and detects readings that were repeated, lost or reordered on the way (SPEC 5.4).
//!
//! ```text
//! key        HKDF-SHA256(salt "chargemesh/1", link key, info "telemetry" ‖ stream_id)
//! nonce      00 00 00 00 ‖ sequence (8, big endian)
//! data       stream_id (16) ‖ key_no (8) ‖ sequence (8) ‖ charging point id (the rest)
//! ciphertext AES-256-GCM of the protobuf `Reading`, tag at the end
//! ```
//!
//! `stream_id` is a new random value at each start of the engine and the sequence rises within the stream, so no nonce
//! is used twice. A [`Sealer`] refuses a sequence that does not rise: to repeat a reading, keep its sealed form.
//!
//! Guarantees of the [`Opener`]: it returns a reading at most once; only a reading that decrypts changes its state, so
//! that a sender without the key cannot shift the replay window; its counts cover what it has received, and a stream
//! that it joins late starts at the first reading received. It trusts the sender no further: what is longer than a
//! reading can be is not looked at, and a sequence that leaps counts no more readings as missing than its caller allows.

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, fmt};

use prost::Message as _;
use proto::link::v1::{Reading, SealedReading};
use ring::aead::{Aad, LessSafeKey};

use crate::{
    key::LinkKey,
    seal::{aead_key, nonce},
};

/// Size of the replay window: within it a late reading can be told from a repeated one.
const WINDOW: u64 = 1024;
/// Number of streams whose key and replay window are kept; a key rotation and a restart of the engine overlap two.
const STREAMS: usize = 4;
/// Number of ended streams whose highest sequence is remembered.
const ENDED: usize = 64;
/// Longest ciphertext of a reading: twice the numbers and the id that one has, as room for fields to come.
const LONGEST_CIPHERTEXT: usize = 1024;
/// Longest id of a session in a reading, in bytes.
const LONGEST_SESSION_ID: usize = 128;

/// The sending end, at the engine.
pub struct Sealer {
    key: LessSafeKey,
    key_no: u64,
    stream_id: [u8; 16],
    charging_point: String,
    last: u64,
    spoiled: bool,
}

/// A reading that must not be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("reading {0} does not rise above {1}, the last one sealed: repeat it in its sealed form")]
    Sequence(u64, u64),
    #[error("the cipher refused")]
    Cipher,
}

impl Sealer {
    pub fn new(key: &LinkKey, key_no: u64, charging_point: &str, stream_id: [u8; 16]) -> Self {
        let key = aead_key(&key.telemetry(&stream_id));
        Self { key, key_no, stream_id, charging_point: charging_point.to_owned(), last: 0, spoiled: false }
    }

    /// Seals a reading, whose sequence must be above every one sealed before; the first is at least 1.
    pub fn seal(&mut self, reading: &Reading) -> Result<SealedReading, SealError> {
        let sequence = reading.sequence;
        if sequence <= self.last {
            return Err(SealError::Sequence(sequence, self.last));
        }
        self.last = sequence;
        let mut ciphertext = reading.encode_to_vec();
        let data = associated_data(&self.stream_id, self.key_no, sequence, &self.charging_point);
        self.key
            .seal_in_place_append_tag(nonce(sequence), Aad::from(data), &mut ciphertext)
            .map_err(|ring::error::Unspecified| SealError::Cipher)?;
        if let (true, Some(last)) = (self.spoiled, ciphertext.last_mut()) {
            *last ^= 0xff;
        }
        let stream_id = self.stream_id.to_vec();
        Ok(SealedReading { stream_id, key_no: self.key_no, sequence, ciphertext: ciphertext.into() })
    }

    /// Drill (SPEC 4.8): readings sealed from now on do not decrypt, as with a spoiled key.
    pub fn spoil(&mut self) {
        self.spoiled = true;
    }

    /// Ends [`Self::spoil`].
    pub fn repair(&mut self) {
        self.spoiled = false;
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("key_no", &self.key_no).field("last", &self.last).finish_non_exhaustive()
    }
}

/// Why a reading was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OpenError {
    #[error("the reading does not decrypt: a wrong or spoiled key, or tampering")]
    DoesNotOpen,
    #[error("the reading is a duplicate, or too old to tell")]
    Duplicate,
    #[error("the sealed reading is not well formed")]
    Malformed,
}

/// Where a reading stands in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadingOrder {
    /// The first one received of its stream.
    First,
    Next,
    /// This many readings before it have not arrived, as far as that is believed.
    AfterGap(u64),
    /// It fills a gap.
    Late,
}

/// Whether a sealed reading can be one, as far as anybody sees who has no key for it.
pub fn is_well_formed(sealed: &SealedReading) -> bool {
    sealed.stream_id.len() == 16 && sealed.ciphertext.len() <= LONGEST_CIPHERTEXT
}

/// Counts over all streams of a charging point, since the opener was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadingCounts {
    pub opened: u64,
    pub duplicates: u64,
    /// Readings that have not arrived, as far as that is believed; one that arrives late is subtracted again.
    pub missing: u64,
    pub late: u64,
    /// Readings that did not decrypt or were malformed.
    pub unintelligible: u64,
}

/// The receiving end at Central, one per charging point.
pub struct Opener {
    charging_point: String,
    streams: VecDeque<ReadingStream>,
    ended: VecDeque<([u8; 16], u64)>,
    counts: ReadingCounts,
}

struct ReadingStream {
    id: [u8; 16],
    key_no: u64,
    key: LessSafeKey,
    seen: ReplayWindow,
}

impl Opener {
    pub fn new(charging_point: &str) -> Self {
        let charging_point = charging_point.to_owned();
        Self { charging_point, streams: VecDeque::new(), ended: VecDeque::new(), counts: ReadingCounts::default() }
    }

    pub fn counts(&self) -> ReadingCounts {
        self.counts
    }

    /// Forgets the keys but not the sequences received; for use after a key was revoked or deleted.
    pub fn forget_keys(&mut self) {
        while let Some(stream) = self.streams.pop_front() {
            self.remember_end(&stream);
        }
    }

    /// Opens a reading under `key`, which must be the key that `sealed.key_no` names. Whatever sequences are sent, no
    /// more than `most_missing` readings count as missing.
    pub fn open(
        &mut self,
        sealed: &SealedReading,
        key: &LinkKey,
        most_missing: u64,
    ) -> Result<(Reading, ReadingOrder), OpenError> {
        let believed = most_missing.saturating_sub(self.counts.missing);
        let result = self.try_open(sealed, key).map(|(reading, order)| match order {
            ReadingOrder::AfterGap(missing) => (reading, ReadingOrder::AfterGap(missing.min(believed))),
            ReadingOrder::First | ReadingOrder::Next | ReadingOrder::Late => (reading, order),
        });
        match &result {
            Ok((_, order)) => {
                self.counts.opened += 1;
                match order {
                    ReadingOrder::First | ReadingOrder::Next => {}
                    ReadingOrder::AfterGap(missing) => {
                        self.counts.missing = self.counts.missing.saturating_add(*missing)
                    }
                    ReadingOrder::Late => {
                        self.counts.late += 1;
                        self.counts.missing = self.counts.missing.saturating_sub(1);
                    }
                }
            }
            Err(OpenError::Duplicate) => self.counts.duplicates += 1,
            Err(OpenError::DoesNotOpen | OpenError::Malformed) => self.counts.unintelligible += 1,
        }
        result
    }

    fn try_open(&mut self, sealed: &SealedReading, key: &LinkKey) -> Result<(Reading, ReadingOrder), OpenError> {
        let id: [u8; 16] = sealed.stream_id.as_slice().try_into().map_err(|_not_16| OpenError::Malformed)?;
        if !is_well_formed(sealed) {
            return Err(OpenError::Malformed);
        }
        if let Some((_, highest)) = self.ended.iter().find(|(ended, _)| *ended == id)
            && sealed.sequence <= *highest
        {
            return Err(OpenError::Duplicate);
        }
        let at = self.streams.iter().position(|stream| stream.id == id && stream.key_no == sealed.key_no);
        let known = at.and_then(|at| self.streams.get(at)).map(|stream| &stream.key);
        let fresh = known.is_none().then(|| aead_key(&key.telemetry(&id)));
        let reading = known.or(fresh.as_ref()).and_then(|key| self.opened(key, &id, sealed));
        let reading = reading.ok_or(OpenError::DoesNotOpen)?;
        if reading.sequence != sealed.sequence || reading.session_id.len() > LONGEST_SESSION_ID {
            return Err(OpenError::Malformed);
        }
        let order = match fresh {
            Some(key) => self.stream(id, sealed.key_no, key).and_then(|stream| stream.seen.order(sealed.sequence)),
            None => at.and_then(|at| self.streams.get_mut(at)).and_then(|stream| stream.seen.order(sealed.sequence)),
        };
        order.map(|order| (reading, order)).ok_or(OpenError::Duplicate)
    }

    fn opened(&self, key: &LessSafeKey, id: &[u8; 16], sealed: &SealedReading) -> Option<Reading> {
        let mut bytes = sealed.ciphertext.to_vec();
        let data = associated_data(id, sealed.key_no, sealed.sequence, &self.charging_point);
        let plain = key.open_in_place(nonce(sealed.sequence), Aad::from(data), &mut bytes).ok()?;
        Reading::decode(&*plain).ok()
    }

    /// The stream for a key seen for the first time: a new stream, or a known one whose replay window outlives the
    /// rotation.
    fn stream(&mut self, id: [u8; 16], key_no: u64, key: LessSafeKey) -> Option<&mut ReadingStream> {
        if let Some(at) = self.streams.iter().position(|stream| stream.id == id) {
            let stream = self.streams.get_mut(at)?;
            (stream.key_no, stream.key) = (key_no, key);
            return Some(stream);
        }
        while self.streams.len() >= STREAMS {
            let oldest = self.streams.pop_front()?;
            self.remember_end(&oldest);
        }
        let ended = self.ended.iter().find(|(ended, _)| *ended == id).map(|(_, highest)| *highest);
        let seen = ended.map_or_else(ReplayWindow::default, ReplayWindow::from);
        self.streams.push_back(ReadingStream { id, key_no, key, seen });
        self.streams.back_mut()
    }

    fn remember_end(&mut self, stream: &ReadingStream) {
        self.ended.retain(|(id, _)| *id != stream.id);
        if self.ended.len() >= ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((stream.id, stream.seen.highest));
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// Which sequences have arrived: the highest, and a ring of bits for those below it.
struct ReplayWindow {
    highest: u64,
    /// Sequences up to this one are refused: they precede this opener, or its memory of the stream.
    floor: u64,
    bits: Box<[u64; (WINDOW / 64) as usize]>,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { highest: 0, floor: 0, bits: Box::new([0; (WINDOW / 64) as usize]) }
    }
}

impl From<u64> for ReplayWindow {
    /// The window of an ended stream that goes on: everything up to `highest` counts as received.
    fn from(highest: u64) -> Self {
        Self { highest, floor: highest, ..Self::default() }
    }
}

impl ReplayWindow {
    /// Records `sequence`; `None` where it is a duplicate or too old to tell.
    fn order(&mut self, sequence: u64) -> Option<ReadingOrder> {
        if sequence == 0 || sequence <= self.floor || sequence.saturating_add(WINDOW) <= self.highest {
            return None;
        }
        if sequence <= self.highest {
            return self.set(sequence).then_some(ReadingOrder::Late);
        }
        let before = std::mem::replace(&mut self.highest, sequence);
        let passed = sequence - before;
        if passed >= WINDOW {
            self.bits.fill(0);
        } else {
            (before + 1..=sequence).for_each(|sequence| self.clear(sequence));
        }
        self.set(sequence);
        Some(match (before, passed) {
            // Readings before the first one received are not a gap: this opener did not exist yet.
            (0, _) => {
                self.floor = sequence;
                ReadingOrder::First
            }
            (_, 1) => ReadingOrder::Next,
            (_, passed) => ReadingOrder::AfterGap(passed - 1),
        })
    }

    /// Whether the bit was not set before.
    fn set(&mut self, sequence: u64) -> bool {
        let mask = 1 << (sequence % 64);
        self.word(sequence).is_some_and(|word| {
            let fresh = *word & mask == 0;
            *word |= mask;
            fresh
        })
    }

    fn clear(&mut self, sequence: u64) {
        if let Some(word) = self.word(sequence) {
            *word &= !(1 << (sequence % 64));
        }
    }

    fn word(&mut self, sequence: u64) -> Option<&mut u64> {
        self.bits.get_mut(((sequence % WINDOW) / 64) as usize)
    }
}

fn associated_data(stream_id: &[u8; 16], key_no: u64, sequence: u64, charging_point: &str) -> Vec<u8> {
    [stream_id, &key_no.to_be_bytes()[..], &sequence.to_be_bytes()[..], charging_point.as_bytes()].concat()
}
