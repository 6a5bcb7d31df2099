//! Copies Registry's audit to Central, so that one audit shows everything (SPEC 8.1). The queue is the audit itself
//! plus a mark of how far it was forwarded: it is as durable as the audit, and an unreachable Central delays nothing
//! here.
//!
//! A batch is marked as sent before it is sent and as acknowledged afterwards. A batch between the two is sent again,
//! with the same entries under the same request id, so that Central stores it once. The id also names the chain,
//! because a new or restored database gives the same numbers to other entries.

use std::time::Duration;

use mesh::status::retry_of;
use proto::{
    Retry,
    central::v1::{AppendAuditRequest, AuditEntry, audit_client::AuditClient},
    struct_of, timestamp,
};
use store::{
    Abort, Conn, StoreError,
    registry::{AuditRow, ForwardingRow, last_number},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{chain::WRITER, error::Error, identity_service::IdentityService};

const BATCH: i64 = 200;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Runs until the process stops.
pub(crate) async fn forward(service: IdentityService, central: mesh::client::Channel, stop: CancellationToken) {
    let mut central = AuditClient::new(central);
    let component = service.health().component("audit at Central");
    component.ready();
    let mut pause = FIRST_PAUSE;
    loop {
        let idle = async {
            match step(&service, &mut central).await {
                Ok(more) => {
                    component.ready();
                    pause = FIRST_PAUSE;
                    if !more {
                        service.appended().await;
                    }
                }
                Err(held) => {
                    let why = match held {
                        // Health shows an unreachable Central already.
                        BatchError::Away(why) => why,
                        BatchError::Refused(why) => {
                            component.degraded(format!(
                                "Central refuses Registry's audit entries, which are kept here: {why}"
                            ));
                            why
                        }
                    };
                    tracing::debug!(why, pause_ms = pause.as_millis(), "audit entries wait for Central");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        if stop.run_until_cancelled(idle).await.is_none() {
            return;
        }
    }
}

/// Why a batch was not accepted.
enum BatchError {
    Away(String),
    /// Central will never accept it as it is.
    Refused(String),
}

impl From<StoreError> for BatchError {
    fn from(error: StoreError) -> Self {
        Self::Away(error.to_string())
    }
}

impl From<Status> for BatchError {
    fn from(status: Status) -> Self {
        let why = status.message().to_owned();
        if retry_of(&status) == Retry::SameIdLater { Self::Away(why) } else { Self::Refused(why) }
    }
}

/// Sends one batch; false if there is nothing to send.
async fn step(service: &IdentityService, central: &mut AuditClient<mesh::client::Channel>) -> Result<bool, BatchError> {
    let batch = service.transaction("audit batch", next).await?;
    let Some(Batch { mark, rows, waiting }) = batch else { return Ok(false) };
    service.metrics().unforwarded(waiting);
    let request_id = request_id(&mark, &rows);
    let entries = rows.into_iter().map(told).collect();
    central.append(AppendAuditRequest { request_id, entries }).await?;
    let done = ForwardingRow { sent: mark.sent, acknowledged: mark.sent };
    service.transaction("audit acknowledged", move |conn| Ok(done.save(conn)?)).await?;
    service.metrics().unforwarded(mark.acknowledged + waiting - mark.sent);
    Ok(true)
}

/// The last entry's hash covers all entries before it and no address. Addresses may be pruned before the batch is sent
/// again, which must not change the id.
fn request_id(mark: &ForwardingRow, rows: &[AuditRow]) -> String {
    let hash: String = rows.last().map(|row| row.hash.chars().take(32).collect()).unwrap_or_default();
    format!("{WRITER}/{}-{}/{hash}", mark.acknowledged + 1, mark.sent)
}

struct Batch {
    mark: ForwardingRow,
    rows: Vec<AuditRow>,
    /// Number of entries that Central has not acknowledged, including this batch.
    waiting: i64,
}

/// The batch that was sent without an acknowledgement, or else the next one.
fn next(conn: &mut Conn) -> Result<Option<Batch>, Abort<Error>> {
    let mark = ForwardingRow::get(conn)?;
    let under_way = mark.sent - mark.acknowledged;
    let limit = if under_way > 0 { under_way } else { BATCH };
    let rows = AuditRow::after(conn, WRITER, mark.acknowledged, limit)?;
    let Some(last) = rows.last() else { return Ok(None) };
    let mark = ForwardingRow { sent: last.number, ..mark };
    mark.save(conn)?;
    let waiting = last_number(conn, WRITER)? - mark.acknowledged;
    Ok(Some(Batch { mark, rows, waiting }))
}

fn told(row: AuditRow) -> AuditEntry {
    AuditEntry {
        writer: row.writer,
        number: u64::try_from(row.number).unwrap_or(0),
        time: timestamp(row.at_ms),
        actor: row.actor,
        address: row.address.unwrap_or_default(),
        action: row.action,
        object: row.object,
        parameters: Some(struct_of(&row.parameters)),
        outcome: row.outcome,
    }
}

impl IdentityService {
    /// A transaction that refuses nothing.
    async fn transaction<T, F>(&self, name: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Conn) -> Result<T, Abort<Error>> + Send + 'static,
    {
        let result = self.database().transaction(name, work).await?;
        result.map_err(|refusal| StoreError::Rejected(refusal.detail))
    }
}

#[cfg(test)]
mod tests {
    use store::registry::{AuditEntry, append_audit};

    use super::*;

    /// The request id under which the first entry of a new database is sent.
    async fn first_request(at_ms: i64) -> String {
        let dir = tempfile::TempDir::new().unwrap();
        let url = format!("sqlite:{}", dir.path().join("registry.db").display());
        store::Database::migrate(&url, store::registry::SCHEMA).await.unwrap();
        let database = store::Database::open(&url, store::registry::SCHEMA).await.unwrap();
        let entry = AuditEntry {
            at_ms,
            actor: "registry".into(),
            address: String::new(),
            action: "ROLE_STARTED".into(),
            object: "registry".into(),
            parameters: "{}".into(),
            outcome: "ok".into(),
        };
        let work = move |conn: &mut Conn| {
            append_audit(conn, WRITER, std::slice::from_ref(&entry))?;
            let ids =
                [next(conn)?, next(conn)?].map(|batch| batch.map(|Batch { mark, rows, .. }| request_id(&mark, &rows)));
            Ok::<_, Abort<Error>>(ids)
        };
        let [first, again] = database.transaction("test", work).await.unwrap().unwrap();
        assert_eq!(first, again, "what is repeated goes under the same id");
        first.unwrap()
    }

    #[tokio::test]
    async fn the_same_numbers_of_another_database_are_another_request_spec_8_1() {
        let (one, other) = (first_request(1).await, first_request(2).await);
        assert!(one.starts_with("registry/1-1/") && other.starts_with("registry/1-1/"), "{one} {other}");
        assert_ne!(one, other);
    }
}
