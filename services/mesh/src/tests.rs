//! Server and client stacks over real sockets, with a certificate authority of their own.

mod access_log;
mod authorization;
mod awaited;
mod identity;
mod lifecycle;
mod limits;
mod network;
mod process;
mod reach;
mod services;
