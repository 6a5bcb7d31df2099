//! Backup and restore, with the commands that README gives (SPEC 10.5).

use std::{collections::BTreeMap, path::Path};

use anyhow::ensure;
use proto::{
    central::v1::{Cause, ChargingPointState, KeyState, Ticket},
    registry::v1::{IdentityState, Kind, ListIdentitiesRequest, RemoveRequest},
};
use serde_json::{Value, json};
use testbed::{
    invariant,
    network::{Network, PATIENCE, TestPoint},
    operator::{fresh_id, key_state, order},
    process,
    wait::until,
};

use crate::support::{QUICK, one_of_each, only_ticket, supply};

const POSTS: usize = 4;
/// Tickets that follow the backup, at least.
const FOLLOWING: usize = 8;

/// Runs a command with the places of this network to its end; answers what it printed.
async fn run(network: &Network, words: &[&str]) -> anyhow::Result<String> {
    let (central, registry) = (network.path("central"), network.path("registry"));
    let env = [("CHARGEMESH_CENTRAL_DATA", central.as_path()), ("CHARGEMESH_REGISTRY_DATA", registry.as_path())];
    let (code, out, error) = process::run(words, &env).await?;
    ensure!(code == 0, "{words:?}: exit code {code}: {out}{error}");
    Ok(out)
}

/// The same for a command that asks Central.
async fn ask(network: &Network, words: &[&str]) -> anyhow::Result<String> {
    let (identity, central) = (network.identity("olga").display().to_string(), network.central_grpc.to_string());
    run(network, &[words, &["--identity", &identity, "--central", &central]].concat()).await
}

async fn by_session(network: &Network) -> anyhow::Result<BTreeMap<String, Ticket>> {
    let tickets = network.operator.all_tickets().await?;
    Ok(tickets.into_iter().map(|ticket| (ticket.session_id.clone(), ticket)).collect())
}

/// Waits until Central has each of these tickets, as it signed them.
async fn until_back(network: &Network, tickets: &BTreeMap<String, Ticket>) -> anyhow::Result<()> {
    until("every ticket to be back as it was signed", PATIENCE * 3, async || {
        let now = by_session(network).await.map_err(|error| format!("{error:#}"))?;
        let lost: Vec<_> = tickets.iter().filter(|(id, ticket)| now.get(*id) != Some(*ticket)).collect();
        if lost.is_empty() { Ok(()) } else { Err(format!("{} of {}: {:?}", lost.len(), tickets.len(), lost.first())) }
    })
    .await
}

async fn check_signatures(network: &Network) -> anyhow::Result<()> {
    let (keys, tickets) = (network.path("tickets.pub"), network.path("tickets.jsonl"));
    std::fs::write(&keys, ask(network, &["tickets", "keys"]).await?)?;
    let file = tickets.display().to_string();
    ask(network, &["tickets", "export", "--format", "jsonl", "--file", &file]).await?;
    run(network, &["tickets", "verify", &file, "--key", &keys.display().to_string()]).await.map(drop)
}

async fn meters(points: &[TestPoint]) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut meters = BTreeMap::new();
    for point in points {
        point.until_engine("nothing unsettled", PATIENCE, |status| status["unsettled"] == json!(0)).await?;
        meters.insert(point.id.clone(), point.meter_wh().await?);
    }
    Ok(meters)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_taken_while_all_charge_loses_no_ticket_that_followed_it_spec_10_5() -> anyhow::Result<()> {
    let mut network = Network::start(&["--reservation", "5s"]).await?;
    let (mut points, mut drivers) = (Vec::new(), Vec::new());
    let engine: Vec<&str> = QUICK.iter().chain(&["--unattended", "--plug-in-after", "50ms"]).copied().collect();
    for number in 0..POSTS {
        points.push(network.charging_point_at(&format!("CP-{number}"), network.central_link, &engine, &[]).await?);
    }
    let revoked = network.charging_point("CP-R").await?;
    network.operator.charging_points.clone().revoke(order(&["CP-R"])).await?;
    network.until_shown("CP-R", "revoked", PATIENCE, |cp| key_state(cp) == KeyState::Revoked).await?;
    for number in 0..POSTS {
        let seed = number.to_string();
        let random = ["--random-requests", &seed, "--pause", "50ms"];
        drivers.push(network.driver(&format!("driver-{number}"), &random).await?);
    }
    network.until_tickets("CP-0", 1).await?;

    let archive = network.path("backup.tar").display().to_string();
    run(&network, &["backup", &archive]).await?;
    let count = network.operator.all_tickets().await?.len();
    until("more tickets than the backup has", PATIENCE * 3, async || {
        let now = network.operator.all_tickets().await.map_err(|error| format!("{error:#}"))?.len();
        if now >= count + FOLLOWING { Ok(()) } else { Err(format!("{count}, then {now}")) }
    })
    .await?;
    let tickets = by_session(&network).await?;
    network.central.kill();
    network.registry.kill();
    for service in ["central", "registry"] {
        std::fs::remove_dir_all(network.path(service))?;
    }

    let said = run(&network, &["restore", &archive]).await?;
    ensure!(said.contains("Nobody brings:") && said.contains("prices"), "what cannot be known is listed: {said}");
    network.registry.restart()?;
    network.central.restart()?;
    network.until_ready().await?;
    until_back(&network, &tickets).await?;
    for driver in &mut drivers {
        driver.process.kill();
    }
    // A request may still be on its way from a driver that was killed, and be reserved after a first look.
    let totals = until("quiet books", PATIENCE * 3, async || {
        let look = async {
            invariant::until_settled(&network.operator).await?;
            let mut meters = meters(&points).await?;
            meters.insert(revoked.id.clone(), 0);
            invariant::check(&network.operator, &meters).await
        };
        look.await.map_err(|error| format!("{error:#}"))
    })
    .await?;
    ensure!(totals.tickets >= tickets.len(), "{totals:?}");
    check_signatures(&network).await?;
    let shown = network.shown("CP-R").await?;
    ensure!(key_state(&shown) == KeyState::Revoked, "revoked stays revoked: {shown:?}");
    ask(&network, &["audit", "verify"]).await.map(drop)
}

/// Copies a folder of files and folders.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (entry, to) = (entry?.path(), to);
        let to = to.join(entry.file_name().unwrap_or_default());
        if entry.is_dir() { copy(&entry, &to)? } else { std::fs::copy(&entry, &to).map(drop)? }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_files_of_an_older_database_serve_nothing_until_the_generation_is_raised_spec_10_5() -> anyhow::Result<()> {
    let (mut network, point, driver) = one_of_each(&[], &[]).await?;
    let (data, older) = (network.path("central"), network.path("older"));
    network.central.kill();
    copy(&data, &older)?;
    network.central.restart()?;
    network.until_state(&point.id, ChargingPointState::Available).await?;
    driver.until("linked", PATIENCE, |status| status["linked"] == json!(true)).await?;
    supply(&network, &point, &driver, "").await?;
    point.engine("unplug", Value::Null).await?;
    let ticket = only_ticket(&network, &point).await?;
    until("the driver to have its ticket", PATIENCE, async || {
        let held = driver.ask("tickets", Value::Null).await.map_err(|error| format!("{error:#}"))?;
        if held["tickets"].as_array().map(Vec::len) == Some(1) { Ok(()) } else { Err(held.to_string()) }
    })
    .await?;
    point.until_engine("nothing unsettled", PATIENCE, |status| status["unsettled"] == json!(0)).await?;

    network.central.kill();
    std::fs::remove_dir_all(&data)?;
    copy(&older, &data)?;
    network.central.restart()?;
    let is_behind = |cp: &proto::central::v1::ChargingPoint| cp.causes().any(|cause| cause == Cause::LedgerBehind);
    network.until_shown(&point.id, "the older ledger", PATIENCE, is_behind).await?;
    let nowhere = network.path("nowhere").display().to_string();
    let elsewhere = ["restore", "--raise-generation", "--only", "central", "--central-data", &nowhere];
    let (code, out, error) = process::run(&elsewhere, &[]).await?;
    ensure!(code == 2, "no database there, and nothing made of it: {out}{error}");
    network.central.kill();
    run(&network, &["restore", "--raise-generation", "--only", "central"]).await?;
    network.central.restart()?;
    network.until_state(&point.id, ChargingPointState::Available).await?;
    until_back(&network, &BTreeMap::from([(ticket.session_id.clone(), ticket)])).await?;
    let meters = BTreeMap::from([(point.id.clone(), point.meter_wh().await?)]);
    invariant::check(&network.operator, &meters).await.map(drop)
}

/// Whether Registry says this of an identity.
async fn until_at_registry(network: &Network, id: &str, state: IdentityState) -> anyhow::Result<()> {
    until(format_args!("{id} to be {state:?} at Registry"), PATIENCE, async || {
        let page = network.operator.identities.clone().list(ListIdentitiesRequest::default()).await;
        let all = page.map_err(|status| status.to_string())?.into_inner().identities;
        match all.iter().find(|identity| identity.id == id) {
            Some(identity) if identity.state() == state => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

async fn restored(network: &mut Network, service: &str, archive: &str) -> anyhow::Result<()> {
    let process = if service == "central" { &mut network.central } else { &mut network.registry };
    process.kill();
    std::fs::remove_dir_all(network.path(service))?;
    run(network, &["restore", archive, "--only", service]).await?;
    let process = if service == "central" { &mut network.central } else { &mut network.registry };
    process.restart()?;
    network.until_ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_or_removed_after_the_backup_stays_so_where_one_of_the_two_knows_it_spec_10_5()
-> anyhow::Result<()> {
    let (mut network, point, _driver) = one_of_each(&[], &[]).await?;
    let (revoked, other) = (network.charging_point("CP-R").await?, network.charging_point("CP-X").await?);
    let archive = network.path("backup.tar").display().to_string();
    run(&network, &["backup", &archive]).await?;
    network.operator.charging_points.clone().revoke(order(&["CP-R"])).await?;
    until_at_registry(&network, "CP-R", IdentityState::Void).await?;
    let request = RemoveRequest { request_id: fresh_id(), kind: Kind::ChargingPoint.into(), id: "CP-X".to_owned() };
    network.operator.identities.clone().remove(request).await?;
    until_at_registry(&network, "CP-X", IdentityState::Removed).await?;

    let is_revoked = |cp: &proto::central::v1::ChargingPoint| key_state(cp) == KeyState::Revoked;
    // Central is older than Registry.
    restored(&mut network, "central", &archive).await?;
    network.until_shown("CP-R", "revoked, as Registry says", PATIENCE, is_revoked).await?;
    network.until_state(&point.id, ChargingPointState::Available).await?;
    // Then Registry is older than Central.
    restored(&mut network, "registry", &archive).await?;
    until_at_registry(&network, "CP-R", IdentityState::Enrolled).await?;
    // What Registry decides from now on reaches Central, although Central has seen later numbers of changes.
    let late = network.charging_point("CP-L").await?;
    network.until_state(&point.id, ChargingPointState::Available).await?;
    let shown = network.shown("CP-R").await?;
    ensure!(is_revoked(&shown), "revoked, as Central knows: {shown:?}");
    let shown = network.shown("CP-X").await;
    ensure!(shown.is_err(), "removed, as Central knows: {shown:?}");
    drop((revoked, other, late));
    Ok(())
}
