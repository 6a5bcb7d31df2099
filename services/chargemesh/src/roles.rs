//! A subcommand for each role: its own settings and those of every process.

use std::{future::Future, process::ExitCode};

use clap::{Args, Subcommand};
use mesh::process::{self, Context, ProcessConfig};

/// The roles; each is a process of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Run Central: decides, bills and audits
    Central(Box<RoleProcess<central::Config>>),
    /// Run Registry: enrolment, credentials, operators
    Registry(Box<RoleProcess<registry::Config>>),
    /// Run a charging point's engine: plug, meter, supply, faults
    Engine(RoleProcess<charging_point::EngineConfig>),
    /// Run a charging point's monitor: its health, its enrolment, its keys
    Monitor(RoleProcess<charging_point::MonitorConfig>),
    /// Run many charging points in one process, for load
    Fleet(RoleProcess<charging_point::FleetConfig>),
    /// Run a driver: asks for supplies by hand, from a file or by chance
    Driver(RoleProcess<driver::Config>),
}

/// A role's settings with those of its process.
#[derive(Debug, Args)]
pub(crate) struct RoleProcess<C: Args> {
    #[command(flatten)]
    config: C,
    #[command(flatten)]
    process: ProcessConfig,
}

impl Role {
    pub(crate) fn run(self) -> ExitCode {
        crate::up::process::follow_supervisor();
        match self {
            Self::Central(p) => p.start("central", central::run),
            Self::Registry(p) => p.start("registry", registry::run),
            Self::Engine(p) => p.start("engine", charging_point::run_engine),
            Self::Monitor(p) => p.start("monitor", charging_point::run_monitor),
            Self::Fleet(p) => p.start("fleet", charging_point::run_fleet),
            Self::Driver(p) => p.start("driver", driver::run),
        }
    }
}

impl<C: Args> RoleProcess<C> {
    fn start<Fut>(self, role: &'static str, run: impl FnOnce(C, Context) -> Fut) -> ExitCode
    where
        Fut: Future<Output = anyhow::Result<()>>,
    {
        process::run(role, self.process, |ctx| run(self.config, ctx))
    }
}
