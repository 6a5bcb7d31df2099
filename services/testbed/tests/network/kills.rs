//! Two hundred kills at random moments under load: no bill lost, none doubled, every watt-hour accounted for.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use testbed::{
    invariant,
    network::{Driver, Network, PATIENCE, Post},
};

use crate::support::QUICK;

const POSTS: usize = 4;
const DRIVERS: usize = 4;
const KILLS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_random_kills_lose_no_bill_and_double_none_spec_3_7_9() -> anyhow::Result<()> {
    let seed: u64 = std::env::var("CHARGEMESH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x51ED);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut network = Network::start(&["--settle-after", "20s", "--reservation", "5s"]).await?;
    let mut posts = Vec::new();
    let engine: Vec<&str> = QUICK.iter().chain(&["--unattended", "--plug-in-after", "50ms"]).copied().collect();
    for number in 0..POSTS {
        posts.push(network.charging_point_at(&format!("CP-{number}"), network.central_link, &engine, &[]).await?);
    }
    let mut drivers = Vec::new();
    for number in 0..DRIVERS {
        let roam = number.to_string();
        drivers.push(network.driver(&format!("driver-{number}"), &["--roam", &roam, "--pause", "50ms"]).await?);
    }
    network.until_tickets("CP-0", 1).await?;

    let mut killed: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..KILLS {
        // Central commits several turns a supply, so that a kill at any moment of this load meets one in flight.
        tokio::time::sleep(Duration::from_millis(rng.random_range(30..250))).await;
        let part = kill(&mut network, &mut posts, &mut drivers, &mut rng)?;
        *killed.entry(part).or_default() += 1;
    }
    println!("seed {seed}: killed {killed:?}");

    for driver in &mut drivers {
        driver.process.kill();
    }
    network.until_ready().await?;
    invariant::until_quiet(&network.operator).await?;
    let mut meters = BTreeMap::new();
    for post in &posts {
        post.until_engine("nothing unsettled", PATIENCE, |status| status["unsettled"] == json!(0)).await?;
        meters.insert(post.id.clone(), post.meter_wh().await?);
    }
    let sums = invariant::check(&network.operator, &meters).await?;
    println!("{sums:?}");
    assert!(sums.tickets > 20, "the load went on meanwhile: {sums:?}");

    // Every driver holds each of his tickets once.
    for driver in &mut drivers {
        driver.process.recipe_mut().args.retain(|word| !["--roam", "0", "1", "2", "3"].contains(&word.as_str()));
        driver.process.restart()?;
    }
    let tickets = network.operator.all_tickets().await?;
    for driver in &drivers {
        let due = tickets.iter().filter(|ticket| ticket.driver_id == driver.id).count();
        testbed::wait::until(format_args!("{} to hold {due} tickets", driver.id), PATIENCE, async || {
            let held = driver.ask("tickets", Value::Null).await.map_err(|error| format!("{error:#}"))?;
            let count = held["tickets"].as_array().map_or(0, Vec::len);
            if count == due { Ok(()) } else { Err(format!("{count} tickets")) }
        })
        .await?;
    }
    Ok(())
}

/// Kills one part with `kill -9`, and starts it again at once.
fn kill(
    network: &mut Network,
    posts: &mut [Post],
    drivers: &mut [Driver],
    rng: &mut StdRng,
) -> anyhow::Result<&'static str> {
    let post = rng.random_range(0..posts.len());
    let driver = rng.random_range(0..drivers.len());
    let (name, part) = match rng.random_range(0..10) {
        0..=3 => ("central", &mut network.central),
        4 => ("registry", &mut network.registry),
        5 | 6 => ("engine", &mut posts[post].engine),
        7 | 8 => ("monitor", &mut posts[post].monitor),
        _ => ("driver", &mut drivers[driver].process),
    };
    part.restart()?;
    Ok(name)
}
