//! `chargemesh status`: every process of a network that `up` or `replay` runs, with what it says of itself (SPEC 7.1).

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::connection::network;
use crate::{
    output::Output,
    up::{health::examined, status::NetworkStatus},
};

/// How every role of the network in a data folder is, and why it is not ready
#[derive(Debug, Args)]
#[command(after_help = "Roles that were started one by one answer themselves:
  chargemesh ctl SOCKET status                 (their --control-socket)
  curl http://127.0.0.1:PORT/readyz            (their --admin-address)")]
pub(crate) struct StatusArgs {
    /// Its data folder
    #[arg(long, env = "CHARGEMESH_DATA", value_name = "DIR", default_value = "data")]
    data: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl StatusArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let found = network(&self.data)?;
        anyhow::ensure!(
            found.is_running(),
            "no network runs in {}; start it with `chargemesh up --data {}`",
            found.folder.display(),
            found.folder.display()
        );
        let processes = examined(found.processes.clone()).await;
        if !self.output.json {
            return self.output.list(&processes);
        }
        let NetworkStatus { pid, ready, central_grpc, central_link, registry_grpc, registry_https, .. } = found;
        let addresses = json!({
            "central_grpc": central_grpc, "central_link": central_link,
            "registry_grpc": registry_grpc, "registry_https": registry_https,
        });
        let object = json!({ "pid": pid, "ready": ready, "addresses": addresses, "processes": processes });
        self.output.sentence("", &object)
    }
}
