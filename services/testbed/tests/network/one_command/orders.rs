//! What an operator orders by the command line: once, at the network that he names, and repeatable (SPEC 7.3).

use anyhow::Context as _;
use serde_json::{Value, json};
use testbed::process::binary;

use super::{CommandOutput, DetachedNetwork, chargemesh};

impl DetachedNetwork {
    async fn operator(&self, words: &[&str]) -> anyhow::Result<CommandOutput> {
        chargemesh(&[words, &["--data", self.data()]].concat()).await
    }

    async fn corrections(&self, session: &str) -> anyhow::Result<Vec<Value>> {
        let said = self.operator(&["tickets", "get", session, "--json"]).await?;
        let ticket = said.lines().pop().with_context(|| said.err.clone())?;
        Ok(ticket["corrections"].as_array().cloned().unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_without_an_answer_is_repeated_under_its_id_and_pays_once_spec_7_3() -> anyhow::Result<()> {
    let up = DetachedNetwork::new()?;
    up.start(&["--charging-points", "1", "--drivers", "1"]).await?;
    up.until_tickets(0).await?;
    let session = up.list("tickets").await?[0]["sessionId"].as_str().context("no session")?.to_owned();
    let correct = ["tickets", "correct", &session, "--amount-minor", "7", "--reason", "counted twice"];

    up.ctl(&["pause", "central"]).await?;
    let unanswered = up.operator(&[&correct[..], &["--timeout", "1s"]].concat()).await?;
    up.ctl(&["continue", "central"]).await?;
    assert_eq!(unanswered.status.code(), Some(1), "{}", unanswered.err);
    let (_, id) = unanswered.err.split_once("repeat with --request-id ").with_context(|| unanswered.err.clone())?;
    let id = id.split(',').next().unwrap_or_default();
    assert!(unanswered.err.contains("to Central at 127.0.0.1:"), "{}", unanswered.err);
    assert!(unanswered.err.contains(&format!("request {id}\n")), "{}", unanswered.err);

    let again = [&correct[..], &["--request-id", id]].concat();
    for _ in 0..2 {
        let said = up.operator(&again).await?;
        assert!(said.status.success() && said.err.contains(&format!("request {id}\n")), "{}", said.err);
    }
    let corrections = up.corrections(&session).await?;
    assert_eq!(corrections.len(), 1, "{corrections:?}");

    let other =
        ["tickets", "correct", &session, "--amount-minor", "8", "--reason", "counted twice", "--request-id", id];
    let refused = up.operator(&other).await?;
    assert!(!refused.status.success(), "another correction under the same id: {}", refused.out);
    assert_eq!(up.corrections(&session).await?.len(), 1);

    // Orders of charging points and calls to Registry take an id as well.
    for words in [
        &["charging-points", "price", "CP-1", "--to", "0.2000"][..],
        &["charging-points", "stop", "CP-1"][..],
        &["tokens", "create", "--uses", "3"][..],
        &["operators", "add", "bob"][..],
    ] {
        let command = [words, &["--request-id", "by-hand", "--json"][..]].concat();
        let id = format!("r-{}", words.join("-"));
        let command: Vec<&str> =
            command.iter().map(|word| if *word == "by-hand" { id.as_str() } else { word }).collect();
        let (first, second) = (up.operator(&command).await?, up.operator(&command).await?);
        assert!(first.status.success() && second.status.success(), "{}{}", first.err, second.err);
        assert_eq!(first.out, second.out, "the first answer");
    }
    up.down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_of_another_network_take_no_order_away_from_the_folder_that_a_flag_names() -> anyhow::Result<()> {
    let (up, other) = (DetachedNetwork::new()?, DetachedNetwork::new()?);
    up.start(&["--charging-points", "1", "--drivers", "0"]).await?;
    other.start(&["--charging-points", "1", "--drivers", "0"]).await?;
    let status: Value = serde_json::from_slice(&std::fs::read(other.data.path().join("up.json"))?)?;
    let of = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    let stop = tokio::process::Command::new(binary()?)
        .args(["charging-points", "stop", "CP-1", "--data", up.data()])
        .env("CHARGEMESH_CENTRAL", of("central_grpc"))
        .env("CHARGEMESH_REGISTRY", of("registry_grpc"))
        .env("CHARGEMESH_IDENTITY", of("operator_identity"))
        .output()
        .await?;
    assert!(stop.status.success(), "{}", String::from_utf8_lossy(&stop.stderr));
    up.until_state("OUT_OF_ORDER").await?;
    let elsewhere = other.list("charging-points").await?;
    assert!(elsewhere.iter().all(|cp| cp["state"] != json!("CHARGING_POINT_STATE_OUT_OF_ORDER")), "{elsewhere:?}");
    up.down().await?;
    other.down().await
}
