//! Operators and viewers over real mutual TLS: reflection, permissions, and the effect of orders (SPEC 7.2, 7.3, 13).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use mesh::{
    certs::Authority,
    client::{self, Channel, ClientConfig, RoleAddress},
    identity::TlsIdentity,
    status::reason_of,
};
use proto::{
    Caller,
    central::v1::{
        CancelOrderRequest, ChargingPoint, ChargingPointState, ListChargingPointsRequest, OrderRequest, OrderState,
        Selector, WatchChargingPointsRequest, charging_point_event::Event, selector::Which,
    },
    link::v1::Reason,
    registry::v1::{AddOperatorRequest, ListIdentitiesRequest, OperatorRole, RemoveOperatorRequest},
};
use serde_json::{Value, json};
use testbed::{
    network::{Network, PATIENCE},
    operator::{Operator, fresh_id, key_no, order},
    process::{self, LaunchSpec, Process},
    wait::until,
};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::reflection::{Described, call, callers, describe, example, path};

/// Longest time until a removal is in force (SPEC 7.3: at once); Central learns of it by Registry's stream.
const AT_ONCE: Duration = Duration::from_secs(2);
const OPERATOR: &str = "CALLER_OPERATOR";
const VIEWER: &str = "CALLER_VIEWER";

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_and_describes_all_and_an_operator_can_call_every_method_of_his_spec_7_2() -> anyhow::Result<()>
{
    let network = Network::start(&[]).await?;
    let _post = network.charging_point("CP-1").await?;
    let mut told = BTreeMap::new();
    let mut done = BTreeSet::new();
    for (role, channel) in servers(&network, &network.identity("olga"))? {
        let described = describe(&channel).await?;
        assert_services(role, &described);
        for method in described.methods() {
            let Some(callers) = callers(&method) else { continue };
            let answer = call(&channel, &method, example(&method.input(), subject(method.name()))).await;
            if callers.contains(OPERATOR) {
                assert_answered(&path(&method), answer.as_ref().err());
            } else {
                assert_not_allowed(&path(&method), answer.as_ref().err());
            }
            if answer.is_ok() {
                done.insert(path(&method));
            }
            told.insert(path(&method), callers);
        }
    }
    // Reflection describes the same methods as the proto files; Weather is not part of this network.
    let runs = |path: &str| !path.starts_with("/chargemesh.weather.");
    let contract = proto::POLICIES
        .iter()
        .filter(|policy| runs(policy.path))
        .map(|policy| (policy.path.to_owned(), names(policy.callers)));
    assert_eq!(told, contract.collect());
    // Calls that can succeed have succeeded.
    for order in ["Stop", "Resume", "SetMaintenance", "Rotate", "Renew", "Revoke", "Restore", "Release", "SetPrice"] {
        assert!(done.contains(&format!("/chargemesh.central.v1.ChargingPoints/{order}")), "{order}: {done:?}");
    }
    assert!(done.len() >= 28, "{} of {}: {done:?}", done.len(), told.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_may_look_and_not_order_spec_7_2() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let mut refused = 0;
    for (_, channel) in servers(&network, &network.identity("victor"))? {
        for method in describe(&channel).await?.methods() {
            let Some(callers) = callers(&method) else { continue };
            let answer = call(&channel, &method, example(&method.input(), subject(method.name()))).await;
            if callers.contains(VIEWER) {
                assert_answered(&path(&method), answer.as_ref().err());
            } else {
                assert_not_allowed(&path(&method), answer.as_ref().err());
                refused += 1;
            }
        }
    }
    assert!(refused > 20, "only {refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_or_with_a_foreign_one_no_call_is_answered_spec_7_2() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let roots = std::fs::read_to_string(network.identity("olga").join("ca.pem"))?;
    let stranger = stranger(&network, &roots)?;
    let foreign: BTreeMap<&str, Channel> = servers(&network, &stranger)?.into_iter().collect();
    // The missing certificate is the reason: the HTTPS server, which needs none, answers the same client.
    let door = client::https("registry", &network.registry_https.to_string(), &roots, &ClientConfig::default())?;
    assert_eq!(door.get("/nobody").send().await?.status().as_u16(), 404);
    for (role, address) in [("central", network.central_grpc), ("registry", network.registry_grpc)] {
        let bare = client::https(role, &address.to_string(), &roots, &ClientConfig::default())?;
        let own = |policy: &&proto::Policy| policy.path.starts_with(&format!("/chargemesh.{role}."));
        let ours = proto::POLICIES.iter().filter(own).map(|policy| policy.path);
        for path in ours.chain(["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]) {
            let call = bare.post(path).header("content-type", "application/grpc").header("te", "trailers");
            // The error depends on whether the alert or the end of the connection is seen first.
            call.body(vec![0; 5]).send().await.expect_err(path);
        }
        let error = describe(&foreign[role]).await.expect_err("a foreign certificate");
        assert!(error.to_string().contains("it refuses our certificate"), "{role}: {error:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_operator_is_refused_at_once_on_live_connections_and_can_be_added_again_spec_7_3()
-> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let authority = Authority::open(&network.path("certs"))?;
    let (folder, day) = (network.identity("otto"), Duration::from_secs(80_000));
    authority.issue_person(Caller::Operator, &"otto".parse()?, &folder, day, false)?;
    let fresh = || Operator::new(&folder, &network.central_grpc.to_string(), &network.registry_grpc.to_string());
    let otto = fresh()?;
    let mut watched = otto.charging_points.clone().watch(WatchChargingPointsRequest::default()).await?.into_inner();
    while !matches!(watched.message().await?.and_then(|event| event.event), Some(Event::Synchronised(_)) | None) {}
    allowed(&otto).await?;

    let remove = || RemoveOperatorRequest { request_id: fresh_id(), name: "otto".into(), force: false };
    assert!(network.operator.operators.clone().remove(remove()).await?.into_inner().changed);
    let ended = timeout(AT_ONCE, async {
        loop {
            match watched.message().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    let ended = ended.await.context("his stream goes on")?.expect_err("the stream ends with its reason");
    assert_eq!((ended.code(), reason_of(&ended)), (Code::PermissionDenied, Some(Reason::Removed)), "{ended}");
    for who in [&otto, &fresh()?] {
        until("both services to refuse him", AT_ONCE, async || refused_as_removed(who).await).await?;
    }
    assert!(!network.operator.operators.clone().remove(remove()).await?.into_inner().changed, "removed before");

    let add = AddOperatorRequest { request_id: fresh_id(), name: "otto".into(), role: OperatorRole::Operator.into() };
    network.operator.operators.clone().add(add).await?;
    let again = fresh()?;
    until("both services to answer him again", AT_ONCE * 2, async || {
        allowed(&again).await.map_err(|status| status.to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_asked_again_gets_its_first_answer_and_does_nothing_spec_7_3() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _post = network.charging_point("CP-1").await?;
    let mut client = network.operator.charging_points.clone();
    let stop = order(&["CP-1"]);
    let first = client.stop(stop.clone()).await?.into_inner();
    assert_eq!((first.matched, first.done, first.failures.len()), (1, 1, 0));
    network.until_state("CP-1", ChargingPointState::OutOfOrder).await?;
    client.resume(order(&["CP-1"])).await?;
    network.until_state("CP-1", ChargingPointState::Available).await?;

    assert_eq!(client.stop(stop.clone()).await?.into_inner(), first);
    // The first answer is remembered over a restart of Central.
    let mut network = network;
    network.restart_central().await?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    assert_eq!(network.operator.charging_points.clone().stop(stop).await?.into_inner(), first);
    assert_eq!(network.shown("CP-1").await?.state(), ChargingPointState::Available);
    assert_eq!(network.operator.audited("STOPPED", "").await?.len(), 1);

    let nameless = OrderRequest { request_id: String::new(), ..order(&["CP-1"]) };
    let refused = network.operator.charging_points.clone().stop(nameless).await.expect_err("no request id");
    assert_eq!(reason_of(&refused), Some(Reason::RequestIdMissing), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_over_more_than_fifty_states_how_many_is_staggered_and_can_be_cancelled_spec_7_3() -> anyhow::Result<()>
{
    const COUNT: u32 = 60;
    let network = Network::start(&["--stagger", "10"]).await?;
    let _fleet = fleet(&network, COUNT).await?;
    let mut client = network.operator.charging_points.clone();

    let refused = client.rotate(to_all(None)).await.expect_err("60, and none expected");
    assert_eq!(reason_of(&refused), Some(Reason::ExpectationFailed), "{refused}");
    assert!(refused.message().contains("60"), "it says how many it would reach: {refused}");
    let refused = client.rotate(to_all(Some(COUNT - 1))).await.expect_err("60, and 59 expected");
    assert_eq!(reason_of(&refused), Some(Reason::ExpectationFailed), "{refused}");
    let refused = client.stop(to_all(None)).await.expect_err("Stop too says how many it expects");
    assert_eq!(reason_of(&refused), Some(Reason::ExpectationFailed), "{refused}");

    let ordered = to_all(Some(COUNT));
    let begun = client.rotate(ordered.clone()).await?.into_inner();
    assert_eq!((begun.matched, begun.failures.len()), (COUNT, 0));
    assert!(begun.done < COUNT, "staggered: {begun:?}");
    let cancel = CancelOrderRequest { order_id: begun.order_id.clone() };
    let cancelled = client.cancel_order(cancel.clone()).await?.into_inner();
    assert!(cancelled.state() == OrderState::Cancelled && cancelled.done < COUNT, "{cancelled:?}");
    let again = client.cancel_order(cancel).await?.into_inner();
    assert!(again.state() == OrderState::Cancelled && again.done < COUNT, "{again:?}");
    assert_eq!(client.rotate(ordered).await?.into_inner().order_id, begun.order_id, "the same order");
    let rotated = until("as many new keys as the order says", PATIENCE, async || {
        let now = client.cancel_order(CancelOrderRequest { order_id: begun.order_id.clone() }).await;
        let done = now.map_err(|status| status.to_string())?.into_inner().done;
        let all = all(&network).await?;
        let rotated = all.iter().filter(|cp| key_no(cp) > 1).count();
        if usize::try_from(done).ok() == Some(rotated) { Ok(rotated) } else { Err(format!("{done}, {rotated} keys")) }
    })
    .await?;
    assert!(rotated < 60, "what it had not reached stays as it was");

    let stopped = client.stop(to_all(Some(COUNT))).await?.into_inner();
    assert_eq!((stopped.matched, stopped.done), (COUNT, COUNT), "Stop goes to all at once: {stopped:?}");
    for cp in all(&network).await.map_err(anyhow::Error::msg)? {
        assert_eq!(cp.state(), ChargingPointState::OutOfOrder, "{}", cp.id);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_orders_with_json_and_its_exit_codes_tell_apart_spec_7_2() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _post = network.charging_point("CP-1").await?;
    let points = |words: &[&'static str]| [&["charging-points"][..], words].concat();

    let (code, said, error) = command(&network, "olga", &points(&["stop", "CP-1", "--reason", "cable theft"])).await?;
    assert_eq!((code, &said["matched"], &said["done"]), (0, &json!(1), &json!(1)), "{said} {error}");
    network.until_state("CP-1", ChargingPointState::OutOfOrder).await?;
    let (code, said, error) = command(&network, "victor", &points(&["get", "CP-1"])).await?;
    assert_eq!((code, &said["id"]), (0, &json!("CP-1")), "a viewer may look: {said} {error}");
    assert!(said.to_string().contains("cable theft"), "{said}");
    let (code, said, error) = command(&network, "olga", &points(&["resume", "CP-1"])).await?;
    assert_eq!((code, &said["done"]), (0, &json!(1)), "{said} {error}");
    let (code, said, error) = command(&network, "olga", &["tokens", "create", "--uses", "2"]).await?;
    assert!(code == 0 && said["token"].as_str().is_some_and(|token| token.starts_with("cmt1.")), "{said} {error}");
    let (code, said, error) = command(&network, "olga", &["audit", "verify"]).await?;
    assert_eq!((code, &said["central"]["intact"]), (0, &json!(true)), "{said} {error}");

    for (who, words, wanted, says) in [
        ("victor", points(&["stop", "CP-1"]), 3, "NOT_ALLOWED"),
        ("olga", points(&["stop", "CP-404"]), 3, "CP-404"),
        ("olga", points(&["get", "CP-404"]), 3, "CP-404"),
        ("olga", points(&["stop", "CP-1", "--expected", "2"]), 3, "EXPECTATION_FAILED"),
        ("olga", vec!["orders", "cancel", "o-none"], 3, "o-none"),
        ("olga", vec!["identities", "remove", "driver", "nobody"], 3, "nobody"),
        ("olga", points(&["stop"]), 2, "--all"),
        ("olga", points(&["price", "CP-1", "--to", "cheap"]), 2, "cheap"),
        ("nobody", points(&["list"]), 2, "nobody"),
    ] {
        let (code, said, error) = command(&network, who, &words).await?;
        assert_eq!(code, wanted, "{words:?}: {said} {error}");
        assert!(error.contains(says) || said.to_string().contains(says), "{words:?}: {said} {error}");
    }
    Ok(())
}

/// A channel to each service with the identity in `folder`.
fn servers(network: &Network, folder: &Path) -> anyhow::Result<[(&'static str, Channel); 2]> {
    let identity = TlsIdentity::load(folder)?;
    let channel = |role, address: std::net::SocketAddr| {
        (role, client::channel(&identity, RoleAddress::new(role, [address.to_string()]), &ClientConfig::default()))
    };
    Ok([channel("central", network.central_grpc), channel("registry", network.registry_grpc)])
}

/// An identity of another authority with the same trust domain and name, which trusts this network's servers.
fn stranger(network: &Network, roots: &str) -> anyhow::Result<std::path::PathBuf> {
    let (folder, day) = (network.path("foreign/olga"), Duration::from_secs(80_000));
    let foreign = Authority::create(&network.path("foreign/authority"), "chargemesh.test", day)?;
    foreign.issue_person(Caller::Operator, &"olga".parse()?, &folder, day, false)?;
    std::fs::write(folder.join("ca.pem"), format!("{}{roots}", foreign.roots_pem()?))?;
    Ok(folder)
}

/// The object of a call: removals name an object that does not exist, so that later calls still have theirs.
fn subject(method: &str) -> &'static str {
    if method == "Remove" { "CP-404" } else { "CP-1" }
}

fn assert_services(role: &str, described: &Described) {
    let own: &[&str] = match role {
        "central" => &["central.v1.Audit", "central.v1.ChargingPoints", "central.v1.Conditions", "central.v1.Sessions"],
        _ => &["registry.v1.Identities", "registry.v1.Operators"],
    };
    let common = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"].map(str::to_owned);
    let expected: BTreeSet<String> = own.iter().map(|name| format!("chargemesh.{name}")).chain(common).collect();
    let alpha = BTreeSet::from(["grpc.reflection.v1alpha.ServerReflection".to_owned()]);
    assert_eq!(described.services, &expected | &alpha);
    let own = described.methods().iter().filter(|method| callers(method).is_some()).count();
    let all = proto::POLICIES.iter().filter(|policy| policy.path.starts_with(&format!("/chargemesh.{role}."))).count();
    assert_eq!(own, all, "every method has its policy");
}

/// Whether the call succeeded or was refused with a reason about its parameters.
fn assert_answered(path: &str, error: Option<&Status>) {
    let Some(status) = error else { return };
    assert!(
        !matches!(
            status.code(),
            Code::Unimplemented
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unknown
                | Code::Internal
                | Code::Unavailable
                | Code::DeadlineExceeded
        ),
        "{path}: {status}"
    );
    assert!(reason_of(status).is_some(), "{path} refuses without a reason: {status}");
}

fn assert_not_allowed(path: &str, error: Option<&Status>) {
    let status = error.unwrap_or_else(|| panic!("{path} was answered"));
    assert_eq!(
        (status.code(), reason_of(status)),
        (Code::PermissionDenied, Some(Reason::NotAllowed)),
        "{path}: {status}"
    );
}

fn names(callers: &[Caller]) -> BTreeSet<String> {
    callers.iter().map(|caller| format!("CALLER_{}", format!("{caller:?}").to_uppercase())).collect()
}

/// Makes a call to each service.
async fn allowed(who: &Operator) -> Result<(), Status> {
    who.charging_points.clone().list(ListChargingPointsRequest::default()).await?;
    who.identities.clone().list(ListIdentitiesRequest::default()).await.map(drop)
}

async fn refused_as_removed(who: &Operator) -> Result<(), String> {
    let central = who.charging_points.clone().list(ListChargingPointsRequest::default()).await.map(drop);
    let registry = who.identities.clone().list(ListIdentitiesRequest::default()).await.map(drop);
    for (service, answer) in [("Central", central), ("Registry", registry)] {
        let status = answer.err().ok_or_else(|| format!("{service} still answers him"))?;
        if (status.code(), reason_of(&status)) != (Code::PermissionDenied, Some(Reason::Removed)) {
            return Err(format!("{service}: {status}"));
        }
    }
    Ok(())
}

/// Starts charging points in one process and waits until all are AVAILABLE.
async fn fleet(network: &Network, count: u32) -> anyhow::Result<Process> {
    let token = network.path("fleet.token");
    std::fs::write(&token, network.operator.token(count).await?)?;
    let pairs = [
        ("--count", count.to_string()),
        ("--token-file", token.display().to_string()),
        ("--data", network.path("fleet").display().to_string()),
        ("--central", network.central_link.to_string()),
        ("--registry", network.registry_https.to_string()),
    ];
    let flags = pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    let args = std::iter::once("fleet".to_owned()).chain(flags).collect();
    let spec =
        LaunchSpec { name: "fleet".into(), args, env: Vec::new(), under: Vec::new(), folder: network.path("logs") };
    let fleet = Process::start(spec)?;
    until(format_args!("{count} charging points to be AVAILABLE"), PATIENCE * 2, async || {
        let available = |cp: &&ChargingPoint| cp.state() == ChargingPointState::Available;
        let available = all(network).await?.iter().filter(available).count();
        if u32::try_from(available) == Ok(count) { Ok(()) } else { Err(format!("{available} are")) }
    })
    .await?;
    Ok(fleet)
}

async fn all(network: &Network) -> Result<Vec<ChargingPoint>, String> {
    let request = ListChargingPointsRequest { page_size: 1_000, ..Default::default() };
    let list = network.operator.charging_points.clone().list(request).await;
    list.map(|list| list.into_inner().charging_points).map_err(|status| status.to_string())
}

fn to_all(expected: Option<u32>) -> OrderRequest {
    let selector = Some(Selector { which: Some(Which::All(true)) });
    OrderRequest { request_id: fresh_id(), selector, expected, reason: String::new() }
}

/// Runs a command as `who` with `--json`; answers exit code, the printed object, and standard error.
async fn command(network: &Network, who: &str, words: &[&str]) -> anyhow::Result<(i32, Value, String)> {
    let (central, registry) = (network.central_grpc.to_string(), network.registry_grpc.to_string());
    let identity = network.identity(who).display().to_string();
    let connection = ["--json", "--central", &central, "--registry", &registry, "--identity", &identity];
    let (code, out, error) = process::run(&[words, &connection].concat(), &[]).await?;
    let object = if out.trim().is_empty() { Value::Null } else { serde_json::from_str(&out).context(out)? };
    Ok((code, object, error))
}
