//! Answers that were lost: Central is killed (SIGKILL) again and again while operators set prices; after each restart the
//! last price that was answered, or a later one, must be there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use proto::{central::v1::SetPriceRequest, registry::v1::Kind};
use testbed::{
    network::Network,
    operator::{fresh_id, select},
    wait::until,
};
use tokio::time::{Instant, sleep};

use crate::{
    Size, load,
    measure::{BenchRow, Spread},
};

/// Number of charging points, each with an operator that sets its price again and again.
const OPERATORS: usize = 8;
/// The price of the last order that was sent, and of the last that was answered.
#[derive(Clone, Default)]
struct PriceProgress {
    sent: Arc<AtomicU32>,
    answered: Arc<AtomicU32>,
}

pub(crate) async fn row(size: Size) -> anyhow::Result<BenchRow> {
    let mut network = Network::start(&[]).await?;
    let ids: Vec<String> =
        load::keyed(&network, Kind::ChargingPoint, OPERATORS).await?.into_iter().map(|one| one.id).collect();
    let progress: Vec<PriceProgress> = (0..OPERATORS).map(|_| PriceProgress::default()).collect();
    let answers = Arc::new(AtomicU64::new(0));
    let orders: Vec<_> = ids
        .iter()
        .zip(&progress)
        .map(|(id, progress)| {
            tokio::spawn(set_prices(network_orders(&network), id.clone(), progress.clone(), answers.clone()))
        })
        .collect();
    let (mut lost, mut in_flight, started) = (0, 0, Instant::now());
    for kill in 0..size.kills {
        let before = answers.load(Ordering::Relaxed);
        until("an order to be answered", Duration::from_secs(60), async || {
            if answers.load(Ordering::Relaxed) > before { Ok(()) } else { Err("none yet".to_owned()) }
        })
        .await?;
        sleep(Duration::from_micros(rand::random_range(0..30_000))).await;
        let open =
            |progress: &&PriceProgress| progress.sent.load(Ordering::SeqCst) > progress.answered.load(Ordering::SeqCst);
        in_flight += usize::from(progress.iter().any(|progress| open(&progress)));
        network.central.kill();
        let promised: Vec<u32> = progress.iter().map(|progress| progress.answered.load(Ordering::SeqCst)).collect();
        network.central.restart()?;
        for (id, promised) in ids.iter().zip(promised) {
            lost += usize::from(price(&network, id).await? < promised);
        }
        if kill % 100 == 99 {
            crate::say(&format!("  {} kills, {lost} lost", kill + 1))?;
        }
    }
    orders.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(BenchRow {
        name: "durable",
        unit: "answers lost",
        central: Spread::of(vec![lost as f64]),
        floor: None,
        ratio: None,
        goal: 0.0,
        at_least: false,
        remark: format!(
            "{} kills in {:.0?}, {in_flight} of them with an order under way; {} orders answered",
            size.kills,
            started.elapsed(),
            answers.load(Ordering::Relaxed)
        ),
    })
}

type PriceClient = proto::central::v1::charging_points_client::ChargingPointsClient<mesh::client::Channel>;

fn network_orders(network: &Network) -> PriceClient {
    network.operator.charging_points.clone()
}

/// Sets ever higher prices; an order without an answer is sent again with its request id.
async fn set_prices(orders: PriceClient, id: String, progress: PriceProgress, answers: Arc<AtomicU64>) {
    for price_e4 in 1.. {
        let (request_id, selector) = (fresh_id(), Some(select(&[&id])));
        let request = SetPriceRequest { request_id, selector, expected: None, price_e4: Some(price_e4) };
        progress.sent.store(price_e4, Ordering::SeqCst);
        while orders.clone().set_price(request.clone()).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
        progress.answered.store(price_e4, Ordering::SeqCst);
        answers.fetch_add(1, Ordering::Relaxed);
    }
}

async fn price(network: &Network, id: &str) -> anyhow::Result<u32> {
    until(format_args!("the price of {id}"), Duration::from_secs(30), async || {
        network.operator.charging_point(id).await.map(|found| found.price_e4).map_err(|status| status.to_string())
    })
    .await
}
