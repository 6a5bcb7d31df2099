//! The whole, with real processes: each test starts a network of its own and names the rule that it shows.

mod dies;
mod ends;
mod keys;
mod support;
