//! Tests with real processes: each starts a network of its own, and its name states the rule that it shows.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on anything but what it waits for")]

mod audit;
mod backup;
mod bad_input;
mod crashes;
mod descriptors;
mod disk;
mod hostile;
mod kafka;
mod keys;
mod kills;
mod one_command;
mod operators;
mod reflection;
mod refused;
mod removal;
mod requests;
mod slow_start;
mod stalls;
mod supply_ends;
mod support;
