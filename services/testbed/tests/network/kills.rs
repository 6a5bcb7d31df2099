//! Two hundred kills at random moments under load: no ticket is lost or doubled, every watt-hour is accounted for, and each
//! order that was answered to an operator has taken effect once.
//!
//! Half of the kills of Central and Registry happen while an order is outstanding, so with a commit in flight.

mod orders;

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use orders::{EnrolmentOrders, PriceOrders};
use proto::central::v1::{AuditEntry, AuditFilter, ListAuditRequest};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use testbed::{
    invariant,
    network::{Network, PATIENCE},
    operator::Operator,
    wait::until,
};

use crate::support::QUICK;

const POSTS: usize = 4;
const DRIVERS: usize = 4;
const KILLS: usize = 200;
const CENTRAL_COMMITS: &str = "central, with a commit in flight";
const REGISTRY_COMMITS: &str = "registry, with a commit in flight";

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_random_kills_lose_no_bill_and_double_none_spec_3_7_9() -> anyhow::Result<()> {
    let seed: u64 = std::env::var("CHARGEMESH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x51ED);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut network = Network::start(&["--settle-after", "20s", "--reservation", "5s"]).await?;
    let mut points = Vec::new();
    let engine: Vec<&str> = QUICK.iter().chain(&["--unattended", "--plug-in-after", "50ms"]).copied().collect();
    for number in 0..POSTS {
        points.push(network.charging_point_at(&format!("CP-{number}"), network.central_link, &engine, &[]).await?);
    }
    let mut drivers = Vec::new();
    for number in 0..DRIVERS {
        let seed = number.to_string();
        drivers
            .push(network.driver(&format!("driver-{number}"), &["--random-requests", &seed, "--pause", "50ms"]).await?);
    }
    network.until_tickets("CP-0", 1).await?;

    let prices = PriceOrders::start(&network.operator, "CP-0");
    let identities = EnrolmentOrders::start(&network.operator).await?;
    let mut killed: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(rng.random_range(30..250))).await;
        let point = rng.random_range(0..points.len());
        let driver = rng.random_range(0..drivers.len());
        let (name, part, seen) = match rng.random_range(0..10) {
            0..=2 => ("central", &mut network.central, Some(&prices.seen)),
            3 | 4 => ("registry", &mut network.registry, Some(&identities.seen)),
            5 | 6 => ("engine", &mut points[point].engine, None),
            7 | 8 => ("monitor", &mut points[point].monitor, None),
            _ => ("driver", &mut drivers[driver].process, None),
        };
        if let Some(seen) = seen
            && rng.random_bool(0.5)
        {
            seen.until_outstanding().await?;
            // At any moment between the arrival of the order and its answer.
            tokio::time::sleep(Duration::from_micros(rng.random_range(0..3_000))).await;
            if seen.is_outstanding() {
                *killed.entry(if name == "central" { CENTRAL_COMMITS } else { REGISTRY_COMMITS }).or_default() += 1;
            }
        }
        part.kill();
        part.restart()?;
        *killed.entry(name).or_default() += 1;
    }
    println!("seed {seed}: killed {killed:?}");
    prices.seen.end();
    identities.seen.end();

    for driver in &mut drivers {
        driver.process.kill();
    }
    network.until_ready().await?;
    let hit = |name: &str| killed.get(name).copied().unwrap_or_default();
    ensure!(hit(CENTRAL_COMMITS) >= 10 && hit(REGISTRY_COMMITS) >= 5, "too few with a commit in flight: {killed:?}");
    if let Err(error) = invariant::until_settled(&network.operator).await {
        for point in &points {
            println!("{}: {}", point.id, point.engine("status", Value::Null).await?);
        }
        println!("{:?}", network.operator.audited("", "").await?.iter().take(200).collect::<Vec<_>>());
        return Err(error);
    }
    let set = prices.check(&network.operator, "CP-0").await?;
    let enrolled = identities.check(&network.operator).await?;
    println!("{set} prices set and {enrolled} drivers enrolled meanwhile");
    ensure!(set > 50 && enrolled > 50, "the orders went on meanwhile: {set} and {enrolled}");
    let mut meters = BTreeMap::new();
    for point in &points {
        point.until_engine("nothing unsettled", PATIENCE, |status| status["unsettled"] == json!(0)).await?;
        meters.insert(point.id.clone(), point.meter_wh().await?);
    }
    let sums = invariant::check(&network.operator, &meters).await?;
    println!("{sums:?}");
    assert!(sums.tickets > 20, "the load went on meanwhile: {sums:?}");

    // Every driver has each of its tickets once.
    for driver in &mut drivers {
        driver
            .process
            .spec_mut()
            .args
            .retain(|word| !["--random-requests", "0", "1", "2", "3"].contains(&word.as_str()));
        driver.process.restart()?;
    }
    let tickets = network.operator.all_tickets().await?;
    for driver in &drivers {
        let due = tickets.iter().filter(|ticket| ticket.driver_id == driver.id).count();
        until(format_args!("{} to hold {due} tickets", driver.id), PATIENCE, async || {
            let held = driver.ask("tickets", Value::Null).await.map_err(|error| format!("{error:#}"))?;
            let count = held["tickets"].as_array().map_or(0, Vec::len);
            if count == due { Ok(()) } else { Err(format!("{count} tickets")) }
        })
        .await?;
    }
    Ok(())
}

/// Every entry of one action.
async fn all_audited(operator: &Operator, action: &str) -> anyhow::Result<Vec<AuditEntry>> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let filter = Some(AuditFilter { action: action.to_owned(), ..Default::default() });
        let request = ListAuditRequest { filter, page_size: 1000, page_token };
        let page = operator.audit.clone().list(request).await?.into_inner();
        all.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}
