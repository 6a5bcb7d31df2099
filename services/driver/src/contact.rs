//! How the next contact with Central is made: with the key, or as a first contact with the credential (SPEC 4.4), to
//! which of its addresses, under which of its pinned keys, and after which wait.
//!
//! Pure. A message in clear, such as "unknown key", can at most cause one first contact: the key is not forgotten by it.

use std::time::Duration;

use mesh::link::Backoff;
use proto::link::v1::{Reason, Standing};

/// What the next contact proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Key,
    FirstContact,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    After(Duration),
    /// Only when a person has done something: enrolled anew, or said `authenticate`.
    WhenTold,
}

/// The state of the tries.
#[derive(Clone, Debug)]
pub(crate) struct Contact {
    backoff: Backoff,
    has_key: bool,
    /// Central said it knows no such key: the next contact is a first one.
    first: bool,
    refusals: u32,
    turn: usize,
}

/// So many refusals of a credential end the tries (SPEC 4.7).
const REFUSALS: u32 = 3;

impl Contact {
    pub(crate) fn new(backoff: Backoff, has_key: bool) -> Self {
        Self { backoff, has_key, first: false, refusals: 0, turn: 0 }
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
        (self.has_key, self.first, self.refusals) = (true, false, 0);
        self.backoff.reset();
        Again::After(Duration::ZERO)
    }

    /// Central answered under the key.
    pub(crate) fn proven(&mut self) {
        self.refusals = 0;
        self.backoff.reset();
    }

    /// The link ended, or there never was one.
    pub(crate) fn lost(&mut self, chance: u32) -> Again {
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

    /// Sealed: the key is deleted or revoked, or the credential was refused.
    pub(crate) fn standing(&mut self, standing: &Standing, chance: u32) -> Again {
        self.has_key = false;
        if matches!(standing.reason(), Reason::RegistryUnreachable | Reason::Unavailable | Reason::Overloaded) {
            return self.lost(chance);
        }
        self.refusals += 1;
        match standing.retry_after_ms {
            0 => Again::WhenTold,
            _ if self.refusals >= REFUSALS => Again::WhenTold,
            ms => Again::After(Duration::from_millis(ms.into())),
        }
    }

    /// A person wants another try.
    pub(crate) fn told(&mut self) -> Again {
        self.refusals = 0;
        self.backoff.reset();
        Again::After(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(has_key: bool) -> Contact {
        Contact::new(Backoff::new(Duration::from_millis(250), Duration::from_secs(5)), has_key)
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
    fn three_refusals_end_the_tries_and_an_unreachable_registry_does_not_spec_4_7() {
        let refused =
            |reason: Reason, ms| Standing { reason: reason.into(), retry_after_ms: ms, ..Standing::default() };
        let mut contact = contact(true);
        for _ in 0..10 {
            let again = contact.standing(&refused(Reason::RegistryUnreachable, 5000), 0);
            assert_ne!(again, Again::WhenTold);
        }
        let wrong = refused(Reason::WrongCredential, 5000);
        assert_eq!(contact.standing(&wrong, 0), Again::After(Duration::from_secs(5)));
        contact.standing(&wrong, 0);
        assert_eq!(contact.standing(&wrong, 0), Again::WhenTold);
        assert_eq!(contact.told(), Again::After(Duration::ZERO));
        assert_eq!(contact.standing(&refused(Reason::NotEnrolled, 0), 0), Again::WhenTold);
    }
}
