//! What the rims hand in for charging points, as inputs of their cores.

use std::{net::SocketAddr, sync::Arc};

use proto::{ChargingPointId, DriverId, PeerId, link::v1::Reason};
use store::central::{RequestRow, RowWrite, Turn, TurnId};
use tokio::sync::oneshot;

use super::{Done, Drive, Word};
use crate::{
    audit::{Action, Entry},
    charge_point::{self, Input, LinkNo, Order, Origin, Outcome, Reply, Request},
    rows,
    session::{Session, SessionId},
};

impl Drive {
    pub(super) fn part_says(&mut self, at: &ChargingPointId, link: LinkNo, inputs: Vec<Input>) {
        let Some(number) = self.index.get(at).copied() else { return };
        let core = &self.points[number].core;
        // A late word of an older link, or of one that proved no key, is not heard (SPEC 4.9, 4.7).
        let proven = |linked: &Option<charge_point::Linked>| {
            let key = |linked: &charge_point::Linked| core.record.keys.granted(linked.key_no).is_some();
            linked.as_ref().is_some_and(|linked| linked.link == link && key(linked))
        };
        let key_installed = matches!(inputs[..], [Input::KeyInstalled { .. }]);
        if proven(&core.signs.engine) || proven(&core.signs.monitor) || (key_installed && core.is_monitor(link)) {
            self.offer_own(number, inputs);
        }
    }

    pub(super) fn request(&mut self, at: &ChargingPointId, mut request: Request) {
        if let Some(driver) = &request.driver {
            request.known = self.accounts.get(driver).is_some_and(|holder| !holder.account.removed);
            request.busy = self.is_busy(driver);
            request.away = request.manual && self.accounts.get(driver).is_some_and(|holder| holder.link.is_none());
        } else {
            request.known = true;
        }
        match self.index.get(at).copied().filter(|n| !self.points[*n].is_gone()) {
            Some(number) => {
                if let Reply::Link { link, .. } = request.reply
                    && request.manual
                    && !self.points[number].core.is_engine(link)
                {
                    return;
                }
                self.offer(number, Input::Request(request));
            }
            None => self.refuse_unknown(at, &request),
        }
    }

    pub(super) fn word(
        &mut self,
        driver: &DriverId,
        link: LinkNo,
        session: &SessionId,
        to: u64,
        (word, from): (Word, Arc<str>),
    ) {
        let reply = Reply::Link { link, to };
        let engaged = self.accounts.get(driver).map(|holder| holder.points.clone()).unwrap_or_default();
        let concerned = engaged.into_iter().find(|number| {
            let core = &self.points[*number].core;
            let asked = core.pending.ask.as_ref().map(|ask| &ask.request.session);
            asked == Some(session) || core.record.open.as_ref().map(|open| &open.id) == Some(session)
        });
        let Some(number) = concerned else {
            // Nothing is written of it, so it is counted (SPEC 8.1).
            if let Ok(address) = from.parse::<SocketAddr>() {
                let (who, reason) = (PeerId::Driver(driver.clone()).to_string(), Reason::NotFound.code());
                self.shared.access_log.peer("request", reason, who, address.ip());
            }
            let detail = format!("no session {session} of yours is under way");
            return self.answer(reply, &Outcome::Failed(Reason::NotFound, detail));
        };
        let (session, driver) = (session.clone(), driver.clone());
        let from = Origin::new(format!("driver/{driver}"), from);
        self.offer(
            number,
            match word {
                Word::Stop => Input::StopByDriver { session, driver, from, reply },
                Word::Confirm(accepted) => Input::Confirmed { session, driver, accepted, reply },
            },
        );
    }

    pub(super) fn order(&mut self, at: &ChargingPointId, order: Order, by: Origin, answer: oneshot::Sender<Outcome>) {
        let Some(number) = self.index.get(at).copied().filter(|n| !self.points[*n].is_gone()) else {
            let failed = Outcome::Failed(Reason::UnknownChargingPoint, at.to_string());
            // Whoever asked may have gone.
            return drop(answer.send(failed));
        };
        self.next_order += 1;
        self.waiting.insert(self.next_order, answer);
        self.offer(number, Input::Order { order, by, reply: Reply::Order(self.next_order) });
    }

    /// Unknown charging points are refused, never created (SPEC 3.2).
    fn refuse_unknown(&mut self, at: &ChargingPointId, request: &Request) {
        let now = self.now();
        let reason = Reason::UnknownChargingPoint;
        let row = RequestRow {
            requester: request.requester(at).to_string(),
            request_id: request.request_id.as_ref().to_owned(),
            cp_id: at.to_string(),
            session_id: None,
            at_ms: now.wall_ms,
            reason: reason.into(),
            detail: String::new(),
        };
        let entry = Entry::new(Action::SupplyRefused, format!("charging-point/{at}"))
            .with("request", &request.request_id)
            .outcome(reason, "")
            .by(&request.from, now);
        let writes = vec![RowWrite::Request(row), RowWrite::Audit(rows::audit(&entry))];
        let tells = charge_point::unknown_charging_point(request, at);
        let turn = Turn { id: TurnId::random(), name: "refuse", guard: None, writes };
        // Durable or not, it is refused; repeated, it gets the same answer.
        self.submit(turn, move |_| Done::Stray(tells));
    }

    fn is_busy(&self, driver: &DriverId) -> bool {
        let Some(holder) = self.accounts.get(driver) else { return false };
        holder.points.iter().any(|number| {
            let open: Option<&Session> = self.points[*number].core.record.open.as_ref();
            open.is_some_and(|open| open.driver.as_ref() == Some(driver))
        })
    }
}
