//! Messages from Central, and what follows from them.

use std::time::Duration;

use mesh::clock::Now;
use proto::link::v1::{
    ConfirmRequest, ConfirmSupply, Progress, Reason, Step, StopSupply, Ticket, TicketReceived, down, up,
};

use super::{TripCommand, Trips};
use crate::{
    format,
    notification::Notification,
    request::{ConfirmPolicy, DriverRequest, RequestOutcome, RunningSupply},
};

impl Trips {
    pub(super) fn handle_message(&mut self, body: down::Body, now: Now) {
        match body {
            down::Body::Step(step) => self.handle_step(step),
            down::Body::Running(running) => self.handle_running(running),
            down::Body::Ticket(ticket) => self.handle_ticket(ticket),
            down::Body::ChargingPoints(list) => self.notify(Notification::offers(list)),
            down::Body::History(history) => self.notify(Notification::history(history)),
            down::Body::ConfirmRequest(asked) => self.handle_confirm_request(asked, now),
            down::Body::HandBackTickets(asked) => {
                self.commands.push_back(TripCommand::CollectTickets(asked));
            }
            // The first ones are handled by the link, the others are for charging points.
            down::Body::Answer(_)
            | down::Body::Unsupported(_)
            | down::Body::KeyGrant(_)
            | down::Body::AuthStatus(_)
            | down::Body::Clock(_)
            | down::Body::View(_)
            | down::Body::Ask(_)
            | down::Body::Supply(_)
            | down::Body::Release(_)
            | down::Body::Stop(_)
            | down::Body::Settled(_) => {}
        }
    }

    pub(super) fn handle_answer(&mut self, body: up::Body, reason: Reason, detail: String) {
        if let up::Body::TicketHeld(held) = &body {
            let words = (reason != Reason::Unspecified).then(|| format::reason(reason, &detail));
            return self.ticket_handed_back(held, words);
        }
        if reason == Reason::Unspecified {
            return;
        }
        let words = format::reason(reason, &detail);
        if let up::Body::RequestSupply(request) = body {
            self.refuse_request(&request.request_id, reason, detail);
        } else if let up::Body::ConfirmSupply(ConfirmSupply { session_id: session, .. })
        | up::Body::StopSupply(StopSupply { session_id: session }) = body
        {
            self.notify(Notification::Rejected { session, reason: reason.code(), detail: words });
        } else if matches!(body, up::Body::ListChargingPoints(_) | up::Body::ListHistory(_)) {
            self.notify(Notification::Hint { text: format!("Central refused the list: {words}") });
        }
    }

    pub(super) fn refuse_request(&mut self, request_id: &str, reason: Reason, detail: String) {
        let outcome = RequestOutcome::Refused { reason: reason.code(), detail: format::reason(reason, &detail) };
        self.end_request(request_id, outcome);
    }

    pub(super) fn handle_step(&mut self, step: Step) {
        let progress = step.progress();
        let reason = Reason::received(step.reason);
        if progress == Progress::Refused && reason.is_undecided() {
            return; // the answer says so too, and the request is repeated
        }
        self.learn_session(&step);
        if self.stored.iter().any(|(session, _)| *session == step.session_id) {
            // The driver has the ticket of this session already.
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
                self.confirmations.remove(&step.session_id);
                if let Some(id) = request_id {
                    self.refuse_request(&id, reason, step.detail);
                }
            }
            Progress::Released => {
                self.running.remove(&step.session_id);
                self.confirmations.remove(&step.session_id);
                if let Some(id) = request_id {
                    let detail = format::reason(reason, &step.detail);
                    self.end_request(&id, RequestOutcome::Released { reason: reason.code(), detail });
                }
            }
            // The driver may ask for another supply; the ticket follows when the session is settled (SPEC 3.8).
            Progress::Settling => {
                self.running.remove(&step.session_id);
                if let Some(id) = request_id {
                    self.end_request(&id, RequestOutcome::Settling { session: step.session_id });
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

    /// Notes the session of a request. The request ends where the session's ticket is on disk already: it had ended before
    /// a restart.
    pub(super) fn learn_session(&mut self, step: &Step) {
        if step.session_id.is_empty() {
            return;
        }
        let Some(request) = self.requests.get_mut(&step.request_id) else { return };
        if request.session.as_deref() != Some(&step.session_id) {
            request.session = Some(step.session_id.clone());
            self.save_requests();
        }
        if self.stored.iter().any(|(session, _)| *session == step.session_id) {
            self.end_request(&step.request_id.clone(), RequestOutcome::Billed { session: step.session_id.clone() });
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

    pub(super) fn handle_running(&mut self, running: proto::link::v1::Running) {
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

    pub(super) fn handle_confirm_request(&mut self, asked: ConfirmRequest, now: Now) {
        let session = asked.session_id.clone();
        let known = self.confirmations.get(&session).is_some_and(|(known, _)| known.price_e4 == asked.price_e4);
        if !known {
            self.notify(Notification::confirmation_requested(&asked));
        }
        let until = now.mono + Duration::from_millis(asked.expires_ms.into());
        self.confirmations.insert(session.clone(), (asked, until));
        match self.settings.confirm {
            ConfirmPolicy::Always => self.confirm(session, true),
            ConfirmPolicy::Never => self.confirm(session, false),
            ConfirmPolicy::Ask => {}
        }
    }

    pub(super) fn handle_ticket(&mut self, ticket: Ticket) {
        let version = (ticket.session_id.clone(), ticket.corrections.len());
        if self.stored.contains(&version) {
            self.acknowledge(ticket.session_id);
        } else if self.storing.insert(version) {
            self.commands.push_back(TripCommand::StoreTicket(ticket));
        }
    }

    /// The ticket is on disk: the person is told, its request ends, and Central gets the acknowledgement (SPEC 3.9).
    pub(super) fn handle_ticket_stored(&mut self, ticket: Ticket) {
        let version = (ticket.session_id.clone(), ticket.corrections.len());
        self.storing.remove(&version);
        self.stored.insert(version);
        self.running.remove(&ticket.session_id);
        self.confirmations.remove(&ticket.session_id);
        let session = ticket.session_id.clone();
        self.notify(Notification::Ticket(Box::new(ticket)));
        let of = |r: &&DriverRequest| r.session.as_deref() == Some(session.as_str());
        if let Some(id) = self.requests.values().find(of).map(|r| r.id.clone()) {
            self.end_request(&id, RequestOutcome::Billed { session: session.clone() });
        }
        self.acknowledge(session);
    }

    /// The ticket could not be stored; Central sends it again.
    pub(crate) fn ticket_not_stored(&mut self, ticket: &Ticket) {
        self.storing.remove(&(ticket.session_id.clone(), ticket.corrections.len()));
    }

    pub(super) fn acknowledge(&mut self, session_id: String) {
        self.send(up::Body::TicketReceived(TicketReceived { session_id }));
    }
}
