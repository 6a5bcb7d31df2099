//! Central: the decisions of a charging network.

pub mod audit;
pub mod charge_point;
pub mod event;
pub mod key;
pub mod repeats;
pub mod session;
pub mod settings;
pub mod takeover;
#[cfg(test)]
mod testing;
