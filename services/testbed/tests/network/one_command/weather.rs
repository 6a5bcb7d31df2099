//! Frost in a network of real processes (SPEC 3.5, 6, 9): Weather, Central, charging points, and an operator's drills.

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testbed::wait::until;

use super::{DetachedNetwork, PATIENCE, chargemesh};

impl DetachedNetwork {
    async fn operate(&self, args: &[&str]) -> anyhow::Result<Value> {
        let all: Vec<_> = args.iter().copied().chain(["--json", "--data", self.data()]).collect();
        let said = chargemesh(&all).await?;
        anyhow::ensure!(said.status.success(), "{args:?}: {}{}", said.out, said.err);
        Ok(serde_json::from_str(said.out.trim()).unwrap_or_default())
    }

    /// Waits until exactly these causes keep a charging point out of service.
    async fn until_causes(&self, id: &str, causes: &[&str]) -> anyhow::Result<Value> {
        let wanted: Vec<_> = causes.iter().map(|cause| json!(format!("CAUSE_{cause}"))).collect();
        until(format_args!("{id} with the causes {causes:?}"), PATIENCE, async || {
            let all = self.list("charging-points").await.map_err(|error| format!("{error:#}"))?;
            let point = all.iter().find(|point| point["id"] == json!(id));
            let point = point.filter(|point| point["causes"].as_array() == Some(&wanted)).cloned();
            point.ok_or_else(|| format!("{all:?}"))
        })
        .await
    }

    async fn drill(&self, city: &str, celsius: &str) -> anyhow::Result<()> {
        self.operate(&["cities", "override", city, "--celsius", celsius]).await.map(drop)
    }

    async fn kill_process(&self, name: &str) -> anyhow::Result<()> {
        let pid = self.process(name).await?["pid"].as_i64().context("it does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frost_blocks_a_city_and_its_end_only_what_nobody_else_has_stopped_whoever_dies_spec_6_2_6_5()
-> anyhow::Result<()> {
    let network = DetachedNetwork::new()?;
    network.start(&["--charging-points", "2", "--drivers", "0", "--weather-provider", "simulated"]).await?;
    network.until_available(2).await?;
    until("both cities to be measured", PATIENCE, async || {
        let cities = network.list("cities").await.map_err(|error| format!("{error:#}"))?;
        let fresh = |city: &Value| city["condition"]["stale"] == json!(false);
        if cities.len() == 2 && cities.iter().all(fresh) { Ok(()) } else { Err(format!("{cities:?}")) }
    })
    .await?;

    network.drill("Valencia", "-5").await?;
    let point = network.until_causes("CP-1", &["WEATHER"]).await?;
    assert_eq!(point["detail"], json!("frost in Valencia: -5.0 °C (drill)"));
    network.until_causes("CP-2", &[]).await?;
    network.operate(&["charging-points", "stop", "CP-2", "--reason", "works"]).await?;
    network.drill("Alicante", "-5").await?;
    network.until_causes("CP-2", &["OPERATOR_STOP", "WEATHER"]).await?;

    for name in ["weather", "central", "weather"] {
        network.kill_process(name).await?;
        network.until_causes("CP-1", &["WEATHER"]).await?;
    }
    until("Weather to be back", PATIENCE, async || {
        network.list("cities").await.map(drop).map_err(|error| format!("{error:#}"))
    })
    .await?;
    network.until_causes("CP-1", &["WEATHER"]).await?;
    for city in ["Valencia", "Alicante"] {
        network.operate(&["cities", "end-override", city]).await?;
    }
    network.until_causes("CP-1", &[]).await?;
    network.until_causes("CP-2", &["OPERATOR_STOP"]).await?;
    Ok(())
}
