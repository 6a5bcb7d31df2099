//! Kinds of frames: the second byte of a body.

/// Protobuf `Hello`, in clear.
pub const HELLO: u8 = 0x10;
/// A message of the handshake, as Noise makes it.
pub const HANDSHAKE: u8 = 0x11;
/// Protobuf `Busy`, in clear.
pub const BUSY: u8 = 0x12;
/// Protobuf `UnknownKey`, in clear.
pub const UNKNOWN_KEY: u8 = 0x13;
/// Sequence (8 bytes, big endian), ciphertext, tag.
pub const SEALED: u8 = 0x20;
