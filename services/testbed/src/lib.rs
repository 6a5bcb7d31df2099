//! Test-only: whole networks of real processes, the faults that befall them, and what must hold afterwards.

pub mod invariant;
pub mod network;
pub mod operator;
pub mod peer;
pub mod process;
pub mod proxy;
pub mod wait;
