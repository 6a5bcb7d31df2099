//! A subcommand for each role, with the role's settings and those of every process.

use std::{future::Future, process::ExitCode};

use clap::{Args, Command, Subcommand};
use mesh::process::{self, Context, ProcessConfig};

/// The roles; each runs as a process of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Run Central, which decides, bills and audits
    Central(Box<RoleProcess<central::Config>>),
    /// Run Registry, which enrols charging points and drivers and keeps operators
    Registry(Box<RoleProcess<registry::Config>>),
    /// Run Weather, which watches the temperature of every city and reports frost to Central
    Weather(Box<RoleProcess<weather::Config>>),
    /// Run a charging point's engine, which supplies and measures energy
    Engine(RoleProcess<charging_point::EngineConfig>),
    /// Run a charging point's monitor, which watches the engine's health and keeps identity and keys
    Monitor(RoleProcess<charging_point::MonitorConfig>),
    /// Run many simulated charging points in one process, for load tests
    Fleet(RoleProcess<charging_point::FleetConfig>),
    /// Run a driver, which requests supplies by hand, from a file or at random
    Driver(RoleProcess<driver::Config>),
}

/// The settings of roles that `-h` shows, enough to run one; `--help` shows all.
const COMMON: &[&str] = &[
    // Of every process.
    "data",
    "identity",
    "central",
    "registry",
    "log-level",
    "log-format",
    "admin-address",
    "control-socket",
    // Central and Registry.
    "database",
    "grpc-address",
    "link-address",
    "https-address",
    "audit-file",
    "first-operator",
    "reservation",
    "settle-after",
    "price",
    "currency",
    "key-lifetime",
    "keep-events",
    "attempts",
    // Weather.
    "provider",
    "weather-url",
    "key-file",
    "threshold",
    "hysteresis",
    "policy",
    // Charging points and drivers.
    "id",
    "city",
    "place",
    "token",
    "token-file",
    "pairing",
    "pairing-secret-file",
    "drills",
    "unattended",
    "plug-in-after",
    "charge-for",
    "speed",
    "power",
    "battery",
    "count",
    "prefix",
    "cities",
    "file",
    "random-requests",
    "pause",
    "confirm",
    "exit-when-done",
    "json",
];

/// Leaves all settings of roles but the common ones out of `-h`.
pub(crate) fn with_short_help(mut command: Command) -> Command {
    let roles = Role::augment_subcommands(Command::new("roles"));
    for role in roles.get_subcommands() {
        command = command.mut_subcommand(role.get_name(), |role| {
            role.mut_args(|arg| {
                let is_common = arg.get_long().is_none_or(|long| COMMON.contains(&long));
                arg.hide_short_help(!is_common)
            })
        });
    }
    command
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
            Self::Weather(p) => p.start("weather", weather::run),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn flags(help: &str) -> BTreeSet<&str> {
        let words = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
        words.map(|word| word.trim_end_matches(|c: char| !c.is_ascii_lowercase())).collect()
    }

    #[test]
    fn the_short_help_of_a_role_shows_what_is_needed_to_run_it_and_the_long_one_all_spec_1_7() {
        let mut shown = BTreeSet::new();
        let mut roles = with_short_help(Role::augment_subcommands(Command::new("roles")));
        for role in roles.get_subcommands_mut() {
            let name = role.get_name().to_owned();
            let (short, long) = (role.render_help().to_string(), role.render_long_help().to_string());
            let all: Vec<_> = role.get_arguments().filter_map(|arg| arg.get_long()).collect();
            let short: BTreeSet<_> = all.iter().copied().filter(|flag| flags(&short).contains(flag)).collect();
            assert!((8..=24).contains(&short.len()), "{name}: {short:?}");
            assert!(all.iter().all(|flag| flags(&long).contains(flag)), "{name}");
            shown.extend(short.into_iter().map(str::to_owned));
        }
        assert!(COMMON.iter().all(|flag| shown.contains(*flag)), "a common setting that no role has");
    }
}
