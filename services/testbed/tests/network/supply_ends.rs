//! Every end of a supply (SPEC 3.5), and the ticket that follows.

use anyhow::Context as _;
use proto::{
    central::v1::{
        ChargingPointState, CorrectTicketRequest, EndSessionRequest, SessionState, SetRatedPowerRequest,
        SettleDisputeRequest,
    },
    link::v1::Reason,
};
use serde_json::{Value, json};
use testbed::{
    network::{Network, PATIENCE},
    operator::{active_session, ended_by, energy_wh, fresh_id, order, parameters, select},
    proxy::{Proxy, ProxyFaults},
    wait::until,
};

use crate::support::{QUICK, linked, one_of_each, only_ticket, plug, reserve, supply, until_printed, until_session};

/// A car that plugs in without a command.
const UNATTENDED: &[&str] = &["--unattended", "--plug-in-after", "100ms"];

#[tokio::test(flavor = "multi_thread")]
async fn unplugging_ends_a_supply_with_one_ticket_spec_3_5() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &point, &driver, "").await?;
    point.engine("unplug", Value::Null).await?;
    let ticket = only_ticket(&network, &point).await?;
    assert_eq!(ended_by(&ticket), Reason::Unplugged);
    assert_eq!(ticket.meter_end_wh, point.meter_wh().await?, "the bill ends where the register stands");
    assert_eq!((ticket.driver_id.as_str(), ticket.place.as_str()), ("ana", "Place of CP-1"));
    until_printed(&driver, "ticket", &json!({})).await?;
    network.until_state(&point.id, ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_ends_his_supply_with_one_ticket_spec_3_5() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &point, &driver, "").await?;
    driver.ask("stop", Value::Null).await?;
    assert_eq!(ended_by(&only_ticket(&network, &point).await?), Reason::StoppedByDriver);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_requested_energy_ends_a_supply_with_exactly_that_energy_spec_3_5() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    reserve(&network, &point, &driver, "0.25").await?;
    point.engine("plug", Value::Null).await?;
    let ticket = only_ticket(&network, &point).await?;
    assert_eq!((ended_by(&ticket), ticket.energy_wh), (Reason::EnergyReached, 250));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_stop_ends_the_supply_now_and_resume_makes_it_available_again_spec_3_5_7_1() -> anyhow::Result<()>
{
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &point, &driver, "").await?;
    let mut orders = network.operator.charging_points.clone();
    orders.stop(order(&["CP-1"])).await?;
    assert_eq!(ended_by(&only_ticket(&network, &point).await?), Reason::StoppedByOperator);
    let shown = network.until_state(&point.id, ChargingPointState::OutOfOrder).await?;
    let detail = shown.detail;
    assert!(detail.contains("olga"), "who stopped it is shown: {detail:?}");
    orders.resume(order(&["CP-1"])).await?;
    network.until_state(&point.id, ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_one_session_and_the_charging_point_stays_in_service_spec_3_5() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    let session_id = supply(&network, &point, &driver, "").await?;
    let request = EndSessionRequest { request_id: fresh_id(), session_id };
    network.operator.sessions.clone().end(request).await?;
    assert_eq!(ended_by(&only_ticket(&network, &point).await?), Reason::StoppedByOperator);
    network.until_state(&point.id, ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_ends_the_supply_and_shows_broken_until_repaired_spec_3_5() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &point, &driver, "").await?;
    point.engine("break", Value::Null).await?;
    assert_eq!(ended_by(&only_ticket(&network, &point).await?), Reason::Fault);
    network.until_state(&point.id, ChargingPointState::Broken).await?;
    point.engine("repair", Value::Null).await?;
    point.engine("unplug", Value::Null).await?;
    network.until_state(&point.id, ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_waits_for_the_end_of_a_supply_spec_3_5() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &point, &driver, "").await?;
    point.monitor("maintenance", json!(["on"])).await?;
    network.until_state(&point.id, ChargingPointState::Supplying).await?;
    point.engine("unplug", Value::Null).await?;
    assert_eq!(ended_by(&only_ticket(&network, &point).await?), Reason::Unplugged);
    network.until_state(&point.id, ChargingPointState::OutOfOrder).await?;
    point.monitor("maintenance", json!(["off"])).await?;
    network.until_state(&point.id, ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_and_revocation_of_the_key_end_the_supply_with_one_ticket_each_spec_3_5_4_7() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&["--settle-after", "12s"], &[]).await?;
    supply(&network, &point, &driver, "").await?;
    network.operator.charging_points.clone().renew(order(&["CP-1"])).await?;
    assert_eq!(ended_by(&only_ticket(&network, &point).await?), Reason::KeyRenewed);
    point.engine("unplug", Value::Null).await?;
    network.until_state(&point.id, ChargingPointState::Available).await?;

    // A revoked charging point can report nothing, so its session is settled at the last accepted value.
    supply(&network, &point, &driver, "").await?;
    network.operator.charging_points.clone().revoke(order(&["CP-1"])).await?;
    let tickets = network.until_tickets(&point.id, 2).await?;
    assert!(tickets.iter().any(|ticket| ended_by(ticket) == Reason::KeyRevoked), "{tickets:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_expires_is_released_without_a_ticket_spec_2_2_3_2() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&["--reservation", "1s"], &[]).await?;
    driver.ask("request", json!([point.id])).await?;
    until_printed(&driver, "ended", &json!({"outcome": "released", "reason": "RESERVATION_EXPIRED"})).await?;
    network.until_state(&point.id, ChargingPointState::Available).await?;
    assert_eq!(network.operator.all_tickets().await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_supply_for_a_named_driver_waits_for_the_drivers_confirmation_spec_3_1() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    // A supply on the charging point's own account needs no driver.
    point.engine("supply", json!(["0.1"])).await?;
    network.until_state(&point.id, ChargingPointState::Reserved).await?;
    point.engine("plug", Value::Null).await?;
    let ticket = only_ticket(&network, &point).await?;
    assert_eq!(ticket.driver_id, "", "billed to the charging point's own account");
    point.engine("unplug", Value::Null).await?;
    network.until_state(&point.id, ChargingPointState::Available).await?;

    point.engine("supply", json!(["ana", "0.1"])).await?;
    driver.until("asked to confirm", PATIENCE, |status| status["to_confirm"] != json!([])).await?;
    network.until_state(&point.id, ChargingPointState::Available).await?;
    driver.ask("refuse", Value::Null).await?;
    driver.until("nothing to confirm", PATIENCE, |status| status["to_confirm"] == json!([])).await?;

    point.until_engine("nothing pending", PATIENCE, |status| status["manual_pending"] == json!(false)).await?;
    point.engine("supply", json!(["ana", "0.1"])).await?;
    driver.until("asked to confirm", PATIENCE, |status| status["to_confirm"] != json!([])).await?;
    driver.ask("confirm", Value::Null).await?;
    network.until_state(&point.id, ChargingPointState::Reserved).await?;
    point.engine("plug", Value::Null).await?;
    let tickets = network.until_tickets(&point.id, 2).await?;
    assert_eq!(tickets.iter().filter(|ticket| ticket.driver_id == "ana").count(), 1, "{tickets:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn energy_past_the_rated_power_is_disputed_until_an_operator_settles_it_spec_3_8() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    let request = SetRatedPowerRequest {
        request_id: fresh_id(),
        selector: Some(select(&["CP-1"])),
        rated_power_w: Some(1_000),
        ..Default::default()
    };
    network.operator.charging_points.clone().set_rated_power(request).await?;
    reserve(&network, &point, &driver, "0.5").await?;
    point.engine("plug", Value::Null).await?;
    let ticket = only_ticket(&network, &point).await?;
    assert!(ticket.disputed_wh > 400, "500 Wh within seconds is far past 1 kW: {ticket:?}");
    let request = SettleDisputeRequest {
        request_id: fresh_id(),
        session_id: ticket.session_id.clone(),
        owed_wh: Some(100),
        reason: "the meter was replaced".into(),
    };
    let settled = network.operator.sessions.clone().settle_dispute(request.clone()).await?.into_inner();
    assert_eq!(settled.corrections.len(), 1);
    let correction = &settled.corrections[0];
    assert_eq!((correction.operator.as_str(), correction.energy_delta_wh), ("olga", 100));
    let again = network.operator.sessions.clone().settle_dispute(request).await?.into_inner();
    assert_eq!(again.corrections.len(), 1, "the same request id changes nothing more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_corrected_only_by_a_new_entry_with_operator_and_reason_spec_3_8() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    reserve(&network, &point, &driver, "0.2").await?;
    point.engine("plug", Value::Null).await?;
    let ticket = only_ticket(&network, &point).await?;
    let request = CorrectTicketRequest {
        request_id: fresh_id(),
        session_id: ticket.session_id.clone(),
        energy_delta_wh: -50,
        amount_delta_minor: -2,
        reason: "cable loss".into(),
    };
    let corrected = network.operator.sessions.clone().correct_ticket(request).await?.into_inner();
    assert_eq!((corrected.energy_wh, corrected.amount_minor), (ticket.energy_wh, ticket.amount_minor));
    assert_eq!(corrected.corrections.len(), 1);
    assert_eq!(corrected.corrections[0].reason, "cable loss");
    let audited = network.operator.audited("TICKET_CORRECTED", "").await?;
    assert_eq!(audited.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_says_why_spec_3_2() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    let refused = |reason: &'static str| json!({"outcome": "refused", "reason": reason});
    driver.ask("request", json!(["CP-404"])).await?;
    until_printed(&driver, "ended", &refused("UNKNOWN_CHARGING_POINT")).await?;

    let other = network.driver("bea", &[]).await?;
    linked(&other).await?;
    reserve(&network, &point, &driver, "").await?;
    other.ask("request", json!([point.id])).await?;
    until_printed(&other, "ended", &refused("RESERVED")).await?;
    plug(&network, &point).await?;
    other.ask("request", json!([point.id])).await?;
    until_printed(&other, "ended", &refused("OCCUPIED")).await?;

    let second = network.charging_point("CP-2").await?;
    driver.ask("request", json!([second.id])).await?;
    until_printed(&driver, "ended", &refused("DRIVER_BUSY")).await?;
    network.operator.charging_points.clone().stop(order(&["CP-2"])).await?;
    network.until_state("CP-2", ChargingPointState::OutOfOrder).await?;
    other.ask("request", json!([second.id])).await?;
    until_printed(&other, "ended", &refused("OUT_OF_ORDER")).await?;

    let third = network.charging_point("CP-3").await?;
    third.engine("break", Value::Null).await?;
    network.until_state("CP-3", ChargingPointState::Broken).await?;
    other.ask("request", json!([third.id])).await?;
    until_printed(&other, "ended", &refused("BROKEN")).await?;

    let mut fourth = network.charging_point("CP-4").await?;
    fourth.monitor.kill();
    network.until_state("CP-4", ChargingPointState::Disconnected).await?;
    other.ask("request", json!([fourth.id])).await?;
    until_printed(&other, "ended", &refused("DISCONNECTED")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_charging_point_itself_may_refuse_a_request_before_it_is_reserved_spec_3_2() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    // This monitor's life signs are so rare that Central does not miss them yet; the engine does within two seconds.
    let slow = ["--life-sign", "20s"];
    let point = network.charging_point_at("CP-1", network.central_link, QUICK, &slow).await?;
    let driver = network.driver("ana", &[]).await?;
    linked(&driver).await?;
    point.monitor.freeze()?;
    point.until_engine("that its monitor is gone", PATIENCE, |s| s["monitor"]["reachable"] == json!(false)).await?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    driver.ask("request", json!(["CP-1"])).await?;
    let over = until_printed(&driver, "ended", &json!({"reason": "REFUSED_BY_CHARGING_POINT"})).await?;
    assert!(over["detail"].to_string().contains("the monitor is gone"), "in the engine's words: {over}");
    assert_eq!(network.operator.all_sessions().await?, [], "nothing was reserved");
    point.monitor.thaw()?;
    point.until_engine("that its monitor is back", PATIENCE, |s| s["monitor"]["reachable"] == json!(true)).await?;
    reserve(&network, &point, &driver, "0.1").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_who_was_away_gets_his_ticket_when_back_spec_3_9() -> anyhow::Result<()> {
    let (network, point, mut driver) = one_of_each(&[], &[]).await?;
    supply(&network, &point, &driver, "").await?;
    driver.process.kill();
    point.engine("unplug", Value::Null).await?;
    let ticket = only_ticket(&network, &point).await?;
    driver.process.restart()?;
    until_printed(&driver, "ticket", &json!({})).await?;
    let tickets = driver.ask("tickets", Value::Null).await?;
    assert!(tickets.to_string().contains(&ticket.session_id), "{tickets}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_continues_after_a_refusal_and_a_fault_and_reports_invalid_lines_spec_3_10() -> anyhow::Result<()> {
    let (network, point, _) = one_of_each(&[], UNATTENDED).await?;
    let engine: Vec<&str> = QUICK.iter().chain(UNATTENDED).copied().collect();
    let _second = network.charging_point_at("CP-2", network.central_link, &engine, &[]).await?;
    let file = network.path("requests.txt");
    // The long supply of line 6 is interrupted; line 7 finds the charging point BROKEN.
    std::fs::write(&file, "# a plan\nCP-404\nCP-1,0.1\nnot a line at all\nCP-1,much\nCP-1,100\nCP-1,0.2\nCP-2,0.3\n")?;
    let path = file.display().to_string();
    let mut driver = network.driver("carl", &["--file", &path, "--pause", "200ms", "--exit-when-done"]).await?;
    network.until_tickets(&point.id, 1).await?;
    let supplying = network
        .until_shown(&point.id, "supplying the long one", PATIENCE, |cp| {
            cp.state() == ChargingPointState::Supplying && energy_wh(cp) > 0
        })
        .await?;
    point.engine("break", Value::Null).await?;
    assert_eq!(driver.process.exit_code(PATIENCE * 2).await?, 0);

    // The fault is reported at once; the ticket may come before or after the next request.
    until_printed(&driver, "step", &json!({"progress": "fault"})).await?;
    let over: Vec<_> = driver
        .printed()
        .iter()
        .filter(|line| line["event"] == json!("ended"))
        .map(|line| (line["line"].as_u64(), line["reason"].as_str().map(str::to_owned)))
        .collect();
    let refused = |reason: &str| Some(reason.to_owned());
    let wanted = [
        (Some(2), refused("UNKNOWN_CHARGING_POINT")),
        (Some(3), None),
        (Some(6), None),
        (Some(7), refused("BROKEN")),
        (Some(8), None),
    ];
    assert_eq!(over, wanted);
    let tickets = network.operator.all_tickets().await?;
    assert_eq!(tickets.len(), 3, "{tickets:?}");
    let session = active_session(&supplying);
    let broken_off = tickets.iter().find(|ticket| ticket.session_id == session).context("no ticket of the fault")?;
    assert_eq!(ended_by(broken_off), Reason::Fault);
    let mut whole: Vec<u64> =
        tickets.iter().filter(|ticket| ticket.session_id != session).map(|ticket| ticket.energy_wh).collect();
    whole.sort_unstable();
    assert_eq!(whole, [100, 300]);
    let bad: Vec<u64> = driver
        .printed()
        .iter()
        .filter(|line| line["event"] == json!("bad_line"))
        .filter_map(|line| line["line"].as_u64())
        .collect();
    assert_eq!(bad, [4, 5]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_never_returns_is_settled_and_a_late_value_is_a_discrepancy_spec_3_8() -> anyhow::Result<()> {
    let network = Network::start(&["--settle-after", "3s"]).await?;
    let proxy = Proxy::start(network.central_link, 8, 0).await?;
    let engine: Vec<&str> = QUICK.iter().chain(&["--register-every", "50ms"]).copied().collect();
    let mut point = network.charging_point_at("CP-1", proxy.address(), &engine, &[]).await?;
    let driver = network.driver("ana", &[]).await?;
    linked(&driver).await?;
    let session = supply(&network, &point, &driver, "").await?;
    // Energy that is supplied while the connection is cut is known only to the engine's journal.
    proxy.set(ProxyFaults { cut: true, ..ProxyFaults::default() });
    let cut = network
        .until_shown(&point.id, "DISCONNECTED", PATIENCE, |cp| cp.state() == ChargingPointState::Disconnected)
        .await?;
    let accepted = energy_wh(&cut);
    point
        .until_engine("more energy than Central knows of", PATIENCE, |status| {
            status["meter_wh"].as_u64() > Some(accepted + 50)
        })
        .await?;
    point.engine.kill();
    proxy.set(ProxyFaults::default());
    until_session(&network, &session, SessionState::Settling, PATIENCE).await?;
    let ticket = only_ticket(&network, &point).await?;
    assert_eq!((ended_by(&ticket), ticket.energy_wh), (Reason::SettledWithoutReport, accepted));

    point.engine.restart()?;
    let audited = until("the discrepancy to be audited", PATIENCE, async || {
        let audited = network.operator.audited("DISCREPANCY", "").await.map_err(|error| format!("{error:#}"))?;
        if audited.is_empty() { Err("nothing".to_owned()) } else { Ok(audited) }
    })
    .await?;
    point.until_engine("that Central has settled it", PATIENCE, |status| status["unsettled"] == json!(0)).await?;
    let beyond = point.meter_wh().await? - ticket.meter_end_wh;
    assert!(beyond > 0, "the engine came back with no more than was billed: {ticket:?}");
    let parameters: Value = parameters(&audited[0]);
    assert_eq!((audited.len(), &parameters["discrepancy_wh"]), (1, &json!(beyond.to_string())), "{audited:?}");
    let sessions = network.operator.all_sessions().await?;
    let found = sessions.iter().find(|one| one.id == session).context("the session is gone")?;
    assert_eq!((found.state(), found.discrepancy_wh), (SessionState::Billed, i64::try_from(beyond)?));
    assert_eq!(network.operator.all_tickets().await?, [ticket], "one ticket, and as it was");
    Ok(())
}
