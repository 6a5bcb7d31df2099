use std::os::unix::fs::PermissionsExt as _;

use proto::link::v1::{EngineReport, KeyWithdrawn, from_engine, from_monitor};

use super::*;

/// No test is of silence: a busy machine is not to be taken for it.
fn settings() -> wire::LinkSettings {
    wire::LinkSettings { life_sign: Duration::from_secs(10), ..wire::LinkSettings::default() }
}

type ToEngine = mpsc::Receiver<PairingEvent<FromMonitor>>;
type ToMonitor = mpsc::Receiver<PairingEvent<FromEngine>>;

async fn monitor(ctx: &Context, place: &PairingAddress, secret: PairingSecret) -> ToMonitor {
    let (back, heard) = mpsc::channel(16);
    listen(ctx, place, secret, settings(), back, |heard| heard).await.unwrap();
    heard
}

fn engine(ctx: &Context, place: PairingAddress, secret: PairingSecret) -> ToEngine {
    let (back, heard) = mpsc::channel(16);
    ctx.spawn("engine", seek(ctx.clone(), place, secret, settings(), back, |heard| heard));
    heard
}

async fn paired<M>(heard: &mut mpsc::Receiver<PairingEvent<M>>) -> SendQueue {
    loop {
        if let PairingEvent::Paired(send_queue) = heard.recv().await.unwrap() {
            return send_queue;
        }
    }
}

async fn ended<M>(heard: &mut mpsc::Receiver<PairingEvent<M>>) -> String {
    loop {
        if let PairingEvent::Ended(_, why) = heard.recv().await.unwrap() {
            return why;
        }
    }
}

fn report() -> FromEngine {
    let report = EngineReport { healthy: true, ..EngineReport::default() };
    FromEngine { body: Some(from_engine::Body::Report(report)) }
}

#[tokio::test]
async fn engine_and_monitor_meet_at_a_socket_of_mode_0600_in_any_order_and_again_spec_1_4() {
    let folder = tempfile::tempdir().unwrap();
    let place = PairingAddress::Unix(folder.path().join("sub/pairing.sock"));
    let PairingAddress::Unix(path) = place.clone() else { unreachable!() };
    let secret = PairingSecret::of_local_socket();
    let first = Context::detached("engine");
    let mut at_engine = engine(&first, place.clone(), secret.clone());
    assert!(ended(&mut at_engine).await.contains("nobody answers"), "the engine was first");

    let ctx = Context::detached("monitor");
    let mut at_monitor = monitor(&ctx, &place, secret.clone()).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let to_monitor = paired(&mut at_engine).await;
    tell(&to_monitor, &report());
    let to_engine = paired(&mut at_monitor).await;
    assert!(matches!(at_monitor.recv().await, Some(PairingEvent::Message(message)) if *message == report()));
    let withdrawn = FromMonitor { body: Some(from_monitor::Body::KeyWithdrawn(KeyWithdrawn::default())) };
    tell(&to_engine, &withdrawn);
    assert!(matches!(at_engine.recv().await, Some(PairingEvent::Message(message)) if *message == withdrawn));

    first.stop.cancel();
    ended(&mut at_monitor).await;
    let second = Context::detached("engine");
    let mut at_second = engine(&second, place, secret);
    tell(&paired(&mut at_second).await, &report());
    paired(&mut at_monitor).await;
    ctx.stop.cancel();
    ended(&mut at_second).await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_never_replaced_by_the_pairing_spec_1_4() {
    let (folder, ctx) = (tempfile::tempdir().unwrap(), Context::detached("monitor"));
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "mine").unwrap();
    let (back, _heard) = mpsc::channel::<PairingEvent<FromEngine>>(16);
    let (place, secret) = (PairingAddress::Unix(path.clone()), PairingSecret::of_local_socket());
    let refused = listen(&ctx, &place, secret, settings(), back, |heard| heard).await.unwrap_err();
    assert!(refused.to_string().contains("is not a socket; give another"), "{refused}");
    assert_eq!(mesh::process::exit_code(&refused), 2);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[tokio::test]
async fn between_two_hosts_only_the_same_secret_pairs_spec_1_4() {
    let ctx = Context::detached("monitor");
    let place: PairingAddress = "127.0.0.1:0".parse().unwrap();
    let mut at_monitor = monitor(&ctx, &place, PairingSecret::from_bytes([1; 32])).await;
    let place = PairingAddress::Tcp(ctx.address_of("pairing").unwrap());
    let mut stranger = engine(&ctx, place.clone(), PairingSecret::from_bytes([2; 32]));
    for _ in 0..3 {
        ended(&mut stranger).await;
    }
    assert!(at_monitor.try_recv().is_err(), "nobody was let in");
    let mut own = engine(&ctx, place, PairingSecret::from_bytes([1; 32]));
    tell(&paired(&mut own).await, &report());
    paired(&mut at_monitor).await;
}

#[test]
fn a_place_is_a_path_or_host_and_port() {
    for path in ["pairing.sock", "/run/cp/pairing.sock", "./a:1/b", "unix:odd:7"] {
        assert!(matches!(path.parse(), Ok(PairingAddress::Unix(_))), "{path}");
    }
    assert_eq!("cp-1.lan:7700".parse(), Ok(PairingAddress::Tcp("cp-1.lan:7700".to_owned())));
    for bad in ["", "cp-1.lan:http"] {
        assert!(bad.parse::<PairingAddress>().is_err(), "{bad}");
    }
}

#[test]
fn a_pairing_over_the_network_needs_a_secret_that_cannot_be_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let network = PairingAddress::Tcp("a:1".to_owned());
    assert!(secret(&network, None).unwrap_err().to_string().contains("--pairing-secret-file"));
    std::fs::write(&file, "short\n").unwrap();
    assert!(secret(&network, Some(&file)).unwrap_err().to_string().contains("shorter than 20"));
    std::fs::write(&file, "long enough to be a secret\n").unwrap();
    let one = secret(&network, Some(&file)).unwrap();
    std::fs::write(&file, "long enough to be a secret").unwrap();
    assert!(one == secret(&network, Some(&file)).unwrap(), "a line end is no difference");
    assert!(one != PairingSecret::of_local_socket());
}
