//! Drivers in the loop: their keys, one turn in flight each, and which charging points concern them.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use mesh::clock::Now;
use proto::{
    DriverId, PeerId,
    link::v1::{Progress, Reason},
};
use store::central::{CommitRefusal, Committed, RowWrite, Turn, TurnId};
use wire::LinkKey;

use super::{Done, Drive, RETRY, notes::About};
use crate::{
    account::{Account, Change, Decision, Input, Tell},
    audit::{Action, Entry},
    charge_point::{self, Identity, LinkNo, Origin, Stage},
    key::Keyring,
    repeats::Repeats,
    rows, secrets,
};

/// Inputs that may wait for a driver's turn, Registry's word aside.
const QUEUE: usize = 16;

pub(super) struct Holder {
    pub(super) account: Account,
    /// The newest link that proved a key.
    pub(super) link: Option<LinkNo>,
    /// From where that came.
    pub(super) from: Arc<str>,
    /// Charging points with a session or a request of his.
    pub(super) points: BTreeSet<usize>,
    unnoted: Repeats,
    unnoted_from: Arc<str>,
    /// Registry's word always finds a place, and goes before all else.
    first: VecDeque<Identity>,
    queue: VecDeque<Input>,
    turn: Option<(Input, Box<Decision>)>,
}

/// Registry's word on drivers that the store did not take. Never given up: it is in the mirror already, so Registry will
/// not say it again.
#[derive(Debug, Default)]
pub(super) struct Untaken(VecDeque<(Instant, DriverId, Identity)>);

impl Untaken {
    /// When the first of them is tried again.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.0.front().map(|(at, ..)| *at)
    }

    /// Said again, it is still tried once.
    fn push(&mut self, at: Instant, driver: DriverId, identity: Identity) {
        if !self.0.iter().any(|(_, waiting, known)| *waiting == driver && *known == identity) {
            self.0.push_back((at, driver, identity));
        }
    }

    fn due(&mut self, now: Instant) -> Option<(DriverId, Identity)> {
        let (_, driver, identity) = self.0.pop_front_if(|(at, ..)| *at <= now)?;
        Some((driver, identity))
    }
}

impl Holder {
    pub(super) fn new(account: Account) -> Self {
        Self {
            account,
            link: None,
            from: "".into(),
            points: BTreeSet::new(),
            unnoted: Repeats::default(),
            unnoted_from: "".into(),
            first: VecDeque::new(),
            queue: VecDeque::new(),
            turn: None,
        }
    }
}

/// A key from the operating system's generator.
pub(super) fn fresh_key() -> Arc<LinkKey> {
    Arc::new(LinkKey::generate(secrets::random()))
}

impl Drive {
    /// Of a driver, known or not; one that is not known counts as removed.
    pub(super) fn holder(&mut self, driver: &DriverId) -> &mut Holder {
        let unknown = || Holder::new(Account::new(driver.clone(), Keyring::default(), true));
        self.accounts.entry(driver.clone()).or_insert_with(unknown)
    }

    pub(super) fn driver_arrived(&mut self, driver: &DriverId, link: LinkNo, key_no: u64, from: Arc<str>) {
        let holder = self.holder(driver);
        let old = holder.link.replace(link);
        holder.from = from.clone();
        let staged = holder.account.keys.staged().map(|key| key.no).filter(|no| *no != key_no);
        if let Some(old) = old {
            self.close(old);
        }
        let from = Origin::new(PeerId::Driver(driver.clone()).to_string(), from);
        self.offer_account(driver, Input::Proven { key_no, from });
        if let Some(key_no) = staged {
            // A rotation that he has not heard of, or has lost.
            self.tell_account(driver, Tell::Grant { link: Some(link), key_no });
        }
        self.tell_how_things_stand(driver);
    }

    /// What a driver who was away needs to know of what is under way (SPEC 9).
    fn tell_how_things_stand(&mut self, driver: &DriverId) {
        let now = self.now();
        let points = self.accounts.get(driver).map(|holder| holder.points.clone()).unwrap_or_default();
        for number in points {
            let core = &self.points[number].core;
            let mut told = Vec::new();
            for session in core.running().iter().chain(&core.record.settling) {
                if session.driver.as_ref() == Some(driver) {
                    let progress = match session.state {
                        proto::link::v1::SessionState::Reserved => Progress::Authorised,
                        proto::link::v1::SessionState::Supplying => Progress::Supplying,
                        proto::link::v1::SessionState::Unspecified
                        | proto::link::v1::SessionState::Settling
                        | proto::link::v1::SessionState::Billed
                        | proto::link::v1::SessionState::Released => Progress::Settling,
                    };
                    told.push(charge_point::step_of(session, progress, session.reason, ""));
                }
            }
            let ask = core.pending.ask.as_ref().filter(|ask| ask.request.driver.as_ref() == Some(driver));
            if let Some(ask) = ask.filter(|ask| ask.stage == Stage::Confirming) {
                let left = ask.due.saturating_duration_since(now.mono).as_millis();
                let left = u32::try_from(left).unwrap_or(u32::MAX);
                told.push(charge_point::confirm_request(&ask.request, &core.record, left, &self.shared.settings));
            }
            let lost = core.link_lost().filter(|_| core.driver() == Some(driver));
            for body in told {
                self.tell(None, charge_point::Tell::Driver(driver.clone(), body));
            }
            if let Some(lost) = lost {
                self.tell(None, lost);
            }
        }
    }

    pub(super) fn offer_account(&mut self, driver: &DriverId, input: Input) {
        let holder = self.holder(driver);
        match input {
            Input::Identity(identity) => holder.first.push_back(identity),
            _ if holder.queue.len() < QUEUE => holder.queue.push_back(input),
            Input::Grant { link, .. } => self.refuse_contact(link, Reason::Overloaded),
            // Said again: by the next link, or the next sweep.
            Input::Proven { .. } | Input::Rotate { .. } | Input::Expire => {}
        }
        self.next_of_account(driver);
    }

    /// Gives turns as long as nothing has to be made durable first.
    fn next_of_account(&mut self, driver: &DriverId) {
        loop {
            let holder = self.holder(driver);
            if holder.turn.is_some() {
                return;
            }
            let first = holder.first.pop_front().map(Input::Identity);
            let Some(input) = first.or_else(|| holder.queue.pop_front()) else { return };
            self.begin_account(driver, input);
        }
    }

    fn begin_account(&mut self, driver: &DriverId, input: Input) {
        let (now, shared) = (self.now(), self.shared.clone());
        let holder = self.holder(driver);
        let decision = holder.account.decide(&input, &shared.settings, now);
        if decision.changes.is_empty() {
            return self.account_decided(driver, decision);
        }
        let peer = holder.account.peer();
        let writes = decision.changes.iter().map(|change| match change {
            Change::Key(key) => RowWrite::Key(rows::key_row(&peer, key, &shared.key_encryption, now)),
            Change::Audit(entry) => RowWrite::Audit(rows::audit(entry)),
            Change::Event(event) => RowWrite::Event(rows::event_row(event, "")),
        });
        let turn = Turn { id: TurnId::random(), name: "driver key", guard: None, writes: writes.collect() };
        holder.turn = Some((input, Box::new(decision)));
        let driver = driver.clone();
        self.submit(turn, move |result| Done::Account(driver, result));
    }

    pub(super) fn account_done(&mut self, driver: &DriverId, result: Result<Committed, CommitRefusal>) {
        let Some((input, decision)) = self.holder(driver).turn.take() else { return };
        match result {
            Ok(_) => self.account_decided(driver, *decision),
            Err(refusal) => {
                tracing::warn!(driver.id = %driver, error = %refusal, "a driver's key could not be changed");
                if let Input::Identity(identity) = input {
                    self.untaken.push(self.shared.clock.mono() + RETRY, driver.clone(), identity);
                }
                // Whoever waits for a key comes again.
                for tell in decision.tell_after {
                    if let Tell::Grant { link: Some(link), .. } = tell {
                        self.refuse_contact(link, Reason::Unavailable);
                    }
                }
            }
        }
        self.next_of_account(driver);
    }

    /// What the store did not take is tried again.
    pub(super) fn offer_untaken(&mut self, now: Now) {
        while let Some((driver, identity)) = self.untaken.due(now.mono) {
            self.offer_account(&driver, Input::Identity(identity));
        }
    }

    fn account_decided(&mut self, driver: &DriverId, decision: Decision) {
        let holder = self.holder(driver);
        holder.account = decision.next;
        let (peer, keys) = (holder.account.peer(), holder.account.keys.clone());
        self.shared.directory.publish(&peer, &keys);
        decision.tell_after.into_iter().for_each(|tell| self.tell_account(driver, tell));
    }

    fn tell_account(&mut self, driver: &DriverId, tell: Tell) {
        match tell {
            Tell::Grant { link, key_no } => {
                let Some(holder) = self.accounts.get(driver) else { return };
                let grant = holder.account.keys.granted(key_no).and_then(|key| self.grant_message(key));
                if let (Some(grant), Some(link)) = (grant, link.or(holder.link)) {
                    self.send(link, 0, grant);
                }
            }
            Tell::Link(link, body) => self.send(link, 0, body),
            Tell::Refuse { link, reason } => self.refuse_contact(link, reason),
            Tell::CloseAll => {
                let peer = PeerId::Driver(driver.clone());
                self.links.values().filter(|linked| linked.peer == peer).for_each(|linked| linked.send_queue.close());
            }
        }
    }

    pub(super) fn driver_unintelligible(&mut self, driver: &DriverId, count: u64, from: &Arc<str>) {
        let now = self.now();
        let holder = self.holder(driver);
        holder.unnoted_from = from.clone();
        if let Some(count) = holder.unnoted.count(count, now.mono) {
            self.note_unintelligible(driver, count, now);
        }
    }

    pub(super) fn sweep_accounts(&mut self, now: Now) {
        let drivers: Vec<_> = self.accounts.keys().cloned().collect();
        for (number, driver) in drivers.iter().enumerate() {
            let stagger = u16::try_from(number % 1_000).unwrap_or_default();
            let settings = self.shared.settings.clone();
            let holder = self.holder(driver);
            let unnoted = holder.unnoted.flush(now.mono);
            let keys = &holder.account.keys;
            let expired = keys.active().is_some_and(|key| key.expires_at <= now.wall_ms);
            let rotate = keys.rotation_due_at(&settings, stagger).is_some_and(|at| at <= now.wall_ms);
            holder.account.keys.end_overlap(now);
            let (peer, keys) = (holder.account.peer(), holder.account.keys.clone());
            self.shared.directory.publish(&peer, &keys);
            if let Some(count) = unnoted {
                self.note_unintelligible(driver, count, now);
            }
            if expired {
                self.offer_account(driver, Input::Expire);
            } else if rotate {
                self.offer_account(driver, Input::Rotate { material: fresh_key() });
            }
        }
    }

    fn note_unintelligible(&mut self, driver: &DriverId, count: u64, now: Now) {
        let who = PeerId::Driver(driver.clone()).to_string();
        let from = self.holder(driver).unnoted_from.clone();
        let entry = Entry::new(Action::Unintelligible, &who).with("messages", count);
        let write = RowWrite::Audit(rows::audit(&entry.by(&Origin::new(who, from), now)));
        self.notes.add(About::Driver(driver.clone()), write);
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use proto::registry::v1::{IdentityState, Kind};
    use store::central::MirroredIdentityRow;

    use super::*;
    use crate::{settings::Settings, testing::Rim};

    fn removed() -> MirroredIdentityRow {
        let (kind, state) = (Kind::Driver.into(), IdentityState::Removed.into());
        MirroredIdentityRow { kind, id: "D1".into(), state, incarnation: 1, ..MirroredIdentityRow::default() }
    }

    /// A loop that the test turns, and a driver in it.
    async fn drive(rim: &Rim) -> (Drive, DriverId) {
        let driver = rim.driver("D1").await;
        (Drive::load(Arc::clone(&rim.shared), &rim.ctx).await.unwrap(), driver)
    }

    #[tokio::test]
    async fn registrys_word_on_a_driver_is_never_given_up_spec_7_4() {
        let rim = Rim::new(Settings::default(), 10).await;
        let (mut drive, driver) = drive(&rim).await;
        drive.identity(&removed());
        drive.account_done(&driver, Err(CommitRefusal::Unavailable("away".to_owned())));
        assert!(!drive.holder(&driver).account.removed);
        let at = drive.next_wake();
        assert!(drive.untaken.again_at().is_some_and(|again| at <= again));
        drive.turns.clear();
        drive.offer_untaken(Now { mono: at, ..drive.now() });
        let done = drive.turns.next().await.expect("its turn");
        drive.done(done);
        assert!(drive.holder(&driver).account.removed && drive.untaken.again_at().is_none());
    }

    #[tokio::test]
    async fn a_driver_whose_turns_wait_keeps_out_no_word_of_registrys_spec_7_4() {
        let rim = Rim::new(Settings::default(), 10).await;
        let (mut drive, driver) = drive(&rim).await;
        for _ in 0..2 * QUEUE {
            let (link, _) = rim.link();
            drive.offer_account(&driver, Input::Grant { link, material: fresh_key(), from: Origin::central() });
        }
        drive.identity(&removed());
        while let Some(done) = drive.turns.next().await {
            drive.done(done);
        }
        let account = &drive.holder(&driver).account;
        assert!(account.removed && account.keys.staged().is_none(), "and who waited for a key gets none");
    }
}
