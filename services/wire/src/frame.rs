//! Frames and control bytes (SPEC 4.1): how bodies become bytes and back.
//!
//! Guarantees: each body has exactly one encoding, and the decoder accepts no other; a control byte never appears raw
//! within a frame, so that after any corruption the next `STX` starts a readable frame; the decoder buffers at most
//! `limit` bytes within a frame and at most a small buffer between frames.

#[cfg(test)]
mod tests;

pub const STX: u8 = 0x02;
pub const ETX: u8 = 0x03;
pub const EOT: u8 = 0x04;
pub const ENQ: u8 = 0x05;
pub const ACK: u8 = 0x06;
pub const DLE: u8 = 0x10;
pub const NACK: u8 = 0x15;
/// What an escaped byte is XORed with.
pub const ESCAPE: u8 = 0x40;

/// Between frames the decoder keeps a buffer of at most this size.
const KEPT: usize = 512;

/// One bit per control byte.
const CONTROLS: u32 = 1 << STX | 1 << ETX | 1 << EOT | 1 << ENQ | 1 << ACK | 1 << DLE | 1 << NACK;

const fn is_control(byte: u8) -> bool {
    byte < 32 && CONTROLS >> byte & 1 == 1
}

/// Appends `bytes` with every control byte escaped.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| is_control(*byte)) {
        let (plain, from) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((control, after)) = from.split_first() else { return };
        out.extend_from_slice(&[DLE, control ^ ESCAPE]);
        rest = after;
    }
    out.extend_from_slice(rest);
}

/// The longitudinal redundancy check: XOR of all bytes.
pub fn lrc(body: &[u8]) -> u8 {
    body.iter().fold(0, |lrc, byte| lrc ^ byte)
}

/// Appends the frame of a body: `STX escaped(body) ETX escaped(LRC)`.
pub fn encode(body: &[u8], out: &mut Vec<u8>) {
    out.reserve(body.len() + body.len() / 16 + 8);
    out.push(STX);
    escape(body, out);
    out.push(ETX);
    escape(&[lrc(body)], out);
}

/// Appends `ACK n` or `NACK n`; `control` is [`ACK`] or [`NACK`].
pub fn encode_counter(control: u8, counter: u8, out: &mut Vec<u8>) {
    out.push(control);
    escape(&[counter], out);
}

/// One element of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Enq,
    Eot,
    Ack(u8),
    Nack(u8),
    /// A whole frame with a correct LRC; [`Decoder::take_body`] returns its body.
    Frame,
    /// Bytes that belong to no valid frame; reported once per run of them.
    Malformed(Malformed),
}

/// Why bytes are not a valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    #[error("bytes outside a frame")]
    Garbage,
    #[error("a control byte within a frame")]
    Control,
    #[error("an escape of a byte that needs none")]
    Escape,
    #[error("the check byte is wrong")]
    Lrc,
    #[error("a frame longer than allowed")]
    TooLong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecoderState {
    /// Between frames. `garbage`: the current run of invalid bytes has been reported.
    Idle {
        garbage: bool,
    },
    /// After `ACK` or `NACK`.
    Counter {
        control: u8,
        escaped: bool,
    },
    Body {
        escaped: bool,
    },
    Check {
        escaped: bool,
    },
    /// Skips the rest of a damaged frame: up to `STX`, or up to `ETX` and its check byte.
    Lost,
    LostCheck,
}

/// Turns the stream into tokens, however the bytes are split over reads.
#[derive(Debug)]
pub struct Decoder {
    state: DecoderState,
    body: Vec<u8>,
    limit: usize,
}

impl Decoder {
    /// `limit`: the longest body accepted, in bytes.
    pub fn new(limit: usize) -> Self {
        Self { state: DecoderState::Idle { garbage: false }, body: Vec::new(), limit }
    }

    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether a frame or an acknowledgement has begun and not ended.
    pub fn is_within_a_token(&self) -> bool {
        match self.state {
            DecoderState::Counter { .. } | DecoderState::Body { .. } | DecoderState::Check { .. } => true,
            DecoderState::Idle { .. } | DecoderState::Lost | DecoderState::LostCheck => false,
        }
    }

    /// The body of the frame just reported.
    pub fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    /// Returns a body's buffer for the next frame; a large buffer is freed instead.
    pub fn reuse(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT && self.body.capacity() == 0 {
            buffer.clear();
            self.body = buffer;
        }
    }

    /// Takes the next token off the front of `input`; `None` once `input` is used up.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Token> {
        loop {
            if let DecoderState::Body { escaped: false } = self.state {
                self.plain_run(input)?;
            }
            let (&byte, rest) = input.split_first()?;
            *input = rest;
            let token = match self.state {
                DecoderState::Idle { garbage } => self.outside(byte, garbage),
                DecoderState::Counter { control, escaped } => self.counter(byte, control, escaped),
                DecoderState::Body { escaped } => self.inside(byte, escaped),
                DecoderState::Check { escaped } => self.check(byte, escaped),
                DecoderState::Lost | DecoderState::LostCheck => self.lost(byte),
            };
            if token.is_some() {
                return token;
            }
        }
    }

    /// Copies the bytes up to the next control byte in one go, up to the limit.
    fn plain_run(&mut self, input: &mut &[u8]) -> Option<()> {
        let run = input.iter().position(|byte| is_control(*byte)).unwrap_or(input.len());
        let (plain, rest) = input.split_at_checked(run.min(self.limit.saturating_sub(self.body.len())))?;
        self.body.extend_from_slice(plain);
        *input = rest;
        Some(())
    }

    fn outside(&mut self, byte: u8, garbage: bool) -> Option<Token> {
        match byte {
            STX => self.begin(),
            ACK | NACK => {
                self.state = DecoderState::Counter { control: byte, escaped: false };
                None
            }
            ENQ | EOT => {
                self.state = DecoderState::Idle { garbage: false };
                Some(if byte == ENQ { Token::Enq } else { Token::Eot })
            }
            _plain => {
                self.state = DecoderState::Idle { garbage: true };
                (!garbage).then_some(Token::Malformed(Malformed::Garbage))
            }
        }
    }

    fn begin(&mut self) -> Option<Token> {
        self.body.clear();
        self.state = DecoderState::Body { escaped: false };
        None
    }

    fn counter(&mut self, byte: u8, control: u8, escaped: bool) -> Option<Token> {
        let counter = match (escaped, byte) {
            (false, DLE) => {
                self.state = DecoderState::Counter { control, escaped: true };
                return None;
            }
            (true, byte) if is_control(byte ^ ESCAPE) => byte ^ ESCAPE,
            (false, byte) if !is_control(byte) => byte,
            (_, byte) => return self.broken(byte, Malformed::Control),
        };
        self.state = DecoderState::Idle { garbage: false };
        Some(if control == ACK { Token::Ack(counter) } else { Token::Nack(counter) })
    }

    fn inside(&mut self, byte: u8, escaped: bool) -> Option<Token> {
        let plain = match (escaped, byte) {
            (false, ETX) => {
                self.state = DecoderState::Check { escaped: false };
                return None;
            }
            (false, DLE) => {
                self.state = DecoderState::Body { escaped: true };
                return None;
            }
            (true, byte) if is_control(byte ^ ESCAPE) => byte ^ ESCAPE,
            (true, byte) if !is_control(byte) => return self.lose(Malformed::Escape),
            (false, byte) if !is_control(byte) => byte,
            (_, byte) => return self.broken(byte, Malformed::Control),
        };
        if self.body.len() >= self.limit {
            return self.lose(Malformed::TooLong);
        }
        self.body.push(plain);
        self.state = DecoderState::Body { escaped: false };
        None
    }

    fn check(&mut self, byte: u8, escaped: bool) -> Option<Token> {
        let check = match (escaped, byte) {
            (false, DLE) => {
                self.state = DecoderState::Check { escaped: true };
                return None;
            }
            (true, byte) if is_control(byte ^ ESCAPE) => byte ^ ESCAPE,
            (false, byte) if !is_control(byte) => byte,
            (_, byte) => return self.broken(byte, Malformed::Control),
        };
        self.state = DecoderState::Idle { garbage: false };
        if check == lrc(&self.body) {
            return Some(Token::Frame);
        }
        self.release();
        Some(Token::Malformed(Malformed::Lrc))
    }

    /// Handles a control byte in a place where none is allowed. An `STX` begins the next frame; any other counts as
    /// corruption, since an `EOT` that a flipped bit made must not close a link. Only within a body is there a rest of
    /// the frame to skip.
    fn broken(&mut self, byte: u8, malformed: Malformed) -> Option<Token> {
        self.release();
        self.state = match (self.state, byte) {
            (_, STX) => DecoderState::Body { escaped: false },
            (DecoderState::Body { .. }, ETX) => DecoderState::LostCheck,
            (DecoderState::Body { .. }, _) => DecoderState::Lost,
            (_, _) => DecoderState::Idle { garbage: true },
        };
        Some(Token::Malformed(malformed))
    }

    fn lose(&mut self, malformed: Malformed) -> Option<Token> {
        self.release();
        self.state = DecoderState::Lost;
        Some(Token::Malformed(malformed))
    }

    fn lost(&mut self, byte: u8) -> Option<Token> {
        match (self.state, byte) {
            (_, STX) => return self.begin(),
            (DecoderState::LostCheck, DLE) => {}
            (DecoderState::LostCheck, _) => self.state = DecoderState::Idle { garbage: true },
            (_, ETX) => self.state = DecoderState::LostCheck,
            // None of these can be part of a frame's rest: the frame has ended, or there never was one.
            (_, ACK | NACK | ENQ | EOT) => return self.outside(byte, true),
            _still_lost => {}
        }
        None
    }

    fn release(&mut self) {
        let buffer = self.take_body();
        self.reuse(buffer);
    }
}
