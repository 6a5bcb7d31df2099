//! Feeds the decoder any bytes in pieces: it must return the same tokens as for one piece, no body beyond the limit,
//! and the valid frame that follows. The first byte is the size of the pieces. `cargo +nightly fuzz run decoder`

#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::frame::{self, Decoder, Token};

const LIMIT: usize = 200;

fn tokens<'a>(portions: impl Iterator<Item = &'a [u8]>) -> Vec<(Token, Vec<u8>)> {
    let (mut decoder, mut all) = (Decoder::new(LIMIT), Vec::new());
    for portion in portions {
        let mut input = portion;
        while let Some(token) = decoder.next(&mut input) {
            let body = if token == Token::Frame { decoder.take_body() } else { Vec::new() };
            assert!(body.len() <= LIMIT);
            all.push((token, body));
        }
    }
    all
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, data)) = data.split_first() else { return };
    let mut input = data.to_vec();
    // Garbage may begin a frame that swallows the first valid frame, but not the second.
    frame::encode(b"whole", &mut input);
    frame::encode(b"whole", &mut input);
    let whole = tokens(std::iter::once(input.as_slice()));
    assert_eq!(whole.last(), Some(&(Token::Frame, b"whole".to_vec())));
    assert_eq!(tokens(input.chunks(usize::from(size).max(1))), whole);
});
