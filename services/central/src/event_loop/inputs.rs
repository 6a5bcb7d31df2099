//! What links and gRPC hand in for charging points, as inputs of their cores.

use std::{net::SocketAddr, sync::Arc};

use proto::{ChargingPointId, DriverId, PeerId, link::v1::Reason};
use store::central::{RowWrite, Turn, TurnId};
use tokio::sync::oneshot;

use super::{Completion, DriverCommand, EventLoop};
use crate::{
    audit::{AuditAction, AuditRecord},
    charge_point::{self, FirstAnswer, OrderOutcome, PointInput, PointOrder, Reply, SupplyRequest},
    origin::{LinkNo, Origin},
    rows,
    session::SessionId,
};

impl EventLoop {
    pub(super) fn part_says(&mut self, at: &ChargingPointId, link: LinkNo, inputs: Vec<PointInput>) {
        let Some(number) = self.index.get(at).copied() else { return };
        if self.points[number].core.accepts(link, &inputs) {
            self.offer_own(number, inputs);
        }
    }

    pub(super) fn request(&mut self, at: &ChargingPointId, mut request: SupplyRequest) {
        let number = self.index.get(at).copied().filter(|n| !self.points[*n].is_gone());
        if let Some(driver) = &request.driver {
            request.known = self.drivers.get(driver).is_some_and(|holder| !holder.account.removed);
            request.busy = self.is_busy_elsewhere(driver, number);
            request.away = request.manual && self.drivers.get(driver).is_some_and(|holder| holder.link.is_none());
        } else {
            request.known = true;
        }
        match number {
            Some(number) => {
                if let Reply::Link { link, .. } = request.reply
                    && request.manual
                    && !self.points[number].core.is_engine(link)
                {
                    return;
                }
                self.offer(number, PointInput::Request(request));
            }
            None => self.refuse_unknown(at, &request),
        }
    }

    pub(super) fn driver_command(
        &mut self,
        driver: &DriverId,
        link: LinkNo,
        session: &SessionId,
        to: u64,
        (command, from): (DriverCommand, Arc<str>),
    ) {
        let reply = Reply::Link { link, to };
        let engaged = self.drivers.get(driver).map(|holder| holder.points.clone()).unwrap_or_default();
        let concerned = engaged.into_iter().find(|number| self.points[*number].core.is_under_way(session));
        let Some(number) = concerned else {
            // Nothing is written of it, so it is counted (SPEC 8.1).
            if let Ok(address) = from.parse::<SocketAddr>() {
                let (who, reason) = (PeerId::Driver(driver.clone()).to_string(), Reason::NotFound.code());
                self.shared.access_log.peer("request", reason, who, address.ip());
            }
            let detail = format!("no session {session} of yours is under way");
            return self.answer(reply, &OrderOutcome::Failed(Reason::NotFound, detail));
        };
        let (session, driver) = (session.clone(), driver.clone());
        let from = Origin::new(format!("driver/{driver}"), from);
        self.offer(
            number,
            match command {
                DriverCommand::Stop => PointInput::StopByDriver { session, driver, from, reply },
                DriverCommand::Confirm(accepted) => PointInput::Confirmed { session, driver, accepted, reply },
            },
        );
    }

    pub(super) fn order(
        &mut self,
        at: &ChargingPointId,
        order: PointOrder,
        by: Origin,
        answer: oneshot::Sender<OrderOutcome>,
    ) {
        let Some(number) = self.index.get(at).copied().filter(|n| !self.points[*n].is_gone()) else {
            let failed = OrderOutcome::Failed(Reason::UnknownChargingPoint, at.to_string());
            // The caller may have gone.
            return drop(answer.send(failed));
        };
        self.next_order += 1;
        self.waiting.insert(self.next_order, answer);
        self.offer(number, PointInput::Order { order, by, reply: Reply::Order(self.next_order) });
    }

    /// Unknown charging points are refused, never created (SPEC 3.2).
    fn refuse_unknown(&mut self, at: &ChargingPointId, request: &SupplyRequest) {
        let now = self.now();
        let reason = Reason::UnknownChargingPoint;
        let first = FirstAnswer {
            requester: request.requester(at),
            charging_point: at.clone(),
            request_id: request.request_id.clone(),
            digest: request.digest(at),
            session: None,
            reason,
            detail: String::new(),
        };
        let entry = AuditRecord::new(AuditAction::SupplyRefused, format!("charging-point/{at}"))
            .with("request", &request.request_id)
            .outcome(reason, "")
            .by(&request.from, now);
        let writes = vec![RowWrite::Once(rows::once(&first, now)), RowWrite::Audit(rows::audit(&entry))];
        let effects = charge_point::unknown_charging_point(request, at);
        let turn = Turn { id: TurnId::random(), name: "refuse", guard: None, writes };
        // Durable or not, it is refused; repeated, it gets the same answer.
        self.submit(turn, move |_| Completion::Stray(effects));
    }

    /// A session at the charging point itself does not count: it may be over when the request has its turn.
    fn is_busy_elsewhere(&self, driver: &DriverId, at: Option<usize>) -> bool {
        let serves = |number: &usize| Some(*number) != at && self.points[*number].core.serves(driver);
        self.drivers.get(driver).is_some_and(|entry| entry.points.iter().any(serves))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        settings::CentralSettings,
        testing::{TestCentral, session},
    };

    #[tokio::test]
    async fn a_driver_is_busy_by_a_session_elsewhere_and_not_by_one_that_may_end_before_its_request_has_its_turn_spec_3_2()
     {
        let central = TestCentral::new(CentralSettings::default(), 10).await;
        let driver = central.driver("D1").await;
        let mut event_loop = EventLoop::load(Arc::clone(&central.shared), &central.ctx).await.unwrap();
        let (now, mut serving) = (event_loop.now(), charge_point::charge_point(1));
        serving.record.open = Some(session("s1"));
        let serving = event_loop.add_point(serving, 0, now);
        let idle = event_loop.add_point(charge_point::charge_point(2), 0, now);
        event_loop.show_all();
        assert!(event_loop.is_busy_elsewhere(&driver, Some(idle)), "his session is at the other one");
        assert!(!event_loop.is_busy_elsewhere(&driver, Some(serving)), "it judges its own session in its turn");
        assert!(event_loop.is_busy_elsewhere(&driver, None));
    }
}
