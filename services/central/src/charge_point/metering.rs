//! Running values of the register: which are accepted, and what follows from them (SPEC 3.4, 3.8a).

use mesh::clock::Now;
use proto::{
    Energy,
    link::v1::{Reason, SessionState},
};

use super::{ChargePoint, PointChange, decision::DecisionBuilder, observe::RUNNING_EVERY, observe::Reaction};
use crate::{
    audit::{AuditAction, AuditRecord},
    session::{EnergyLimit, NotAccepted, Session},
    settings::CentralSettings,
};

impl ChargePoint {
    /// What can have been supplied here, and how long a stop may take.
    pub(super) fn energy_limit(&self, settings: &CentralSettings) -> EnergyLimit {
        EnergyLimit::new(self.record.rated_power_w, settings)
    }

    /// A running value of the session `open`. One that cannot be is counted and audited, and changes nothing.
    pub(super) fn meter(
        &mut self,
        mut open: Session,
        (meter, power_w): (Energy, u32),
        settings: &CentralSettings,
        now: Now,
        reaction: &mut Reaction,
    ) {
        if open.state != SessionState::Supplying {
            return;
        }
        if let Some((_, last, at)) = self.live.meter.as_ref().filter(|(id, ..)| *id == open.id) {
            open.take(*last, *at);
        }
        let limit = self.energy_limit(settings);
        if let Err(why) = open.accept(meter, limit, now) {
            return self.note_unaccepted(&open, meter, why, now, reaction);
        }
        self.live.power_w = power_w.min(limit.power_w());
        self.live.meter = Some((open.id.clone(), meter, now.mono));
        let saves =
            self.pending.saved_at.is_none_or(|at| now.mono.saturating_duration_since(at) >= settings.meter_saved_every);
        reaction.due = saves || self.has_passed_its_request();
        if self.live.pace.may_send(RUNNING_EVERY, now.mono) {
            self.tell_running(open, reaction);
        }
    }

    fn note_unaccepted(&mut self, open: &Session, meter: Energy, why: NotAccepted, now: Now, reaction: &mut Reaction) {
        let counted = match why {
            NotAccepted::RanBackwards => &mut self.live.backwards,
            NotAccepted::Implausible => &mut self.live.implausible,
        };
        if let Some(count) = counted.count(1, now.mono) {
            let entry = self.unaccepted(why, count).with("session", &open.id);
            let entry = entry.with("accepted_wh", open.meter_last.wh()).with("reported_wh", meter.wh());
            reaction.queued.push(PointChange::Audit(entry.by(&self.engine_origin(), now)));
        }
    }

    pub(super) fn unaccepted(&self, why: NotAccepted, count: u64) -> AuditRecord {
        let action = match why {
            NotAccepted::RanBackwards => AuditAction::MeterRanBackwards,
            NotAccepted::Implausible => AuditAction::MeterImplausible,
        };
        AuditRecord::new(action, self.object()).with("values", count)
    }

    /// It has supplied more than was asked for, and was not told to stop yet.
    pub(super) fn has_passed_its_request(&self) -> bool {
        let running = self.running().filter(|open| open.state == SessionState::Supplying);
        running.is_some_and(|open| {
            open.reason == Reason::Unspecified && open.requested > Energy::ZERO && open.energy() > open.requested
        })
    }
}

impl DecisionBuilder<'_> {
    /// Nobody pays for more, so that it must not go on.
    pub(super) fn stop_past_its_request(&mut self, open: &Session) {
        let entry = self.entry_of(AuditAction::SupplyStopOrdered, open).with("requested_wh", open.requested.wh());
        self.audit_by_central(entry.with("energy_wh", open.energy().wh()).outcome(Reason::EnergyReached, ""));
        self.end(open, Reason::EnergyReached);
    }
}
