//! Identities: made, rolled, spoilt, expiring.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use proto::Caller;
use tokio_util::sync::CancellationToken;

use super::network::{DAY, MeshNetwork, READ, anna, call, channel, counting};
use crate::{
    certs::{Authority, CertsError, identities_in},
    health::Readiness,
    identity::{IdentityConfig, TlsIdentity, TlsIdentityError},
    process::{Context, exit_code},
};

#[tokio::test]
async fn rolling_the_authority_and_every_identity_under_load_fails_no_call_spec_10_7() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let identity = Arc::new(network.identity(Caller::Operator));
    let done = CancellationToken::new();
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (identity, address, done) = (identity.clone(), central.address, done.clone());
            tokio::spawn(async move {
                let mut calls = 0;
                while !done.is_cancelled() {
                    // A new connection each time: each handshake may meet another state of the files.
                    call(&channel(&identity, address), READ).await.unwrap();
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let folders = identities_in(network.dir.path()).unwrap();
    assert_eq!(folders.len(), 2);
    let rolled = tokio::task::spawn_blocking(move || {
        for _ in 0..5 {
            network.authority.roll(365 * DAY, &folders).unwrap();
            for folder in &folders {
                network.authority.renew(folder).unwrap();
            }
            network.authority.retire(&folders).unwrap();
        }
        network
    });
    let network = rolled.await.unwrap();
    call(&channel(&identity, central.address), READ).await.unwrap();
    done.cancel();
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    let roots = network.authority.roots_pem().unwrap();
    assert_eq!(roots.matches("BEGIN CERTIFICATE").count(), 1, "the old roots are gone");
}

#[tokio::test]
async fn a_retired_root_is_refused_at_the_next_connection() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let operator = network.identity(Caller::Operator);
    call(&channel(&operator, central.address), READ).await.unwrap();
    let folders = [network.folder(Caller::Central)];
    network.authority.roll(365 * DAY, &folders).unwrap();
    call(&channel(&operator, central.address), READ).await.unwrap();
    network.authority.renew(&folders[0]).unwrap();
    network.authority.retire(&folders).unwrap();
    let both = network.authority.roots_pem().unwrap()
        + &fs::read_to_string(network.folder(Caller::Operator).join("ca.pem")).unwrap();
    fs::write(network.folder(Caller::Operator).join("ca.pem"), both).unwrap();
    let refused = call(&channel(&operator, central.address), READ).await.unwrap_err();
    assert!(refused.message().contains("refuses our certificate: foreign"), "{}", refused.message());
}

#[tokio::test]
async fn bad_files_never_replace_good_ones() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let (folder, operator) = (network.folder(Caller::Central), network.identity(Caller::Operator));
    let (good, other) = (fs::read(folder.join("cert.pem")).unwrap(), network.folder(Caller::Registry));
    let foreign = Authority::create(&network.dir.path().join("foreign"), "mesh.test", DAY).unwrap();
    let works = async || call(&channel(&operator, central.address), READ).await.unwrap();
    for bad in ["", "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n"].map(str::as_bytes) {
        fs::write(folder.join("cert.pem"), bad).unwrap();
        works().await;
    }
    fs::copy(other.join("cert.pem"), folder.join("cert.pem")).unwrap();
    works().await;
    fs::remove_file(folder.join("key.pem")).unwrap();
    works().await;
    foreign.issue_role(Caller::Central, &folder, &[], DAY, true).unwrap();
    fs::write(folder.join("ca.pem"), network.authority.roots_pem().unwrap()).unwrap();
    works().await;
    network.authority.issue_role(Caller::Central, &folder, &[], DAY, true).unwrap();
    works().await;
    assert_ne!(fs::read(folder.join("cert.pem")).unwrap(), good);
}

#[tokio::test]
async fn good_files_that_could_not_be_read_at_first_are_read_though_they_do_not_change_again() {
    let network = MeshNetwork::new();
    let (identity, folder) = (network.identity(Caller::Operator), network.folder(Caller::Operator));
    let before = identity.client().unwrap();
    network.authority.renew(&folder).unwrap();
    let path = folder.join("cert.pem");
    let (good, made) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    let reads_as = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(made).unwrap();
    };
    reads_as(&vec![b'x'; good.len()]);
    assert!(Arc::ptr_eq(&identity.client().unwrap(), &before), "the old ones stay");
    reads_as(&good);
    assert!(!Arc::ptr_eq(&identity.client().unwrap(), &before));
}

fn open(network: &MeshNetwork, lifetime: Duration) -> (Context, anyhow::Result<TlsIdentity>) {
    let (ctx, folder) = (Context::detached("central"), network.dir.path().join("opened"));
    network.issue(Caller::Central, "", &folder, lifetime);
    let identity = TlsIdentity::open(&ctx, &IdentityConfig { identity: folder });
    (ctx, identity)
}

#[tokio::test]
async fn the_end_of_a_certificate_is_announced_at_30_and_at_7_days_spec_10_7() {
    let network = MeshNetwork::new();
    for (days, expected) in [(40, None), (20, Some("within 30 days")), (5, Some("within 7 days"))] {
        let (ctx, identity) = open(&network, days * DAY);
        identity.unwrap();
        let report = serde_json::to_string(&ctx.health.report()).unwrap();
        match expected {
            None => assert_eq!(ctx.health.readiness(), Readiness::Ready),
            Some(words) => assert!(report.contains(words), "{days} days: {report}"),
        }
        assert!(ctx.health.readiness().serves());
        assert!(ctx.metrics.encode().unwrap().contains("chargemesh_certificate_expiry_seconds 1"));
    }
}

#[tokio::test]
async fn an_expired_or_foreign_or_spoilt_identity_is_a_sentence_and_exit_code_2() {
    let network = MeshNetwork::new();
    let (_, expired) = open(&network, Duration::ZERO);
    let folder = network.dir.path().join("opened");
    let gone = async || matches!(TlsIdentity::load(&folder), Err(TlsIdentityError::Expired { .. }));
    drop(expired);
    super::network::until("it expires", gone).await;
    let check = |words: &str| {
        let ctx = Context::detached("central");
        let error = TlsIdentity::open(&ctx, &IdentityConfig { identity: folder.clone() }).unwrap_err();
        assert_eq!(exit_code(&error), 2);
        let text = format!("{error:#}");
        assert!(text.contains(words) && text.contains("opened"), "{text}");
    };
    check("expired on 20");
    let foreign = Authority::create(&network.dir.path().join("foreign"), "mesh.test", DAY).unwrap();
    foreign.issue_role(Caller::Central, &folder, &[], DAY, true).unwrap();
    fs::write(folder.join("ca.pem"), network.authority.roots_pem().unwrap()).unwrap();
    check("is foreign");
    fs::write(folder.join("key.pem"), "no key").unwrap();
    check("is no key in PEM form");
    fs::copy(network.folder(Caller::Registry).join("key.pem"), folder.join("key.pem")).unwrap();
    check("does not belong to the certificate");
    let missing = TlsIdentity::load(&network.dir.path().join("nowhere")).unwrap_err().to_string();
    assert!(missing.contains("nowhere/ca.pem") && missing.contains("chargemesh certs"), "{missing}");
}

#[tokio::test]
async fn a_role_with_the_identity_of_another_is_refused_in_words_and_exit_code_2_spec_1_7() {
    let network = MeshNetwork::new();
    for (whose, name, words) in [
        (Caller::Operator, "anna", "this identity is an operator's; central needs central's"),
        (Caller::Viewer, "anna", "this identity is a viewer's; central needs central's"),
        (Caller::Registry, "", "this identity is registry's; central needs central's"),
    ] {
        let (ctx, folder) = (Context::detached("central"), network.dir.path().join(format!("of-{whose:?}")));
        network.issue(whose, name, &folder, DAY);
        let error = TlsIdentity::open(&ctx, &IdentityConfig { identity: folder.clone() }).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(exit_code(&error), 2);
        TlsIdentity::load(&folder).expect("a command may have whoever's");
    }
}

#[test]
fn keys_are_private_and_nothing_is_overwritten_unasked() {
    let network = MeshNetwork::new();
    let folder = network.folder(Caller::Central);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.join("key.pem")), 0o600);
    assert_eq!(mode(&network.dir.path().join("authority/ca-key.pem")), 0o600);
    let before = fs::read(folder.join("key.pem")).unwrap();
    let again = network.authority.issue_person(Caller::Operator, &anna(), &folder, DAY, false);
    assert!(matches!(again, Err(CertsError::Exists(_))), "{again:?}");
    assert_eq!(fs::read(folder.join("key.pem")).unwrap(), before);
    let second = Authority::create(&network.dir.path().join("authority"), "mesh.test", DAY);
    assert!(matches!(second, Err(CertsError::Exists(_))));
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "no half-written file is left: {names:?}");
}

#[test]
fn a_role_can_be_reached_by_the_names_and_addresses_it_was_made_for() {
    let network = MeshNetwork::new();
    let out = network.dir.path().join("named");
    let names = ["central.example.org".to_owned(), "192.0.2.7".to_owned(), "2001:db8::7".to_owned()];
    network.authority.issue_role(Caller::Central, &out, &names, DAY, false).unwrap();
    let pem = fs::read(out.join("cert.pem")).unwrap();
    let der = <rustls_pki_types::CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(&pem).unwrap();
    let certificate = webpki::EndEntityCert::try_from(&der).unwrap();
    for name in ["central", "localhost", "127.0.0.1", "::1", "central.example.org", "192.0.2.7", "2001:db8::7"] {
        let name = rustls_pki_types::ServerName::try_from(name).unwrap();
        certificate.verify_is_valid_for_subject_name(&name).unwrap();
    }
    for bad in ["", "a b", "0.0.0.0", "http://x", "-"] {
        let made = network.authority.issue_role(Caller::Central, &out, &[bad.to_owned()], DAY, true);
        assert!(matches!(made, Err(CertsError::Name(_))), "{bad:?}: {made:?}");
    }
}
