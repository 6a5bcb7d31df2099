//! What a proven driver says (SPEC 3): requests, stops and confirmations go to the loop; what was answered before, lists
//! and history are read here, beside the link's handler.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use proto::{
    DriverId, Energy, PeerId, Price,
    central::v1::{ChargingPoint, ChargingPointState},
    link::v1::{self as wire_messages, Down, Reason, SessionState, State, down, up},
};
use store::central::{PageRequest, RowWrite, SessionRow, TicketFilter, TicketRow, TicketTotals};

use super::responder::{LONGEST_ID, Responder, SerialTasks, fresh_session};
use crate::{
    charge_point::{self, Reply, SupplyRequest, SupplyTerms},
    event_loop::{DriverCommand, Message},
    origin::Origin,
    rows,
    session::SessionId,
};

/// Offers in one message, so that it fits into a frame.
const OFFERS: usize = 5_000;
const TICKETS: u32 = 1_000;

/// Of a session's id; it is not repeated, whatever it is.
const TOO_LONG: &str = "a session's id has at most 128 characters";

pub(super) struct DriverConversation {
    pub(super) id: DriverId,
    /// Held by the answer to a list until the link has taken it: each is large, and looks at all that there is.
    listing: Arc<()>,
    tasks: SerialTasks,
}

impl DriverConversation {
    pub(super) fn new(id: DriverId) -> Self {
        Self { id, listing: Arc::default(), tasks: SerialTasks::default() }
    }

    fn is_listing(&self) -> bool {
        Arc::strong_count(&self.listing) > 1
    }
}

/// A message that says by its end that it was taken.
struct ListMessage {
    message: Vec<u8>,
    _under_way: Arc<()>,
}

impl AsRef<[u8]> for ListMessage {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

impl DriverConversation {
    /// Handles one message.
    pub(super) async fn receive(&mut self, responder: &Responder, body: up::Body, to: u64) {
        let id = self.id.clone();
        match body {
            up::Body::RequestSupply(wished) => {
                self.tasks.run(responder, to, responder.clone().request_supply(id, wished, to));
            }
            up::Body::StopSupply(stop) => responder.driver_command(id, &stop.session_id, to, DriverCommand::Stop).await,
            up::Body::ConfirmSupply(word) => {
                let accepted = word.accepted.then(|| Price::from_e4(word.price_e4));
                responder.driver_command(id, &word.session_id, to, DriverCommand::Confirm(accepted)).await;
            }
            up::Body::ListChargingPoints(_) | up::Body::ListHistory(_) if self.is_listing() => {
                responder.answer(to, Reason::Overloaded, "the answer to your last list is under way");
            }
            up::Body::ListChargingPoints(_) | up::Body::ListHistory(_)
                if !responder.may_ask(&PeerId::Driver(self.id.clone()), to) => {}
            up::Body::ListChargingPoints(_) => {
                let offers = down::Body::ChargingPoints(responder.available());
                responder.say_list(offers, Arc::clone(&self.listing));
                responder.answer(to, Reason::Unspecified, "");
            }
            up::Body::ListHistory(wished) => {
                let under_way = Arc::clone(&self.listing);
                // In nobody's way: there is one at a time.
                tokio::spawn(responder.clone().history(id, wished.limit, to, under_way));
            }
            up::Body::TicketReceived(received) => {
                self.tasks.run(responder, to, responder.clone().ticket_received(id, received.session_id, to));
            }
            up::Body::TicketHeld(held) => {
                self.tasks.run(responder, to, responder.clone().ticket_held(id, held, to));
            }
            up::Body::Opened(_) => responder.answer(to, Reason::Unspecified, ""),
            up::Body::Authenticate(_)
            | up::Body::Unsupported(_)
            | up::Body::ReadClock(_)
            | up::Body::EngineHealth(_)
            | up::Body::SetMaintenance(_)
            | up::Body::KeyInstalled(_)
            | up::Body::AskAnswer(_)
            | up::Body::ManualSupply(_)
            | up::Body::SupplyStarted(_)
            | up::Body::MeterValue(_)
            | up::Body::SupplyEnded(_)
            | up::Body::JournalReport(_)
            | up::Body::Reading(_) => responder.unsupported(to),
        }
    }
}

impl Responder {
    fn say_list(&self, body: down::Body, under_way: Arc<()>) {
        let message = Down { epoch: 0, body: Some(body) }.encode_to_vec();
        let listed = ListMessage { message, _under_way: under_way };
        // Full or closed: a driver who reconnects asks again.
        let _told = self.send_queue.try_send(Bytes::from_owner(listed));
    }

    async fn request_supply(self, driver: DriverId, wished: wire_messages::RequestSupply, to: u64) {
        let peer = PeerId::Driver(driver.clone());
        if wished.request_id.is_empty() || wished.request_id.len() > LONGEST_ID {
            self.refused(&peer, Reason::Invalid);
            return self.answer(to, Reason::Invalid, "the request's id must have 1 to 128 characters");
        }
        let Ok(at) = wished.charging_point_id.parse() else {
            return self.refuse_request(&peer, &wished, Reason::UnknownChargingPoint, "", to);
        };
        let request = SupplyRequest {
            request_id: wished.request_id.as_str().into(),
            terms: SupplyTerms {
                energy: Energy::from_wh(wished.energy_wh),
                highest_price: wished.highest_price_e4.map(Price::from_e4),
            },
            session: fresh_session(),
            manual: false,
            known: false,
            busy: false,
            away: false,
            from: Origin::new(format!("driver/{driver}"), self.from.clone()),
            reply: Reply::Link { link: self.link, to },
            driver: Some(driver),
        };
        match self.first_answer(&at, &request).await {
            Err((reason, why)) => return self.refuse_request(&peer, &wished, reason, &why, to),
            Ok(Some(first)) => {
                self.say(down::Body::Step(charge_point::first_answer(&first)));
                self.tell_release(&first).await;
                return self.answer(to, first.reason, &first.detail);
            }
            Ok(None) if !self.may_ask(&peer, to) => return,
            Ok(None) => {}
        }
        self.hand_in(Message::Request { at, request: Box::new(request) }).await;
    }

    /// A reservation that ended while its driver was away: after the first answer alone he would wait for ever.
    async fn tell_release(&self, first: &charge_point::FirstAnswer) {
        let Some(session_id) = first.session.as_ref().map(ToString::to_string) else { return };
        let read = move |conn: &mut store::Conn| SessionRow::find(conn, &session_id);
        let session = self.links.shared.store.look_up("session", read).await.ok().flatten();
        if let Some(released) = session.filter(|row| row.state == i32::from(SessionState::Released)) {
            self.say(down::Body::Step(wire_messages::Step {
                progress: wire_messages::Progress::Released.into(),
                reason: released.reason,
                ..charge_point::first_answer(first)
            }));
        }
    }

    /// What the loop never hears of is counted in the audit here (SPEC 8.1).
    fn refuse_request(
        &self,
        peer: &PeerId,
        wished: &wire_messages::RequestSupply,
        reason: Reason,
        detail: &str,
        to: u64,
    ) {
        self.refused(peer, reason);
        self.say(down::Body::Step(wire_messages::Step {
            request_id: wished.request_id.clone(),
            charging_point_id: wished.charging_point_id.chars().take(64).collect(),
            progress: wire_messages::Progress::Refused.into(),
            reason: reason.into(),
            detail: detail.to_owned(),
            ..wire_messages::Step::default()
        }));
        self.answer(to, reason, detail);
    }

    async fn driver_command(&self, driver: DriverId, session: &str, to: u64, command: DriverCommand) {
        if session.len() > LONGEST_ID {
            self.refused(&PeerId::Driver(driver), Reason::Invalid);
            return self.answer(to, Reason::Invalid, TOO_LONG);
        }
        if !self.may_ask(&PeerId::Driver(driver.clone()), to) {
            return;
        }
        let (link, session, from) = (self.link, SessionId::new(session), self.from.clone());
        self.hand_in(Message::DriverCommand { driver, link, session, to, command, from }).await;
    }

    /// Charging points that are available now (SPEC 3.11).
    fn available(&self) -> wire_messages::ChargingPointList {
        let is_available = |point: &ChargingPoint| {
            // Where something is under way, the detail says so.
            point.state() == ChargingPointState::Available && point.detail.is_empty()
        };
        let mut offers: Vec<_> = self
            .links
            .shared
            .points
            .some(OFFERS, is_available)
            .into_iter()
            .map(|point| wire_messages::Offer {
                id: point.id.clone(),
                place: point.place.clone(),
                price_e4: point.price_e4,
                currency: point.currency.clone(),
                state: State::Available.into(),
            })
            .collect();
        offers.sort_by(|a, b| a.id.cmp(&b.id));
        wire_messages::ChargingPointList { offers }
    }

    async fn history(self, driver: DriverId, limit: u32, to: u64, under_way: Arc<()>) {
        let driver_id = driver.to_string();
        let size = if limit == 0 { 100 } else { limit.min(TICKETS) };
        let read = move |conn: &mut store::Conn| {
            let filter = TicketFilter { driver_id: driver_id.clone(), ..TicketFilter::default() };
            let rows = TicketRow::list(conn, &filter, &PageRequest { size, token: String::new() })?.rows;
            Ok((TicketRow::tickets(conn, &rows)?, TicketTotals::of_driver(conn, &driver_id)?))
        };
        match self.links.shared.store.read("history", read).await {
            Ok((tickets, totals)) => {
                let currency = tickets.first().map(|ticket| ticket.currency.clone());
                let history = down::Body::History(wire_messages::History {
                    tickets,
                    total_sessions: rows::unsigned(totals.sessions),
                    total_energy_wh: rows::unsigned(totals.energy_wh),
                    total_amount_minor: totals.amount_minor,
                    currency: currency.unwrap_or_else(|| self.links.shared.settings.currency.to_string()),
                });
                self.say_list(history, under_way);
                self.answer(to, Reason::Unspecified, "");
            }
            Err(error) => self.answer(to, Reason::Unavailable, &error.to_string()),
        }
    }

    async fn ticket_received(self, driver: DriverId, session: String, to: u64) {
        if session.len() > LONGEST_ID {
            return self.answer(to, Reason::Invalid, TOO_LONG);
        }
        let at_ms = self.links.shared.clock.wall_ms();
        let write = RowWrite::TicketAcknowledged { session_id: session.clone(), driver_id: driver.to_string(), at_ms };
        match self.links.shared.store.write("ticket received", vec![write]).await {
            Ok(_) => {
                self.answer(to, Reason::Unspecified, "");
                self.hand_in(Message::TicketReceived { driver, session }).await;
            }
            Err(error) => self.answer(to, Reason::Unavailable, &error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_list_is_under_way_until_the_link_has_taken_it() {
        let conversation = DriverConversation::new("D1".parse().unwrap());
        let under_way = || conversation.is_listing();
        let listed = ListMessage { message: vec![7; 3], _under_way: Arc::clone(&conversation.listing) };
        let (sender, queued) = mesh::link::send_queue(4);
        sender.try_send(Bytes::from_owner(listed)).unwrap();
        assert!(under_way());
        drop(queued);
        assert!(!under_way());
    }
}
