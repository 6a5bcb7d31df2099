//! What Central says, and what follows from it.

use std::time::Duration;

use mesh::clock::Now;
use proto::link::v1::{
    ConfirmRequest, ConfirmSupply, Down, Progress, Reason, Step, StopSupply, Ticket, TicketReceived, down, up,
};

use super::{TripCommand, Trips, UnansweredMessage};
use crate::{
    format,
    notification::Notification,
    request::{ConfirmPolicy, RequestOutcome, RunningSupply, SupplyRequest},
};

impl Trips {
    pub(super) fn down(&mut self, down: Down, now: Now) {
        match down.body {
            Some(down::Body::Answer(answer)) => {
                let reason = answer.reason();
                self.answered(answer.to, reason, answer.detail, now);
            }
            Some(down::Body::Unsupported(unsupported)) => {
                let detail = "Central does not know this message: it is older than this driver".to_owned();
                self.answered(unsupported.to, Reason::Invalid, detail, now);
            }
            Some(down::Body::Step(step)) => self.step(step),
            Some(down::Body::Running(running)) => self.runs(running),
            Some(down::Body::Ticket(ticket)) => self.ticket(ticket, now),
            Some(down::Body::ChargingPoints(list)) => {
                self.unanswered.retain(|_, u| !matches!(u.body, up::Body::ListChargingPoints(_)));
                self.notify(Notification::offers(list));
            }
            Some(down::Body::History(history)) => {
                self.unanswered.retain(|_, u| !matches!(u.body, up::Body::ListHistory(_)));
                self.notify(Notification::history(history));
            }
            Some(down::Body::ConfirmRequest(asked)) => self.asked_to_confirm(asked, now),
            // Keys, the auth status and the clock are the link's; the rest is for charging points.
            Some(
                down::Body::KeyGrant(_)
                | down::Body::AuthStatus(_)
                | down::Body::Clock(_)
                | down::Body::View(_)
                | down::Body::Ask(_)
                | down::Body::Supply(_)
                | down::Body::Release(_)
                | down::Body::Stop(_)
                | down::Body::Settled(_),
            )
            | None => {}
        }
    }

    pub(super) fn answered(&mut self, to: u64, reason: Reason, detail: String, now: Now) {
        let Some(unanswered) = self.unanswered.get_mut(&to) else { return };
        if matches!(reason, Reason::Unavailable | Reason::Overloaded | Reason::TooManyAttempts) {
            // Not an answer yet: nothing was made durable, so the same id asks again.
            unanswered.again_at = now.mono + self.settings.repeat;
            return self
                .notify(Notification::Waiting { reason: reason.code(), detail: format::reason(reason, &detail) });
        }
        let Some(UnansweredMessage { body, .. }) = self.unanswered.remove(&to) else { return };
        if reason == Reason::Unspecified {
            return;
        }
        let words = format::reason(reason, &detail);
        if let up::Body::RequestSupply(request) = body {
            self.refused(&request.request_id, reason, detail);
        } else if let up::Body::ConfirmSupply(ConfirmSupply { session_id: session, .. })
        | up::Body::StopSupply(StopSupply { session_id: session }) = body
        {
            self.notify(Notification::Rejected { session, reason: reason.code(), detail: words });
        } else if matches!(body, up::Body::ListChargingPoints(_) | up::Body::ListHistory(_)) {
            self.notify(Notification::Hint { text: format!("Central refused the list: {words}") });
        }
    }

    pub(super) fn refused(&mut self, request_id: &str, reason: Reason, detail: String) {
        let outcome = RequestOutcome::Refused { reason: reason.code(), detail: format::reason(reason, &detail) };
        self.over(request_id, outcome);
    }

    pub(super) fn step(&mut self, step: Step) {
        let progress = step.progress();
        let reason = step.reason();
        if progress == Progress::Refused && matches!(reason, Reason::Unavailable | Reason::Overloaded) {
            return; // the answer says the same, and the request is repeated
        }
        self.learn_session(&step);
        if self.stored.iter().any(|(session, _)| *session == step.session_id) {
            // Its ticket has said all.
            return;
        }
        self.notify(Notification::step(&step));
        let request_id = self.request_of(&step);
        match progress {
            Progress::Authorised | Progress::Supplying | Progress::Fault | Progress::LinkLost => {
                self.show_running(&step);
            }
            Progress::Refused => {
                self.running.remove(&step.session_id);
                self.confirms.remove(&step.session_id);
                if let Some(id) = request_id {
                    self.refused(&id, reason, step.detail);
                }
            }
            Progress::Released => {
                self.running.remove(&step.session_id);
                self.confirms.remove(&step.session_id);
                if let Some(id) = request_id {
                    let detail = format::reason(reason, &step.detail);
                    self.over(&id, RequestOutcome::Released { reason: reason.code(), detail });
                }
            }
            // The driver is free for another supply; the ticket follows when it is settled (SPEC 3.8).
            Progress::Settling => {
                self.running.remove(&step.session_id);
                if let Some(id) = request_id {
                    self.over(&id, RequestOutcome::Settling { session: step.session_id });
                }
            }
            Progress::Received | Progress::Asking | Progress::Unspecified => {}
        }
    }

    pub(super) fn request_of(&self, step: &Step) -> Option<String> {
        let by_session = || {
            self.requests
                .values()
                .find(|r| r.session.as_deref().is_some_and(|s| s == step.session_id))
                .map(|r| r.id.clone())
        };
        self.requests.get(&step.request_id).map(|r| r.id.clone()).or_else(by_session)
    }

    /// A request whose session already has its ticket on disk is over: it was, before a restart.
    pub(super) fn learn_session(&mut self, step: &Step) {
        if step.session_id.is_empty() {
            return;
        }
        let Some(request) = self.requests.get_mut(&step.request_id) else { return };
        if request.session.as_deref() != Some(&step.session_id) {
            request.session = Some(step.session_id.clone());
            self.keep();
        }
        if self.stored.iter().any(|(session, _)| *session == step.session_id) {
            self.over(&step.request_id.clone(), RequestOutcome::Billed { session: step.session_id.clone() });
        }
    }

    pub(super) fn show_running(&mut self, step: &Step) {
        if step.session_id.is_empty() || self.stored.iter().any(|(session, _)| *session == step.session_id) {
            return;
        }
        let shown = self.running.entry(step.session_id.clone()).or_insert_with(|| RunningSupply {
            session: step.session_id.clone(),
            charging_point: step.charging_point_id.clone(),
            step: "",
            energy_wh: 0,
            amount_minor: 0,
            currency: step.currency.clone(),
            power_w: 0,
        });
        shown.step = format::progress(step.progress());
    }

    pub(super) fn runs(&mut self, running: proto::link::v1::Running) {
        if self.stored.iter().any(|(session, _)| *session == running.session_id) {
            return;
        }
        let shown = RunningSupply {
            session: running.session_id,
            charging_point: running.charging_point_id,
            step: format::progress(Progress::Supplying),
            energy_wh: running.energy_wh,
            amount_minor: running.amount_minor,
            currency: running.currency,
            power_w: running.power_w,
        };
        self.running.insert(shown.session.clone(), shown.clone());
        self.notify(Notification::Running(shown));
    }

    pub(super) fn asked_to_confirm(&mut self, asked: ConfirmRequest, now: Now) {
        let session = asked.session_id.clone();
        let known = self.confirms.contains_key(&session);
        if !known {
            self.notify(Notification::confirmation_requested(&asked));
        }
        let until = now.mono + Duration::from_millis(asked.expires_ms.into());
        self.confirms.insert(session.clone(), (asked, until));
        match self.settings.confirm {
            ConfirmPolicy::Always => self.confirm(session, true, now),
            ConfirmPolicy::Never => self.confirm(session, false, now),
            ConfirmPolicy::Ask => {}
        }
    }

    pub(super) fn ticket(&mut self, ticket: Ticket, now: Now) {
        let version = (ticket.session_id.clone(), ticket.corrections.len());
        if self.stored.contains(&version) {
            self.acknowledge(ticket.session_id, now);
        } else if self.storing.insert(version) {
            self.out.push_back(TripCommand::StoreTicket(ticket));
        }
    }

    /// On disk: only now is it told, the request over, and the ticket acknowledged (SPEC 3.9).
    pub(super) fn ticket_stored(&mut self, ticket: Ticket, now: Now) {
        let version = (ticket.session_id.clone(), ticket.corrections.len());
        self.storing.remove(&version);
        self.stored.insert(version);
        self.running.remove(&ticket.session_id);
        self.confirms.remove(&ticket.session_id);
        let session = ticket.session_id.clone();
        self.notify(Notification::Ticket(Box::new(ticket.into())));
        let of = |r: &&SupplyRequest| r.session.as_deref() == Some(session.as_str());
        if let Some(id) = self.requests.values().find(of).map(|r| r.id.clone()) {
            self.over(&id, RequestOutcome::Billed { session: session.clone() });
        }
        self.acknowledge(session, now);
    }

    /// A ticket that could not be stored; Central sends it again.
    pub(crate) fn ticket_not_stored(&mut self, ticket: &Ticket) {
        self.storing.remove(&(ticket.session_id.clone(), ticket.corrections.len()));
    }

    pub(super) fn acknowledge(&mut self, session_id: String, now: Now) {
        self.ask(up::Body::TicketReceived(TicketReceived { session_id }), now);
    }
}
