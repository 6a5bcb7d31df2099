//! The stacks against each other, over real sockets, with an authority of their own.

mod access_log;
mod authorization;
mod awaited;
mod doors;
mod identity;
mod lifecycle;
mod network;
mod process;
mod reach;
mod services;
