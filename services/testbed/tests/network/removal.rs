//! Removal and readmission (SPEC 7.4): a removed charging point is out at once, and only an operator can readmit it.

use std::time::Duration;

use anyhow::Context as _;
use proto::{
    central::v1::ChargingPointState,
    link::v1::Reason,
    registry::v1::{EnrolRequest, Kind, ReadmitRequest, RemoveRequest},
};
use serde_json::{Value, json};
use testbed::{
    network::{Network, PATIENCE},
    operator::{fresh_id, parameters},
    wait::until,
};
use tokio::time::Instant;

use crate::support::{QUICK, linked, only_ticket, reserve};

/// SPEC 2.4.
const AT_ONCE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_charging_point_is_out_at_once_and_waits_until_an_operator_readmits_it_spec_7_4() -> anyhow::Result<()>
{
    let network = Network::start(&[]).await?;
    let (file, id) = (network.path("CP-1.token"), "CP-1".to_owned());
    std::fs::write(&file, network.operator.token(3).await?)?;
    let mut point =
        network.start_charging_point_with(&id, network.central_link, &file, QUICK, &["--registry-again", "200ms"])?;
    network.until_state(&id, ChargingPointState::Available).await?;
    let driver = network.driver("ana", &[]).await?;
    linked(&driver).await?;

    let (kind, removed) = (Kind::ChargingPoint.into(), Instant::now());
    let request = RemoveRequest { request_id: fresh_id(), kind, id: id.clone() };
    network.operator.identities.clone().remove(request).await?;
    until("both links to be down", PATIENCE, async || {
        let down = network.operator.audited("LINK_DOWN", "charging-point/CP-1").await.map_err(|why| why.to_string())?;
        let parts: Vec<_> =
            down.iter().filter(|entry| parameters(entry).to_string().contains(r#""key_no":"1""#)).collect();
        if parts.len() == 2 { Ok(()) } else { Err(format!("{down:?}")) }
    })
    .await?;
    assert!(removed.elapsed() < AT_ONCE, "its links ended after {:?}", removed.elapsed());
    let shown = network.shown(&id).await.expect_err("it is shown no more");
    assert!(shown.to_string().contains("CP-1"), "{shown}");
    let refused = json!({"outcome": "refused", "reason": "UNKNOWN_CHARGING_POINT"});
    driver.ask("request", json!([id])).await?;
    crate::support::until_printed(&driver, "ended", &refused).await?;
    point.until_engine("that it cannot offer anything", PATIENCE, |status| status["key_no"].is_null()).await?;

    // It waits and reports it, also after a restart, and keeps trying to enrol with its token.
    let says = |status: &Value| status["warnings"].to_string().contains("not enrolled");
    point.until_monitor("that it is not enrolled", PATIENCE, says).await?;
    let readmit = Reason::NotReadmitted.in_words();
    let needs_operator = |status: &Value| says(status) && status["enrolment_detail"].to_string().contains(readmit);
    point.until_monitor("that an operator must readmit it", PATIENCE, needs_operator).await?;
    point.monitor.restart()?;
    point.until_monitor("that an operator must readmit it", PATIENCE, needs_operator).await?;
    for token in [network.operator.token(1).await?, String::new()] {
        let request = EnrolRequest { request_id: fresh_id(), token, kind, id: id.clone(), ..Default::default() };
        let refused =
            network.operator.identities.clone().enrol(request).await.expect_err("not before he is readmitted");
        assert_eq!(mesh::status::reason_of(&refused), Some(Reason::NotReadmitted), "{refused}");
    }

    let request = ReadmitRequest { request_id: fresh_id(), kind, id: id.clone() };
    network.operator.identities.clone().readmit(request).await?;
    network.until_state(&id, ChargingPointState::Available).await?;
    reserve(&network, &point, &driver, "0.1").await?;
    point.engine("plug", Value::Null).await?;
    only_ticket(&network, &point).await.context("it works as before")?;
    Ok(())
}
