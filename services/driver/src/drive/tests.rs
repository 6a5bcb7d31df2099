//! What Central's word does to the key on disk.

use proto::link::v1::{KeyGrant, Reason, Standing};
use tempfile::TempDir;

use super::*;

const PIN: &str = "0909090909090909090909090909090909090909090909090909090909090909";

pub(super) fn enrolment() -> Enrolment {
    Enrolment {
        driver: "ann".to_owned(),
        credential: proto::enrolment::SecretText::new("cmc1.dr-ann.secret.tag"),
        pins: vec![PIN.to_owned()],
        roots: Vec::new(),
        registry: "127.0.0.1:1".to_owned(),
    }
}

/// A driver with a key, whom nobody drives.
pub(super) fn drive(folder: &TempDir) -> (Drive, mpsc::Receiver<(Now, Told)>) {
    let shelf = Shelf::open(folder.path()).unwrap();
    let grant = KeyGrant { key_no: 7, key: vec![9; 32], ..KeyGrant::default() };
    shelf.keep_key(&Key::new(&grant)).unwrap();
    let (events, _) = mpsc::channel(1);
    let (tell, told) = mpsc::channel(16);
    let settings = Settings::new("ann".parse().unwrap(), vec!["127.0.0.1:1".to_owned()]);
    (Drive::new(settings, shelf, enrolment(), Clock::system(), events, tell).unwrap(), told)
}

fn standing(reason: Reason) -> Standing {
    Standing { reason: reason.into(), ..Standing::default() }
}

#[tokio::test]
async fn a_key_is_kept_while_registry_cannot_be_reached_and_removed_when_it_is_void_spec_9() {
    let folder = tempfile::tempdir().unwrap();
    let (mut drive, _told) = drive(&folder);
    let now = drive.clock.now();
    for reason in [Reason::RegistryUnreachable, Reason::Unavailable, Reason::Overloaded, Reason::TooManyAttempts] {
        drive.stands(1, &standing(reason), now).await.unwrap();
        assert!(drive.key.is_some() && drive.shelf.key().unwrap().is_some(), "{reason:?}");
    }
    drive.stands(1, &standing(Reason::WrongCredential), now).await.unwrap();
    assert!(drive.key.is_none() && drive.shelf.key().unwrap().is_none());
}

#[tokio::test]
async fn ended_tries_are_not_begun_again_by_time_spec_4_7() {
    let folder = tempfile::tempdir().unwrap();
    let (mut drive, _told) = drive(&folder);
    let now = drive.clock.now();
    for _ in 0..3 {
        assert!(drive.dial_at.is_some());
        drive.stands(1, &standing(Reason::WrongCredential), now).await.unwrap();
    }
    assert_eq!((drive.dial_at, drive.due()), (None, None));
    assert_eq!(drive.status()["authenticates_again"], false);
    drive.asked(Ask::Word(Word::Authenticate, None)).await.unwrap();
    assert_eq!(drive.dial_at.is_some(), drive.status()["authenticates_again"] == true);
    assert!(drive.dial_at.is_some());
}
