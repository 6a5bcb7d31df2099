//! `central.v1.Audit`.

use std::{path::PathBuf, sync::Arc};

use futures::stream::BoxStream;
use mesh::{field_checks::FieldChecks, paging::AskedPage, principal::Principal, status::refuse};
use prost::Message as _;
use proto::{
    central::v1::{audit_server::Audit, *},
    link::v1::Reason,
    millis,
};
use store::central::{
    AuditEntry as Unnumbered, AuditFilter as Filter, AuditOrder, AuditRow, CommitRefusal, PageRequest, RowWrite, audit,
};
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status};

use super::{convert, once::OnceCall, stored, unread, unwritten};
use crate::shared::SharedState;

#[derive(Debug)]
pub(crate) struct AuditService {
    pub shared: Arc<SharedState>,
    pub checkpoints: PathBuf,
    /// Public keys that may have signed them.
    pub trusted: Vec<String>,
}

/// Entries in one call of `Append`.
const ENTRIES: usize = 1_000;
/// Of each text of an entry that another role writes.
const LONGEST: usize = 4_096;

fn filter(checks: &mut FieldChecks, wanted: Option<AuditFilter>) -> Filter {
    let AuditFilter { from_time, until_time, actor, action, object } = wanted.unwrap_or_default();
    let fields = ["filter.from_time", "filter.until_time"];
    let (from_ms, until_ms) = checks.span(fields, [from_time.as_ref(), until_time.as_ref()]);
    Filter { from_ms, until_ms, actor, action, object }
}

impl AuditService {
    async fn entries(&self, filter: Filter, page: PageRequest) -> Result<(Vec<AuditEntry>, String), Status> {
        let read = move |conn: &mut store::Conn| AuditRow::list(conn, &filter, AuditOrder::NewestFirst, &page);
        let page = self.shared.store.read("audit", read).await.map_err(unread)?;
        Ok((page.rows.iter().map(stored::audit_entry).collect(), page.next))
    }
}

#[tonic::async_trait]
impl Audit for AuditService {
    async fn list(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        let (mut wanted, mut checks) = (request.into_inner(), FieldChecks::default());
        let page = AskedPage::of(&mut wanted, &mut checks);
        let filter = filter(&mut checks, wanted.filter);
        checks.finish()?;
        let read = |size, token| self.entries(filter.clone(), PageRequest { size, token });
        let (entries, next_page_token) = page.read(read).await?;
        Ok(Response::new(ListAuditResponse { entries, next_page_token }))
    }

    type WatchStream = BoxStream<'static, Result<AuditEntry, Status>>;

    async fn watch(&self, request: Request<WatchAuditRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let mut checks = FieldChecks::default();
        let filter = filter(&mut checks, request.into_inner().filter);
        checks.finish()?;
        let entries = futures::stream::unfold((self.shared.store.follow(), filter), |(mut from, filter)| async {
            loop {
                match from.recv().await {
                    Ok(row) if filter.matches(&row) => {
                        return Some((Ok(stored::audit_entry(&row)), (from, filter)));
                    }
                    Ok(_) => {}
                    // Bounded: whoever reads too slowly is told how much he missed, and can list it.
                    Err(RecvError::Lagged(missed)) => {
                        let text = format!("{missed} entries came faster than they were read: list them, then watch");
                        return Some((Err(refuse(Reason::Overloaded, text)), (from, filter)));
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        Ok(Response::new(Box::pin(entries)))
    }

    async fn verify(&self, _: Request<VerifyAuditRequest>) -> Result<Response<VerifyAuditResponse>, Status> {
        let found = audit::verify(&self.shared.store.database, &self.checkpoints, &self.trusted).await;
        let found = found.map_err(|error| refuse(Reason::Unavailable, error))?;
        Ok(Response::new(VerifyAuditResponse {
            intact: found.first_bad.is_none(),
            entries: crate::rows::unsigned(found.entries),
            uncovered: crate::rows::unsigned(found.uncovered),
            first_bad: found.first_bad.map(|bad| BadAuditEntry {
                writer: bad.writer,
                number: crate::rows::unsigned(bad.number),
                detail: bad.detail,
            }),
        }))
    }

    async fn append(&self, request: Request<AppendAuditRequest>) -> Result<Response<AppendAuditResponse>, Status> {
        let caller = Principal::of(&request)?.to_string();
        let AppendAuditRequest { request_id, entries } = request.into_inner();
        let mut checks = FieldChecks::default();
        if entries.len() > ENTRIES {
            checks.wrong("entries", format!("{} at once; at most {ENTRIES}", entries.len()));
        }
        for (n, entry) in entries.iter().enumerate() {
            if entry.time.is_none() {
                checks.wrong(format!("entries[{n}].time"), "it is missing");
            }
        }
        checks.finish()?;
        let call = OnceCall::new(&caller, &request_id, "Append", entries.iter().map(content));
        let once = RowWrite::Once(call.row(&[], self.shared.clock.wall_ms()));
        let appended = entries.into_iter().map(|entry| RowWrite::Audit(theirs(entry, &caller)));
        match self.shared.store.write("append audit", std::iter::once(once).chain(appended).collect()).await {
            Ok(_) | Err(CommitRefusal::Repeated(_)) => Ok(Response::new(AppendAuditResponse {})),
            Err(refusal) => Err(unwritten(refusal)),
        }
    }
}

/// By which a repeated entry is recognised. Without its address, which its writer may have pruned before it repeats the
/// call (SPEC 10.9).
fn content(entry: &AuditEntry) -> Vec<u8> {
    AuditEntry { address: String::new(), ..entry.clone() }.encode_to_vec()
}

/// Another role's entry: it may name whom it acted for, never that Central did it.
fn theirs(entry: AuditEntry, caller: &str) -> Unnumbered {
    let cut = |text: String| text.chars().take(LONGEST).collect::<String>();
    let parameters = convert::parameters(&entry, LONGEST);
    let actor = if entry.actor.is_empty() || entry.actor == "central" { caller.to_owned() } else { cut(entry.actor) };
    Unnumbered {
        at_ms: millis(entry.time.as_ref()),
        actor,
        address: cut(entry.address),
        action: cut(entry.action),
        object: cut(entry.object),
        parameters,
        outcome: cut(entry.outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_entries_under_the_same_request_id_are_told_apart_spec_7_3() {
        let entry =
            |action: &str| AuditEntry { action: action.into(), address: "192.0.2.1".into(), ..Default::default() };
        let digest = |entries: &[AuditEntry]| crate::digest::digest(entries.iter().map(content));
        assert_ne!(digest(&[entry("LOGIN")]), digest(&[entry("LOGIN_FAILED")]));
        assert_ne!(digest(&[entry("LOGIN")]), digest(&[entry("LOGIN"), entry("LOGIN")]));
        let pruned = AuditEntry { address: String::new(), ..entry("LOGIN") };
        assert_eq!(digest(&[entry("LOGIN")]), digest(&[pruned]), "an address that went first changes nothing");
    }
}
