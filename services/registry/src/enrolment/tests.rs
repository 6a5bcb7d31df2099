//! The rules against a model that knows nothing but history: it keeps every accepted event and answers each question
//! by looking back.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::token::TokenLimits;

const IDS: [&str; 3] = ["CP-1", "CP-2", "X-1"];
const CITIES: [&str; 3] = ["", "Oslo", "Rome"];
const PATTERNS: [&str; 3] = ["", "CP-*", "X-1"];

#[derive(Clone, Debug)]
enum Op {
    Pass(u32),
    CreateToken {
        pattern: usize,
        city: usize,
        uses: u32,
        lifetime_s: u32,
    },
    RevokeToken(usize),
    Reissue(usize),
    EnrolByToken {
        id: usize,
        token: usize,
        city: usize,
    },
    /// With the credential of the n-th accepted enrolment.
    EnrolByCredential {
        id: usize,
        credential: usize,
    },
    EnrolByOperator(usize),
    Remove(usize),
    Leave {
        id: usize,
        credential: usize,
    },
    Void(usize),
    Readmit(usize),
    Verify {
        id: usize,
        credential: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (id, city, n) = (0..IDS.len(), 0..CITIES.len(), 0..8usize);
    prop_oneof![
        1 => (0..40u32).prop_map(Op::Pass),
        1 => (0..PATTERNS.len(), city.clone(), 0..3u32, 1..100u32).prop_map(|(pattern, city, uses, lifetime_s)| {
            Op::CreateToken { pattern, city, uses, lifetime_s }
        }),
        1 => n.clone().prop_map(Op::RevokeToken),
        1 => id.clone().prop_map(Op::Reissue),
        4 => (id.clone(), n.clone(), city).prop_map(|(id, token, city)| Op::EnrolByToken { id, token, city }),
        2 => (id.clone(), n.clone()).prop_map(|(id, credential)| Op::EnrolByCredential { id, credential }),
        1 => id.clone().prop_map(Op::EnrolByOperator),
        1 => id.clone().prop_map(Op::Remove),
        1 => (id.clone(), n.clone()).prop_map(|(id, credential)| Op::Leave { id, credential }),
        1 => id.clone().prop_map(Op::Void),
        2 => id.clone().prop_map(Op::Readmit),
        2 => (id, n).prop_map(|(id, credential)| Op::Verify { id, credential }),
    ]
}

/// What happened, in order. A credential is the number of the event that gave it.
#[derive(Clone, Debug, PartialEq)]
enum ModelEvent {
    Enrolled { id: usize, token: Option<usize> },
    Voided(usize),
    Removed(usize),
    Readmitted(usize),
    Revoked(usize),
}

#[derive(Clone, Debug)]
struct ModelToken {
    one: Option<(usize, usize)>,
    pattern: usize,
    city: usize,
    uses: u32,
    dies_ms: i64,
}

#[derive(Default)]
struct HistoryModel {
    log: Vec<ModelEvent>,
    tokens: Vec<ModelToken>,
}

impl HistoryModel {
    fn of(&self, id: usize) -> impl DoubleEndedIterator<Item = (usize, &ModelEvent)> {
        self.log.iter().enumerate().filter(move |(_, event)| match event {
            ModelEvent::Enrolled { id: i, .. }
            | ModelEvent::Voided(i)
            | ModelEvent::Removed(i)
            | ModelEvent::Readmitted(i) => *i == id,
            ModelEvent::Revoked(_) => false,
        })
    }

    fn last(&self, id: usize) -> Option<&ModelEvent> {
        self.of(id).next_back().map(|(_, event)| event)
    }

    /// The number of the enrolment whose credential is the id's.
    fn holds(&self, id: usize) -> Option<usize> {
        self.of(id).filter(|(_, event)| matches!(event, ModelEvent::Enrolled { .. })).map(|(n, _)| n).next_back()
    }

    fn free(&self, id: usize) -> bool {
        matches!(self.last(id), None | Some(ModelEvent::Readmitted(_)))
    }

    fn enrolments(&self, id: usize) -> u64 {
        self.of(id).filter(|(_, event)| matches!(event, ModelEvent::Enrolled { .. })).count() as u64
    }

    fn token_allows(&self, n: usize, id: usize, city: usize, now_ms: i64) -> bool {
        let token = &self.tokens[n];
        let used =
            self.log.iter().filter(|e| matches!(e, ModelEvent::Enrolled { token: Some(t), .. } if *t == n)).count();
        let usable =
            now_ms < token.dies_ms && used < token.uses as usize && !self.log.contains(&ModelEvent::Revoked(n));
        usable
            && match token.one {
                Some((one, made_at)) => one == id && self.of(id).all(|(at, _)| at < made_at),
                None => {
                    let pattern = [true, IDS[id].starts_with("CP-"), IDS[id] == "X-1"][token.pattern];
                    pattern && (token.city == 0 || city == 0 || city == token.city) && self.free(id)
                }
            }
    }
}

/// What is tested: the pure functions, with a map for a database and numbers for credentials.
#[derive(Default)]
struct EnrolmentHarness {
    now_ms: i64,
    revision: u64,
    identities: BTreeMap<usize, IdentityRecord>,
    credentials: BTreeMap<usize, usize>,
    tokens: Vec<TokenRecord>,
}

impl EnrolmentHarness {
    fn keep(&mut self, id: usize, mut identity: IdentityRecord) {
        self.revision += 1;
        identity.revision = self.revision;
        if matches!(identity.state, EnrolmentState::Removed) {
            self.credentials.remove(&id);
        }
        self.identities.insert(id, identity);
    }

    fn change(&mut self, id: usize, change: IdentityChange) -> bool {
        match change {
            Ok(Some(identity)) => {
                self.keep(id, identity);
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    fn enrol(&mut self, id: usize, city: usize, by: By, event: usize) -> bool {
        let details = EnrolmentDetails { peer: peer(id), city: CITIES[city].into(), place: String::new(), price_e4: 0 };
        let permission = match by {
            By::Token(n) => Permission::Token(&self.tokens[n]),
            By::Credential => Permission::OldCredential,
            By::Operator => Permission::Operator,
        };
        match enrol(self.identities.get(&id), &details, permission, self.now_ms) {
            Ok(AllowedEnrolment { identity, token }) => {
                if let (By::Token(n), Some(token)) = (by, token) {
                    self.tokens[n] = token;
                }
                self.keep(id, identity);
                self.credentials.insert(id, event);
                true
            }
            Err(_) => false,
        }
    }
}

#[derive(Clone, Copy)]
enum By {
    Token(usize),
    Credential,
    Operator,
}

fn peer(id: usize) -> PeerId {
    PeerKind::ChargingPoint.peer(IDS[id]).unwrap()
}

fn step(harness: &mut EnrolmentHarness, model: &mut HistoryModel, op: Op) -> Result<(), TestCaseError> {
    let next = model.log.len();
    match op {
        Op::Pass(s) => harness.now_ms += i64::from(s) * 1000,
        Op::CreateToken { pattern, city, uses, lifetime_s } => {
            let limits = TokenLimits {
                kind: Some(PeerKind::ChargingPoint),
                pattern: PATTERNS[pattern].into(),
                city: CITIES[city].into(),
                uses,
                lifetime_s,
            };
            harness.tokens.push(TokenRecord::for_anyone("t".into(), limits, "op".into(), harness.now_ms).unwrap());
            let dies_ms = harness.now_ms + i64::from(lifetime_s) * 1000;
            model.tokens.push(ModelToken { one: None, pattern, city, uses: uses.max(1), dies_ms });
        }
        Op::RevokeToken(n) => {
            if let Some(token) = harness.tokens.get_mut(n) {
                token.revoked = true;
                model.log.push(ModelEvent::Revoked(n));
            }
        }
        Op::Reissue(id) => {
            let token = reissue(harness.identities.get(&id), &peer(id), "t".into(), "op".into(), harness.now_ms);
            let allowed = matches!(model.last(id), Some(ModelEvent::Enrolled { .. } | ModelEvent::Voided(_)));
            prop_assert_eq!(token.is_ok(), allowed);
            if let Ok(token) = token {
                let dies_ms = token.expires_at_ms;
                harness.tokens.push(token);
                model.tokens.push(ModelToken { one: Some((id, next)), pattern: 0, city: 0, uses: 1, dies_ms });
            }
        }
        Op::EnrolByToken { id, token, city } => {
            if token < model.tokens.len() {
                let expected = model.token_allows(token, id, city, harness.now_ms);
                prop_assert_eq!(harness.enrol(id, city, By::Token(token), next), expected);
                model.log.extend(expected.then_some(ModelEvent::Enrolled { id, token: Some(token) }));
            }
        }
        Op::EnrolByCredential { id, credential } => {
            // The rim lets this permission through only where the credential is the one that is held.
            if harness.credentials.get(&id) == Some(&credential) {
                let expected = matches!(model.last(id), Some(ModelEvent::Enrolled { .. }));
                prop_assert_eq!(harness.enrol(id, 0, By::Credential, next), expected);
                model.log.extend(expected.then_some(ModelEvent::Enrolled { id, token: None }));
            }
        }
        Op::EnrolByOperator(id) => {
            let expected = model.free(id);
            prop_assert_eq!(harness.enrol(id, 0, By::Operator, next), expected);
            model.log.extend(expected.then_some(ModelEvent::Enrolled { id, token: None }));
        }
        Op::Remove(id) => {
            let known = harness.identities.get(&id).cloned();
            let expected = !matches!(model.last(id), None | Some(ModelEvent::Removed(_)));
            prop_assert_eq!(harness.change(id, remove(known.as_ref(), IDS[id])), expected);
            model.log.extend(expected.then_some(ModelEvent::Removed(id)));
        }
        Op::Leave { id, credential } => {
            if harness.credentials.get(&id) == Some(&credential) {
                let known = harness.identities.get(&id).cloned();
                let expected = matches!(model.last(id), Some(ModelEvent::Enrolled { .. }));
                prop_assert_eq!(harness.change(id, leave(known.as_ref(), IDS[id])), expected);
                model.log.extend(expected.then_some(ModelEvent::Removed(id)));
            }
        }
        Op::Void(id) => {
            let known = harness.identities.get(&id).cloned();
            let expected = matches!(model.last(id), Some(ModelEvent::Enrolled { .. }));
            prop_assert_eq!(harness.change(id, make_void(known.as_ref(), IDS[id])), expected);
            model.log.extend(expected.then_some(ModelEvent::Voided(id)));
        }
        Op::Readmit(id) => {
            let known = harness.identities.get(&id).cloned();
            let expected = matches!(model.last(id), Some(ModelEvent::Removed(_)));
            prop_assert_eq!(harness.change(id, readmit(known.as_ref(), IDS[id])), expected);
            model.log.extend(expected.then_some(ModelEvent::Readmitted(id)));
        }
        Op::Verify { id, credential } => {
            let right = harness.credentials.get(&id) == Some(&credential);
            let answer = verified(harness.identities.get(&id), IDS[id], right);
            let held = model.holds(id) == Some(credential);
            let expected = match model.last(id) {
                Some(ModelEvent::Enrolled { .. }) if held => None,
                Some(ModelEvent::Voided(_)) if held => Some(Reason::CredentialVoid),
                Some(ModelEvent::Enrolled { .. } | ModelEvent::Voided(_)) => Some(Reason::WrongCredential),
                Some(ModelEvent::Removed(_) | ModelEvent::Readmitted(_) | ModelEvent::Revoked(_)) | None => {
                    Some(Reason::NotEnrolled)
                }
            };
            prop_assert_eq!(answer.err().map(|refusal| refusal.reason), expected);
        }
    }
    for id in 0..IDS.len() {
        let incarnation = harness.identities.get(&id).map_or(0, |identity| identity.incarnation);
        prop_assert_eq!(incarnation, model.enrolments(id), "an incarnation is the number of enrolments");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn every_decision_agrees_with_history_spec_7_4(ops in proptest::collection::vec(op(), 1..60)) {
        let (mut harness, mut model) = (EnrolmentHarness::default(), HistoryModel::default());
        for op in ops {
            step(&mut harness, &mut model, op)?;
        }
    }
}

fn details(id: &str) -> EnrolmentDetails {
    EnrolmentDetails {
        peer: PeerKind::ChargingPoint.peer(id).unwrap(),
        city: "Oslo".into(),
        place: "Quay 1".into(),
        price_e4: 3950,
    }
}

#[test]
fn a_reissue_token_dies_with_a_revocation_that_comes_after_it_spec_4_7() {
    let first = enrol(None, &details("CP-1"), Permission::Operator, 0).unwrap().identity;
    let token = reissue(Some(&first), &first.peer, "t".into(), "op".into(), 0).unwrap();
    let mut revoked = make_void(Some(&first), "CP-1").unwrap().unwrap();
    revoked.revision += 1;
    let refused = enrol(Some(&revoked), &details("CP-1"), Permission::Token(&token), 1).unwrap_err();
    assert_eq!(refused.reason, Reason::TokenSpent);
    let restore = reissue(Some(&revoked), &revoked.peer, "t2".into(), "op".into(), 1).unwrap();
    let back = enrol(Some(&revoked), &details("CP-1"), Permission::Token(&restore), 2).unwrap().identity;
    assert_eq!((back.state, back.incarnation), (EnrolmentState::Enrolled, 2));
}

#[test]
fn a_stranger_with_a_dead_token_learns_nothing_of_the_id() {
    let limits = TokenLimits { kind: None, pattern: String::new(), city: String::new(), uses: 1, lifetime_s: 1 };
    let token = TokenRecord::for_anyone("t".into(), limits, "op".into(), 0).unwrap();
    let taken = enrol(None, &details("CP-1"), Permission::Operator, 0).unwrap().identity;
    for known in [None, Some(&taken)] {
        let refused = enrol(known, &details("CP-1"), Permission::Token(&token), 1000).unwrap_err();
        assert_eq!(refused.reason, Reason::TokenExpired);
    }
}

#[test]
fn a_new_enrolment_keeps_the_city_place_and_price_that_it_does_not_name() {
    let first = enrol(None, &details("CP-1"), Permission::Operator, 0).unwrap().identity;
    let bare = EnrolmentDetails { city: String::new(), place: String::new(), price_e4: 0, ..details("CP-1") };
    let again = enrol(Some(&first), &bare, Permission::OldCredential, 5).unwrap().identity;
    assert_eq!((again.city.as_str(), again.place.as_str(), again.price_e4), ("Oslo", "Quay 1", 3950));
    assert_eq!((again.incarnation, again.enrolled_at_ms), (2, 5));
}

#[test]
fn a_driver_has_no_city_place_or_price_spec_3_11() {
    let details = EnrolmentDetails { peer: PeerKind::Driver.peer("D-1").unwrap(), ..details("D-1") };
    let driver = enrol(None, &details, Permission::Operator, 0).unwrap().identity;
    assert_eq!((driver.city.as_str(), driver.place.as_str(), driver.price_e4), ("", "", 0));
}

#[test]
fn names_are_short_and_on_one_line() {
    for city in ["a\nb".to_owned(), "x".repeat(201)] {
        let refused = enrol(None, &EnrolmentDetails { city, ..details("CP-1") }, Permission::Operator, 0).unwrap_err();
        assert_eq!(refused.reason, Reason::Invalid);
    }
}
