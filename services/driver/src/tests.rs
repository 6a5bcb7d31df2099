//! What is wrong with a driver's start is said before anything is spent.

use clap::Parser;
use mesh::process::{Context, exit_code};

use super::*;

#[derive(Parser)]
struct DriverCli {
    #[command(flatten)]
    config: Config,
}

fn refused(settings: DriverSettings, folder: &Path) -> String {
    let error = start(&Context::detached("driver"), settings, folder).unwrap_err();
    assert_eq!(exit_code(&error), 2);
    error.to_string()
}

fn ana() -> DriverSettings {
    let (central, registry) = (vec!["127.0.0.1:1".into()], "https://127.0.0.1:1".into());
    DriverSettings::new(&"ana".parse().unwrap(), central, registry, Some(SecretText::new("cmt1.x")))
}

#[test]
fn a_missing_file_of_requests_is_found_before_the_token_is_spent_spec_3_10() {
    let dir = tempfile::tempdir().unwrap();
    let file = Some(dir.path().join("nowhere.csv"));
    let why = refused(DriverSettings { file, ..ana() }, &dir.path().join("ana"));
    assert!(why.starts_with("cannot read the file of requests") && why.contains("nowhere.csv"), "{why}");
    assert!(!dir.path().join("ana").exists());
}

#[test]
fn a_data_folder_has_one_driver_at_a_time_spec_1_7() {
    let dir = tempfile::tempdir().unwrap();
    let _first = mesh::data_folder::lock(dir.path(), "driver").unwrap();
    let why = refused(ana(), dir.path());
    assert!(why.starts_with(&format!("another driver uses {}", dir.path().display())), "{why}");
}

#[tokio::test]
async fn a_request_by_hand_is_told_that_central_cannot_be_reached_spec_1_5() {
    let dir = tempfile::tempdir().unwrap();
    let stored = StoredIdentity {
        id: Some("ana".into()),
        credential: Some(SecretText::new("cmc1.ana.x.y")),
        ..StoredIdentity::default()
    };
    stored.save(&dir.path().join("identity.json")).unwrap();
    let ctx = Context::detached("driver");
    let mut driver = start(&ctx, ana(), dir.path()).unwrap();
    let said = driver.execute("request CP-4 0.5").await.unwrap();
    assert!(said["waits"].as_str().unwrap().starts_with("cannot reach Central: kept"), "{said}");
    let mut notification = Vec::new();
    while !notification.iter().any(|notification| matches!(notification, Notification::Waiting { .. })) {
        notification.push(driver.next_notification().await.unwrap().1);
    }
    ctx.stop.cancel();
}

#[test]
fn an_empty_token_file_is_named_spec_7_4() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "\n").unwrap();
    let cli = DriverCli::try_parse_from(["driver", "--id", "ana", "--token-file", file.to_str().unwrap()]).unwrap();
    let error = cli.config.token().unwrap_err();
    assert_eq!(error.to_string(), format!("the token file {} is empty", file.display()));
    assert_eq!(exit_code(&error), 2);
}

#[test]
fn a_charging_point_without_a_place_is_named_without_empty_brackets_spec_3_1() {
    let asked = |place: &str| {
        let place = place.to_owned();
        Notification::confirmation_requested(&proto::link::v1::ConfirmRequest {
            charging_point_id: "CP-4".into(),
            place,
            ..Default::default()
        })
        .to_string()
    };
    assert!(asked("").starts_with("CP-4 asks you to pay"), "{}", asked(""));
    assert!(asked("Quay 1").starts_with("CP-4 (Quay 1) asks you to pay"), "{}", asked("Quay 1"));
}
