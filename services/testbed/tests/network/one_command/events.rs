//! `up --kafka`: events and readings of a whole network, read by a command (SPEC 5.3).

use std::collections::BTreeSet;

use serde_json::Value;
use testbed::{kafka::KafkaBroker, wait::until};

use super::{DetachedNetwork, PATIENCE, chargemesh};

#[tokio::test(flavor = "multi_thread")]
async fn up_publishes_on_kafka_and_a_command_finds_its_broker_spec_5_3() -> anyhow::Result<()> {
    let (broker, up) = (KafkaBroker::start().await?, DetachedNetwork::new()?);
    up.start(&["--charging-points", "2", "--drivers", "1", "--kafka", &broker.bootstrap]).await?;
    up.until_tickets(2).await?;
    let data = ["--data", up.data()];
    let tail = ["events", "tail", "--from", "beginning", "--no-follow", "--type", "ticket.issued"];
    until("every ticket to be an event", PATIENCE, async || {
        let tickets = up.list("tickets").await.map_err(|error| format!("{error:#}"))?;
        let tailed = chargemesh(&[&tail[..], &["--json"], &data].concat()).await.map_err(|error| error.to_string())?;
        if !tailed.status.success() {
            return Err(tailed.err);
        }
        let ids = |of: &dyn Fn(&Value) -> &Value, all: &[Value]| -> BTreeSet<String> {
            all.iter().map(|one| of(one).to_string()).collect()
        };
        let listed = ids(&|ticket| &ticket["sessionId"], &tickets);
        let published = ids(&|event| &event["data"]["ticket"]["sessionId"], &tailed.lines());
        if listed.is_subset(&published) { Ok(()) } else { Err(format!("{listed:?}, of which {published:?}")) }
    })
    .await?;
    let said = chargemesh(&[&tail[..], &["--count", "1"], &data].concat()).await?;
    assert!(
        said.out.lines().count() == 1 && said.out.contains("ticket.issued") && said.out.contains("EUR"),
        "{}",
        said.out
    );
    let readings =
        chargemesh(&[&["readings", "open", "--from", "beginning", "--count", "3"][..], &data].concat()).await?;
    assert!(readings.status.success() && readings.out.lines().count() == 3, "{}{}", readings.out, readings.err);

    let nowhere = tempfile::tempdir()?;
    let unknown = chargemesh(&["events", "tail", "--data", &nowhere.path().display().to_string()]).await?;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(unknown.err.contains("give --kafka HOST:PORT"), "{}", unknown.err);
    up.down().await
}
