//! How the next contact with Central is made: with the key, or as a first contact with the credential (SPEC 4.4), to
//! which of its addresses, under which of its pinned keys, and after which wait.
//!
//! Pure. A message in clear, such as "unknown key", can at most cause one first contact: the key is not forgotten by it.

use std::time::Duration;

use mesh::link::Backoff;
use proto::{
    Retry,
    link::v1::{AuthStatus, KeyState, Reason},
};

/// What the next contact proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Key,
    FirstContact,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Again {
    After(Duration),
    /// Only when a person has done something: enrolled anew, or said `authenticate`.
    WhenTold,
}

/// What Central's word on this driver means for him.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stands {
    /// The key on disk is worth nothing any more.
    pub(crate) key_is_void: bool,
    pub(crate) again: Again,
}

/// The state of the tries.
#[derive(Clone, Debug)]
pub(crate) struct Contact {
    rules: Rules,
    backoff: Backoff,
    has_key: bool,
    /// Central said it knows no such key: the next contact is a first one.
    first: bool,
    refusals: u32,
    /// Refused too often: only a person begins the tries again.
    ended: bool,
    turn: usize,
}

/// How often and how soon a driver tries; each a setting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) retry_min: Duration,
    pub(crate) retry_max: Duration,
    /// A refused credential is shown again after this, or later if Central asks for that (SPEC 4.7).
    pub(crate) authenticate_again: Duration,
    /// So many refusals of the credential end the tries (SPEC 4.7).
    pub(crate) refusals: u32,
    /// No wait that Central asks for is longer.
    pub(crate) longest_retry: Duration,
}

impl Contact {
    pub(crate) fn new(rules: Rules, has_key: bool) -> Self {
        let backoff = Backoff::new(rules.retry_min, rules.retry_max);
        Self { rules, backoff, has_key, first: false, refusals: 0, ended: false, turn: 0 }
    }

    /// Whether nothing is tried until a person does something.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn how(&self) -> How {
        if self.has_key && !self.first { How::Key } else { How::FirstContact }
    }

    /// Addresses and pins are tried in turn; this counts the tries.
    pub(crate) fn turn(&self) -> usize {
        self.turn
    }

    /// A new key is on disk: the next contact proves it.
    pub(crate) fn granted(&mut self) -> Again {
        (self.has_key, self.first) = (true, false);
        self.begin_anew()
    }

    /// Central answered under the key.
    pub(crate) fn proven(&mut self) {
        self.begin_anew();
    }

    /// The link ended, or there never was one.
    pub(crate) fn lost(&mut self, chance: u32) -> Again {
        if self.ended {
            return Again::WhenTold;
        }
        self.turn = self.turn.wrapping_add(1);
        Again::After(self.backoff.wait(chance))
    }

    /// Overloaded: the wait it names, capped and jittered (SPEC 4.2).
    pub(crate) fn busy(&mut self, retry_after: Duration, chance: u32) -> Again {
        Again::After(self.backoff.after_busy(retry_after, chance))
    }

    /// In clear, so it may be forged: one first contact with a wait, nothing else.
    pub(crate) fn unknown_key(&mut self, chance: u32) -> Again {
        let again = self.lost(chance);
        // Alternates, so that a forger cannot keep a driver with a good key from using it.
        self.first = !self.first;
        again
    }

    /// Sealed: the key is deleted or revoked, or the credential was refused or could not be checked.
    pub(crate) fn auth_status(&mut self, auth_status: &AuthStatus, chance: u32) -> Stands {
        let asked = Duration::from_millis(auth_status.retry_after_ms.into()).min(self.rules.longest_retry);
        let reason = Reason::received(auth_status.reason);
        if reason.is_undecided() {
            // Nobody has judged the credential, which says nothing of the key: it is tried next, where there is one
            // (SPEC 9, Registry).
            self.first = false;
            let again = self.lost(chance);
            let again = if self.has_key { again } else { again.max(Again::After(asked)) };
            return Stands { key_is_void: false, again };
        }
        self.has_key = false;
        self.refusals += 1;
        let void = auth_status.key_state() == KeyState::Revoked || reason.retry() == Retry::AfterAPersonActs;
        self.ended = void || self.refusals >= self.rules.refusals;
        let wait = asked.max(self.rules.authenticate_again);
        let again = if self.ended { Again::WhenTold } else { Again::After(wait) };
        Stands { key_is_void: true, again }
    }

    /// A person wants another try.
    pub(crate) fn told(&mut self) -> Again {
        self.begin_anew()
    }

    fn begin_anew(&mut self) -> Again {
        (self.refusals, self.ended) = (0, false);
        self.backoff.reset();
        Again::After(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST_RETRY: Duration = Duration::from_secs(60);

    fn contact(has_key: bool) -> Contact {
        let rules = Rules {
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(5),
            authenticate_again: Duration::from_secs(5),
            refusals: 3,
            longest_retry: LONGEST_RETRY,
        };
        Contact::new(rules, has_key)
    }

    fn stands(reason: Reason, retry_after_ms: u32) -> AuthStatus {
        AuthStatus { reason: reason.into(), retry_after_ms, ..AuthStatus::default() }
    }

    #[test]
    fn the_key_is_used_where_there_is_one_and_the_credential_only_for_a_first_contact_spec_4_4() {
        let mut contact = contact(false);
        assert_eq!(contact.how(), How::FirstContact);
        assert_eq!(contact.granted(), Again::After(Duration::ZERO));
        assert_eq!(contact.how(), How::Key);
        contact.lost(0);
        assert_eq!(contact.how(), How::Key, "a lost link costs no password hash");
    }

    #[test]
    fn a_forged_unknown_key_causes_one_first_contact_and_the_key_is_tried_again_spec_4_3() {
        let mut contact = contact(true);
        contact.unknown_key(0);
        assert_eq!(contact.how(), How::FirstContact);
        contact.unknown_key(0);
        assert_eq!(contact.how(), How::Key);
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_jittered() {
        let mut contact = contact(true);
        let waits: Vec<_> = (0..8).map(|_| contact.lost(u32::MAX)).collect();
        assert_eq!(waits[0], Again::After(Duration::from_millis(250)));
        assert_eq!(waits[2], Again::After(Duration::from_secs(1)));
        assert_eq!(waits[7], Again::After(Duration::from_secs(5)));
        assert_eq!(contact.lost(0), Again::After(Duration::from_millis(2500)));
        contact.proven();
        assert_eq!(contact.lost(0), Again::After(Duration::from_millis(125)));
    }

    #[test]
    fn an_unreachable_registry_costs_no_key_and_ends_no_tries_spec_9() {
        let mut contact = contact(true);
        for reason in [Reason::RegistryUnreachable, Reason::Unavailable, Reason::Overloaded, Reason::TooManyAttempts] {
            for _ in 0..10 {
                contact.unknown_key(0);
                assert_eq!(contact.how(), How::FirstContact, "forged, or not");
                let stands = contact.auth_status(&stands(reason, 60_000), u32::MAX);
                assert!(!stands.key_is_void && stands.again <= Again::After(Duration::from_secs(5)), "{stands:?}");
                assert_eq!(contact.how(), How::Key, "the key is tried again at once");
            }
        }
    }

    #[test]
    fn a_stranger_who_guesses_for_this_id_delays_a_driver_without_a_key_and_never_ends_his_tries_spec_4_7() {
        let mut contact = contact(false);
        for _ in 0..10 {
            let stands = contact.auth_status(&stands(Reason::TooManyAttempts, 30_000), 0);
            assert_eq!(stands.again, Again::After(Duration::from_secs(30)), "as long as Central asks");
        }
        let endless = contact.auth_status(&stands(Reason::TooManyAttempts, u32::MAX), 0);
        assert_eq!(endless.again, Again::After(LONGEST_RETRY));
    }

    #[test]
    fn three_refusals_end_the_tries_until_a_person_begins_them_again_spec_4_7() {
        let mut contact = contact(true);
        let wrong = stands(Reason::WrongCredential, 1_000);
        let first = contact.auth_status(&wrong, 0);
        assert_eq!(first, Stands { key_is_void: true, again: Again::After(Duration::from_secs(5)) });
        contact.auth_status(&wrong, 0);
        assert_eq!(contact.auth_status(&wrong, 0).again, Again::WhenTold);
        assert!(contact.has_ended());
        assert_eq!(contact.lost(0), Again::WhenTold, "nor does the end of its link begin them");
        assert_eq!(contact.told(), Again::After(Duration::ZERO));
        assert_eq!(contact.auth_status(&wrong, 0).again, Again::After(Duration::from_secs(5)));
    }

    #[test]
    fn a_credential_that_only_a_person_can_mend_is_not_shown_again_spec_4_7() {
        for reason in [Reason::CredentialVoid, Reason::NotReadmitted] {
            assert_eq!(contact(true).auth_status(&stands(reason, 0), 0).again, Again::WhenTold, "{reason:?}");
        }
    }

    #[test]
    fn a_refusal_for_a_reason_newer_than_this_build_is_one_of_the_three_spec_4_7() {
        let newer = AuthStatus { reason: 9_999, ..AuthStatus::default() };
        let stands = contact(true).auth_status(&newer, 0);
        assert_eq!(stands, Stands { key_is_void: true, again: Again::After(Duration::from_secs(5)) });
    }

    #[test]
    fn central_may_ask_for_a_longer_wait_within_bounds_spec_4_7() {
        let long = contact(false).auth_status(&stands(Reason::NotEnrolled, 20_000), 0);
        assert_eq!(long.again, Again::After(Duration::from_secs(20)));
        let longer = contact(false).auth_status(&stands(Reason::NotEnrolled, u32::MAX), 0);
        assert_eq!(longer.again, Again::After(LONGEST_RETRY));
    }
}
