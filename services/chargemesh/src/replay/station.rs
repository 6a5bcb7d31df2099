//! Replays one station of a recording: its charging point, its driver, and its rows one after another.

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
use driver::{DriverHandle, DriverRequest, Notification, RequestOutcome};
use mesh::clock::Clock;
use proto::{ChargingPointId, central::v1::GetTicketRequest};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{books::request_id, recording::RecordedSession};
use crate::{failure::of_status, operator::connection::OperatorConnection};

/// A refused row is requested again with a new id: a restarted Central refuses until its charging points have reported.
const MAX_ATTEMPTS: u32 = 30;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Added to the recorded length of a session: enough for a restart of Central and a reservation that expires.
const PATIENCE: Duration = Duration::from_secs(180);

/// When each row is due in real time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) start: Instant,
    pub(super) first: OffsetDateTime,
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
    pub(super) connection: OperatorConnection,
    /// Ids of earlier runs' requests, whose charging point ended with its run.
    pub(super) before: Arc<BTreeSet<String>>,
}

/// A row that has been billed.
#[derive(Debug)]
pub(super) struct BilledRow {
    pub(super) row: String,
    /// The id of the request that was billed.
    pub(super) request_id: String,
    /// Time from the request to the authorisation; `None` where an earlier run requested it.
    pub(super) authorised: Option<Duration>,
}

impl ReplayStation {
    /// Replays the rows, until the last one is billed or `stop` keeps the next one from starting.
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
        for attempt in 0..MAX_ATTEMPTS {
            self.member.deliver(row.energy, row.lasts).await.map_err(anyhow::Error::msg)?;
            let request = DriverRequest {
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
                RowOutcome::Billed { session, .. } if self.was_interrupted(&id, &session, row).await? => {}
                RowOutcome::Billed { authorised, .. } => {
                    return Ok(BilledRow { row: row.session.clone(), request_id: id, authorised });
                }
                RowOutcome::Refused => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
        anyhow::bail!("line {} ({} at {}) was refused {MAX_ATTEMPTS} times", row.line, row.session, self.id)
    }

    /// Whether a session of an earlier run was billed with less than its row.
    async fn was_interrupted(&self, request_id: &str, session: &str, row: &RecordedSession) -> anyhow::Result<bool> {
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
                    // The ticket comes when Central has settled the session.
                    RequestOutcome::Settling { session } => settling = Some(session.clone()),
                }
            } else if let Notification::Ticket(ticket) = &notification
                && settling.as_deref() == Some(ticket.session_id.as_str())
            {
                return Ok(RowOutcome::Billed { session: ticket.session_id.clone(), authorised });
            }
        }
    }
}

enum RowOutcome {
    Billed { session: String, authorised: Option<Duration> },
    Refused,
}
