//! Being a process among processes: what every role of chargemesh needs around its own work, so that the roles hold
//! only their own.
//!
//! * [`process`]: the start-up shell (logs, signals, tasks, exit code); [`health`], [`metrics`] on a plain admin port;
//!   [`control`] socket; [`clock`], the only reader of clocks; [`skew`], whether they
//!   agree.
//! * [`identity`]: certificate, key and roots from files, read per connection; [`certs`] makes them for development;
//!   [`principal`]: who is at the other end.
//! * [`server`] and [`client`]: the one gRPC server stack and the one client stack. [`policy`] says who may call what.
//!   [`http`]: the HTTPS door. [`status`]: the one table from reasons to gRPC codes. [`access_log`]: who logged in or was
//!   turned away, counted for the audit.
//! * [`awaited`]: what a role waits for behind open doors.
//! * [`limiter`]: bounds connections, so that no unauthenticated peer takes them all. [`screen`]: text from outside, for people.
//!
//! Architecture invariant: depends on no role and not on `store`; no plaintext is spoken but on the admin port.

pub mod access_log;
pub mod admin;
pub mod awaited;
pub mod certs;
pub mod client;
pub mod clock;
pub mod control;
pub mod duration;
pub mod health;
pub mod http;
pub mod identity;
pub mod limiter;
pub mod link;
pub mod logging;
pub mod metrics;
pub mod peer;
pub mod policy;
pub mod principal;
pub mod process;
pub mod screen;
pub mod server;
pub mod skew;
pub mod status;
mod tasks;
mod x509;

#[cfg(test)]
mod tests;
