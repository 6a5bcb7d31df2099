//! The whole, with real processes: each test starts a network of its own and names the rule that it shows.

mod bad_input;
mod dies;
mod disk;
mod ends;
mod hostile;
mod keys;
mod kills;
mod operators;
mod reflection;
mod refused;
mod support;
