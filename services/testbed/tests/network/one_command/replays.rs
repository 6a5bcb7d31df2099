//! `chargemesh replay`: every row of a recording is billed once, to the watt-hour.

use std::{path::Path, process::Stdio};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testbed::{process::binary, wait::until};

use super::{CommandOutput, PATIENCE, chargemesh, pid_of};

/// Two stations and eight rows; two weeks are replayed in a few seconds.
const RECORDING: &str = "\
session,station,plug_in,plug_out,kwh
S1,A-1,2019-03-01T06:00:00,2019-03-01T07:30:00,4.216
S2,B-1,2019-03-01T06:00:00,2019-03-01T16:00:00,17.366
S3,A-1,2019-03-01T08:00:00,2019-03-01T09:00:00,0.001
S4,A-1,2019-03-01T08:30:00,2019-03-01T10:00:00,2.5
S5,B-1,2019-03-02T06:00:00,2019-03-02T07:00:00,0
S6,A-1,2019-03-03T06:00:00,2019-03-03T18:00:00,30.123
S7,B-1,2019-03-08T06:00:00,2019-03-08T07:00:00,7
S8,A-1,2019-03-14T06:00:00,2019-03-14T07:00:00,9.999
";

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_billed_to_the_watt_hour_though_central_is_killed_and_never_twice() -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("cm-replay-").tempdir()?;
    let (file, data) = (folder.path().join("sessions.csv"), folder.path().join("net"));
    std::fs::write(&file, RECORDING)?;
    let (file, path) = (file.to_str().unwrap_or_default(), data.to_str().unwrap_or_default());
    let args = ["replay", file, "--data", path, "--speed", "86400", "--json"];
    let (said, killed) = tokio::join!(chargemesh(&args), kill_central(&data));
    let said = said?;
    killed?;
    assert!(said.status.success(), "{}{}", said.out, said.err);
    let books = said.lines().pop().context("no books")?;
    let expected = 4216 + 17_366 + 1 + 2500 + 30_123 + 7000 + 9999;
    for (field, value) in [
        ("sessions", 8),
        ("tickets", 8),
        ("mismatches", 0),
        ("energy_wh_expected", expected),
        ("energy_wh_billed", expected),
    ] {
        assert_eq!(books[field], json!(value), "{field} of {books}");
    }

    let again = chargemesh(&args).await?;
    let books = again.lines().pop().context("no books")?;
    assert!(again.status.success() && books["tickets"] == json!(8) && books["mismatches"] == json!(0), "{books}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_in_the_middle_is_finished_by_the_next_run_spec_9() -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("cm-replay-").tempdir()?;
    let (file, data) = (folder.path().join("sessions.csv"), folder.path().join("net"));
    std::fs::write(
        &file,
        "session,station,plug_in,plug_out,kwh\n\
         L1,A-1,2019-03-01T06:00:00,2019-03-02T06:00:00,30.123\n\
         L2,B-1,2019-03-01T06:00:00,2019-03-01T12:00:00,17.366\n\
         L3,A-1,2019-03-02T08:00:00,2019-03-02T09:00:00,2.5\n",
    )?;
    let (file, path) = (file.to_str().unwrap_or_default(), data.to_str().unwrap_or_default());
    // The longest row takes 15 s.
    let args = ["replay", file, "--data", path, "--speed", "5760", "--json"];
    let mut first = tokio::process::Command::new(binary()?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    until_supplied(&data).await?;
    first.kill().await?;

    let again = chargemesh(&args).await?;
    assert!(again.status.success(), "{}{}", again.out, again.err);
    assert!(again.err.contains("L1 at A-1") && again.err.contains("interrupted"), "{}", again.err);
    let books = again.lines().pop().context("no books")?;
    let expected = 30_123 + 17_366 + 2500;
    for (field, value) in [("sessions", 3), ("tickets", 3), ("mismatches", 0), ("energy_wh_billed", expected)] {
        assert_eq!(books[field], json!(value), "{field} of {books}");
    }
    let cut = books["interrupted_energy_wh"].as_u64().context("no interrupted energy")?;
    assert!(books["interrupted"].as_u64() >= Some(1) && cut < 30_123 + 17_366, "{books}");

    let third = chargemesh(&args).await?;
    let same = third.lines().pop().context("no books")?;
    for field in ["tickets", "mismatches", "energy_wh_billed", "interrupted", "interrupted_energy_wh"] {
        assert_eq!(same[field], books[field], "{field} of {same}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_and_a_network_of_up_never_share_a_folder() -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("cm-share-").tempdir()?;
    let (file, data) = (folder.path().join("sessions.csv"), folder.path().join("net"));
    std::fs::write(&file, RECORDING)?;
    let (file, path) = (file.to_str().unwrap_or_default(), data.to_str().unwrap_or_default());
    std::fs::create_dir_all(&data)?;
    std::fs::write(data.join("recording.mark"), "0000000000000007\n")?;
    let said = chargemesh(&["up", "--data", path]).await?;
    assert_eq!(said.status.code(), Some(2), "{}", said.err);
    assert!(said.err.contains("holds the state of `chargemesh replay`"), "{}", said.err);

    std::fs::remove_file(data.join("recording.mark"))?;
    std::fs::write(data.join("network.json"), r#"{"addresses":null,"charging_points":[],"drivers":[]}"#)?;
    let said = chargemesh(&["replay", file, "--data", path]).await?;
    assert_eq!(said.status.code(), Some(2), "{}", said.err);
    assert!(said.err.contains("a network of `chargemesh up`"), "{}", said.err);
    Ok(())
}

/// Replays this text in a new folder and reads the summary of its books.
async fn replayed(text: &str, speed: &str) -> anyhow::Result<(CommandOutput, Value)> {
    let folder = tempfile::Builder::new().prefix("cm-replay-").tempdir()?;
    let (file, data) = (folder.path().join("sessions.csv"), folder.path().join("net"));
    std::fs::write(&file, text)?;
    let (file, path) = (file.to_str().unwrap_or_default(), data.to_str().unwrap_or_default());
    let said = chargemesh(&["replay", file, "--data", path, "--speed", speed, "--json"]).await?;
    let books = said.lines().pop().with_context(|| format!("no books: {}", said.err))?;
    Ok((said, books))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_station_is_replayed_as_fast_as_the_speed_allows() -> anyhow::Result<()> {
    let row = |n: u32| {
        format!("S{n},ST-1,2024-01-01T{:02}:{:02}:00,2024-01-01T{:02}:{:02}:30,0.5\n", n / 60, n % 60, n / 60, n % 60)
    };
    let rows: String = (0..120).map(row).collect();
    let (said, books) = replayed(&format!("session,station,plug_in,plug_out,kwh\n{rows}"), "1000000").await?;
    assert!(said.status.success(), "{}", said.err);
    assert!(said.err.contains("columns separated by a comma"), "{}", said.err);
    // Central's limit of 4 requests a second would refuse and delay two thirds of them, and count the delay as its own.
    assert_eq!((&books["tickets"], &books["refused"]), (&json!(120), &json!(0)), "{books}");
    assert!(books["authorise_ms_p99"].as_f64() < Some(2000.0), "{books}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_name_ends_like_an_attempt_of_another_is_a_session_of_its_own() -> anyhow::Result<()> {
    let text = "session,station,plug_in,plug_out,kwh\n\
                17,ST-1,2024-03-01T08:00:00,2024-03-01T09:00:00,1\n\
                17:1,ST-1,2024-03-01T10:00:00,2024-03-01T11:00:00,2\n";
    let (said, books) = replayed(text, "86400").await?;
    assert!(said.status.success(), "{}", said.err);
    assert_eq!((&books["tickets"], &books["mismatches"]), (&json!(2), &json!(0)), "{books}");
    Ok(())
}

/// Waits until a driver is being supplied.
async fn kill_central(data: &Path) -> anyhow::Result<()> {
    until_supplied(data).await?;
    let status: Value = serde_json::from_slice(&std::fs::read(data.join("up.json"))?)?;
    let processes = status["processes"].as_array().context("no processes")?;
    let central = processes.iter().find(|process| process["name"] == json!("central")).context("no Central")?;
    Ok(kill(Pid::from_raw(pid_of(central)?), Signal::SIGKILL)?)
}

async fn until_supplied(data: &Path) -> anyhow::Result<()> {
    let list = ["sessions", "list", "--json", "--data", data.to_str().unwrap_or_default()];
    until("a first session", PATIENCE, async || {
        let said = chargemesh(&list).await.map_err(|error| format!("{error:#}"))?;
        if said.lines().iter().any(|s| s["state"] == json!("SESSION_STATE_SUPPLYING")) {
            Ok(())
        } else {
            Err(said.out + &said.err)
        }
    })
    .await
}
