//! `central.v1.Sessions`.

use std::sync::Arc;

use futures::stream::BoxStream;
use mesh::{
    field_checks::{FieldChecks, with_metadata},
    paging::AskedPage,
    status::refuse,
};
use proto::{
    central::v1::{sessions_server::Sessions, *},
    link::v1::Reason,
};
use store::central::{PageRequest, SessionFilter, SessionRow, StatisticRow, StatisticsBy, TicketFilter, TicketRow};
use tonic::{Request, Response, Status};

use super::{Orders, charging_points::named, convert, corrections::Corrections, origin, stored, unread};
use crate::{
    charge_point::{self, OrderOutcome},
    order,
    origin::Origin,
    session::SessionId,
    shared::SharedState,
    watch,
};

/// The fields of a time span.
pub(super) const SPAN: [&str; 2] = ["from_time", "until_time"];

#[derive(Debug)]
pub(crate) struct SessionsService {
    pub shared: Arc<SharedState>,
    pub orders: Orders,
}

impl SessionsService {
    async fn find(&self, id: &str) -> Result<Session, Status> {
        if let Some(session) = self.shared.sessions.get(&SessionId::new(id)) {
            return Ok((*session).clone());
        }
        let wanted = id.to_owned();
        let row =
            self.shared.store.read("session", move |conn| SessionRow::find(conn, &wanted)).await.map_err(unread)?;
        row.and_then(|row| stored::session_row(&row, &self.shared.settings, self.shared.clock.now()))
            .ok_or_else(|| missing(id))
    }

    async fn sessions(&self, filter: SessionFilter, page: PageRequest) -> Result<(Vec<Session>, String), Status> {
        let read = move |conn: &mut store::Conn| SessionRow::list(conn, &filter, &page);
        let page = self.shared.store.read("sessions", read).await.map_err(unread)?;
        let latest = |row: &SessionRow| {
            // A running one has a newer value in memory.
            let shown = self.shared.sessions.get(&SessionId::new(&row.session_id));
            shown.map_or_else(
                || stored::session_row(row, &self.shared.settings, self.shared.clock.now()),
                |session| Some((*session).clone()),
            )
        };
        Ok((page.rows.iter().filter_map(latest).collect(), page.next))
    }

    async fn tickets(&self, filter: TicketFilter, page: PageRequest) -> Result<(Vec<Ticket>, String), Status> {
        let read = move |conn: &mut store::Conn| {
            let page = TicketRow::list(conn, &filter, &page)?;
            Ok((TicketRow::tickets(conn, &page.rows)?, page.next))
        };
        let (tickets, next) = self.shared.store.read("tickets", read).await.map_err(unread)?;
        Ok((tickets.into_iter().map(Ticket::from).collect(), next))
    }

    async fn ended(&self, id: &str, by: &Origin) -> Result<Session, Status> {
        named("session_id", id)?;
        let session = self.find(id).await?;
        let at = super::charging_points::parse(&session.charging_point_id)?;
        // Said twice it ends nothing twice: a session that is over is answered as it is.
        let order = charge_point::PointOrder::EndSession(SessionId::new(id));
        match self.orders.one(&at, order, by.clone()).await {
            OrderOutcome::Done | OrderOutcome::Unchanged => self.find(id).await,
            OrderOutcome::Failed(reason, detail) => Err(refuse(reason, detail)),
        }
    }

    async fn refused(&self, by: &Origin, method: &'static str, object: &str, status: Status) -> Status {
        super::refused(&self.shared, by, method, object, status).await
    }

    fn corrections(&self) -> Corrections {
        Corrections { shared: Arc::clone(&self.shared) }
    }
}

fn missing(id: &str) -> Status {
    with_metadata(&refuse(Reason::NotFound, format!("no session {id}")), [("session_id", order::clipped(id))])
}

#[tonic::async_trait]
impl Sessions for SessionsService {
    async fn list(&self, request: Request<ListSessionsRequest>) -> Result<Response<ListSessionsResponse>, Status> {
        let (mut wanted, mut checks) = (request.into_inner(), FieldChecks::default());
        let page = AskedPage::of(&mut wanted, &mut checks);
        let state = convert::stored_state(checks.known("state", wanted.state)).into();
        checks.finish()?;
        let filter = SessionFilter { cp_id: wanted.charging_point_id, driver_id: wanted.driver_id, state };
        let read = |size, token| self.sessions(filter.clone(), PageRequest { size, token });
        let (sessions, next_page_token) = page.read(read).await?;
        Ok(Response::new(ListSessionsResponse { sessions, next_page_token }))
    }

    async fn get(&self, request: Request<GetSessionRequest>) -> Result<Response<Session>, Status> {
        named("id", &request.get_ref().id)?;
        Ok(Response::new(self.find(&request.get_ref().id).await?))
    }

    type WatchStream = BoxStream<'static, Result<SessionEvent, Status>>;

    async fn watch(&self, request: Request<WatchSessionsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        use session_event::Event;
        let WatchSessionsRequest { charging_point_id, driver_id } = request.into_inner();
        let mut synchronised = false;
        let events = convert::stream(self.shared.sessions.watch(), move |change| {
            let event = match change {
                watch::BoardChange::Restarted => {
                    synchronised = false;
                    Event::Restarted(Restarted {})
                }
                watch::BoardChange::Synchronised => {
                    synchronised = true;
                    Event::Synchronised(Synchronised {})
                }
                // It ended long ago, which was told.
                watch::BoardChange::Removed(_) => return None,
                watch::BoardChange::Put(session) => {
                    let over = matches!(session.state(), SessionState::Billed | SessionState::Released);
                    let wanted = (charging_point_id.is_empty() || session.charging_point_id == charging_point_id)
                        && (driver_id.is_empty() || session.driver_id == driver_id)
                        && (synchronised || !over);
                    Event::Changed(Some((*session).clone()).filter(|_| wanted)?)
                }
            };
            Some(SessionEvent { event: Some(event) })
        });
        Ok(Response::new(events))
    }

    async fn list_tickets(
        &self,
        request: Request<ListTicketsRequest>,
    ) -> Result<Response<ListTicketsResponse>, Status> {
        let (mut wanted, mut checks) = (request.into_inner(), FieldChecks::default());
        let page = AskedPage::of(&mut wanted, &mut checks);
        let (from_ms, until_ms) = checks.span(SPAN, [wanted.from_time.as_ref(), wanted.until_time.as_ref()]);
        checks.finish()?;
        let (cp_id, driver_id) = (wanted.charging_point_id, wanted.driver_id);
        let filter = TicketFilter { cp_id, driver_id, from_ms, until_ms };
        let read = |size, token| self.tickets(filter.clone(), PageRequest { size, token });
        let (tickets, next_page_token) = page.read(read).await?;
        Ok(Response::new(ListTicketsResponse { tickets, next_page_token }))
    }

    async fn get_ticket(&self, request: Request<GetTicketRequest>) -> Result<Response<Ticket>, Status> {
        let id = &request.get_ref().session_id;
        named("session_id", id)?;
        Ok(Response::new(self.corrections().ticket(id).await?))
    }

    async fn get_ticket_keys(
        &self,
        _request: Request<GetTicketKeysRequest>,
    ) -> Result<Response<GetTicketKeysResponse>, Status> {
        let keys = self.shared.documents.published().iter().map(|public_key| TicketKey {
            id: wire::signature::key_id(&hex::decode(public_key).unwrap_or_default()),
            public_key: public_key.clone(),
        });
        Ok(Response::new(GetTicketKeysResponse { keys: keys.collect() }))
    }

    async fn statistics(&self, request: Request<StatisticsRequest>) -> Result<Response<StatisticsResponse>, Status> {
        let (mut wanted, mut checks) = (request.into_inner(), FieldChecks::default());
        let page = AskedPage::of(&mut wanted, &mut checks);
        let by = match checks.specified("by", wanted.by) {
            statistics_request::By::Driver => StatisticsBy::Driver,
            statistics_request::By::Unspecified | statistics_request::By::ChargingPoint => StatisticsBy::ChargingPoint,
        };
        let (from_ms, until_ms) = checks.span(SPAN, [wanted.from_time.as_ref(), wanted.until_time.as_ref()]);
        checks.finish()?;
        let read = move |conn: &mut store::Conn| StatisticRow::list(conn, by, from_ms, until_ms);
        let rows = self.shared.store.read("statistics", read).await.map_err(unread)?;
        // No id and no currency has the sign between them.
        let placed = rows.into_iter().map(|row| (format!("{}\n{}", row.id, row.currency), stored::statistic(row)));
        let following = placed.filter(|(place, _)| page.after().is_none_or(|after| place.as_str() > after));
        let (statistics, next_page_token) = page.cut(following);
        Ok(Response::new(StatisticsResponse { statistics, next_page_token }))
    }

    async fn end(&self, request: Request<EndSessionRequest>) -> Result<Response<Session>, Status> {
        let by = origin(&request)?;
        let id = &request.get_ref().session_id;
        match self.ended(id, &by).await {
            Ok(session) => Ok(Response::new(session)),
            Err(status) => Err(self.refused(&by, "End", &format!("session/{}", order::clipped(id)), status).await),
        }
    }

    async fn correct_ticket(&self, request: Request<CorrectTicketRequest>) -> Result<Response<Ticket>, Status> {
        let by = origin(&request)?;
        let wanted = request.into_inner();
        let ticket = format!("ticket/{}", order::clipped(&wanted.session_id));
        match self.corrections().correct(wanted, by.clone()).await {
            Ok(corrected) => Ok(Response::new(corrected)),
            Err(status) => Err(self.refused(&by, "CorrectTicket", &ticket, status).await),
        }
    }

    async fn settle_dispute(&self, request: Request<SettleDisputeRequest>) -> Result<Response<Ticket>, Status> {
        let by = origin(&request)?;
        let wanted = request.into_inner();
        let ticket = format!("ticket/{}", order::clipped(&wanted.session_id));
        match self.corrections().settle(wanted, by.clone()).await {
            Ok(settled) => Ok(Response::new(settled)),
            Err(status) => Err(self.refused(&by, "SettleDispute", &ticket, status).await),
        }
    }
}
