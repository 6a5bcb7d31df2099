//! A subcommand for each role, with the role's settings and those of every process.

use std::{future::Future, process::ExitCode};

use clap::{Args, Subcommand};
use mesh::process::{self, Context, ProcessConfig};

/// The roles; each runs as a process of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Run Central, which decides, bills and audits
    Central(Box<RoleProcess<central::Config>>),
    /// Run Registry, which enrols charging points and drivers and keeps operators
    Registry(Box<RoleProcess<registry::Config>>),
    /// Run a charging point's engine, which supplies and measures energy
    Engine(RoleProcess<charging_point::EngineConfig>),
    /// Run a charging point's monitor, which watches the engine's health and keeps identity and keys
    Monitor(RoleProcess<charging_point::MonitorConfig>),
    /// Run many simulated charging points in one process, for load tests
    Fleet(RoleProcess<charging_point::FleetConfig>),
    /// Run a driver, which requests supplies by hand, from a file or at random
    Driver(RoleProcess<driver::Config>),
}

/// The settings of a role and of its process.
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
