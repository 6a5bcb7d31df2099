//! Drivers in the loop: their keys, one turn in flight each, and which charging points concern them.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use mesh::{clock::Now, rate::Tally};
use proto::{DriverId, PeerId};
use store::central::{CommitRefusal, Committed, RowWrite, Turn, TurnId};

use super::{Completion, EventLoop, TimerKey};
use crate::{
    audit::{AuditAction, AuditRecord},
    charge_point::{self, StoreRefusal},
    driver::{DriverAccount, DriverChange, DriverDecision, DriverEffect, DriverInput},
    key::{KeyDue, Keyring},
    origin::{LinkNo, Origin},
    rows, secrets,
    turns::{self, Core as _, DecidedInput, Turns},
};

pub(super) struct DriverEntry {
    pub(super) account: DriverAccount,
    turns: Turns<DriverAccount>,
    /// The newest link that proved a key.
    pub(super) link: Option<LinkNo>,
    /// The address it came from.
    pub(super) from: Arc<str>,
    /// Charging points with a session or a request of this driver.
    pub(super) points: BTreeSet<usize>,
    unnoted: Tally,
    unnoted_from: Arc<str>,
}

impl DriverEntry {
    pub(super) fn new(account: DriverAccount) -> Self {
        Self {
            account,
            turns: Turns::default(),
            link: None,
            from: "".into(),
            points: BTreeSet::new(),
            unnoted: Tally::default(),
            unnoted_from: "".into(),
        }
    }
}

impl EventLoop {
    /// Of a driver, known or not; one that is not known counts as removed.
    pub(super) fn driver(&mut self, driver: &DriverId) -> &mut DriverEntry {
        let unknown = || DriverEntry::new(DriverAccount::new(driver.clone(), Keyring::default(), true));
        self.drivers.entry(driver.clone()).or_insert_with(unknown)
    }

    pub(super) fn driver_arrived(&mut self, driver: &DriverId, link: LinkNo, key_no: u64, from: Arc<str>) {
        let holder = self.driver(driver);
        let old = holder.link.replace(link);
        holder.from = from.clone();
        let staged = holder.account.keys.staged().map(|key| key.no).filter(|no| *no != key_no);
        if let Some(old) = old {
            self.close(old);
        }
        let from = Origin::new(PeerId::Driver(driver.clone()).to_string(), from);
        self.offer_to_driver(driver, DriverInput::Proven { key_no, from });
        if let Some(key_no) = staged {
            // A rotation whose grant the driver has not received, or has lost.
            self.perform_for_driver(driver, DriverEffect::Grant { link: Some(link), key_no });
        }
        self.send_what_is_under_way(driver);
    }

    /// What a driver who was away needs to know of what is under way (SPEC 9).
    fn send_what_is_under_way(&mut self, driver: &DriverId) {
        let now = self.now();
        let points = self.drivers.get(driver).map(|entry| entry.points.clone()).unwrap_or_default();
        for number in points {
            for body in self.points[number].core.desired_by(driver, &self.shared.settings, now) {
                self.perform(None, charge_point::Effect::Driver(driver.clone(), body));
            }
        }
    }

    pub(super) fn offer_to_driver(&mut self, driver: &DriverId, input: DriverInput) {
        let now = self.now();
        if let Err((input, refusal)) = self.driver(driver).turns.offer(vec![input], now) {
            self.turn_driver_away(driver, input, &refusal, now);
        }
        self.take_turns_of_driver(driver);
    }

    fn turn_driver_away(&mut self, driver: &DriverId, input: DriverInput, refusal: &StoreRefusal, now: Now) {
        let shared = Arc::clone(&self.shared);
        let DriverEntry { account, turns, .. } = self.driver(driver);
        if let Some(decided) = turns.turned_away(account, input, refusal, (&shared.settings, now)) {
            self.carry_out_for_driver(driver, decided);
        }
    }

    /// Gives turns as long as nothing has to be made durable first.
    fn take_turns_of_driver(&mut self, driver: &DriverId) {
        let shared = Arc::clone(&self.shared);
        loop {
            let now = self.now();
            let DriverEntry { account, turns, .. } = self.driver(driver);
            let Some(decided) = turns.next(account, &shared.settings, now) else { break };
            self.carry_out_for_driver(driver, decided);
        }
        if let Some(at) = self.driver(driver).turns.poll_timeout() {
            self.timers.push(Reverse((at, TimerKey::Driver(driver.clone()))));
        }
    }

    fn carry_out_for_driver(&mut self, driver: &DriverId, decided: DecidedInput<DriverAccount>) {
        if !DriverAccount::is_durable(&decided.decision) {
            return self.driver_decided(driver, decided.into_parts().1);
        }
        let (now, shared) = (self.now(), Arc::clone(&self.shared));
        let entry = self.driver(driver);
        let peer = entry.account.peer();
        let writes = decided.decision.changes.iter().map(|change| match change {
            DriverChange::Key(key) => RowWrite::Key(rows::key_row(&peer, key, &shared.key_encryption, now)),
            DriverChange::Audit(entry) => RowWrite::Audit(rows::audit(entry)),
            DriverChange::Event(event) => RowWrite::Event(rows::event_row(event, "")),
        });
        let turn = Turn { id: TurnId::random(), name: "driver key", guard: None, writes: writes.collect() };
        entry.turns.begin(decided, now);
        let driver = driver.clone();
        self.submit(turn, move |result| Completion::Driver(driver, result));
    }

    pub(super) fn driver_done(&mut self, driver: &DriverId, result: Result<Committed, CommitRefusal>) {
        let (now, shared) = (self.now(), Arc::clone(&self.shared));
        let DriverEntry { account, turns, .. } = self.driver(driver);
        let Some(decided) = turns.end() else { return };
        let (input, decision) = decided.into_parts();
        match result {
            Ok(_) => self.driver_decided(driver, decision),
            Err(refusal) => {
                tracing::warn!(driver.id = %driver, error = %refusal, "a driver's key could not be changed");
                let refusal = rows::refusal(refusal).0;
                if let Some(decided) = turns.again(account, input, &refusal, (&shared.settings, now)) {
                    self.carry_out_for_driver(driver, decided);
                }
            }
        }
        self.take_turns_of_driver(driver);
    }

    /// What the store did not take is tried again, and what has waited for it too long is refused.
    pub(super) fn driver_timer_fired(&mut self, driver: &DriverId, now: Now) {
        let overdue = self.driver(driver).turns.timer_fired(now);
        for input in overdue {
            self.turn_driver_away(driver, input, &DriverAccount::unavailable(turns::no_answer()), now);
        }
        self.take_turns_of_driver(driver);
    }

    fn driver_decided(&mut self, driver: &DriverId, decision: DriverDecision) {
        let holder = self.driver(driver);
        holder.account = decision.next;
        let (peer, keys) = (holder.account.peer(), holder.account.keys.clone());
        self.shared.directory.publish(&peer, &keys);
        decision.after_commit.into_iter().for_each(|effect| self.perform_for_driver(driver, effect));
    }

    fn perform_for_driver(&mut self, driver: &DriverId, effect: DriverEffect) {
        match effect {
            DriverEffect::Grant { link, key_no } => {
                let Some(holder) = self.drivers.get(driver) else { return };
                let grant = holder.account.keys.granted(key_no).and_then(|key| self.grant_message(key));
                if let (Some(grant), Some(link)) = (grant, link.or(holder.link)) {
                    self.send(link, 0, grant);
                }
            }
            DriverEffect::Link(link, body) => self.send(link, 0, *body),
            DriverEffect::Refuse { link, reason } => self.refuse_contact(link, reason),
            DriverEffect::CloseAll => {
                let peer = PeerId::Driver(driver.clone());
                self.links.values().filter(|linked| linked.peer == peer).for_each(|linked| linked.send_queue.close());
            }
        }
    }

    pub(super) fn driver_unintelligible(&mut self, driver: &DriverId, count: u64, from: &Arc<str>) {
        let now = self.now();
        let holder = self.driver(driver);
        holder.unnoted_from = from.clone();
        if let Some(count) = holder.unnoted.count(count, now.mono) {
            self.audit_unintelligible(driver, count, now);
        }
    }

    pub(super) fn sweep_drivers(&mut self, now: Now) {
        let drivers: Vec<_> = self.drivers.keys().cloned().collect();
        for (number, driver) in drivers.iter().enumerate() {
            let stagger = u16::try_from(number % 1_000).unwrap_or_default();
            let settings = self.shared.settings.clone();
            let holder = self.driver(driver);
            let unnoted = holder.unnoted.flush(now.mono);
            let due = holder.account.keys.due(&settings, stagger, now);
            holder.account.keys.end_overlap(now);
            let (peer, keys) = (holder.account.peer(), holder.account.keys.clone());
            self.shared.directory.publish(&peer, &keys);
            if let Some(count) = unnoted {
                self.audit_unintelligible(driver, count, now);
            }
            match due {
                Some(KeyDue::Expired) => self.offer_to_driver(driver, DriverInput::Expire),
                Some(KeyDue::Rotation) => {
                    self.offer_to_driver(driver, DriverInput::Rotate { material: secrets::fresh_link_key() })
                }
                None => {}
            }
        }
    }

    fn audit_unintelligible(&mut self, driver: &DriverId, count: u64, now: Now) {
        let peer = PeerId::Driver(driver.clone());
        let from = self.driver(driver).unnoted_from.clone();
        let entry = AuditRecord::new(AuditAction::Unintelligible, &peer).with("messages", count);
        let entry = entry.by(&Origin::new(peer.to_string(), from), now);
        self.shared.audit(Some(peer), &entry);
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use proto::registry::v1::{IdentityState, Kind};
    use store::central::MirroredIdentityRow;

    use super::*;
    use crate::{settings::CentralSettings, testing::TestCentral};

    fn removed() -> MirroredIdentityRow {
        let (kind, state) = (Kind::Driver.into(), IdentityState::Removed.into());
        MirroredIdentityRow { kind, id: "D1".into(), state, incarnation: 1, ..MirroredIdentityRow::default() }
    }

    /// A loop that the test turns, and a driver in it.
    async fn event_loop(central: &TestCentral) -> (EventLoop, DriverId) {
        let driver = central.driver("D1").await;
        (EventLoop::load(Arc::clone(&central.shared), &central.ctx).await.unwrap(), driver)
    }

    #[tokio::test]
    async fn registrys_word_on_a_driver_is_never_given_up_spec_7_4() {
        let central = TestCentral::new(CentralSettings::default(), 10).await;
        let (mut event_loop, driver) = event_loop(&central).await;
        event_loop.identity(&removed());
        event_loop.driver_done(&driver, Err(CommitRefusal::Unavailable("away".to_owned())));
        assert!(!event_loop.driver(&driver).account.removed);
        event_loop.turns.clear();
        let now = event_loop.now();
        event_loop.driver_timer_fired(&driver, Now { mono: now.mono + turns::RETRY, ..now });
        let done = event_loop.turns.next().await.expect("its turn");
        event_loop.done(done);
        assert!(event_loop.driver(&driver).account.removed);
    }

    #[tokio::test]
    async fn a_driver_whose_turns_wait_keeps_out_no_word_of_registrys_spec_7_4() {
        let central = TestCentral::new(CentralSettings::default(), 10).await;
        let (mut event_loop, driver) = event_loop(&central).await;
        for _ in 0..2 * DriverAccount::room(turns::Speaker::Own) {
            let (link, _) = central.link();
            event_loop.offer_to_driver(
                &driver,
                DriverInput::Grant { link, material: secrets::fresh_link_key(), from: Origin::central() },
            );
        }
        event_loop.identity(&removed());
        while let Some(done) = event_loop.turns.next().await {
            event_loop.done(done);
        }
        let account = &event_loop.driver(&driver).account;
        assert!(account.removed && account.keys.staged().is_none(), "and who waited for a key gets none");
    }
}
