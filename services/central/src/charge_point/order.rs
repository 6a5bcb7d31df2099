//! Orders of operators, key orders, and what Registry says (SPEC 3.5, 4.7, 7.1). Each is idempotent: what is so already
//! is answered as unchanged.

use std::{sync::Arc, time::Duration};

use proto::link::v1::{self as link, KeyState, Reason, down};
use wire::LinkKey;

use super::{Effect, EnrolmentChange, Notice, OrderOutcome, PointChange, PointOrder, Reply, decision::DecisionBuilder};
use crate::{
    audit::AuditAction,
    key::Keyring,
    origin::{LinkNo, Origin},
};

/// How often a charging point may switch its own maintenance.
const SWITCHED_EVERY: Duration = Duration::from_secs(1);

impl EnrolmentChange {
    /// Registry's words can come late and twice, beside each other on its stream and with its answers. An enrolment goes
    /// from enrolled to void to removed, so that what came before is told from what comes next.
    pub fn is_news_to(&self, keys: &Keyring, removed: bool) -> bool {
        let known = (keys.incarnation, if removed { 2 } else { u8::from(keys.void) });
        match *self {
            Self::Enrolled { incarnation } => keys.takes(incarnation),
            Self::Void { incarnation } => (incarnation, 1) > known,
            Self::Removed { incarnation } => (incarnation, 2) > known,
        }
    }
}

impl DecisionBuilder<'_> {
    pub(super) fn order(&mut self, order: &PointOrder, by: &Origin, reply: Reply) {
        let outcome = match order {
            PointOrder::Stop => self.stop(by),
            PointOrder::Resume => self.resume(by),
            PointOrder::Maintenance { on } => self.maintenance(*on, by, reply),
            PointOrder::Rotate { material } => self.rotate(material, by),
            PointOrder::Renew => self.renew(by),
            PointOrder::Revoke => self.revoke(by),
            PointOrder::Release => self.end_quarantine(by),
            PointOrder::SetPrice(price) => {
                let changed = self.decision.next.price != *price;
                self.decision.next.price = *price;
                self.set(changed, AuditAction::PriceSet, Some(("price", price.to_string())), by)
            }
            PointOrder::SetRatedPower(watts) => {
                let changed = self.decision.next.rated_power_w != *watts;
                self.decision.next.rated_power_w = *watts;
                self.set(changed, AuditAction::RatedPowerSet, Some(("rated_power_w", watts.to_string())), by)
            }
            PointOrder::Move { city, place } => self.move_to(city, place.as_ref(), by),
            PointOrder::EndSession(session) => match self.point.running().filter(|open| open.id == *session) {
                Some(open) => {
                    let entry = self.entry_of(AuditAction::SupplyStopOrdered, &open);
                    self.audit(by, entry.outcome(Reason::StoppedByOperator, ""));
                    self.end(&open, Reason::StoppedByOperator);
                    OrderOutcome::Done
                }
                None => OrderOutcome::Unchanged,
            },
        };
        self.settle_item(by, &outcome);
        self.answer(reply, outcome);
    }

    /// Writes what an order over several charging points did here, in the turn that did it. An order that changed
    /// nothing concerns the charging point too, so it is audited (SPEC 8.3).
    fn settle_item(&mut self, by: &Origin, outcome: &OrderOutcome) {
        if by.order.is_empty() {
            return;
        }
        match outcome {
            OrderOutcome::Done => {}
            OrderOutcome::Unchanged => {
                let entry = self.entry(AuditAction::OrderUnchanged).with("method", by.method);
                self.audit(by, entry);
            }
            OrderOutcome::Failed(reason, detail) => {
                let entry = self.entry(AuditAction::OrderRefused).with("method", by.method);
                self.audit(by, entry.outcome(*reason, detail));
            }
        }
        let (order, outcome) = (by.order.clone(), outcome.clone());
        self.decision.changes.push(PointChange::OrderItem { order, outcome });
    }

    fn stop(&mut self, by: &Origin) -> OrderOutcome {
        let already = self.point.record.stopped.is_some();
        if !already {
            self.decision.next.stopped = Some(Notice { by: by.actor.clone(), reason: by.reason.clone() });
            self.change_point();
            let entry = self.entry(AuditAction::Stopped);
            self.audit(by, entry);
        }
        if let Some(open) = self.point.running() {
            self.end(&open, Reason::StoppedByOperator);
        }
        if let Some(ask) = self.point.pending.ask.clone() {
            self.refuse(&ask.request, Reason::OutOfOrder, "stopped by an operator");
        }
        if already { OrderOutcome::Unchanged } else { OrderOutcome::Done }
    }

    fn resume(&mut self, by: &Origin) -> OrderOutcome {
        let was = self.decision.next.stopped.take();
        let stopped_by = was.as_ref().map(|n| n.by.to_string()).unwrap_or_default();
        self.set(was.is_some(), AuditAction::Resumed, Some(("stopped_by", stopped_by)), by)
    }

    /// Waits for the end of a running supply: the cause stands, and shows when nothing is open.
    fn maintenance(&mut self, on: bool, by: &Origin, reply: Reply) -> OrderOutcome {
        let changed = on != self.point.record.maintenance.is_some();
        if changed && matches!(reply, Reply::Link { .. }) {
            // A row and an entry each: the charging point's own switch is no way to fill the disk.
            let switched_at = self.decision.pending.switched_at.replace(self.now.mono);
            if switched_at.is_some_and(|at| self.now.mono.saturating_duration_since(at) < SWITCHED_EVERY) {
                self.decision.pending.switched_at = switched_at;
                return OrderOutcome::Failed(
                    Reason::TooManyAttempts,
                    "maintenance is switched once a second".to_owned(),
                );
            }
        }
        if changed {
            self.decision.next.maintenance = on.then(|| Notice { by: by.actor.clone(), reason: by.reason.clone() });
        }
        let action = if on { AuditAction::MaintenanceOn } else { AuditAction::MaintenanceOff };
        self.set(changed, action, None, by)
    }

    fn end_quarantine(&mut self, by: &Origin) -> OrderOutcome {
        let changed = self.point.record.quarantined;
        self.decision.next.quarantined = false;
        self.set(changed, AuditAction::Released, None, by)
    }

    fn move_to(&mut self, city: &Arc<str>, place: Option<&Arc<str>>, by: &Origin) -> OrderOutcome {
        let place = place.unwrap_or(&self.point.record.place).clone();
        let changed = (&self.point.record.city, &self.point.record.place) != (city, &place);
        let value = format!("{city}, {place}");
        (self.decision.next.city, self.decision.next.place) = (city.clone(), place);
        self.set(changed, AuditAction::Moved, Some(("to", value)), by)
    }

    fn set(
        &mut self,
        changed: bool,
        action: AuditAction,
        value: Option<(&'static str, String)>,
        by: &Origin,
    ) -> OrderOutcome {
        if !changed {
            return OrderOutcome::Unchanged;
        }
        self.change_point();
        let entry = self.entry(action);
        self.audit(by, value.into_iter().fold(entry, |entry, (name, value)| entry.with(name, value)));
        OrderOutcome::Done
    }

    /// A new key beside the active one, granted on the old link (SPEC 4.6).
    fn rotate(&mut self, material: &Arc<LinkKey>, by: &Origin) -> OrderOutcome {
        match self.point.record.keys.state() {
            KeyState::Rotating => return OrderOutcome::Unchanged,
            KeyState::Active => {}
            KeyState::Unspecified | KeyState::Deleted | KeyState::Revoked => {
                return OrderOutcome::Failed(Reason::NoKey, "it has no key to rotate".to_owned());
            }
        }
        let granted = self.decision.next.keys.grant(material.clone(), self.now, self.settings);
        let entry = self.entry(AuditAction::KeyRotationOrdered);
        self.audit(by, entry);
        self.keys_changed(granted);
        self.change_point();
        if let Some(key_no) = self.decision.next.keys.staged().map(|key| key.no) {
            self.after_commit(Effect::Grant { link: None, key_no });
        }
        OrderOutcome::Done
    }

    /// The key is deleted; the charging point authenticates again by itself (SPEC 4.7).
    fn renew(&mut self, by: &Origin) -> OrderOutcome {
        match self.point.record.keys.state() {
            KeyState::Revoked => return OrderOutcome::Failed(Reason::CredentialVoid, "revoked: restore it".to_owned()),
            KeyState::Deleted => return OrderOutcome::Unchanged,
            KeyState::Unspecified | KeyState::Active | KeyState::Rotating => {}
        }
        let gone = self.decision.next.keys.renew();
        let retry = u32::try_from(self.settings.renew_after.as_millis()).unwrap_or(u32::MAX);
        let entry = self.entry(AuditAction::KeyRenewed);
        self.audit(by, entry);
        self.keys_changed(gone);
        self.without_key(Reason::KeyRenewed, KeyState::Deleted, retry);
        OrderOutcome::Done
    }

    fn revoke(&mut self, by: &Origin) -> OrderOutcome {
        if self.point.record.keys.revoked {
            return OrderOutcome::Unchanged;
        }
        let gone = self.decision.next.keys.revoke();
        let entry = self.entry(AuditAction::KeyRevoked);
        self.audit(by, entry);
        self.keys_changed(gone);
        self.without_key(Reason::KeyRevoked, KeyState::Revoked, 0);
        OrderOutcome::Done
    }

    /// A running supply stops and settles; the monitor's link stays as a status link, the engine's ends (SPEC 4.7).
    fn without_key(&mut self, reason: Reason, key_state: KeyState, retry_after_ms: u32) {
        self.change_point();
        self.end_for_good(reason);
        let standing = link::AuthStatus {
            key_state: key_state.into(),
            reason: reason.into(),
            detail: String::new(),
            retry_after_ms,
        };
        self.after_commit(Effect::Monitor(down::Body::AuthStatus(standing.clone())));
        self.engine(down::Body::AuthStatus(standing));
        if let Some(engine) = &self.point.live.engine {
            self.after_commit(Effect::Close(engine.link));
        }
    }

    fn end_for_good(&mut self, reason: Reason) {
        if let Some(ask) = self.point.pending.ask.clone() {
            self.refuse(&ask.request, Reason::OutOfOrder, reason.in_words());
        }
        match self.point.running() {
            Some(open) if open.started_at.is_some() => self.settle(&open, reason, ""),
            Some(open) => self.release(&open, reason),
            None => {}
        }
    }

    /// Its credential was verified on this link: a fresh key, or how it stands (SPEC 4.4, 4.7).
    pub(super) fn grant(&mut self, to: LinkNo, material: &Arc<LinkKey>, from: &Origin) {
        if self.point.record.removed {
            // Verified before it was removed, or enrolled again a moment ago: Registry is asked once more.
            return self.refuse_key(to, Reason::Unavailable, "its enrolment changes just now".to_owned());
        }
        if self.point.record.keys.revoked {
            let standing = link::AuthStatus {
                key_state: KeyState::Revoked.into(),
                reason: Reason::KeyRevoked.into(),
                detail: String::new(),
                retry_after_ms: 0,
            };
            return self.after_commit(Effect::Link(to, down::Body::AuthStatus(standing)));
        }
        let granted = self.decision.next.keys.grant(material.clone(), self.now, self.settings);
        self.keys_changed(granted);
        self.change_point();
        if let Some(key_no) = self.decision.next.keys.staged().map(|key| key.no) {
            let entry = self.entry(AuditAction::KeyGranted).with("key_no", key_no);
            self.audit(from, entry);
            self.after_commit(Effect::Grant { link: Some(to), key_no });
        }
    }

    /// No key now; the credential may be shown again soon.
    pub(super) fn refuse_key(&mut self, to: LinkNo, reason: Reason, detail: String) {
        let retry_after_ms = u32::try_from(self.settings.renew_after.as_millis()).unwrap_or(u32::MAX);
        let standing =
            link::AuthStatus { reason: reason.into(), detail, retry_after_ms, ..link::AuthStatus::default() };
        self.after_commit(Effect::Link(to, down::Body::AuthStatus(standing)));
        self.after_commit(Effect::Close(to));
    }

    /// Both parts hold the key and will come with it; nothing to be decided until they do.
    pub(super) fn key_installed(&mut self, key_no: u64, reply: Reply) {
        let known = self.point.record.keys.usable().any(|(no, _)| no == key_no);
        let outcome =
            if known { OrderOutcome::Done } else { OrderOutcome::Failed(Reason::NoKey, format!("no key {key_no}")) };
        self.answer(reply, outcome);
    }

    pub(super) fn identity(&mut self, identity: &EnrolmentChange) {
        let registry = Origin::new("registry", "");
        if !identity.is_news_to(&self.point.record.keys, self.point.record.removed) {
            return;
        }
        match identity {
            EnrolmentChange::Enrolled { incarnation } => {
                let void = self.decision.next.keys.enrolled(*incarnation);
                self.keys_changed(void);
                self.decision.next.removed = false;
                self.change_point();
                let entry = self.entry(AuditAction::Enrolled).with("incarnation", incarnation);
                self.audit(&registry, entry);
                self.end_for_good(Reason::KeyRevoked);
                self.close_links();
            }
            EnrolmentChange::Void { incarnation } => {
                let _idempotent = self.revoke(&registry);
                let _none_left = self.decision.next.keys.voided(*incarnation);
                self.decision.next.removed = false;
                if self.point.record.removed || *incarnation > self.point.record.keys.incarnation {
                    self.change_point();
                }
            }
            EnrolmentChange::Removed { incarnation } => {
                let gone = self.decision.next.keys.removed(*incarnation);
                if self.point.record.removed {
                    return;
                }
                self.keys_changed(gone);
                self.decision.next.removed = true;
                self.change_point();
                let entry = self.entry(AuditAction::Removed);
                self.audit(&registry, entry);
                self.end_for_good(Reason::Removed);
                self.close_links();
            }
        }
    }

    /// Proven with what is void now.
    fn close_links(&mut self) {
        for linked in [&self.point.live.engine, &self.point.live.monitor].into_iter().flatten() {
            self.after_commit(Effect::Close(linked.link));
        }
    }
}
