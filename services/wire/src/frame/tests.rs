//! The encoding of frames, byte by byte.

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
                // Where STX itself was damaged, the bytes that remain contain no raw control byte.
                let first = at == 0 && matches!(broken[0], ENQ | EOT | ACK | NACK);
                assert!(matches!(token, Token::Malformed(_)) || first, "byte {at} bit {bit}: {token:?}");
            }
        }
    }
}

#[test]
fn acknowledgements_are_heard_again_after_one_was_taken_for_the_start_of_a_frame() {
    // A bit error turned the first ACK into an STX.
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
