//! Traces of the monitor's rules.

mod orders;
mod rig;

use rig::*;

// ---- Enrolment

#[test]
fn without_a_token_it_waits_and_says_that_it_is_not_enrolled_spec_7_4() {
    let mut rig = MonitorRig::new(settings());
    rig.input(MonitorInput::Paired);
    rig.wait(S(600));
    assert!(rig.dials.is_empty() && rig.enrols.is_empty());
    assert_eq!(rig.withdrawn(), Some((KeyState::Unspecified, Reason::NotEnrolled)));
    assert!(rig.warnings().contains("not enrolled: no token was given yet"));
    assert!(rig.act(MonitorAction::Enrol(SecretText::new("rubbish"))).is_err());
    assert_eq!(rig.act(MonitorAction::Enrol(token())), Ok(()));
    assert_eq!(rig.enrols.len(), 1);
}

#[test]
fn it_enrols_with_its_token_however_long_registry_takes_spec_1_7() {
    let mut rig = MonitorRig::new(with_token());
    for _ in 0..20 {
        rig.enrolled(Err(unreachable()));
        assert!(rig.warnings().contains("cannot reach Registry"));
        rig.wait(S(5));
    }
    assert_eq!(rig.enrols.len(), 21);
    let body = &rig.enrols[20];
    assert_eq!((body.id.as_str(), body.city.as_str(), body.price_e4), ("CP-1", "Bern", 3_950));
    assert!(rig.enrols.iter().all(|b| b.request_id == body.request_id), "one request, so one enrolment");
    let back = MonitorRig::restarted(with_token(), rig.disk.clone(), rig.now);
    assert_eq!(back.enrols[0].request_id, body.request_id, "over a restart as well");
    rig.welcome();
    assert_eq!(rig.disk.credential.as_ref().map(SecretText::expose), Some(CREDENTIAL));
    assert_eq!(rig.dials, [(1, 0)], "a first contact");
}

#[test]
fn a_token_that_is_typed_again_repeats_the_request_whose_answer_was_lost_spec_7_3() {
    let mut rig = MonitorRig::new(settings());
    rig.act(MonitorAction::Enrol(token())).unwrap();
    rig.enrolled(Err(unreachable()));
    let mut back = MonitorRig::restarted(settings(), rig.disk.clone(), rig.now);
    back.act(MonitorAction::Enrol(token())).unwrap();
    rig.act(MonitorAction::Enrol(token())).unwrap();
    assert_eq!(rig.enrols[1].request_id, rig.enrols[0].request_id);
    assert_eq!(back.enrols[0].request_id, rig.enrols[0].request_id, "over a restart as well");
    rig.enrolled(Err(refused(Reason::TokenExpired)));
    rig.act(MonitorAction::Enrol(token())).unwrap();
    assert_ne!(rig.enrols[2].request_id, rig.enrols[0].request_id, "it was answered");
}

#[test]
fn a_refused_token_is_reported_and_not_tried_again() {
    let mut rig = MonitorRig::new(with_token());
    rig.enrolled(Err(refused(Reason::TokenExpired)));
    rig.wait(S(600));
    assert_eq!(rig.enrols.len(), 1);
    assert!(rig.warnings().contains("the enrolment token has expired"));
}

#[test]
fn the_credential_is_shown_inside_a_first_contact_and_the_key_taken_into_use_by_both_parts_spec_4_4() {
    let mut rig = MonitorRig::new(with_token());
    rig.input(MonitorInput::Paired);
    rig.report(true);
    rig.welcome();
    assert_eq!(rig.credentials_shown(), 0, "not before the channel is open");
    rig.open();
    assert_eq!(rig.credentials_shown(), 1);
    rig.grant(1);
    assert_eq!(rig.disk.keys[0].key_no, 1, "stored before it is used");
    assert_eq!(rig.assigned(), Some(1));
    assert_eq!(rig.dials, [(1, 0)], "the engine has to hold it first");
    rig.held(1);
    assert_eq!(rig.dials, [(1, 0), (2, 1)]);
    rig.open();
    assert!(matches!(&rig.ups.iter().find(|(link, _)| *link == 2).unwrap().1.body, Some(up::Body::Opened(_))));
    assert!(rig.closed.is_empty(), "the first contact stays until Central has spoken on the new link");
    rig.view(&[]);
    assert_eq!(rig.closed, [1]);
    rig.wait(S(1));
    assert!(rig.bodies().iter().any(|b| matches!(b, up::Body::KeyInstalled(k) if k.key_no == 1)));
    assert_eq!(rig.monitor.status().key_state, "ACTIVE");
}

#[test]
fn an_engine_that_does_not_answer_holds_a_key_up_for_five_seconds_only() {
    let mut rig = MonitorRig::ready();
    rig.grant(2);
    rig.wait(S(4));
    assert_eq!(rig.dials.len(), 2);
    rig.wait(S(2));
    assert_eq!(rig.dials[2].1, 2);
}

#[test]
fn nothing_is_due_for_a_key_whose_save_hangs() {
    let mut rig = MonitorRig::ready();
    rig.disk_hangs = true;
    rig.grant(2);
    rig.now.mono += S(6);
    rig.input(MonitorInput::Timeout);
    assert!(rig.monitor.poll_timeout().is_none_or(|at| at > rig.now.mono));
    rig.saved(Ok(()));
    rig.carry_out();
    assert_eq!(rig.dials.last().unwrap().1, 2, "the engine is waited for no longer");
}

#[test]
fn a_restart_reconnects_by_key_and_shows_no_credential_spec_4_4() {
    let rig = MonitorRig::ready();
    let mut back = MonitorRig::restarted(settings(), rig.disk, rig.now);
    assert_eq!(back.dials, [(1, 1)]);
    back.open();
    back.view(&[]);
    back.input(MonitorInput::Paired);
    assert_eq!((back.credentials_shown(), back.assigned()), (0, Some(1)));
}

// ---- Rotation

#[test]
fn a_rotation_makes_before_it_breaks_spec_4_6() {
    let mut rig = MonitorRig::ready();
    rig.grant(2);
    assert_eq!(
        (rig.assigned(), rig.disk.keys.len()),
        (Some(2), 2),
        "the older key is kept until the new one is proven"
    );
    assert_eq!(rig.monitor.status().key_state, "ROTATING");
    rig.held(2);
    assert!(
        matches!(rig.ups.last(), Some((2, Up { body: Some(up::Body::KeyInstalled(_)), .. }))),
        "said on the old link"
    );
    assert_eq!(rig.dials.last(), Some(&(3, 2)));
    rig.open();
    assert_eq!(rig.closed, [1]);
    rig.view(&[]);
    assert_eq!((rig.closed.as_slice(), rig.disk.keys.len()), (&[1, 2][..], 1));
    assert_eq!(rig.monitor.status().key_state, "ACTIVE");
}

#[test]
fn a_key_that_central_does_not_know_leads_to_the_older_one_and_then_to_a_first_contact_spec_4_3() {
    let mut rig = MonitorRig::ready();
    rig.grant(2);
    let mut back = MonitorRig::restarted(settings(), rig.disk.clone(), rig.now);
    let unknown = |rig: &mut MonitorRig| {
        rig.unknown_key();
        rig.wait(S(6));
    };
    unknown(&mut back);
    unknown(&mut back);
    assert_eq!(back.dials.iter().map(|(_, key)| *key).collect::<Vec<_>>(), [2, 1, 0]);
    assert_eq!(back.disk.keys.len(), 2, "a message in clear takes no key away");
    unknown(&mut back);
    assert_eq!(back.asks, 1, "Registry is asked how we stand");
    back.registry_status(standing(CredentialState::Enrolled, trust(8)));
    assert_eq!(back.disk.pins, [Blob(vec![8; 32])], "Central has a new key: learnt with the credential");
    assert_eq!(back.dials.last().unwrap().1, 2, "and the keys are tried with it first");
}

#[test]
fn pins_that_are_learnt_from_registry_reach_the_engine_spec_4_4() {
    let mut rig = MonitorRig::ready();
    rig.registry_status(standing(CredentialState::Enrolled, trust(8)));
    let Some(from_monitor::Body::Assignment(assignment)) = rig.told.last() else { panic!("{:?}", rig.told) };
    let grant = assignment.key.as_ref().unwrap();
    assert_eq!((grant.key_no, grant.pins.as_slice()), (1, &[vec![8; 32]][..]));
}

// ---- Health (1.4, 2.3)

#[test]
fn every_change_of_the_engines_health_is_told_at_once_and_again_at_each_opening_spec_2_3() {
    let mut rig = MonitorRig::ready();
    rig.report(true);
    assert_eq!(rig.verdicts(), [], "no news");
    rig.report(false);
    rig.input(MonitorInput::Unpaired("no sign of life from the peer".to_owned()));
    rig.input(MonitorInput::Paired);
    rig.report(true);
    let expected = [
        (false, "broken by hand".to_owned()),
        (false, "the engine is gone: no sign of life from the peer".to_owned()),
        (true, String::new()),
    ];
    assert_eq!(rig.verdicts(), expected);
    rig.ups.clear();
    let link = rig.last();
    rig.cut(link);
    rig.wait(S(1));
    rig.open();
    assert_eq!(rig.verdicts(), [(true, String::new())]);
}

#[test]
fn a_verdict_that_changes_between_the_greeting_of_a_link_and_its_first_word_is_told_spec_2_3() {
    let mut rig = MonitorRig::new(with_token());
    rig.welcome();
    rig.open();
    rig.grant(1);
    rig.open();
    assert_eq!(rig.verdicts(), [], "not before Central has spoken there");
    rig.input(MonitorInput::Paired);
    rig.report(true);
    rig.view(&[]);
    rig.wait(S(11));
    assert_eq!(rig.verdicts().last(), Some(&(true, String::new())));
}

#[test]
fn a_verdict_told_on_the_old_link_after_the_new_one_was_greeted_is_told_on_that_as_well_spec_2_3() {
    let mut rig = MonitorRig::ready();
    rig.report(false);
    let old = rig.last();
    rig.grant(2);
    rig.held(2);
    rig.open();
    rig.report(true);
    let (link, told) = rig.ups.last().cloned().unwrap();
    assert_eq!(link, old, "the one to speak on");
    rig.down_on(old, down::Body::Answer(Answer { to: told.id, ..Answer::default() }));
    rig.ups.clear();
    rig.view(&[]);
    assert_eq!(rig.verdicts(), [(true, String::new())]);
    assert!(rig.ups.iter().all(|(link, _)| *link == rig.last()));
}

#[test]
fn the_first_word_of_one_link_settles_nothing_of_a_later_ones_greeting_spec_2_3() {
    let mut rig = MonitorRig::ready();
    rig.cut(rig.last());
    rig.wait(S(1));
    rig.open();
    let unproven = rig.last();
    rig.report(false);
    rig.registry_status(standing(CredentialState::Enrolled, trust(8)));
    rig.open();
    let later = rig.last();
    assert_ne!(later, unproven);
    rig.down_on(unproven, down::Body::View(View::default()));
    rig.report(true);
    let told = rig.ups.last().cloned().unwrap().1;
    rig.down_on(unproven, down::Body::Answer(Answer { to: told.id, ..Answer::default() }));
    rig.ups.clear();
    rig.down_on(later, down::Body::View(View::default()));
    assert_eq!(rig.verdicts(), [(true, String::new())]);
}

#[test]
fn a_verdict_is_repeated_until_answered_spec_4_2() {
    let mut rig = MonitorRig::ready();
    rig.report(false);
    rig.wait(S(11));
    let verdicts: Vec<u64> = rig.ups.iter().map(|(_, up)| up.id).collect();
    assert_eq!(rig.verdicts().len(), 3);
    let answer = Answer { to: verdicts[0], ..Answer::default() };
    rig.down(down::Body::Answer(answer));
    rig.wait(S(60));
    assert_eq!(rig.verdicts().len(), 3);
}

// ---- By hand

#[test]
fn maintenance_is_asked_for_until_central_has_it_spec_11_3() {
    let mut rig = MonitorRig::ready();
    rig.act(MonitorAction::Maintenance(true)).unwrap();
    assert_eq!(rig.monitor.status().maintenance_pending, Some(true));
    let id = rig.ups.last().unwrap().1.id;
    rig.down(down::Body::Answer(Answer { to: id, ..Answer::default() }));
    rig.view(&[Cause::Maintenance]);
    let status = rig.monitor.status();
    assert_eq!((status.maintenance_pending, status.maintenance), (None, true));
}

#[test]
fn disconnected_by_hand_it_stays_so_until_told_to_connect_spec_11_3() {
    let mut rig = MonitorRig::ready();
    rig.act(MonitorAction::Disconnect).unwrap();
    rig.wait(S(600));
    assert_eq!((rig.closed.len(), rig.dials.len()), (2, 2));
    assert!(rig.warnings().contains("disconnected by hand"));
    assert!(rig.act(MonitorAction::Authenticate).is_err());
    rig.act(MonitorAction::Connect).unwrap();
    assert_eq!(rig.dials[2].1, 1);
}

#[test]
fn an_identity_that_cannot_be_stored_is_reported_and_stored_later_spec_9_disk_full() {
    let mut rig = MonitorRig::new(with_token());
    rig.disk_works = false;
    rig.welcome();
    assert!(rig.warnings().contains("cannot be stored: no space left"));
    rig.open();
    rig.grant(1);
    rig.wait(S(3));
    assert_eq!(rig.dials.last().unwrap().1, 1, "it works on without");
    rig.disk_works = true;
    rig.wait(S(2));
    assert_eq!(rig.disk.keys[0].key_no, 1);
    assert!(!rig.warnings().contains("cannot be stored"));
}
