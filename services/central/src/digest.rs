//! The digest by which a repeated request is told from another one under the same request id.

/// SHA-256 in hexadecimal, over each part with its length.
pub(crate) fn digest(parts: impl IntoIterator<Item = Vec<u8>>) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(&part);
    }
    hex::encode(context.finish())
}
