//! The one binary of chargemesh: a subcommand for each role, `up` and `replay` for a whole network, and the operator's
//! commands.
//!
//! Exit codes: 0 done; 1 failed; 2 wrong use or bad input; 3 understood and refused.

mod backup;
mod certs;
mod cli;
mod ctl;
mod failure;
mod migrate;
mod operator;
mod output;
mod replay;
mod roles;
mod up;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::Cli::read().run()
}
