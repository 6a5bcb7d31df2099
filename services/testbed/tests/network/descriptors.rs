//! A process that may open few files (SPEC 9): connections never take those that the database, files and operators need.

use anyhow::ensure;
use proto::central::v1::ChargingPointState;
use testbed::{
    network::{Network, PATIENCE},
    operator::order,
    wait::until,
};
use tokio::net::TcpStream;

const SAID: &str = "all links are taken";

#[tokio::test(flavor = "multi_thread")]
async fn a_central_that_may_open_few_files_says_once_that_links_are_taken_and_serves_operators_spec_9()
-> anyhow::Result<()> {
    let mut network = Network::start(&[]).await?;
    network.central.spec_mut().under = ["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""].map(str::to_owned).to_vec();
    network.restart_central().await?;
    let _point = network.charging_point("CP-1").await?;
    let mut held = Vec::new();
    for _ in 0..400 {
        held.push(TcpStream::connect(network.central_link).await?);
    }
    until("Central to say that its links are taken", PATIENCE, async || {
        if network.central.log().contains(SAID) { Ok(()) } else { Err("not said".to_owned()) }
    })
    .await?;
    // An operator's order is written and audited, and the linked charging point hears of it.
    network.operator.charging_points.clone().stop(order(&["CP-1"])).await?;
    network.until_state("CP-1", ChargingPointState::OutOfOrder).await?;
    let log = network.central.log();
    ensure!(log.matches(SAID).count() == 1, "it is said once");
    ensure!(!log.contains("Too many open files"), "descriptors are left");
    drop(held);
    network.operator.charging_points.clone().resume(order(&["CP-1"])).await?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    Ok(())
}
