//! Any bytes in any split: the same tokens as in one piece, no body past the limit, and a frame behind it all is found.
//! The first byte is the size of the pieces. `cargo +nightly fuzz run decoder`

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
    // A frame may be swallowed by one that the garbage began; a second is not.
    frame::encode(b"whole", &mut input);
    frame::encode(b"whole", &mut input);
    let whole = tokens(std::iter::once(input.as_slice()));
    assert_eq!(whole.last(), Some(&(Token::Frame, b"whole".to_vec())));
    assert_eq!(tokens(input.chunks(usize::from(size).max(1))), whole);
});
