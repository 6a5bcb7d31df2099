//! Frames and control bytes (SPEC 4.1): how bodies become bytes and back.
//!
//! Guarantees: there is one encoding of a body and the decoder takes no other; a control byte never stands raw within a
//! frame, so whatever was corrupted, the next `STX` begins a frame that can be read; the decoder keeps at most
//! `limit` bytes, and none between frames beyond a small buffer.

pub const STX: u8 = 0x02;
pub const ETX: u8 = 0x03;
pub const EOT: u8 = 0x04;
pub const ENQ: u8 = 0x05;
pub const ACK: u8 = 0x06;
pub const DLE: u8 = 0x10;
pub const NACK: u8 = 0x15;
/// What an escaped byte is XORed with.
pub const ESCAPE: u8 = 0x40;

/// A decoder at rest keeps a buffer up to this size.
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

/// What stands in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Enq,
    Eot,
    Ack(u8),
    Nack(u8),
    /// A whole frame whose LRC is right; its body is [`Decoder::take_body`].
    Frame,
    /// Bytes that are no frame; reported once per run.
    Malformed(Malformed),
}

/// Why bytes are no frame.
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
enum State {
    /// Between frames. `garbage`: the present run has been reported.
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
    /// In a frame that is lost; until `STX`, or `ETX` and one byte.
    Lost,
    LostCheck,
}

/// Takes any split of the stream.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    body: Vec<u8>,
    limit: usize,
}

impl Decoder {
    /// `limit`: the longest body that is taken.
    pub fn new(limit: usize) -> Self {
        Self { state: State::Idle { garbage: false }, body: Vec::new(), limit }
    }

    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether something has begun and not ended.
    pub fn is_within_a_token(&self) -> bool {
        match self.state {
            State::Counter { .. } | State::Body { .. } | State::Check { .. } => true,
            State::Idle { .. } | State::Lost | State::LostCheck => false,
        }
    }

    /// The body of the frame just reported.
    pub fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    /// Gives a buffer back for the next frame; a large one is let go.
    pub fn reuse(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT && self.body.capacity() == 0 {
            buffer.clear();
            self.body = buffer;
        }
    }

    /// The next token, taken off the front of `input`; `None` when `input` is used up.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Token> {
        loop {
            if let State::Body { escaped: false } = self.state {
                self.plain_run(input)?;
            }
            let (&byte, rest) = input.split_first()?;
            *input = rest;
            let token = match self.state {
                State::Idle { garbage } => self.outside(byte, garbage),
                State::Counter { control, escaped } => self.counter(byte, control, escaped),
                State::Body { escaped } => self.inside(byte, escaped),
                State::Check { escaped } => self.check(byte, escaped),
                State::Lost | State::LostCheck => self.lost(byte),
            };
            if token.is_some() {
                return token;
            }
        }
    }

    /// Takes the bytes up to the next control byte at once, as far as the limit allows one more than it.
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
                self.state = State::Counter { control: byte, escaped: false };
                None
            }
            ENQ | EOT => {
                self.state = State::Idle { garbage: false };
                Some(if byte == ENQ { Token::Enq } else { Token::Eot })
            }
            _plain => {
                self.state = State::Idle { garbage: true };
                (!garbage).then_some(Token::Malformed(Malformed::Garbage))
            }
        }
    }

    fn begin(&mut self) -> Option<Token> {
        self.body.clear();
        self.state = State::Body { escaped: false };
        None
    }

    fn counter(&mut self, byte: u8, control: u8, escaped: bool) -> Option<Token> {
        let counter = match (escaped, byte) {
            (false, DLE) => {
                self.state = State::Counter { control, escaped: true };
                return None;
            }
            (true, byte) if is_control(byte ^ ESCAPE) => byte ^ ESCAPE,
            (false, byte) if !is_control(byte) => byte,
            (_, byte) => return self.broken(byte, Malformed::Control),
        };
        self.state = State::Idle { garbage: false };
        Some(if control == ACK { Token::Ack(counter) } else { Token::Nack(counter) })
    }

    fn inside(&mut self, byte: u8, escaped: bool) -> Option<Token> {
        let plain = match (escaped, byte) {
            (false, ETX) => {
                self.state = State::Check { escaped: false };
                return None;
            }
            (false, DLE) => {
                self.state = State::Body { escaped: true };
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
        self.state = State::Body { escaped: false };
        None
    }

    fn check(&mut self, byte: u8, escaped: bool) -> Option<Token> {
        let check = match (escaped, byte) {
            (false, DLE) => {
                self.state = State::Check { escaped: true };
                return None;
            }
            (true, byte) if is_control(byte ^ ESCAPE) => byte ^ ESCAPE,
            (false, byte) if !is_control(byte) => byte,
            (_, byte) => return self.broken(byte, Malformed::Control),
        };
        self.state = State::Idle { garbage: false };
        if check == lrc(&self.body) {
            return Some(Token::Frame);
        }
        self.release();
        Some(Token::Malformed(Malformed::Lrc))
    }

    /// A control byte where none may stand. An `STX` begins the next frame; any other is taken as corrupted, for an
    /// `EOT` made of a flipped bit must not close a link. Only a body has a rest to be skipped.
    fn broken(&mut self, byte: u8, malformed: Malformed) -> Option<Token> {
        self.release();
        self.state = match (self.state, byte) {
            (_, STX) => State::Body { escaped: false },
            (State::Body { .. }, ETX) => State::LostCheck,
            (State::Body { .. }, _) => State::Lost,
            (_, _) => State::Idle { garbage: true },
        };
        Some(Token::Malformed(malformed))
    }

    fn lose(&mut self, malformed: Malformed) -> Option<Token> {
        self.release();
        self.state = State::Lost;
        Some(Token::Malformed(malformed))
    }

    fn lost(&mut self, byte: u8) -> Option<Token> {
        match (self.state, byte) {
            (_, STX) => return self.begin(),
            (State::LostCheck, DLE) => {}
            (State::LostCheck, _) => self.state = State::Idle { garbage: true },
            (_, ETX) => self.state = State::LostCheck,
            // The rest of a frame holds no second one: there was no frame, or it has ended.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(decoder: &mut Decoder, mut input: &[u8]) -> Vec<(Token, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(token) = decoder.next(&mut input) {
            let body = if token == Token::Frame { decoder.take_body() } else { Vec::new() };
            all.push((token, body));
        }
        all
    }

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(body, &mut out);
        out
    }

    #[test]
    fn control_bytes_are_escaped_in_body_and_check_spec_4_1() {
        assert_eq!(frame(&[0x01, 0x20, 0x41]), [STX, 0x01, 0x20, 0x41, ETX, 0x60]);
        assert_eq!(
            frame(&[STX, ETX, EOT, ENQ, ACK, DLE, NACK]),
            [STX, DLE, 0x42, DLE, 0x43, DLE, 0x44, DLE, 0x45, DLE, 0x46, DLE, 0x50, DLE, 0x55, ETX, DLE, 0x43]
        );
        assert_eq!(frame(&[0x00, 0x10 ^ 0x30, 0x30]), [STX, 0x00, 0x20, 0x30, ETX, DLE, 0x50]);
    }

    #[test]
    fn several_tokens_come_out_of_one_read_spec_4_1() {
        let mut input = vec![ENQ];
        encode_counter(ACK, 0, &mut input);
        encode(b"first", &mut input);
        encode_counter(ACK, ACK, &mut input);
        encode(b"second", &mut input);
        encode_counter(NACK, DLE, &mut input);
        input.push(EOT);
        let all = tokens(&mut Decoder::new(64), &input);
        let kinds: Vec<_> = all.iter().map(|(token, _)| *token).collect();
        use Token::{Ack, Enq, Eot, Frame, Nack};
        assert_eq!(kinds, [Enq, Ack(0), Frame, Ack(ACK), Frame, Nack(DLE), Eot]);
        assert_eq!((all[2].1.as_slice(), all[4].1.as_slice()), (&b"first"[..], &b"second"[..]));
    }

    #[test]
    fn a_frame_is_found_after_any_garbage_spec_4_1() {
        let garbage: [&[u8]; 12] = [
            b"GET / HTTP/1.1\r\n\r\n",
            &[STX],
            &[STX, 0x01, ETX, 0x77],
            &[STX, 0x01, ETX],
            &[STX, DLE, 0x61],
            &[STX, EOT, 0x33],
            &[STX, EOT, ETX],
            &[STX, DLE],
            &[ACK],
            &[NACK, DLE],
            &[ACK, EOT],
            &[STX, 0x01, ACK, 0x02, ACK],
        ];
        for garbage in garbage {
            let mut decoder = Decoder::new(64);
            let mut all = tokens(&mut decoder, garbage);
            all.extend(tokens(&mut decoder, &frame(b"whole")));
            assert_eq!(all.pop(), Some((Token::Frame, b"whole".to_vec())), "{garbage:?}");
            assert!(all.iter().any(|(token, _)| matches!(token, Token::Malformed(_))), "{garbage:?}");
        }
    }

    #[test]
    fn no_single_flipped_bit_of_a_frame_closes_the_link_or_passes() {
        let whole = frame(&[1, 0x20, 2, 3, 4, 5, 6, 0x10, 0x15, 200, 0x44, 0x46]);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut broken = whole.clone();
                broken[at] ^= 1 << bit;
                for (token, _) in tokens(&mut Decoder::new(64), &broken) {
                    // What is left outside a frame when STX itself was hit holds no raw control byte.
                    let first = at == 0 && matches!(broken[0], ENQ | EOT | ACK | NACK);
                    assert!(matches!(token, Token::Malformed(_)) || first, "byte {at} bit {bit}: {token:?}");
                }
            }
        }
    }

    #[test]
    fn acknowledgements_are_heard_again_after_one_was_taken_for_the_start_of_a_frame() {
        // The first ACK was hit and became an STX.
        let all = tokens(&mut Decoder::new(64), &[STX, 7, ACK, 8, ACK, 9, ACK, 10]);
        let kinds: Vec<_> = all.into_iter().map(|(token, _)| token).collect();
        assert_eq!(kinds, [Token::Malformed(Malformed::Control), Token::Ack(9), Token::Ack(10)]);
    }

    #[test]
    fn a_frame_has_a_greatest_length_spec_4_1() {
        let mut decoder = Decoder::new(8);
        assert_eq!(tokens(&mut decoder, &frame(&[7; 8])), [(Token::Frame, vec![7; 8])]);
        let mut input = frame(&[7; 9]);
        input.extend(frame(&[ETX; 9]));
        let all = tokens(&mut decoder, &input);
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(|(token, _)| *token == Token::Malformed(Malformed::TooLong)));
        tokens(&mut decoder, &[&[STX][..], &[7; 100_000]].concat());
        assert!(decoder.body.capacity() <= KEPT, "what is too long is not kept");
    }
}
