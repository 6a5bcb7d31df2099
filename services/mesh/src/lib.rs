//! What every role of chargemesh needs to run as a process among processes, so that the roles contain only their own
//! work.
//!
//! * [`process`]: the start-up shell (logs, signals, tasks, exit code); [`health`], [`metrics`] on a plain admin port;
//!   [`control`] socket; [`clock`], the only place that reads clocks; [`skew`], whether hosts' clocks
//!   agree.
//! * [`identity`]: certificate, key and roots from files, read per connection; [`certs`] makes them for development;
//!   [`principal`] is the authenticated caller of a connection.
//! * [`server`] and [`client`]: the one gRPC server stack and the one client stack. [`policy`] says who may call what.
//!   [`http`]: the HTTPS server. [`status`]: a refusal's reason as a gRPC status. [`access_log`]: logins and
//!   refused callers, counted for the audit.
//! * [`field_checks`] and [`paging`]: what is wrong with a request, field by field, and the pages of a list.
//! * [`kafka`]: what leaves the network for others to read: readings and events.
//! * [`awaited`]: a dependency that a role may have to wait for while it already listens.
//! * [`limiter`]: bounds connections, so that no unauthenticated peer takes them all; [`descriptors`]: which part of a
//!   process's descriptors each kind of connection may take; [`rate`]: how often something may
//!   happen. [`screen`]: makes text from
//!   outside safe to display.
//!
//! Architecture invariant: depends on no role and not on `store`; only the admin port is in plain text.

pub mod access_log;
pub mod admin;
pub mod awaited;
pub mod certs;
pub mod client;
pub mod clock;
pub mod control;
pub mod data_folder;
pub mod descriptors;
pub mod duration;
pub mod field_checks;
pub mod health;
pub mod http;
pub mod identity;
pub mod kafka;
pub mod limiter;
pub mod link;
pub mod logging;
pub mod metrics;
pub mod paging;
pub mod peer;
pub mod policy;
pub mod principal;
pub mod process;
pub mod rate;
pub mod screen;
pub mod server;
pub mod skew;
pub mod status;
mod tasks;
mod x509;

#[cfg(test)]
mod tests;
