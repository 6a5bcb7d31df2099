//! A process from its start to its exit code.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use clap::Parser;
use nix::sys::signal::{Signal, raise};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    data_folder::lock,
    process::{Context, Misuse, ProcessConfig, bind, exit_code, run},
};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    process: ProcessConfig,
}

fn config(extra: &[&str]) -> ProcessConfig {
    let base = ["test", "--admin-address", "127.0.0.1:0", "--log-level", "off"];
    Flags::parse_from(base.iter().chain(extra)).process
}

async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// One test, because a signal reaches every process that listens for it.
#[test]
fn a_process_ends_with_the_code_that_says_why() {
    assert_eq!(run("test", config(&[]), async |_| Ok(())), ExitCode::SUCCESS);
    assert_eq!(run("test", config(&[]), async |_| Err(anyhow::anyhow!("no"))), ExitCode::from(1));
    let misuse = async |_: Context| Err(anyhow::Error::from(Misuse::new("--x is wrong")).context("start"));
    assert_eq!(run("test", config(&[]), misuse), ExitCode::from(2));

    let panics = async |ctx: Context| {
        ctx.spawn("steady", ctx.stop.clone().cancelled_owned().into_ok());
        ctx.spawn("broken", async { panic!("at once") });
        Ok(())
    };
    assert_eq!(run("test", config(&[]), panics), ExitCode::from(1), "a panicking task stops the whole");

    let signalled = async |ctx: Context| {
        ctx.spawn("steady", ctx.stop.clone().cancelled_owned().into_ok());
        raise(Signal::SIGTERM).unwrap();
        Ok(())
    };
    assert_eq!(run("test", config(&[]), signalled), ExitCode::SUCCESS);

    let stubborn = async |ctx: Context| {
        ctx.spawn("stubborn", std::future::pending());
        ctx.stop.cancel();
        Ok(())
    };
    assert_eq!(run("test", config(&["--grace", "50ms"]), stubborn), ExitCode::from(1), "stopped hard");
}

trait IntoOk {
    fn into_ok(self) -> impl Future<Output = anyhow::Result<()>> + Send + 'static;
}

impl<F: Future<Output = ()> + Send + 'static> IntoOk for F {
    async fn into_ok(self) -> anyhow::Result<()> {
        self.await;
        Ok(())
    }
}

#[test]
fn the_admin_port_tells_health_readiness_and_metrics_and_the_addresses_are_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("addresses.json");
    let body = async |ctx: Context| {
        let known: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let admin = known["admin"].as_str().unwrap().to_owned();
        assert!(get(&admin, "/healthz").await.starts_with("HTTP/1.1 200"));
        let store = ctx.health.component("store");
        assert!(get(&admin, "/readyz").await.starts_with("HTTP/1.1 503"));
        store.degraded("the disk is full");
        let ready = get(&admin, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("the disk is full"), "{ready}");
        let metrics = get(&admin, "/metrics").await;
        assert!(metrics.contains(r#"chargemesh_build{role="test",version=""#), "{metrics}");
        ctx.listening("link", "127.0.0.1:7400")?;
        Ok(())
    };
    assert_eq!(run("test", config(&["--addresses", file.to_str().unwrap()]), body), ExitCode::SUCCESS);
    assert!(std::fs::read_to_string(&file).unwrap().contains(r#""link":"127.0.0.1:7400""#));
}

#[test]
fn a_file_that_holds_no_addresses_is_never_overwritten_spec_1_7() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let end = |file: &std::path::Path| run("test", config(&["--addresses", file.to_str().unwrap()]), async |_| Ok(()));
    let (notes, other) = (write("notes.txt", "mine"), write("other.json", r#"{"a":{"b":1}}"#));
    for file in [&notes, &other, &dir.path().join("missing/addresses.json")] {
        assert_eq!(end(file), ExitCode::from(2), "{file:?}");
    }
    assert_eq!(std::fs::read_to_string(&notes).unwrap(), "mine");
    assert!(!dir.path().join("missing").exists(), "no folder is made in silence");
    for file in [write("former.json", r#"{"admin":"127.0.0.1:1"}"#), write("empty", "")] {
        assert_eq!(end(&file), ExitCode::SUCCESS, "{file:?}");
    }
}

#[test]
fn a_data_folder_has_one_process_at_a_time_and_the_second_is_told_spec_1_7() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("ana");
    let first = lock(&folder, "driver").unwrap();
    let second = lock(&folder, "driver").unwrap_err().to_string();
    assert!(second.starts_with(&format!("another driver uses {}", folder.display())), "{second}");
    drop(first);
    lock(&folder, "driver").unwrap();
}

#[tokio::test]
async fn the_first_failing_task_stops_the_process_and_is_named() {
    let ctx = Context::detached("test");
    ctx.spawn("steady", ctx.stop.clone().cancelled_owned().into_ok());
    ctx.spawn("disk", async { Err(anyhow::anyhow!("no space left")) });
    let error = tokio::time::timeout(Duration::from_secs(5), ctx.ended()).await.unwrap().unwrap_err();
    assert_eq!(format!("{error:#}"), "disk failed: no space left");
}

#[tokio::test]
async fn what_is_done_finally_is_done_when_every_task_has_ended_and_the_lock_goes_last() {
    let (dir, ctx) = (tempfile::tempdir().unwrap(), Context::detached("test"));
    let (said, folder) = (Arc::new(Mutex::new(Vec::new())), dir.path().to_owned());
    let say = |what: &'static str| {
        let (said, folder) = (Arc::clone(&said), folder.clone());
        async move {
            said.lock().unwrap().push((what, lock(&folder, "test").is_err()));
            Ok(())
        }
    };
    ctx.hold(lock(dir.path(), "test").unwrap());
    ctx.finally("after the entry", say("after the entry"));
    let (of_stop, last) = (ctx.stop.clone(), say("the entry"));
    let audit = async move {
        of_stop.cancelled().await;
        Ok(())
    };
    ctx.spawn_and_finally("audit", audit, async move |()| {
        last.await.unwrap();
    });
    let (of_stop, slow) = (ctx.stop.clone(), say("what was under way"));
    ctx.spawn("drive", async move {
        of_stop.cancelled().await;
        tokio::task::yield_now().await;
        slow.await
    });
    ctx.stop.cancel();
    ctx.ended().await.unwrap();
    assert_eq!(*said.lock().unwrap(), [("what was under way", true), ("the entry", true), ("after the entry", true)]);
    lock(dir.path(), "test").unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_a_sentence_with_the_address_and_exit_code_2() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    let error = bind("grpc", address).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.starts_with(&format!("cannot listen on {address} for grpc: another process listens there")), "{text}");
    assert_eq!(exit_code(&error), 2);
}

#[derive(Parser)]
struct All {
    #[command(flatten)]
    process: ProcessConfig,
    #[command(flatten)]
    identity: crate::identity::IdentityConfig,
    #[command(flatten)]
    limits: crate::server::Limits,
    #[command(flatten)]
    client: crate::client::ClientConfig,
}

#[test]
fn each_setting_is_a_flag_and_a_variable_with_help_and_a_role_can_have_all_spec_1_7() {
    let command = <All as clap::CommandFactory>::command();
    command.clone().debug_assert();
    for flag in command.get_arguments() {
        let (id, help) = (flag.get_id().as_str(), flag.get_help().map(ToString::to_string).unwrap_or_default());
        let variable = flag.get_env().and_then(|name| name.to_str()).unwrap_or_default();
        assert_eq!(variable, format!("CHARGEMESH_{}", id.to_uppercase()), "{id}");
        assert!(help.len() > 20, "{id}: {help}");
    }
    let all = All::parse_from(["test", "--identity", "x"]);
    assert_eq!(format!("{:?}", all.limits), format!("{:?}", crate::server::Limits::default()));
    assert_eq!(format!("{:?}", all.client), format!("{:?}", crate::client::ClientConfig::default()));
    assert_eq!((all.process.grace.as_secs(), all.identity.identity.as_os_str()), (10, "x".as_ref()));
}

#[test]
fn a_flag_with_a_bad_value_says_how_a_good_one_looks() {
    for (flag, value, words) in [
        ("--grace", "soon", "such as 500ms, 10s"),
        ("--log-level", "info,,=x=", "give a level"),
        ("--admin-address", "here", "--admin-address"),
    ] {
        let error = Flags::try_parse_from(["test", flag, value]).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(words), "{error}");
    }
}
