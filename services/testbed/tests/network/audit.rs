//! The audit as an operator sees it (SPEC 8): written, exported, followed into a file, and verified.

use proto::central::v1::VerifyAuditRequest;
use serde_json::{Value, json};
use testbed::{network::Network, process};

use crate::support::{one_of_each, only_ticket, reserve};

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_tells_a_supply_from_request_to_end_and_names_the_first_bad_entry_spec_8() -> anyhow::Result<()> {
    let (mut network, post, driver) = one_of_each(&["--checkpoint-every", "1s"], &[]).await?;
    reserve(&network, &post, &driver, "0.1").await?;
    post.engine("plug", Value::Null).await?;
    only_ticket(&network, &post).await?;
    for action in ["ENROLLED", "LINK_UP", "KEY_GRANTED", "SUPPLY_REQUESTED", "SUPPLY_GRANTED", "SUPPLY_ENDED"] {
        assert!(!network.operator.audited(action, "").await?.is_empty(), "{action} is missing");
    }
    let entries = all(&network).await?;
    let text = entries.iter().map(ToString::to_string).collect::<String>();
    assert!(!text.contains("cmc1.") && !text.contains("cmt1."), "no secret is ever audited");

    let verdict = network.operator.audit.clone().verify(VerifyAuditRequest {}).await?.into_inner();
    assert!(verdict.intact, "{verdict:?}");

    // One byte of one entry, behind Central's back.
    network.central.kill();
    let url = format!("sqlite:{}", network.path("central/central.db").display());
    let change = "UPDATE audit SET outcome = outcome || ' ' WHERE number = 3";
    store::testing::sql(&url, change).await;
    network.restart_central().await?;
    let verdict = network.operator.audit.clone().verify(VerifyAuditRequest {}).await?.into_inner();
    assert_eq!((verdict.intact, verdict.number), (false, 3), "{verdict:?}");

    let (code, out, error) = command(&network, &["audit", "verify"]).await?;
    assert_ne!(code, 0, "{out}{error}");
    assert!(format!("{out}{error}").contains('3'), "it names the entry: {out}{error}");
    Ok(())
}

/// Every entry, by the command's own export.
async fn all(network: &Network) -> anyhow::Result<Vec<Value>> {
    let (code, out, error) = command(network, &["audit", "export"]).await?;
    anyhow::ensure!(code == 0, "{error}");
    let entries: Vec<Value> = out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let (code, csv, error) = command(network, &["audit", "export", "--format", "csv"]).await?;
    anyhow::ensure!(code == 0, "{error}");
    anyhow::ensure!(csv.lines().count() >= entries.len(), "as many lines of CSV");
    anyhow::ensure!(entries.iter().all(|entry| entry["action"] != json!(null)), "each has its action");
    Ok(entries)
}

async fn command(network: &Network, words: &[&str]) -> anyhow::Result<(i32, String, String)> {
    let identity = network.identity("victor").display().to_string();
    let (central, registry) = (network.central_grpc.to_string(), network.registry_grpc.to_string());
    let mut args = words.to_vec();
    args.extend(["--identity", &identity, "--central", &central, "--registry", &registry]);
    process::run(&args, &[]).await
}
