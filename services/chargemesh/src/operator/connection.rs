//! Where the operator's commands reach Central and Registry, and as whom: from flags and variables, else from the
//! status file of a network that `chargemesh up` or `replay` runs.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
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
};

use crate::up::status::{self, NetworkStatus};

/// How to reach a network as an operator.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct OperatorConnection {
    /// Data folder of the network that `chargemesh up` runs: addresses and the operator's identity are found there
    #[arg(long, env = "CHARGEMESH_DATA", value_name = "DIR", default_value = "data", global = true)]
    pub(crate) data: PathBuf,
    /// Central's gRPC addresses; without them those of the network in the data folder
    #[arg(long, env = "CHARGEMESH_CENTRAL", value_name = "HOST:PORT", value_delimiter = ',', global = true,
          value_parser = mesh::client::host_and_port)]
    pub(crate) central: Vec<String>,
    /// Registry's gRPC addresses; without them those of the network in the data folder
    #[arg(long, env = "CHARGEMESH_REGISTRY", value_name = "HOST:PORT", value_delimiter = ',', global = true,
          value_parser = mesh::client::host_and_port)]
    pub(crate) registry: Vec<String>,
    /// Folder with the operator's or viewer's certificate (cert.pem, key.pem, ca.pem); without it the operator's in the
    /// data folder
    #[arg(long, env = "CHARGEMESH_IDENTITY", value_name = "DIR", global = true)]
    pub(crate) identity: Option<PathBuf>,
    /// How long to wait for an answer
    #[arg(long, env = "CHARGEMESH_CALL_TIMEOUT", value_name = "DURATION", default_value = "10s", global = true,
          value_parser = mesh::duration::parse_some)]
    pub(crate) timeout: std::time::Duration,
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

    /// Of the network that is spoken to, where its addresses are found by its data folder.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        let by_folder = self.central.is_empty() && self.registry.is_empty();
        by_folder.then(|| network(&self.data).ok()).flatten().map(|network| network.folder)
    }

    fn to_central(&self) -> anyhow::Result<Channel> {
        self.channel("central", &self.central, |network| &network.central_grpc)
    }

    fn to_registry(&self) -> anyhow::Result<Channel> {
        self.channel("registry", &self.registry, |network| &network.registry_grpc)
    }

    fn channel(
        &self,
        role: &'static str,
        given: &[String],
        of_network: impl Fn(&NetworkStatus) -> &String,
    ) -> anyhow::Result<Channel> {
        let found = || network(&self.data);
        let addresses = if given.is_empty() {
            let network = found().with_context(|| {
                Misuse::new(format!(
                    "where is {role}? Start a network (chargemesh up), name its folder (--data DIR), or give --{role} \
                     HOST:PORT and --identity DIR"
                ))
            })?;
            vec![of_network(&network).clone()]
        } else {
            given.to_vec()
        };
        let identity = match &self.identity {
            Some(dir) => dir.clone(),
            None => {
                found()
                    .with_context(|| {
                        Misuse::new("as whom? Give the folder of an operator's certificate: --identity DIR")
                    })?
                    .operator_identity
            }
        };
        let identity = TlsIdentity::load(&identity).map_err(|error| Misuse::new(error.to_string()))?;
        let settings = ClientConfig { call_timeout: self.timeout, ..ClientConfig::default() };
        Ok(channel(&identity, RoleAddress::new(role, addresses), &settings))
    }
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
