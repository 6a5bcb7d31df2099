//! Renewal, revocation, refusal and removal (SPEC 4.7, 7.4).

use super::rig::*;

#[test]
fn after_a_renewal_it_authenticates_by_itself_five_seconds_later_spec_4_7() {
    let mut rig = MonitorRig::ready();
    rig.stands(KeyState::Deleted, Reason::KeyRenewed, 5_000);
    assert_eq!(rig.withdrawn(), Some((KeyState::Deleted, Reason::KeyRenewed)));
    assert!(rig.disk.keys.is_empty());
    assert!(rig.warnings().contains("no valid key"));
    rig.wait(Duration::from_millis(4_999));
    assert_eq!((rig.dials.len(), rig.closed.len()), (2, 1), "the link stays as a status link");
    rig.wait(Duration::from_millis(1));
    assert_eq!(rig.dials[2].1, 0);
    rig.open();
    assert_eq!(rig.credentials_shown(), 1);
    rig.grant(2);
    rig.held(2);
    assert_eq!((rig.assigned(), rig.dials[3].1), (Some(2), 2));
}

#[test]
fn it_authenticates_again_after_its_own_time_or_later_if_central_asks_for_that_spec_4_7() {
    for (own, asked_ms, waits) in [(S(5), 0, S(5)), (S(9), 5_000, S(9)), (S(5), 20_000, S(20)), (S(5), u32::MAX, S(60))]
    {
        let rig = MonitorRig::ready();
        let mut settings = settings();
        settings.enrollee.authenticate_again = own;
        let mut rig = MonitorRig::restarted(settings, rig.disk, rig.now);
        rig.open();
        rig.view(&[]);
        rig.stands(KeyState::Deleted, Reason::KeyRenewed, asked_ms);
        rig.wait(waits - Duration::from_millis(1));
        assert_eq!(rig.dials.len(), 1, "{own:?} {asked_ms}");
        rig.wait(Duration::from_millis(1));
        assert_eq!(rig.dials.len(), 2, "{own:?} {asked_ms}");
    }
}

#[test]
fn a_command_authenticates_at_once_spec_4_7() {
    let mut rig = MonitorRig::ready();
    rig.stands(KeyState::Deleted, Reason::KeyRenewed, 5_000);
    rig.act(MonitorAction::Authenticate).unwrap();
    assert_eq!(rig.dials[2].1, 0);
    rig.open();
    rig.grant(2);
    rig.wait(S(10));
    assert_eq!(rig.credentials_shown(), 1);
}

#[test]
fn three_refusals_end_the_tries_and_a_command_begins_them_again_spec_4_7() {
    let mut rig = MonitorRig::ready();
    rig.stands(KeyState::Deleted, Reason::KeyRenewed, 5_000);
    for tries in 1..=3 {
        rig.wait(S(5));
        assert_eq!(rig.dials.len(), 2 + tries);
        rig.open();
        rig.stands(KeyState::Deleted, Reason::WrongCredential, 0);
        let link = rig.last();
        rig.cut(link);
    }
    rig.wait(S(3_600));
    assert_eq!((rig.dials.len(), rig.credentials_shown()), (5, 3));
    assert!(rig.warnings().contains("refused 3 times"));
    rig.act(MonitorAction::Authenticate).unwrap();
    rig.open();
    rig.grant(2);
    assert_eq!((rig.assigned(), rig.monitor.status().refusals), (Some(2), 0));
}

#[test]
fn being_unable_to_reach_central_never_ends_the_tries_spec_4_7() {
    let mut rig = MonitorRig::ready();
    rig.stands(KeyState::Deleted, Reason::KeyRenewed, 5_000);
    rig.wait(S(5));
    for _ in 0..50 {
        let link = rig.last();
        rig.cut(link);
        rig.wait(S(6));
    }
    assert!(rig.dials.len() > 50);
    for _ in 0..10 {
        rig.open();
        rig.stands(KeyState::Deleted, Reason::RegistryUnreachable, 1_000);
        rig.wait(S(6));
    }
    assert_eq!((rig.credentials_shown(), rig.monitor.status().refusals), (10, 0));
}

#[test]
fn a_key_is_kept_and_tried_again_while_registry_cannot_be_reached_spec_9() {
    let mut rig = MonitorRig::ready();
    let link = rig.last();
    rig.cut(link);
    for _ in 0..3 {
        rig.wait(S(6));
        assert_eq!(rig.dials.last().unwrap().1, 1, "by the key");
        // In clear, so anybody may have said it.
        rig.unknown_key();
        rig.wait(S(1));
        assert_eq!(rig.dials.last().unwrap().1, 0);
        rig.open();
        rig.stands(KeyState::Unspecified, Reason::RegistryUnreachable, 5_000);
        let link = rig.last();
        rig.cut(link);
    }
    assert_eq!((rig.disk.keys.len(), rig.withdrawn()), (1, None));
    rig.wait(S(6));
    rig.open();
    rig.view(&[]);
    assert!(rig.monitor.status().central.reachable);
}

#[test]
fn a_revoked_one_keeps_a_status_link_and_waits_for_a_new_token_spec_4_7() {
    let mut rig = MonitorRig::ready();
    rig.stands(KeyState::Revoked, Reason::KeyRevoked, 0);
    assert_eq!(rig.withdrawn(), Some((KeyState::Revoked, Reason::KeyRevoked)));
    assert!(rig.warnings().contains("key revoked"));
    rig.wait(S(600));
    assert_eq!((rig.dials.len(), rig.credentials_shown()), (2, 0), "it does not authenticate by itself");
    let link = rig.last();
    rig.cut(link);
    rig.wait(S(6));
    assert_eq!(rig.dials.last().unwrap().1, 0, "a lost status link is made again with the void credential");
    rig.open();
    rig.stands(KeyState::Revoked, Reason::CredentialVoid, 0);
    rig.wait(S(600));
    assert_eq!((rig.dials.len(), rig.credentials_shown()), (3, 1));
    rig.act(MonitorAction::Enrol(token())).unwrap();
    rig.welcome();
    rig.open();
    rig.grant(9);
    rig.held(9);
    rig.open();
    rig.view(&[]);
    assert_eq!(rig.monitor.status().key_state, "ACTIVE");
    assert!(!rig.warnings().contains("revoked"));
}

#[test]
fn a_token_that_is_refused_takes_nothing_from_an_identity_in_force() {
    let mut rig = MonitorRig::ready();
    rig.act(MonitorAction::Enrol(token())).unwrap();
    rig.enrolled(Err(refused(Reason::AlreadyEnrolled)));
    let status = rig.monitor.status();
    assert_eq!((status.enrolment, status.key_state, status.central.reachable), ("ENROLLED", "ACTIVE", true));
    assert!(status.notice.unwrap().contains("already enrolled"));
}

#[test]
fn a_late_answer_to_an_earlier_enrolment_replaces_no_later_one_spec_7_4() {
    let mut rig = MonitorRig::new(settings());
    let enrolled = |credential: &str, incarnation| {
        let status = EnrolmentStatus { incarnation, ..standing(CredentialState::Enrolled, trust(9)) };
        Ok(Enrolled { credential: SecretText::new(credential), status })
    };
    rig.act(MonitorAction::Enrol(token())).unwrap();
    rig.act(MonitorAction::Enrol(token())).unwrap();
    rig.enrolled(enrolled("cmc1.cp-CP-1.second.tag", 2));
    rig.enrolled(enrolled("cmc1.cp-CP-1.first.tag", 1));
    assert_eq!(rig.disk.credential.as_ref().map(|c| c.expose().to_owned()).as_deref(), Some("cmc1.cp-CP-1.second.tag"));
}

#[test]
fn a_credential_is_taken_though_the_refusal_of_another_token_came_before_it_and_once_spec_7_4() {
    let mut rig = MonitorRig::new(settings());
    rig.act(MonitorAction::Enrol(token())).unwrap();
    rig.act(MonitorAction::Enrol(token())).unwrap();
    rig.enrolled(Err(refused(Reason::TokenExpired)));
    rig.welcome();
    assert_eq!(rig.monitor.status().enrolment, "ENROLLED");
    rig.open();
    rig.grant(1);
    rig.welcome();
    assert_eq!((rig.disk.keys.len(), rig.credentials_shown()), (1, 1));
}

#[test]
fn removed_at_registry_it_waits_saying_so_and_comes_back_when_readmitted_spec_7_4() {
    let mut rig = MonitorRig::ready();
    rig.stands(KeyState::Deleted, Reason::NotEnrolled, 0);
    assert_eq!(rig.withdrawn(), Some((KeyState::Deleted, Reason::NotEnrolled)));
    assert!(rig.disk.credential.is_none() && rig.disk.keys.is_empty());
    assert!(rig.warnings().contains("not enrolled"));
    let tries = rig.enrols.len();
    rig.enrolled(Err(refused(Reason::NotReadmitted)));
    rig.wait(S(31));
    assert_eq!(rig.enrols.len(), tries + 1, "the token of its start is tried again, slowly");
    rig.welcome();
    rig.open();
    rig.grant(4);
    assert_eq!(rig.assigned(), Some(4));
}

#[test]
fn it_can_be_removed_by_hand_spec_11_3() {
    let mut rig = MonitorRig::ready();
    rig.act(MonitorAction::Remove).unwrap();
    rig.registry(RegistryAnswer::Removed(Err(unreachable())));
    assert_eq!(rig.monitor.status().enrolment, "ENROLLED");
    rig.act(MonitorAction::Remove).unwrap();
    rig.registry(RegistryAnswer::Removed(Ok(())));
    assert_eq!((rig.removals, rig.monitor.status().enrolment), (2, "NOT ENROLLED"));
    assert_eq!(rig.withdrawn(), Some((KeyState::Deleted, Reason::Removed)));
    rig.wait(S(600));
    assert!(!rig.monitor.status().central.linked);
    assert!(rig.act(MonitorAction::Remove).is_err());
}
