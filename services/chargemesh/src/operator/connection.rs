//! Where the operator's commands reach Central and Registry, and as whom: from flags and variables, else from the
//! status file of a network that `chargemesh up` or `replay` runs.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use mesh::{
    client::{Channel, ClientConfig, RoleAddress, channel},
    identity::TlsIdentity,
    process::Misuse,
};
use proto::{
    central::v1::{
        audit_client::AuditClient, charging_points_client::ChargingPointsClient, sessions_client::SessionsClient,
    },
    registry::v1::{identities_client::IdentitiesClient, operators_client::OperatorsClient},
    weather::v1::weather_client::WeatherClient,
};

use crate::up::status::{self, NetworkStatus};

/// How to reach a network as an operator. What a flag names is never overruled by a variable: `--data` names Central,
/// Registry and the operator, so that variables of another network count only where it is not given.
#[derive(Clone, Debug)]
pub(crate) struct OperatorConnection {
    pub(crate) data: PathBuf,
    pub(crate) central: Vec<String>,
    pub(crate) registry: Vec<String>,
    pub(crate) weather: Vec<String>,
    pub(crate) identity: Option<PathBuf>,
    pub(crate) timeout: std::time::Duration,
}

/// Whom a call is made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskedRole {
    Central,
    Registry,
    Weather,
}

/// The flags of a connection and their variables.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
struct ConnectionArgs {
    /// Data folder of the network that `chargemesh up` runs: addresses and the operator's identity are found there
    #[arg(long, env = "CHARGEMESH_DATA", value_name = "DIR", default_value = "data", global = true)]
    data: PathBuf,
    /// Central's gRPC addresses; without them those of the network in the data folder
    #[arg(long, env = "CHARGEMESH_CENTRAL", value_name = "HOST:PORT", value_delimiter = ',', global = true,
          value_parser = mesh::client::host_and_port)]
    central: Vec<String>,
    /// Registry's gRPC addresses; without them those of the network in the data folder
    #[arg(long, env = "CHARGEMESH_REGISTRY", value_name = "HOST:PORT", value_delimiter = ',', global = true,
          value_parser = mesh::client::host_and_port)]
    registry: Vec<String>,
    /// Weather's gRPC addresses; without them those of the network in the data folder
    #[arg(long = "weather", id = "weather_at", env = "CHARGEMESH_WEATHER", value_name = "HOST:PORT",
          value_delimiter = ',', global = true, value_parser = mesh::client::host_and_port)]
    weather: Vec<String>,
    /// Folder with the operator's or viewer's certificate (cert.pem, key.pem, ca.pem); without it the operator's in the
    /// data folder
    #[arg(long, env = "CHARGEMESH_IDENTITY", value_name = "DIR", global = true)]
    identity: Option<PathBuf>,
    /// How long to wait for an answer
    #[arg(long, env = "CHARGEMESH_CALL_TIMEOUT", value_name = "DURATION", default_value = "10s", global = true,
          value_parser = mesh::duration::parse_some)]
    timeout: std::time::Duration,
}

impl FromArgMatches for OperatorConnection {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let ConnectionArgs { data, mut central, mut registry, mut weather, mut identity, timeout } =
            ConnectionArgs::from_arg_matches(matches)?;
        let is_flag = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        if is_flag("data") {
            if !is_flag("central") {
                central.clear();
            }
            if !is_flag("registry") {
                registry.clear();
            }
            if !is_flag("weather_at") {
                weather.clear();
            }
            identity = identity.filter(|_| is_flag("identity"));
        }
        Ok(Self { data, central, registry, weather, identity, timeout })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for OperatorConnection {
    fn augment_args(command: Command) -> Command {
        ConnectionArgs::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        ConnectionArgs::augment_args_for_update(command)
    }
}

impl OperatorConnection {
    pub(crate) fn charging_points(&self) -> anyhow::Result<ChargingPointsClient<Channel>> {
        Ok(ChargingPointsClient::new(self.to_central()?))
    }

    pub(crate) fn sessions(&self) -> anyhow::Result<SessionsClient<Channel>> {
        Ok(SessionsClient::new(self.to_central()?))
    }

    pub(crate) fn audit(&self) -> anyhow::Result<AuditClient<Channel>> {
        Ok(AuditClient::new(self.to_central()?))
    }

    pub(crate) fn identities(&self) -> anyhow::Result<IdentitiesClient<Channel>> {
        Ok(IdentitiesClient::new(self.to_registry()?))
    }

    pub(crate) fn operators(&self) -> anyhow::Result<OperatorsClient<Channel>> {
        Ok(OperatorsClient::new(self.to_registry()?))
    }

    pub(crate) fn weather(&self) -> anyhow::Result<WeatherClient<Channel>> {
        Ok(WeatherClient::new(self.channel(AskedRole::Weather)?))
    }

    /// Of the network that is spoken to, where its addresses are found by its data folder.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        let by_folder = self.central.is_empty() && self.registry.is_empty();
        by_folder.then(|| network(&self.data).ok()).flatten().map(|network| network.folder)
    }

    fn to_central(&self) -> anyhow::Result<Channel> {
        self.channel(AskedRole::Central)
    }

    fn to_registry(&self) -> anyhow::Result<Channel> {
        self.channel(AskedRole::Registry)
    }

    /// Where a call to this role goes and as whom it is made, in words.
    ///
    /// # Errors
    /// Where the flags, variables and the data folder leave one of the two open.
    pub(crate) fn describe(&self, role: AskedRole) -> anyhow::Result<String> {
        let (addresses, identity) = (self.addresses(role)?.join(","), self.operator()?);
        Ok(format!("{} at {addresses} with {}", role.title(), identity.display()))
    }

    fn addresses(&self, role: AskedRole) -> anyhow::Result<Vec<String>> {
        let given = match role {
            AskedRole::Central => &self.central,
            AskedRole::Registry => &self.registry,
            AskedRole::Weather => &self.weather,
        };
        if !given.is_empty() {
            return Ok(given.clone());
        }
        let role_name = role.name();
        let network = network(&self.data).with_context(|| {
            Misuse::new(format!(
                "where is {role_name}? Start a network (chargemesh up), name its folder (--data DIR), or give \
                 --{role_name} HOST:PORT and --identity DIR"
            ))
        })?;
        Ok(vec![match role {
            AskedRole::Central => network.central_grpc,
            AskedRole::Registry => network.registry_grpc,
            AskedRole::Weather => weather_of(&network)?,
        }])
    }

    fn operator(&self) -> anyhow::Result<PathBuf> {
        match &self.identity {
            Some(folder) => Ok(folder.clone()),
            None => {
                let unknown = || Misuse::new("as whom? Give the folder of an operator's certificate: --identity DIR");
                Ok(network(&self.data).with_context(unknown)?.operator_identity)
            }
        }
    }

    fn channel(&self, role: AskedRole) -> anyhow::Result<Channel> {
        let addresses = self.addresses(role)?;
        let identity = TlsIdentity::load(&self.operator()?).map_err(|error| Misuse::new(error.to_string()))?;
        let settings = ClientConfig { call_timeout: self.timeout, ..ClientConfig::default() };
        Ok(channel(&identity, RoleAddress::new(role.name(), addresses), &settings))
    }
}

impl AskedRole {
    fn name(self) -> &'static str {
        match self {
            Self::Central => "central",
            Self::Registry => "registry",
            Self::Weather => "weather",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Central => "Central",
            Self::Registry => "Registry",
            Self::Weather => "Weather",
        }
    }
}

/// Weather has a new address after each start of its process, which its supervisor knows.
fn weather_of(network: &NetworkStatus) -> anyhow::Result<String> {
    let process = network.processes.iter().find(|process| process.name == "weather");
    let address = process.and_then(|process| process.addresses.get("grpc")?.as_str().map(str::to_owned));
    address.with_context(|| format!("the network in {} has no Weather that runs now", network.folder.display()))
}

/// The network of this folder, or the only one in a folder below it.
pub(crate) fn network(data: &Path) -> anyhow::Result<NetworkStatus> {
    if let Some(network) = status::read(data)? {
        return Ok(network);
    }
    let mut below = Vec::new();
    for entry in std::fs::read_dir(data).into_iter().flatten().flatten() {
        if let Some(network) = status::read(&entry.path())?.filter(NetworkStatus::is_running) {
            below.push((entry.path(), network));
        }
    }
    match below.len() {
        1 => Ok(below.remove(0).1),
        0 => Err(anyhow::anyhow!("no network keeps its state in {}", data.display())),
        _ => {
            let names: Vec<String> = below.iter().map(|(path, _)| path.display().to_string()).collect();
            Err(anyhow::anyhow!("several networks run: name one of {} with --data", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `--data` names, for each way to give the connection's settings. A variable is set in a process of its own,
    /// since tests share theirs.
    fn parsed(words: &[&str], variables: &[(&'static str, &'static str)]) -> OperatorConnection {
        let mut command = OperatorConnection::augment_args(Command::new("x"));
        for (id, value) in variables {
            // A default of the argument comes from the same place in the order of precedence as its variable: below flags.
            command = command.mut_arg(*id, |arg| arg.env(None).default_value(*value));
        }
        let unset = ["data", "central", "registry", "weather_at", "identity", "timeout"];
        for id in unset.iter().filter(|id| variables.iter().all(|(set, _)| set != *id)) {
            command = command.mut_arg(*id, |arg| arg.env(None));
        }
        let matches = command.try_get_matches_from([&["x"], words].concat()).unwrap();
        OperatorConnection::from_arg_matches(&matches).unwrap()
    }

    const FLAGS: [(&str, &[&str]); 4] = [
        ("data", &["--data", "flag"]),
        ("central", &["--central", "flag:1"]),
        ("registry", &["--registry", "flag:2"]),
        ("identity", &["--identity", "flag-id"]),
    ];
    const VARIABLES: [(&str, &str); 4] =
        [("data", "var"), ("central", "var:1"), ("registry", "var:2"), ("identity", "var-id")];

    #[test]
    fn a_flag_is_never_overruled_by_a_variable_spec_7_3() {
        // Every combination of flags with every combination of variables.
        for (flags, variables) in (0..16u8).flat_map(|flags| (0..16u8).map(move |variables| (flags, variables))) {
            let has = |set: u8, n: usize| set & (1 << n) != 0;
            let words: Vec<&str> = (0..4).filter(|n| has(flags, *n)).flat_map(|n| FLAGS[n].1.iter().copied()).collect();
            let set: Vec<_> = (0..4).filter(|n| has(variables, *n)).map(|n| VARIABLES[n]).collect();
            let got = parsed(&words, &set);
            let counts = |n: usize| has(variables, n) && !has(flags, 0);
            let expected = |n: usize, flag: &str, variable: &str| {
                if has(flags, n) {
                    flag.to_owned()
                } else if counts(n) {
                    variable.to_owned()
                } else {
                    String::new()
                }
            };
            let name = format!("flags {words:?}, variables {set:?}");
            assert_eq!(got.central.join(","), expected(1, "flag:1", "var:1"), "{name}");
            assert_eq!(got.registry.join(","), expected(2, "flag:2", "var:2"), "{name}");
            let identity = got.identity.map(|path| path.display().to_string()).unwrap_or_default();
            assert_eq!(identity, expected(3, "flag-id", "var-id"), "{name}");
            let data = if has(flags, 0) {
                "flag"
            } else if has(variables, 0) {
                "var"
            } else {
                "data"
            };
            assert_eq!(got.data.display().to_string(), data, "{name}");
        }
    }
}
