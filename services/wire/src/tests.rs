//! The rules of SPEC 4 that take two ends to show.

mod conversation;
mod properties;
mod vectors;
