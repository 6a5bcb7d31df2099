//! What the verification of a credential answers, and what it costs.

use mesh::status::{reason_of, wait_of};
use proto::{
    enrolment::{Credential, EnrolBody, EnrolmentToken, Secret, SecretText},
    link::v1::Reason,
};

use super::{
    enrol::{body, post},
    *,
};

#[tokio::test(flavor = "multi_thread")]
async fn unknown_ids_foreign_kinds_and_forged_credentials_get_one_answer_design_4() {
    let network = RegistryNetwork::start().await;
    let credential = network.enrolled("CP-1").await;
    let mut forged: Credential = credential.parse().unwrap();
    forged.tag[0] ^= 1;
    for (id, shown) in [
        ("CP-1", forged.to_text().to_string()),
        ("CP-1", "cmc1.cp-CP-1.x.y".into()),
        ("CP-1", String::new()),
        ("CP-9", credential.clone()),
        ("CP-9", forged.to_text().to_string()),
    ] {
        assert_eq!(network.verify(id, &shown).await.unwrap().reason_code, Reason::WrongCredential.public_code());
    }
    let kind = Kind::Driver as i32;
    let request =
        VerifyRequest { kind, id: "CP-1".into(), credential: credential.into_bytes(), address: String::new() };
    let verified = network.central().verify(request).await.unwrap().into_inner();
    assert_eq!(verified.reason_code, Reason::WrongCredential.public_code());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_attempts_are_limited_by_address_and_id_and_others_go_on_design_4() {
    let network = RegistryNetwork::with(&["--attempts", "3"]).await;
    let replaced = network.enrolled("CP-1").await;
    let by_credential = EnrolBody { old_credential: SecretText::new(&replaced), ..body("CP-1", "") };
    let credential = post(&network.own_door(), &by_credential).await.unwrap().credential.expose().to_owned();
    for _ in 0..3 {
        let wrong = network.verify("CP-1", &replaced).await.unwrap().reason_code;
        assert_eq!(wrong, Reason::WrongCredential.public_code());
    }
    let unjudged = network.verify("CP-1", &credential).await.unwrap_err();
    assert_eq!(reason_of(&unjudged), Some(Reason::TooManyAttempts));
    let wait = wait_of(&unjudged).expect("when to come again");
    assert!(!wait.is_zero() && wait <= Duration::from_secs(60), "{wait:?}");
    let kind = Kind::ChargingPoint as i32;
    let (id, address) = ("CP-1".into(), "192.0.2.2".into());
    let request = VerifyRequest { kind, id, credential: credential.into_bytes(), address };
    let elsewhere = network.central().verify(request).await.unwrap().into_inner();
    assert_eq!(elsewhere.reason_code, Reason::Unspecified.public_code());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_makes_up_counts_against_no_neighbour_behind_his_address_design_4() {
    let network = RegistryNetwork::with(&["--attempts", "3"]).await;
    let credential = network.enrolled("CP-1").await;
    let mut forged: Credential = credential.parse().unwrap();
    forged.tag[0] ^= 1;
    for shown in ["garbage".to_owned(), String::new(), forged.to_text().to_string()].iter().cycle().take(30) {
        assert_eq!(network.verify("CP-1", shown).await.unwrap().reason_code, Reason::WrongCredential.public_code());
    }
    let verified = network.verify("CP-1", &credential).await.unwrap();
    assert_eq!(verified.reason_code, Reason::Unspecified.public_code());

    let (door, token) = (network.own_door(), network.token(1).await);
    for n in 0..30 {
        let (id, secret) = (format!("{n:016x}"), Secret::from_bytes([n; 32]));
        let made_up = EnrolmentToken { id, secret, ..token.parse().unwrap() }.to_text();
        assert_eq!(post(&door, &body("CP-2", &made_up)).await.unwrap_err().reason, "TOKEN_INVALID");
    }
    assert_eq!(post(&door, &body("CP-2", &token)).await.unwrap().status.incarnation, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_removed_while_his_credential_waits_for_its_hash_is_not_enrolled_spec_7_4() {
    let flags = ["--hashes-at-once", "1", "--hashes-waiting", "16", "--hash-memory", "65536", "--hash-passes", "3"];
    let network = RegistryNetwork::with(&flags).await;
    let credential = network.enrolled("CP-1").await;
    let shown = (0..8).map(|_| {
        let kind = Kind::ChargingPoint as i32;
        let (id, credential, address) = ("CP-1".into(), credential.clone().into_bytes(), String::new());
        let (mut central, request) = (network.central(), VerifyRequest { kind, id, credential, address });
        async move { central.verify(request).await.unwrap().into_inner().reason_code }
    });
    let mut shown: tokio::task::JoinSet<_> = shown.collect();
    assert_eq!(shown.join_next().await.unwrap().unwrap(), "");
    // All other calls have read the identity by now and wait for their hash.
    let remove = RemoveRequest { request_id: request_id(), kind: Kind::ChargingPoint as i32, id: "CP-1".into() };
    network.operator().remove(remove).await.unwrap();
    assert_eq!(shown.join_all().await.pop().as_deref(), Some("NOT_ENROLLED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_hashes_than_may_wait_are_refused_as_overload_and_leave_no_mark_design_4() {
    // Slow hashes, one at a time and none waiting, so that the calls overlap.
    let flags = [
        "--hashes-at-once",
        "1",
        "--hashes-waiting",
        "0",
        "--hash-memory",
        "65536",
        "--hash-passes",
        "3",
        "--attempts",
        "20",
    ];
    let slow = RegistryNetwork::with(&flags).await;
    let credential = slow.enrolled("CP-1").await;
    let mut central = slow.central();
    let request = VerifyRequest {
        kind: Kind::ChargingPoint as i32,
        id: "CP-1".into(),
        credential: credential.clone().into_bytes(),
        address: "192.0.2.1".into(),
    };
    let mut overloaded = 0;
    for _ in 0..3 {
        let tries = (0..16).map(|_| {
            let (mut central, request) = (central.clone(), request.clone());
            tokio::spawn(async move { central.verify(request).await })
        });
        for tried in tries.collect::<Vec<_>>() {
            match tried.await.unwrap() {
                Ok(verified) => assert_eq!(verified.into_inner().reason_code, Reason::Unspecified.public_code()),
                Err(status) => {
                    assert_eq!(reason(&status), "OVERLOADED");
                    overloaded += 1;
                }
            }
        }
    }
    assert!(overloaded > 0);
    let verified = central.verify(request).await.unwrap().into_inner();
    assert_eq!(verified.reason_code, Reason::Unspecified.public_code(), "overload is no wrong attempt");
}
