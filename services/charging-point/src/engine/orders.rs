//! What Central says, and what is said to it at each opening.

use std::time::Duration;

use mesh::{
    clock::Now,
    peer::{LinkNo, Slot},
};
use proto::link::v1::{
    Ask, AskAnswer, JournalReport, JournalSession, Opened, Reason, Release, SessionState, Settled, Stop, Supply, down,
    up,
};

use crate::journal_state::{JournalEntry, SessionRecord, SettledEntry};

use super::{
    Engine, EngineCommand,
    session::{EngineSession, SessionPhase},
};

/// Sessions reported in one message, which is what Central takes; others follow when it has answered.
const MOST_REPORTED: usize = 256;

impl Engine {
    // ---- Opening

    /// The first sealed message.
    pub(super) fn greet(&mut self, link: LinkNo) {
        let life_sign = self.identity.as_ref().map_or(Duration::ZERO, |i| i.life_sign);
        let opened = Opened {
            highest_epoch: self.uplink.highest_epoch(),
            life_sign_ms: u32::try_from(life_sign.as_millis()).unwrap_or(u32::MAX),
            software: self.settings.software.clone(),
            meter_wh: self.register_wh(),
        };
        self.uplink.greet(link, up::Body::Opened(opened));
        if self.spoiled {
            self.out.push_back(EngineCommand::Spoil { link, on: true });
        }
    }

    /// Everything in the journal that Central may not know (SPEC 3.8), or a portion of it: the sessions whose ids come
    /// after this one, and always the one that is live.
    pub(super) fn journal_report(&self, after: Option<&str>) -> JournalReport {
        let Some(identity) = &self.identity else { return JournalReport::default() };
        let live = self.session.as_ref().map(|s| s.id.as_str());
        let closed =
            self.journal.state().unsettled(&identity.id).filter(|s| Some(s.started.session_id.as_str()) != live);
        let closed = closed.filter(|s| after.is_none_or(|after| s.started.session_id.as_str() > after));
        let mut sessions: Vec<JournalSession> =
            closed.map(|s| self.closed_session(s)).take(MOST_REPORTED - 1).collect();
        sessions.extend(self.session.as_ref().map(live_session));
        let latest = self.journal.state().latest(&identity.id).map(SessionRecord::held);
        JournalReport { sessions, latest }
    }

    /// A final value leaves only once it is on disk; until then the session goes on, as far as Central knows.
    fn closed_session(&self, session: &SessionRecord) -> JournalSession {
        let held = session.held();
        if self.journal.end_is_written(&held.session_id) {
            return held;
        }
        let (state, reason) = (SessionState::Supplying.into(), Reason::Unspecified.into());
        JournalSession { state, reason, ended_at_ms: 0, ..held }
    }

    /// A new generation may have forgotten what an older one settled: then all that is kept is reported again.
    pub(super) fn new_epoch(&mut self, epoch: u64, now: Now) {
        let before = self.journal.state().highest_epoch;
        self.record(JournalEntry::Epoch(epoch), false);
        let (old, new) = (before >> 32, epoch >> 32);
        if before != 0 && new > old {
            self.uplink.owe(Slot::JournalReport, now.mono);
        }
    }

    // ---- Orders

    pub(super) fn handle_order(&mut self, body: down::Body, now: Now) {
        use down::Body as B;
        match body {
            B::Ask(ask) => self.handle_ask(&ask),
            B::Supply(supply) => self.handle_supply(supply, now),
            B::Release(release) => self.handle_release(&release, now),
            B::Stop(stop) => self.handle_stop(&stop, now),
            B::Settled(settled) => self.handle_settled(settled, now),
            B::View(view) => self.view = Some(view),
            // The monitor's affair; an engine that hears of it waits for what the monitor says.
            B::AuthStatus(standing) => self.notice = Some(format!("Central: {}", standing.reason().in_words())),
            B::KeyGrant(_) | B::Answer(_) | B::Unsupported(_) | B::Clock(_) => {}
            B::Step(_)
            | B::Running(_)
            | B::Ticket(_)
            | B::ChargingPoints(_)
            | B::History(_)
            | B::ConfirmRequest(_)
            | B::HandBackTickets(_) => {
                tracing::warn!("ignored a message that is for drivers");
            }
        }
    }

    fn handle_ask(&mut self, ask: &Ask) {
        let refusal = match &self.session {
            Some(session) if session.id != ask.session_id => Err("another session is not over yet".to_owned()),
            Some(_) | None => self.may_begin(),
        };
        self.answer_ask(&ask.session_id, refusal);
    }

    /// Not repeated: an answer that is lost with its link is asked for again, or comes too late.
    fn answer_ask(&mut self, session_id: &str, answer: Result<(), String>) {
        let (accepted, detail) = (answer.is_ok(), answer.err().unwrap_or_default());
        self.uplink.sample(up::Body::AskAnswer(AskAnswer { session_id: session_id.to_owned(), accepted, detail }));
    }

    fn handle_supply(&mut self, supply: Supply, now: Now) {
        let until = now.mono + Duration::from_millis(u64::from(supply.hold_ms));
        if self.journal.state().session(&supply.session_id).is_some() {
            // Said again, though it has begun or is over: the report of that is on its way.
            return;
        }
        match &mut self.session {
            Some(session) if session.id == supply.session_id => {
                if let SessionPhase::Reserved { until: held, .. } = &mut session.phase {
                    *held = until;
                }
                return;
            }
            Some(_) => {
                return self.answer_ask(&supply.session_id, Err("another session is not over yet".to_owned()));
            }
            None => {}
        }
        let plug_at = self.settings.unattended.map(|u| now.mono + self.settings.speed.real(u.plug_in_after));
        self.manual = None;
        self.notice = None;
        self.session = Some(EngineSession::reserved(supply, until, plug_at));
        self.begin_if_plugged(now);
    }

    fn handle_release(&mut self, release: &Release, now: Now) {
        if self.session.as_ref().is_some_and(|s| s.id == release.session_id) {
            let reason = release.reason();
            // Where energy flows already its end is reported, whatever Central makes of it.
            let end = if reason.ends_a_supply() { reason } else { Reason::StoppedByOperator };
            self.end_session(end, now);
            self.notice = Some(format!("the reservation was released: {}", reason.in_words()));
        }
    }

    fn handle_stop(&mut self, stop: &Stop, now: Now) {
        if self.session.as_ref().is_some_and(|s| s.id == stop.session_id) {
            let reason = stop.reason();
            self.end_session(if reason.ends_a_supply() { reason } else { Reason::StoppedByOperator }, now);
        } else {
            // It is over; Central has missed it, or forgotten it.
            self.uplink.owe(Slot::JournalReport, now.mono);
        }
    }

    fn handle_settled(&mut self, settled: Settled, now: Now) {
        let Settled { session_id: id, ticket } = settled;
        if self.session.as_ref().is_some_and(|s| s.id == id) {
            // Billed without us (SPEC 3.8). What flows beyond that is reported, and settled in its turn.
            return self.end_session(Reason::StoppedByOperator, now);
        }
        self.uplink.withdraw(|body| {
            matches!(body, up::Body::SupplyStarted(started) if started.session_id == id)
                || matches!(body, up::Body::SupplyEnded(ended) if ended.session_id == id)
        });
        let is_new = |s: &SessionRecord| s.ended.is_some() && (!s.settled || (s.ticket.is_none() && ticket.is_some()));
        if self.journal.state().session(&id).is_some_and(is_new) {
            self.record(JournalEntry::Settled(SettledEntry { session_id: id, ticket }), true);
        }
    }

    // ---- Answers

    pub(super) fn answered(&mut self, body: &up::Body, reason: Reason, detail: &str, now: Now) {
        let refused = reason != Reason::Unspecified;
        let words = if detail.is_empty() { reason.in_words() } else { detail };
        if let up::Body::ManualSupply(supply) = body {
            if self.manual.as_ref().is_some_and(|m| m.request_id == supply.request_id) {
                self.manual = None;
                self.notice = refused.then(|| format!("manual supply refused: {words}"));
            }
        } else if let (up::Body::SupplyStarted(started), true) = (body, refused) {
            // Central knows no such reservation any more: nothing may flow without one.
            tracing::warn!(session.id = started.session_id, reason = words, "Central does not accept the start");
            if self.session.as_ref().is_some_and(|s| s.id == started.session_id) {
                self.end_session(Reason::StoppedByOperator, now);
            }
        } else if let (up::Body::JournalReport(held), false) = (body, refused) {
            self.report_next_portion(held, now);
        } else if let (up::Body::SupplyEnded(ended), true) = (body, refused) {
            // It stays in the journal, and is reported at every opening.
            tracing::warn!(session.id = ended.session_id, reason = words, "Central does not accept the end");
            if reason == Reason::NotFound {
                // A Central that was restored from a backup bills it by what it once signed, which the journal holds.
                self.uplink.owe(Slot::JournalReport, now.mono);
            }
        }
    }

    /// A full portion was answered: what comes after it.
    fn report_next_portion(&mut self, held: &JournalReport, now: Now) {
        let Some(last) = held.sessions.get(MOST_REPORTED - 2) else { return };
        let others = self.journal_report(Some(&last.session_id));
        if others.sessions.len() > usize::from(self.session.is_some()) {
            self.uplink.send_state(Slot::JournalReport, up::Body::JournalReport(others), now.mono);
        }
    }

    /// Whoever asks for a manual supply stands in front of it, and does not wait until Central can.
    pub(super) fn deferred(&mut self, body: &up::Body, reason: Reason, detail: &str, now: Now) {
        if matches!(body, up::Body::ManualSupply(_)) {
            self.withdraw_manual_supply();
            self.answered(body, reason, detail, now);
        }
    }

    fn withdraw_manual_supply(&mut self) {
        self.uplink.withdraw(|body| matches!(body, up::Body::ManualSupply(_)));
    }

    pub(super) fn expire_manual_supply(&mut self, now: Now) {
        if self.manual.as_ref().is_some_and(|m| m.until <= now.mono) {
            self.manual = None;
            self.withdraw_manual_supply();
            self.notice = Some("manual supply refused: Central gave no answer".to_owned());
        }
    }
}

/// As it is now, not as the journal saw it last.
fn live_session(session: &EngineSession) -> JournalSession {
    let held = JournalSession { session_id: session.id.clone(), ..JournalSession::default() };
    match &session.phase {
        // Its start is not in the journal yet, so nothing flows.
        SessionPhase::Reserved { .. } | SessionPhase::Starting { .. } => {
            JournalSession { state: SessionState::Reserved.into(), ..held }
        }
        SessionPhase::Supplying(running) => JournalSession {
            state: SessionState::Supplying.into(),
            meter_start_wh: running.meter_start_wh,
            meter_wh: running.meter_start_wh + running.sample.energy.wh(),
            started_at_ms: running.at_ms,
            ..held
        },
    }
}
