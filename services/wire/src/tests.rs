//! The rules of SPEC 4 that involve both ends of a link.

mod conversation;
mod properties;
mod vectors;
