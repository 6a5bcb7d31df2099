//! Bad input is answered with one message, which names what failed, with which value, and what to do, and with an exit
//! code: 2 where the caller can correct it, 1 otherwise. There is never a backtrace, even with RUST_BACKTRACE=1.

use std::net::TcpListener;

use anyhow::Context as _;
use proto::registry::v1::{CreateTokenRequest, TokenCreated};
use serde_json::{Value, json};
use testbed::{
    network::{Network, PATIENCE, ask},
    operator::any_token,
    process::{self, LaunchSpec, Process},
    wait::until,
};
use tokio::time::timeout;

use crate::refused::{Failures, RefusedCommand, StoppedNetwork, no_backtrace, with, words};

/// A folder that cannot be created, not even by root.
const NOWHERE: &str = "/proc/nowhere";

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_with_what_to_do() -> anyhow::Result<()> {
    let mut faults = Failures::default();
    let ground = StoppedNetwork::new().await?;
    let held = TcpListener::bind("127.0.0.1:0")?;
    let address = held.local_addr()?.to_string();
    let data = ground.path("data");
    for (role, flag) in [
        (ground.central(), "--grpc-address"),
        (ground.central(), "--link-address"),
        (ground.central(), "--admin-address"),
        (ground.registry(), "--grpc-address"),
        (ground.registry(), "--https-address"),
        (words(&["engine", "--data", &data]), "--admin-address"),
        (words(&["up", "--data", &data]), "--central-link"),
        (words(&["up", "--data", &data]), "--registry-https"),
    ] {
        faults.note(
            RefusedCommand::flag(role, flag, &address)
                .says(&[&format!("cannot listen on {address}"), "another port"])
                .refused(2)
                .await,
        );
    }
    faults.none()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unwritable_folder_is_named() -> anyhow::Result<()> {
    let mut faults = Failures::default();
    let ground = StoppedNetwork::new().await?;
    let recording =
        ground.file("good.csv", "session,station,plug_in,plug_out,kwh\na,A,2019-03-01 06:00,2019-03-01 07:00,1\n")?;
    let below_a_file = ground.file("file", "in the way")?.join("data").display().to_string();
    let token = ground.file("token", &ground.token())?.display().to_string();
    let recording = recording.display().to_string();
    for folder in [NOWHERE, &below_a_file] {
        for role in [
            ground.central(),
            ground.registry(),
            words(&["engine"]),
            words(&["monitor", "--id", "CP-1", "--token-file", &token]),
            words(&["fleet", "--token-file", &token]),
            words(&["driver", "--id", "ann", "--token-file", &token]),
            words(&["up"]),
            words(&["replay", &recording]),
        ] {
            faults.note(RefusedCommand::flag(role, "--data", folder).says(&[folder]).refused(2).await);
        }
        faults.note(RefusedCommand::new(&["certs", "init", "--dir", folder]).says(&[folder]).refused(2).await);
        let database = format!("sqlite:{folder}/central.db");
        faults.note(RefusedCommand::new(&["migrate", "central", &database]).says(&[folder]).refused(2).await);
    }
    for (flag, path) in [("--addresses", "/proc/nowhere.json"), ("--control-socket", "/proc/nowhere.sock")] {
        faults.note(RefusedCommand::flag(ground.registry(), flag, path).says(&[path]).refused(2).await);
    }
    faults.none()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_or_variable_with_a_bad_value_is_named_with_it_spec_1_7() -> anyhow::Result<()> {
    let mut faults = Failures::default();
    let ground = StoppedNetwork::new().await?;
    let (central, registry) = (ground.central(), ground.registry());
    let driver = || words(&["driver", "--id", "ann"]);
    for (role, flag, value) in [
        (central.clone(), "--grpc-address", "localhost"),
        (central.clone(), "--reservation", "soon"),
        (central.clone(), "--price", "free"),
        (central.clone(), "--currency", "EURO"),
        (central.clone(), "--log-level", "central=loud"),
        (central.clone(), "--log-format", "xml"),
        (registry.clone(), "--first-operator", "no way"),
        (registry.clone(), "--https-address", "443"),
        (words(&["engine"]), "--power", "0"),
        (words(&["engine"]), "--charged", "101"),
        (words(&["engine"]), "--speed", "fast"),
        (words(&["engine", "--data", &ground.path("cp")]), "--pairing", "nowhere:port"),
        (words(&["monitor"]), "--id", "a b"),
        (words(&["monitor"]), "--life-sign", "0.5s"),
        (words(&["fleet"]), "--count", "many"),
        (words(&["fleet"]), "--starts-per-second", "0"),
        (words(&["driver"]), "--id", "../x"),
        (driver(), "--confirm", "maybe"),
        (driver(), "--random-requests", "x"),
        (words(&["up"]), "--charging-points", "few"),
        (words(&["up"]), "--speed", "0"),
        (words(&["replay", "x.csv"]), "--speed", "-1"),
    ] {
        faults.note(RefusedCommand::flag(role, flag, value).says(&[flag, value]).refused(2).await);
    }
    for (role, variable, value, flag) in [
        (central.clone(), "CHARGEMESH_SETTLE_AFTER", "later", "--settle-after"),
        (central.clone(), "CHARGEMESH_GRACE", "10", "--grace"),
        (registry.clone(), "CHARGEMESH_REGISTRY_CHECKPOINT_EVERY", "often", "--checkpoint-every"),
        (words(&["engine"]), "CHARGEMESH_TICK", "1.5s", "--tick"),
        (words(&["monitor"]), "CHARGEMESH_CHARGING_POINT_ID", "<b>", "--id"),
        (words(&["fleet"]), "CHARGEMESH_COUNT", "-1", "--count"),
        (words(&["driver"]), "CHARGEMESH_DRIVER_ID", "ä", "--id"),
        (words(&["up"]), "CHARGEMESH_CHAOS", "monkey", "--chaos"),
        (words(&["replay", "x.csv"]), "CHARGEMESH_REPLAY_SPEED", "x", "--speed"),
        (words(&["charging-points", "list"]), "CHARGEMESH_CALL_TIMEOUT", "ever", "--timeout"),
    ] {
        faults.note(RefusedCommand::variable(role, variable, value).says(&[flag, value]).refused(2).await);
    }
    // Values that are found to be wrong only when they are used.
    for (role, flag, value) in [
        (central, "--database", "mysql://central"),
        (registry.clone(), "--secret-file", "/none/secret"),
        (registry, "--central", "nowhere"),
        (words(&["monitor", "--id", "CP-1"]), "--token-file", "/none/token"),
        (driver(), "--token-file", "/none/token"),
        (words(&["fleet", "--data", &ground.path("fleet")]), "--prefix", "-"),
    ] {
        let named = value.split("://").next().unwrap_or(value);
        faults.note(RefusedCommand::flag(role, flag, value).says(&[named]).refused(2).await);
    }
    faults
        .note(RefusedCommand::new(&["replay", "/none/recording.csv"]).says(&["/none/recording.csv"]).refused(2).await);
    faults
        .note(RefusedCommand::new(&["ctl", "/none/engine.sock", "plug"]).says(&["/none/engine.sock"]).refused(1).await);
    faults.none()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_of_a_recording_is_reported_with_its_number() -> anyhow::Result<()> {
    let mut faults = Failures::default();
    let ground = StoppedNetwork::new().await?;
    let data = ground.path("replay");
    let replay = |text: &str| {
        let file = ground.file("recording.csv", text)?;
        anyhow::Ok(RefusedCommand::new(&["replay", &file.display().to_string(), "--data", &data]))
    };
    let header = "session,station,plug_in,plug_out,kwh";
    let text = format!(
        "{header}\na,A,2019-03-01 06:00,2019-03-01 07:00,1\nb,A,2019-03-01 08:00,2019-03-01 09:00,much\nc,A b,x,y,1\n"
    );
    let says = ["line 3", "\"much\" is not an energy", "line 4", "2 invalid lines", "--skip-bad-lines"];
    faults.note(replay(&text)?.says(&says).refused(2).await);
    faults.note(replay("when,what\n1,2\n")?.says(&["recording.csv", "no column \"session\""]).refused(2).await);
    faults.note(replay(header)?.says(&["recording.csv", "no sessions"]).refused(2).await);
    assert!(!ground.folder.path().join("replay").exists(), "nothing was begun");
    faults.none()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_a_foreign_and_a_broken_certificate_are_named_spec_5() -> anyhow::Result<()> {
    let mut faults = Failures::default();
    let ground = StoppedNetwork::new().await?;
    let (expired, foreign, broken) = (ground.expired().await?, ground.foreign()?, ground.broken()?);
    let command = || words(&["charging-points", "list", "--central", "127.0.0.1:1"]);
    for role in [ground.central(), ground.registry(), command()] {
        faults.note(
            RefusedCommand::flag(role.clone(), "--identity", &expired)
                .says(&[&expired, "expired on", "chargemesh certs"])
                .refused(2)
                .await,
        );
        faults.note(
            RefusedCommand::flag(role.clone(), "--identity", &foreign)
                .says(&[&foreign, "is foreign", "ca.pem"])
                .refused(2)
                .await,
        );
        faults.note(RefusedCommand::flag(role, "--identity", &broken).says(&[&broken, "PEM"]).refused(2).await);
    }
    faults.note(
        RefusedCommand::flag(command(), "--identity", "/none").says(&["/none", "chargemesh certs"]).refused(2).await,
    );

    // An operator and servers with different authorities: neither side trusts the other.
    let network = Network::start(&[]).await?;
    let central = network.central_grpc.to_string();
    faults.note(
        RefusedCommand::flag(with(command(), "--central", &central), "--identity", &ground.path("certs/olga"))
            .says(&[&central, "certificate is foreign"])
            .refused(1)
            .await,
    );
    faults.none()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_too_new_of_another_service_or_none_is_named_spec_10_6() -> anyhow::Result<()> {
    let mut faults = Failures::default();
    let ground = StoppedNetwork::new().await?;
    for service in ["central", "registry"] {
        let other = if service == "central" { "registry" } else { "central" };
        let role = || if service == "central" { ground.central() } else { ground.registry() };
        let open = |url: &str| RefusedCommand::flag(role(), "--database", url);
        let file = |name: &str| format!("sqlite:{}", ground.path(name));

        let foreign = file(&format!("{other}/{other}.db"));
        faults.note(open(&foreign).says(&[&format!("{other}.db"), &format!("belongs to {other}")]).refused(2).await);
        ground.file("garbage.db", &"this is no database ".repeat(100))?;
        let garbage = file("garbage.db");
        faults.note(open(&garbage).says(&["garbage.db", "not a database"]).refused(2).await);

        let newer = file(&format!("newer-{service}.db"));
        let (code, out, error) = process::run(&["migrate", service, &newer], &[]).await?;
        anyhow::ensure!(code == 0, "{out}{error}");
        store::testing::sql(&newer, "UPDATE schema_version SET version = 99, serves_from = 99").await;
        let says = ["too new", "version 99", "use a newer chargemesh"];
        faults.note(open(&newer).says(&says).refused(2).await);
        faults.note(RefusedCommand::new(&["migrate", service, &newer]).says(&says).refused(2).await);
    }
    faults.none()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_its_tables_waits_and_says_what_to_do_spec_1_7() -> anyhow::Result<()> {
    let ground = StoppedNetwork::new().await?;
    for (name, role) in [("central", ground.central()), ("registry", ground.registry())] {
        let (url, socket) = (format!("sqlite:{}", ground.path(&format!("later-{name}.db"))), ground.path("waits.sock"));
        let args = with(with(role, "--database", &url), "--control-socket", &socket);
        let spec = LaunchSpec {
            name: name.into(),
            args,
            env: Vec::new(),
            under: Vec::new(),
            folder: ground.path("logs").into(),
        };
        let waits = Process::start(spec)?;
        let socket = std::path::Path::new(&socket);
        let status = async || ask(socket, "status", Value::Null).await.map_err(|error| error.to_string());
        until(format_args!("{name} to say what it waits for"), PATIENCE, async || {
            let said = status().await?["health"]["components"]["database"].to_string();
            if said.contains("chargemesh migrate") { Ok(()) } else { Err(said) }
        })
        .await?;
        let (code, out, error) = process::run(&["migrate", name, &url], &[]).await?;
        anyhow::ensure!(code == 0, "{out}{error}");
        until(format_args!("{name} to go on by itself"), PATIENCE, async || {
            let said = status().await?["health"].clone();
            // The other role is missing too, which makes it degraded, not unready.
            if said["status"] == json!("degraded") { Ok(()) } else { Err(said.to_string()) }
        })
        .await?;
        no_backtrace(&waits.log())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_garbage_expired_or_spent_is_named_spec_7_4() -> anyhow::Result<()> {
    let mut faults = Failures::default();
    let network = Network::start(&[]).await?;
    let driver = |id: &str, token: &str| {
        let registry = network.registry_https.to_string();
        let data = network.path(format!("driver-{id}")).display().to_string();
        RefusedCommand::new(&["driver", "--id", id, "--token", token, "--registry", &registry, "--data", &data])
    };
    let monitor = |token: &str| {
        let data = network.path("cp").display().to_string();
        RefusedCommand::new(&["monitor", "--id", "CP-1", "--token", token, "--data", &data])
    };
    let good = network.operator.token(1).await?;
    let cut = good.get(..good.len() / 2).context("a token has a half")?;
    for garbage in ["hunter2", "cmt1.", cut] {
        // The value is a secret, so the message describes the expected form instead.
        faults.note(driver("ann", garbage).says(&["token"]).silent(&["hunter2", cut]).refused(2).await);
        faults.note(monitor(garbage).says(&["token"]).silent(&["hunter2", cut]).refused(2).await);
    }
    let _first = network.driver("first", &[]).await?;
    let spent = network.operator.token(1).await?;
    let (code, _, error) = enrol_once(&network, "second", &spent).await?;
    assert_eq!(code, 0, "{error}");
    faults.note(driver("third", &spent).says(&["third", "TOKEN_SPENT"]).refused(2).await);
    let expired = expired_token(&network).await?;
    faults.note(driver("fourth", &expired).says(&["fourth", "TOKEN_EXPIRED"]).refused(2).await);

    // A monitor waits and reports it, since an operator may give it another token (SPEC 7.4).
    let socket = network.path("waits.sock");
    let file = network.path("spent.token");
    std::fs::write(&file, &spent)?;
    let args = words(&[
        "monitor",
        "--id",
        "CP-1",
        "--token-file",
        &file.display().to_string(),
        "--data",
        &network.path("waits").display().to_string(),
        "--registry",
        &network.registry_https.to_string(),
        "--control-socket",
        &socket.display().to_string(),
    ]);
    let spec =
        LaunchSpec { name: "waits".into(), args, env: Vec::new(), under: Vec::new(), folder: network.path("logs") };
    let waits = Process::start(spec)?;
    until("the monitor to say that its token is spent", PATIENCE, async || {
        let status = ask(&socket, "status", Value::Null).await.map_err(|error| error.to_string())?;
        let says = status.to_string();
        if status["enrolment"] != json!("ENROLLED") && says.contains("no use left") { Ok(()) } else { Err(says) }
    })
    .await?;
    no_backtrace(&waits.log())?;
    faults.none()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_of_a_drivers_file_and_ids_that_are_none_are_named_spec_2_5_3_10() -> anyhow::Result<()> {
    let mut faults = Failures::default();
    let network = Network::start(&[]).await?;
    let file = network.path("wishes.txt");
    std::fs::write(&file, "# plan\nCP 1,7\nCP-2,much\n")?;
    let path = file.display().to_string();
    let token = network.operator.token(1).await?;
    let data = network.path("ann").display().to_string();
    let (registry, central) = (network.registry_https.to_string(), network.central_link.to_string());
    let args = [
        "driver",
        "--id",
        "ann",
        "--token",
        &token,
        "--data",
        &data,
        "--registry",
        &registry,
        "--central",
        &central,
        "--file",
        &path,
        "--exit-when-done",
    ];
    let (code, out, error) = timeout(PATIENCE, process::run(&args, &[])).await??;
    let said = format!("{out}{error}");
    assert_eq!(code, 0, "bad lines are skipped: {said}");
    for line in ["line 2", "\"CP 1\" is not an id", "line 3", "\"much\" is not an energy"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    no_backtrace(&said)?;
    let missing = network.path("none.txt").display().to_string();
    faults.note(RefusedCommand::flag(words(&args), "--file", &missing).says(&[&missing]).refused(2).await);

    let (central, identity) = (network.central_grpc.to_string(), network.identity("olga").display().to_string());
    let connection = ["--central", &central, "--registry", &network.registry_grpc.to_string(), "--identity", &identity];
    for command in [
        &["charging-points", "get", "CP 1"][..],
        &["charging-points", "stop", "a/b"],
        &["charging-points", "restore", "<b>"],
        &["identities", "remove", "driver", "-x y"],
        &["operators", "remove", "no way"],
    ] {
        let (command, id) = command.split_at(command.len() - 1);
        let words = [command, &connection, &["--"][..], id].concat();
        faults.note(RefusedCommand::new(&words).says(id).refused(2).await);
    }
    faults.none()
}

/// A driver that enrols and ends, since its file has no requests.
async fn enrol_once(network: &Network, id: &str, token: &str) -> anyhow::Result<(i32, String, String)> {
    let file = network.path("nothing.txt");
    std::fs::write(&file, "# nothing\n")?;
    let (registry, central) = (network.registry_https.to_string(), network.central_link.to_string());
    let (data, file) = (network.path(id).display().to_string(), file.display().to_string());
    let args = [
        "driver",
        "--id",
        id,
        "--token",
        token,
        "--data",
        &data,
        "--registry",
        &registry,
        "--central",
        &central,
        "--file",
        &file,
        "--exit-when-done",
    ];
    timeout(PATIENCE, process::run(&args, &[])).await?
}

/// An expired token.
async fn expired_token(network: &Network) -> anyhow::Result<String> {
    let request = CreateTokenRequest { lifetime: Some(proto::Duration { seconds: 1, nanos: 0 }), ..any_token() };
    let TokenCreated { token, expire_time, .. } =
        network.operator.identities.clone().create_token(request).await?.into_inner();
    let clock = mesh::clock::Clock::system();
    until("a token to expire", PATIENCE, async || {
        if clock.wall_ms() > proto::millis(expire_time.as_ref()) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await?;
    Ok(token)
}
