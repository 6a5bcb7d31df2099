//! For tests only: networks of real processes, faults to inject into them, and the invariants that must hold afterwards.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on anything but what it waits for")]

pub mod fleet;
pub mod invariant;
pub mod kafka;
pub mod network;
pub mod operator;
pub mod peer;
pub mod process;
pub mod proxy;
pub mod wait;
