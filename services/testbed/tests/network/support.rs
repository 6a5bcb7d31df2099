//! The beginning of most tests: a network with a charging point and a driver, and supplies.

use std::time::Duration;

use anyhow::Context as _;
use proto::central::v1::{ChargingPointState, SessionState, Ticket};
use serde_json::{Value, json};
use testbed::{
    network::{Network, PATIENCE, TestDriver, TestPoint},
    operator::{active_session, energy_wh},
    wait::until,
};

/// A virtual car that draws so much power that energy flows within a second.
pub(crate) const QUICK: &[&str] = &["--power", "350000", "--ramp", "350000", "--battery", "1000000"];

/// A network with one charging point and one driver.
pub(crate) async fn one_of_each(central: &[&str], engine: &[&str]) -> anyhow::Result<(Network, TestPoint, TestDriver)> {
    let network = Network::start(central).await?;
    let engine: Vec<&str> = QUICK.iter().chain(engine).copied().collect();
    let point = network.charging_point_at("CP-1", network.central_link, &engine, &[]).await?;
    let driver = network.driver("ana", &[]).await?;
    linked(&driver).await?;
    Ok((network, point, driver))
}

/// Waits until the driver has an open link.
pub(crate) async fn linked(driver: &TestDriver) -> anyhow::Result<()> {
    driver.until("linked", PATIENCE, |status| status["linked"] == json!(true)).await.map(drop)
}

/// Requests a supply and waits until the charging point is reserved. Without kWh it lasts until unplugged.
pub(crate) async fn reserve(
    network: &Network,
    point: &TestPoint,
    driver: &TestDriver,
    kwh: &str,
) -> anyhow::Result<()> {
    let wish = if kwh.is_empty() { json!([point.id]) } else { json!([point.id, kwh]) };
    driver.ask("request", wish).await?;
    network.until_state(&point.id, ChargingPointState::Reserved).await?;
    Ok(())
}

/// Requests a supply, plugs in, and waits until energy flows. Answers the session's id.
pub(crate) async fn supply(
    network: &Network,
    point: &TestPoint,
    driver: &TestDriver,
    kwh: &str,
) -> anyhow::Result<String> {
    reserve(network, point, driver, kwh).await?;
    plug(network, point).await
}

/// Plugs in, and waits until energy flows. Answers the session's id.
pub(crate) async fn plug(network: &Network, point: &TestPoint) -> anyhow::Result<String> {
    point.engine("plug", Value::Null).await?;
    let cp = network
        .until_shown(&point.id, "SUPPLYING with energy", PATIENCE, |cp| {
            cp.state() == ChargingPointState::Supplying && energy_wh(cp) > 0
        })
        .await?;
    Ok(active_session(&cp))
}

/// The one ticket of a charging point that had one session, checked against its session and its meter.
pub(crate) async fn only_ticket(network: &Network, point: &TestPoint) -> anyhow::Result<Ticket> {
    let tickets = network.until_tickets(&point.id, 1).await?;
    anyhow::ensure!(tickets.len() == 1, "more than one bill: {tickets:?}");
    let ticket = tickets.into_iter().next().context("no ticket")?;
    let billed = ticket.meter_end_wh - ticket.meter_start_wh;
    anyhow::ensure!(ticket.energy_wh + ticket.disputed_wh == billed, "a bill is end minus start: {ticket:?}");
    Ok(ticket)
}

/// Waits until the session is in this state.
pub(crate) async fn until_session(
    network: &Network,
    session: &str,
    state: SessionState,
    limit: Duration,
) -> anyhow::Result<()> {
    until(format_args!("session {session} to be {state:?}"), limit, async || {
        let all = network.operator.all_sessions().await.map_err(|error| format!("{error:#}"))?;
        match all.iter().find(|one| one.id == session) {
            Some(found) if found.state() == state => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// Waits until the driver has printed this event with these fields.
pub(crate) async fn until_printed(driver: &TestDriver, event: &str, fields: &Value) -> anyhow::Result<Value> {
    until(format_args!("driver {} to be told {event} {fields}", driver.id), PATIENCE, async || {
        let printed = driver.printed();
        let found = printed.iter().find(|line| {
            line["event"] == json!(event)
                && fields.as_object().is_none_or(|fields| fields.iter().all(|(name, value)| &line[name] == value))
        });
        found.cloned().ok_or_else(|| format!("{:?}", printed.iter().rev().take(5).collect::<Vec<_>>()))
    })
    .await
}
