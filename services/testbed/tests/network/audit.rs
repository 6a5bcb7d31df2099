//! The audit as an operator uses it (SPEC 8): read, exported, followed into a file, and verified.

use std::path::Path;

use anyhow::{Context as _, ensure};
use proto::central::v1::VerifyAuditRequest;
use serde_json::{Value, json};
use testbed::{
    network::{Network, PATIENCE},
    operator::order,
    process::{self, LaunchSpec, Process},
    wait::until,
};

use crate::{
    refused::words,
    support::{one_of_each, only_ticket, reserve},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_tells_a_supply_from_request_to_end_and_names_the_first_bad_entry_spec_8() -> anyhow::Result<()> {
    let (mut network, point, driver) = one_of_each(&["--checkpoint-every", "1s"], &[]).await?;
    reserve(&network, &point, &driver, "0.1").await?;
    point.engine("plug", Value::Null).await?;
    only_ticket(&network, &point).await?;
    for action in ["ENROLLED", "LINK_UP", "KEY_GRANTED", "SUPPLY_REQUESTED", "SUPPLY_GRANTED", "SUPPLY_ENDED"] {
        assert!(!network.operator.audited(action, "").await?.is_empty(), "{action} is missing");
    }
    let entries = all(&network).await?;
    let text = entries.iter().map(ToString::to_string).collect::<String>();
    assert!(!text.contains("cmc1.") && !text.contains("cmt1."), "no secret is ever audited");

    let verdict = network.operator.audit.clone().verify(VerifyAuditRequest {}).await?.into_inner();
    assert!(verdict.intact, "{verdict:?}");

    // Changes one byte of an entry directly in the database.
    network.central.kill();
    let url = format!("sqlite:{}", network.path("central/central.db").display());
    let change = "UPDATE audit SET outcome = outcome || ' ' WHERE number = 3";
    store::testing::sql(&url, change).await;
    network.restart_central().await?;
    let verdict = network.operator.audit.clone().verify(VerifyAuditRequest {}).await?.into_inner();
    assert_eq!((verdict.intact, verdict.first_bad.as_ref().map(|bad| bad.number)), (false, Some(3)), "{verdict:?}");

    let (code, out, error) = command(&network, &["audit", "verify"]).await?;
    assert_ne!(code, 0, "{out}{error}");
    assert!(format!("{out}{error}").contains('3'), "it names the entry: {out}{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_followed_into_plain_files_one_line_an_entry_spec_8_3() -> anyhow::Result<()> {
    // Not in the network's folder, which does not exist before the network starts.
    let folder = tempfile::Builder::new().prefix("chargemesh-audit-").tempdir()?;
    let (by_central, by_command) = (folder.path().join("central.log"), folder.path().join("command.log"));
    let (mut network, _post, driver) = one_of_each(&["--audit-file", &by_central.display().to_string()], &[]).await?;
    let following = follow_into(&network, &by_command)?;
    // The command gets entries from the moment at which its stream is open.
    until("the command to follow", PATIENCE, async || {
        let request = json!(["CP-404"]);
        driver.ask("request", request).await.map_err(|error| format!("{error:#}"))?;
        if lines(&by_command).is_empty() { Err("nothing yet".to_owned()) } else { Ok(()) }
    })
    .await?;
    network.operator.charging_points.clone().stop(order(&["CP-1"])).await?;
    for file in [&by_central, &by_command] {
        let stopped = line_of(file, "STOPPED").await?;
        let [_, address, who, _, said] = fields(&stopped)?;
        ensure!(address.starts_with("127.0.0.1"), "from which address: {stopped}");
        ensure!(who == "operator/olga", "who: {stopped}");
        ensure!(said.contains("object=charging-point/CP-1"), "what: {stopped}");
        lines(file).iter().try_for_each(|line| fields(line).map(drop))?;
    }

    // Central's own file has every entry once, over its restarts; that of the command lacks entries from before its start.
    network.restart_central().await?;
    line_of(&by_central, "ROLE_STARTED").await?;
    network.operator.charging_points.clone().resume(order(&["CP-1"])).await?;
    line_of(&by_central, "RESUMED").await?;
    let entries = network.operator.audited("", "").await?;
    for action in ["ENROLLED", "LINK_UP", "STOPPED", "RESUMED"] {
        let audited = entries.iter().filter(|entry| entry.action == action).count();
        let followed = lines(&by_central).iter().filter(|line| line.contains(&format!(" | {action} | "))).count();
        ensure!(audited == followed && audited > 0, "{action}: {audited} entries, {followed} lines");
    }
    ensure!(!lines(&by_command).iter().any(|line| line.contains(" | ENROLLED | ")), "from its beginning on");
    drop(following);
    Ok(())
}

/// A running `chargemesh audit watch --follow-into`.
fn follow_into(network: &Network, file: &Path) -> anyhow::Result<Process> {
    let mut args = words(&["audit", "watch", "--follow-into", &file.display().to_string()]);
    args.extend(connection(network));
    let (env, under, folder) = (Vec::new(), Vec::new(), network.path("logs"));
    Process::start(LaunchSpec { name: "audit-watch".into(), args, env, under, folder })
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

async fn line_of(file: &Path, action: &str) -> anyhow::Result<String> {
    until(format_args!("{action} in {}", file.display()), PATIENCE, async || {
        let found = lines(file).into_iter().find(|line| line.contains(&format!(" | {action} | ")));
        found.ok_or_else(|| format!("{} lines", lines(file).len()))
    })
    .await
}

/// `time | address | who | ACTION | k=v, …`
fn fields(line: &str) -> anyhow::Result<[&str; 5]> {
    let fields: Vec<&str> = line.split(" | ").collect();
    let fields: [&str; 5] = fields.try_into().ok().with_context(|| format!("not five fields: {line}"))?;
    let [time, address, who, action, said] = fields;
    ensure!(time.starts_with("20") && time.contains(':'), "no time: {line}");
    ensure!(!address.is_empty() && !who.is_empty(), "no address or nobody: {line}");
    ensure!(action.chars().all(|c| c.is_ascii_uppercase() || c == '_'), "no action: {line}");
    ensure!(said.split(", ").next().is_some_and(|first| first.contains('=')), "no k=v: {line}");
    Ok(fields)
}

/// Every entry, by `chargemesh audit export`.
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
    let connection = connection(network);
    let args: Vec<&str> = words.iter().copied().chain(connection.iter().map(String::as_str)).collect();
    process::run(&args, &[]).await
}

/// Arguments for a command of a viewer.
fn connection(network: &Network) -> Vec<String> {
    let identity = network.identity("victor").display().to_string();
    let (central, registry) = (network.central_grpc.to_string(), network.registry_grpc.to_string());
    words(&["--identity", &identity, "--central", &central, "--registry", &registry])
}
