//! Starts `chargemesh fleet`: up to thousands of charging points in one process, for load.

use std::{collections::BTreeMap, time::Duration};

use proto::central::v1::{ChargingPoint, ChargingPointState};

use crate::{
    network::Network,
    process::{LaunchSpec, Process},
    wait::until,
};

/// Starts a fleet of `count` charging points and waits until all are AVAILABLE.
pub async fn start(network: &Network, count: usize, more: &[&str]) -> anyhow::Result<Process> {
    let file = network.path("fleet.token");
    std::fs::write(&file, network.operator.token(u32::try_from(count)?).await?)?;
    let mut args: Vec<String> = [
        "fleet",
        "--count",
        &count.to_string(),
        "--token-file",
        &file.display().to_string(),
        "--data",
        &network.path("fleet").display().to_string(),
        "--central",
        &network.central_link.to_string(),
        "--registry",
        &network.registry_https.to_string(),
        "--unattended",
    ]
    .map(str::to_owned)
    .into();
    args.extend(more.iter().map(|&word| word.to_owned()));
    let fleet = Process::start(LaunchSpec {
        name: "fleet".into(),
        args,
        env: Vec::new(),
        under: Vec::new(),
        folder: network.path("logs"),
    })?;
    until_available(network, count, count).await?;
    Ok(fleet)
}

/// Waits until `wanted` of `count` charging points are AVAILABLE.
pub async fn until_available(network: &Network, count: usize, wanted: usize) -> anyhow::Result<()> {
    let limit = Duration::from_secs(300);
    until(format_args!("{wanted} of {count} charging points to be available"), limit, async || {
        let all = list(network).await.map_err(|error| format!("{error:#}"))?;
        let available = all.values().filter(|cp| cp.state() == ChargingPointState::Available).count();
        if available >= wanted { Ok(()) } else { Err(format!("{available}")) }
    })
    .await
}

/// Every charging point that Central lists, by id.
pub async fn list(network: &Network) -> anyhow::Result<BTreeMap<String, ChargingPoint>> {
    let all = network.operator.all_charging_points().await?;
    Ok(all.into_iter().map(|cp| (cp.id.clone(), cp)).collect())
}
