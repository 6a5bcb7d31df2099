//! One station of a recording: its charging point, its driver, and its rows one after another.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use charging_point::{fleet::Member, meter::Speed};
use driver::{DriverHandle, Notification, RequestOutcome, SupplyRequest};
use mesh::clock::Clock;
use proto::{ChargingPointId, central::v1::GetTicketRequest};
use time::PrimitiveDateTime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{books::request_id, recording::RecordedSession};
use crate::{failure::of_status, operator::connection::Connection};

/// A refused row is asked again, with an id of its own: a Central that was killed knows its charging points only when
/// they have reported.
const TRIES: u32 = 30;
const AGAIN: Duration = Duration::from_secs(1);
/// Beyond the recorded length: a Central that is being started again, a reservation that expires.
const PATIENCE: Duration = Duration::from_secs(180);

/// When which row is due, on the wall.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) start: Instant,
    pub(super) first: PrimitiveDateTime,
    pub(super) speed: Speed,
}

impl Schedule {
    fn due(&self, row: &RecordedSession) -> Instant {
        self.start + self.speed.real(Duration::try_from(row.plug_in - self.first).unwrap_or_default())
    }
}

#[derive(Debug)]
pub(super) struct ReplayStation {
    pub(super) id: ChargingPointId,
    pub(super) member: Member,
    pub(super) driver: DriverHandle,
    pub(super) rows: Vec<RecordedSession>,
    pub(super) clock: Clock,
    pub(super) connection: Connection,
    /// Requests of earlier runs: their charging point died with the run.
    pub(super) before: Arc<BTreeSet<String>>,
}

/// A row that has its ticket.
#[derive(Debug)]
pub(super) struct BilledRow {
    pub(super) row: String,
    /// The one that got it.
    pub(super) request_id: String,
    /// From the request to the authorisation, of a row that was authorised now.
    pub(super) authorised: Option<Duration>,
}

impl ReplayStation {
    /// Until the last row has its ticket, or no further row is to begin.
    pub(super) async fn replay(
        mut self,
        schedule: Schedule,
        stop: CancellationToken,
        done: mpsc::Sender<BilledRow>,
        refused: Arc<AtomicU64>,
    ) -> anyhow::Result<()> {
        for row in std::mem::take(&mut self.rows) {
            if stop.run_until_cancelled(self.clock.sleep_until(schedule.due(&row))).await.is_none() {
                return Ok(());
            }
            let patience = schedule.speed.real(row.lasts) + PATIENCE;
            let billed = tokio::time::timeout(patience, self.row(&row, &refused)).await;
            let billed = billed.map_err(|_| {
                anyhow::anyhow!("line {} ({} at {}) has no ticket after {patience:?}", row.line, row.session, self.id)
            })??;
            drop(done.send(billed).await);
        }
        Ok(())
    }

    async fn row(&mut self, row: &RecordedSession, refused: &AtomicU64) -> anyhow::Result<BilledRow> {
        for attempt in 0..TRIES {
            self.member.deliver(row.energy, row.lasts).await.map_err(anyhow::Error::msg)?;
            let request = SupplyRequest {
                id: request_id(row, attempt),
                charging_point: self.id.clone(),
                energy: row.energy,
                line: None,
                session: None,
            };
            let asked = self.clock.mono();
            let id = request.id.clone();
            self.driver.request(request).await?;
            match self.outcome(&id, asked).await? {
                RowOutcome::Billed { session, .. } if self.was_cut(&id, &session, row).await? => {}
                RowOutcome::Billed { authorised, .. } => {
                    return Ok(BilledRow { row: row.session.clone(), request_id: id, authorised });
                }
                RowOutcome::Refused => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        anyhow::bail!("line {} ({} at {}) was refused {TRIES} times", row.line, row.session, self.id)
    }

    /// Whether this session is of an earlier run that ended before it, and so has less than its row.
    async fn was_cut(&self, request_id: &str, session: &str, row: &RecordedSession) -> anyhow::Result<bool> {
        if !self.before.contains(request_id) {
            return Ok(false);
        }
        let request = GetTicketRequest { session_id: session.to_owned() };
        let ticket = self.connection.sessions()?.get_ticket(request).await.map_err(|s| of_status(&s))?.into_inner();
        Ok(ticket.energy_wh < row.energy.wh())
    }

    async fn outcome(&mut self, request: &str, asked: Instant) -> anyhow::Result<RowOutcome> {
        let mut authorised = None;
        let mut settling = None;
        loop {
            let (now, notification) = self.driver.next_notification().await.context("the driver has ended")?;
            if let Notification::Step { request_id, progress: "authorised", .. } = &notification
                && request_id == request
            {
                authorised.get_or_insert(now.mono.saturating_duration_since(asked));
            } else if let Notification::Ended { request_id, outcome, .. } = &notification
                && request_id == request
            {
                match outcome {
                    RequestOutcome::Billed { session } => {
                        return Ok(RowOutcome::Billed { session: session.clone(), authorised });
                    }
                    RequestOutcome::Refused { .. } | RequestOutcome::Released { .. } => return Ok(RowOutcome::Refused),
                    // The ticket follows when Central has settled it.
                    RequestOutcome::Settling { session } => settling = Some(session.clone()),
                }
            } else if let Notification::Ticket(ticket) = &notification
                && settling.as_deref() == Some(ticket.session.as_str())
            {
                return Ok(RowOutcome::Billed { session: ticket.session.clone(), authorised });
            }
        }
    }
}

enum RowOutcome {
    Billed { session: String, authorised: Option<Duration> },
    Refused,
}
