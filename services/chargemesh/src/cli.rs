//! The tree of subcommands.

use std::{future::Future, process::ExitCode};

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::{
    backup::{BackupCommand, RestoreCommand},
    certs::Certs,
    ctl::Ctl,
    failure,
    migrate::Migrate,
    operator::{
        audit::AuditArgs,
        charging_points::ChargingPointsArgs,
        cities::CitiesArgs,
        events::EventsArgs,
        identities::{IdentitiesArgs, OperatorsArgs, TokensArgs},
        orders::OrdersArgs,
        readings::ReadingsArgs,
        sessions::{SessionsArgs, StatisticsArgs},
        status::StatusArgs,
        tickets::TicketsArgs,
    },
    replay::Replay,
    roles::{self, Role},
    up::{DownCommand, UpCommand},
};

/// A network of charging points, their drivers, and the control plane between them
///
/// Begin with `chargemesh up`: a whole network on this machine, with nothing else installed.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    max_term_width = 110,
    after_help = "\
Examples:
  chargemesh up --charging-points 4 --drivers 2     a whole network on this machine, state in ./data
  chargemesh charging-points watch                  every change of it, in another terminal
  chargemesh status                                 every process of it: state, health, and what is wrong
  chargemesh replay deploy/samples/caltech-2019-03-a.csv

Each setting is a flag and an environment variable; `chargemesh COMMAND --help` names both.
Exit codes: 0 success, 1 failure, 2 wrong usage or invalid input, 3 refused."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: RootCommand,
}

#[derive(Debug, Subcommand)]
enum RootCommand {
    #[command(flatten)]
    Role(Box<Role>),
    Up(Box<UpCommand>),
    Down(DownCommand),
    Status(StatusArgs),
    Replay(Box<Replay>),
    ChargingPoints(ChargingPointsArgs),
    Orders(OrdersArgs),
    Sessions(SessionsArgs),
    Tickets(TicketsArgs),
    Statistics(StatisticsArgs),
    Identities(IdentitiesArgs),
    Tokens(TokensArgs),
    Operators(OperatorsArgs),
    Cities(CitiesArgs),
    Audit(AuditArgs),
    Events(EventsArgs),
    Readings(ReadingsArgs),
    Ctl(Ctl),
    Migrate(Migrate),
    Backup(BackupCommand),
    Restore(RestoreCommand),
    Certs(Certs),
    /// Print a completion script for a shell
    #[command(after_help = "Example, for bash:\n  source <(chargemesh completions bash)")]
    Completions {
        shell: clap_complete::Shell,
    },
}

/// Lets flags take negative numbers, so that each flag's own parser refuses them with its own message.
fn with_negative_values(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let is_flag_with_value = !arg.is_positional() && arg.get_action().takes_values();
        if is_flag_with_value { arg.allow_negative_numbers(true) } else { arg }
    });
    command.mut_subcommands(with_negative_values)
}

impl Cli {
    /// Parses the command line; prints what is wrong with it and exits, where something is.
    pub(crate) fn read() -> Self {
        let matches = roles::with_short_help(with_negative_values(Self::command())).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            RootCommand::Role(role) => role.run(),
            RootCommand::Up(up) => up.run(),
            RootCommand::Replay(replay) => replay.run(),
            RootCommand::Down(down) => with_runtime(down.run()),
            RootCommand::Status(status) => with_runtime(status.run()),
            RootCommand::ChargingPoints(command) => with_runtime(command.run()),
            RootCommand::Orders(command) => with_runtime(command.run()),
            RootCommand::Sessions(command) => with_runtime(command.run()),
            RootCommand::Tickets(command) => with_runtime(command.run()),
            RootCommand::Statistics(command) => with_runtime(command.run()),
            RootCommand::Identities(command) => with_runtime(command.run()),
            RootCommand::Tokens(command) => with_runtime(command.run()),
            RootCommand::Operators(command) => with_runtime(command.run()),
            RootCommand::Cities(command) => with_runtime(command.run()),
            RootCommand::Audit(command) => with_runtime(command.run()),
            RootCommand::Events(command) => with_runtime(command.run()),
            RootCommand::Readings(command) => with_runtime(command.run()),
            RootCommand::Ctl(command) => with_runtime(command.run()),
            RootCommand::Migrate(command) => with_runtime(command.run()),
            RootCommand::Backup(command) => with_runtime(command.run()),
            RootCommand::Restore(command) => with_runtime(command.run()),
            RootCommand::Certs(command) => failure::exit(command.run()),
            RootCommand::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "chargemesh", &mut script);
                failure::exit(crate::output::line(&String::from_utf8_lossy(&script)))
            }
        }
    }
}

/// Runs a command that makes some calls and ends.
fn with_runtime(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    mesh::process::install_cryptography();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    failure::exit(runtime.context("cannot start the runtime").and_then(|runtime| {
        let result = runtime.block_on(work);
        runtime.shutdown_background();
        result
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_valid_and_every_subcommand_has_help_spec_1_7() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        let mut missing = Vec::new();
        walk(&command, "chargemesh", &mut missing);
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn a_number_below_its_range_is_refused_with_a_message_about_its_flag() {
        for (args, says) in [
            ("charging-points price CP-1 --to -1", "--to"),
            ("charging-points rated-power CP-1 --to -5", "--to"),
            ("charging-points stop --all --expected -1", "--expected"),
            ("tokens create --uses -1", "from 1 to"),
            ("tokens create --uses 0", "from 1 to"),
            ("tokens create --lifetime 0s", "at least 1s"),
            ("tickets settle-dispute S --reason x --owed-wh -1", "--owed-wh"),
            ("up --charging-points -1", "a number from 0 to"),
            ("up --drivers 1000000", "chargemesh fleet"),
            ("certs init --lifetime 0s", "at least 1s"),
            ("charging-points list --timeout 0s", "longer than none"),
            ("engine --tick 0s", "longer than none"),
            ("central --life-sign 0s", "longer than none"),
        ] {
            let words = std::iter::once("chargemesh").chain(args.split(' '));
            let error = with_negative_values(Cli::command()).try_get_matches_from(words).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("invalid value") && text.contains(says), "{args}: {text}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    fn walk(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            if sub.get_about().is_none() {
                missing.push(format!("{path}: about"));
            }
            walk(sub, &path, missing);
        }
    }

    #[test]
    fn every_setting_of_a_role_is_a_flag_and_a_variable_spec_1_7() {
        let mut command = Cli::command();
        command.build();
        for role in ["central", "registry", "engine", "monitor", "fleet", "driver", "up", "replay"] {
            let role = command.find_subcommand(role).unwrap();
            for arg in role.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
                let positional = arg.is_positional();
                assert!(positional || arg.get_env().is_some(), "{} {}", role.get_name(), arg.get_id());
                assert!(arg.get_help().is_some(), "{} {}", role.get_name(), arg.get_id());
            }
        }
    }
}
