//! A peer with an identity of its own: it enrols at Registry (SPEC 7.4), authenticates to Central and keeps the key that
//! it is granted (4.4 to 4.7). Monitors and drivers are such peers.
//!
//! Guarantees: the credential is shown to Central inside a first contact only; a new key is stored before it is used;
//! after three refusals it tries no more by itself, while being unable to reach Central or Registry never ends the
//! tries; a revoked one waits for a token.

mod authentication;
mod enrolment;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use proto::{
    enrolment::{EnrolBody, SecretText},
    link::v1::{AuthStatus, Authenticate, Part, down, up},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use self::authentication::Authentication;
use super::{
    LinkCommand, LinkEvent, LinkNo, Peer, PeerEvent, PeerSettings, RegistryAnswer, RegistryCall, RegistryError,
    StoredIdentity, StoredKey,
};
use crate::clock::Now;

/// After a failed write of the identity it is tried again after this.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

/// What an enrollee is told before it starts.
#[derive(Clone, Debug)]
pub struct EnrolleeSettings {
    pub part: Part,
    /// As whom to enrol: its token and request id are filled in when it is sent. A stored identity has its own id.
    pub enrolment: EnrolBody,
    /// Used when there is no identity, and again after a removal.
    pub token: Option<SecretText>,
    /// Central's link addresses.
    pub central: Vec<String>,
    pub life_sign: Duration,
    /// A refused or deleted key is asked for again after this (SPEC 4.7), unless Central says otherwise.
    pub authenticate_again: Duration,
    /// So many refusals end the tries.
    pub refusals: u32,
    /// Registry is asked again after this.
    pub registry_again: Duration,
    pub peer: PeerSettings,
}

#[derive(Debug)]
pub enum EnrolleeInput {
    Link(LinkNo, LinkEvent),
    /// The identity is on disk, or why it is not.
    Saved(Result<(), String>),
    Registry(RegistryAnswer),
}

#[derive(Debug)]
pub enum EnrolleeCommand {
    Link(LinkCommand),
    /// Put it on disk, whole or not at all; answer [`EnrolleeInput::Saved`]. One at a time.
    Save(Box<StoredIdentity>),
    /// Answer [`EnrolleeInput::Registry`].
    Registry(RegistryCall),
}

/// What its role has to know.
#[derive(Debug)]
pub enum EnrolleeEvent {
    /// Of the link, but for what concerns the identity alone.
    Peer(PeerEvent),
    Enrolled,
    EnrolmentRefused(RegistryError),
    RemovalFailed(String),
    /// Its id, its key or the pins of Central are others than before, or there are none any more.
    IdentityChanged,
    /// A granted key is on disk, or cannot be written now: [`Enrollee::use_key`] takes it into use.
    KeyStored {
        granted_at: Instant,
    },
    /// Central's word that there is no valid key, or that the credential was not accepted.
    NotAuthenticated(AuthStatus),
}

/// Whether Registry knows this peer.
#[derive(Debug)]
pub enum Membership {
    /// Waits for a token, saying why.
    NotEnrolled(String),
    Enrolling {
        token: SecretText,
        request_id: String,
        again_at: Option<Instant>,
        trouble: Option<String>,
    },
    Enrolled,
}

/// What Registry was asked, and what came of it.
#[derive(Debug, Default)]
struct RegistryQuestions {
    asking: bool,
    ask_at: Option<Instant>,
    trouble: Option<String>,
    has_answered: bool,
    /// Of the enrolment that this process took last.
    incarnation: u64,
}

/// How far the identity is on disk.
#[derive(Debug, Default)]
struct Saving {
    under_way: bool,
    unsaved: bool,
    again_at: Option<Instant>,
    trouble: Option<String>,
    /// When the key was granted that is not on disk yet.
    granted_at: Option<Instant>,
}

/// One peer with its identity.
#[derive(Debug)]
pub struct Enrollee {
    settings: EnrolleeSettings,
    stored: StoredIdentity,
    membership: Membership,
    authentication: Authentication,
    /// Its link to Central.
    pub peer: Peer,
    rng: StdRng,
    registry: RegistryQuestions,
    saving: Saving,
    events: VecDeque<EnrolleeEvent>,
    commands: VecDeque<EnrolleeCommand>,
}

impl Enrollee {
    /// `stored`: what the process before left.
    pub fn new(settings: EnrolleeSettings, stored: StoredIdentity, mut rng: StdRng, now: Now) -> Self {
        let peer_rng = StdRng::seed_from_u64(rng.random());
        let mut enrollee = Self {
            peer: Peer::new(settings.part, &settings.peer, stored.highest_epoch, peer_rng, now),
            membership: Membership::NotEnrolled("no token was given yet".to_owned()),
            authentication: Authentication::default(),
            rng,
            registry: RegistryQuestions::default(),
            saving: Saving::default(),
            events: VecDeque::new(),
            commands: VecDeque::new(),
            settings,
            stored,
        };
        if enrollee.stored.credential.is_some() {
            enrollee.membership = Membership::Enrolled;
            enrollee.connect(now);
        } else {
            enrollee.enrol_with_given_token();
        }
        enrollee.flush(now);
        enrollee
    }

    pub fn handle(&mut self, input: EnrolleeInput, now: Now) {
        match input {
            EnrolleeInput::Link(link, event) => self.peer.handle(link, event, now),
            EnrolleeInput::Saved(result) => self.saved(result, now),
            EnrolleeInput::Registry(answer) => self.registry_answered(answer, now),
        }
        self.heed_peer(now);
    }

    pub fn handle_timeout(&mut self, now: Now) {
        self.peer.handle_timeout(now);
        self.enrol_again(now);
        self.authenticate_again(now);
        self.ask_registry_if_due(now);
        self.heed_peer(now);
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let enrol = match &self.membership {
            Membership::Enrolling { again_at, .. } => *again_at,
            Membership::NotEnrolled(_) | Membership::Enrolled => None,
        };
        let save = self.saving.again_at.filter(|_| !self.saving.under_way);
        let times = [self.peer.poll_timeout(), enrol, save, self.registry.ask_at, self.authentication.again_at];
        times.into_iter().flatten().min()
    }

    /// At the end of each input of the role: what is due is sent and stored.
    pub fn flush(&mut self, now: Now) {
        self.peer.send_requests(now.mono);
        let due = self.saving.again_at.is_none_or(|at| at <= now.mono);
        if self.saving.unsaved && !self.saving.under_way && due {
            (self.saving.unsaved, self.saving.under_way, self.saving.again_at) = (false, true, None);
            self.commands.push_back(EnrolleeCommand::Save(Box::new(self.stored.clone())));
        }
    }

    pub fn next_event(&mut self) -> Option<EnrolleeEvent> {
        self.events.pop_front()
    }

    pub fn next_command(&mut self) -> Option<EnrolleeCommand> {
        self.commands.pop_front().or_else(|| self.peer.next_command().map(EnrolleeCommand::Link))
    }

    // ---- What is the case

    pub fn settings(&self) -> &EnrolleeSettings {
        &self.settings
    }

    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    pub fn is_enrolled(&self) -> bool {
        matches!(self.membership, Membership::Enrolled)
    }

    /// The stored one, or the one to enrol as.
    pub fn id(&self) -> Option<&str> {
        let wanted = Some(self.settings.enrolment.id.as_str()).filter(|id| !id.is_empty());
        self.stored.id.as_deref().or(wanted)
    }

    pub fn stored(&self) -> &StoredIdentity {
        &self.stored
    }

    /// The newest key, where Central has not said that it is void.
    pub fn key(&self) -> Option<&StoredKey> {
        self.stored.keys.first().filter(|_| self.authentication.status.is_none())
    }

    /// Central can be reached under a key that is in force.
    pub fn is_reachable(&self) -> bool {
        self.peer.is_reachable() && self.authentication.status.is_none()
    }

    /// Why Registry did not do what it was asked last.
    pub fn registry_trouble(&self) -> Option<&str> {
        self.registry.trouble.as_deref()
    }

    /// Registry has answered since the start.
    pub fn registry_has_answered(&self) -> bool {
        self.registry.has_answered
    }

    /// Why the identity cannot be stored.
    pub fn save_trouble(&self) -> Option<&str> {
        self.saving.trouble.as_deref()
    }

    /// A stop has nothing more to wait for.
    pub fn is_persisted(&self) -> bool {
        !self.saving.under_way && (!self.saving.unsaved || self.saving.trouble.is_some())
    }

    // ---- Central

    fn heed_peer(&mut self, now: Now) {
        while let Some(event) = self.peer.next_event() {
            match event {
                PeerEvent::Open { link, first_contact: true } => self.show_credential(link),
                PeerEvent::UnknownKey { first_contact } => self.key_is_unknown(first_contact, now),
                PeerEvent::Epoch(epoch) => {
                    self.stored.highest_epoch = epoch;
                    self.saving.unsaved = true;
                }
                PeerEvent::Message(body) => self.message(*body, now),
                PeerEvent::Proven { key_no } => {
                    self.key_is_proven(key_no);
                    self.events.push_back(EnrolleeEvent::Peer(event));
                }
                PeerEvent::Open { .. }
                | PeerEvent::Reached
                | PeerEvent::Lost(_)
                | PeerEvent::Failed(_)
                | PeerEvent::Answered { .. }
                | PeerEvent::Deferred { .. }
                | PeerEvent::Unintelligible => self.events.push_back(EnrolleeEvent::Peer(event)),
            }
        }
    }

    fn message(&mut self, body: down::Body, now: Now) {
        if let down::Body::KeyGrant(grant) = body {
            self.granted(&grant, now);
        } else if let down::Body::AuthStatus(status) = body {
            self.not_authenticated(status, now);
        } else {
            self.events.push_back(EnrolleeEvent::Peer(PeerEvent::Message(Box::new(body))));
        }
    }

    fn show_credential(&mut self, link: LinkNo) {
        let Some(credential) = &self.stored.credential else { return };
        let credential = credential.expose().as_bytes().to_vec();
        self.peer.greet(link, up::Body::Authenticate(Authenticate { credential }));
    }

    // ---- The disk

    fn saved(&mut self, result: Result<(), String>, now: Now) {
        self.saving.under_way = false;
        match result {
            Ok(()) => self.saving.trouble = None,
            // Nothing waits for it: a key that is lost with this process costs a first contact, and the credential is
            // tried again until it is stored.
            Err(why) => {
                self.saving.trouble = Some(why);
                self.saving.unsaved = true;
                self.saving.again_at = Some(now.mono + SAVE_AGAIN);
            }
        }
        // The write that has ended may have begun before the key came.
        if (!self.saving.unsaved || self.saving.trouble.is_some())
            && let Some(granted_at) = self.saving.granted_at.take()
        {
            self.events.push_back(EnrolleeEvent::KeyStored { granted_at });
        }
    }
}
