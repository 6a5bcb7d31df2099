//! `Identities.Watch`: every change since a revision, then the mark `synchronised`, then each new change.
//!
//! Whenever the head revision rises, each stream reads from the database what it has not sent yet. So no change is
//! missed, a slow reader only skips intermediate states, and nothing is queued without bound.

use proto::{
    link::v1::Reason,
    registry::v1::{IdentityEvent, WatchRequest, identity_event::Event},
};
use store::registry::{Changed, changed_since, head};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::{
    audit::Actor,
    error::Error,
    identity_service::{IdentityService, told},
    rows,
};

const BATCH: i64 = 500;
const AHEAD: usize = 64;

type Item = Result<IdentityEvent, Status>;

/// Starts the stream of one Central.
///
/// # Errors
/// If the first message does not come or its link keys are invalid.
pub(crate) async fn watch(
    service: IdentityService,
    actor: Actor,
    mut from: Streaming<WatchRequest>,
    stop: CancellationToken,
) -> Result<ReceiverStream<Item>, Status> {
    let first = from.message().await?;
    let first = first.ok_or_else(|| mesh::status::refuse(Reason::Invalid, "the first message must name a revision"))?;
    service.report_pins(actor.clone(), first.link_keys).await.map_err(crate::grpc::status)?;
    let (to, events) = mpsc::channel(AHEAD);
    let stream = IdentityStream { service, to, sent: i64::try_from(first.since_revision).unwrap_or(i64::MAX) };
    tokio::spawn(stop.run_until_cancelled_owned(stream.run(actor, from)));
    Ok(ReceiverStream::new(events))
}

struct IdentityStream {
    service: IdentityService,
    to: mpsc::Sender<Item>,
    /// Everything up to this revision was sent.
    sent: i64,
}

impl IdentityStream {
    async fn run(mut self, actor: Actor, mut from: Streaming<WatchRequest>) {
        let mut moves = self.service.head();
        let result = async {
            self.begin().await?;
            loop {
                self.catch_up().await?;
                tokio::select! {
                    moved = moves.changed() => if moved.is_err() { return Ok(()) },
                    () = self.to.closed() => return Ok(()),
                    message = from.next() => match message {
                        // Later messages carry new link keys only.
                        Some(Ok(message)) => self.service.report_pins(actor.clone(), message.link_keys).await?,
                        Some(Err(_)) => return Ok(()),
                        // Half-closed: Central sends nothing more but still listens.
                        None => self.listen_only(&mut moves).await?,
                    },
                }
            }
        };
        let result: Result<(), Error> = result.await;
        if let Err(why) = result {
            drop(self.to.send(Err(crate::grpc::status(why))).await);
        }
    }

    async fn listen_only(&mut self, moves: &mut tokio::sync::watch::Receiver<i64>) -> Result<(), Error> {
        loop {
            self.catch_up().await?;
            tokio::select! {
                moved = moves.changed() => if moved.is_err() { return Ok(()) },
                () = self.to.closed() => return Ok(()),
            }
        }
    }

    /// Sends the existing changes, then the mark that they are complete.
    async fn begin(&mut self) -> Result<(), Error> {
        let last = self.service.query("head", head).await?;
        if self.sent > last {
            // This database is older than what Central has seen of it, so everything is sent again.
            tracing::warn!(
                since = self.sent,
                head = last,
                "Central has seen later revisions than this database has; was an old backup restored?"
            );
            self.sent = 0;
        }
        self.catch_up().await?;
        self.tell(self.sent.max(last), Event::Synchronised(true)).await;
        Ok(())
    }

    async fn catch_up(&mut self) -> Result<(), Error> {
        loop {
            let since = self.sent;
            let changes = self.service.query("changes", move |conn| changed_since(conn, since, BATCH)).await?;
            if changes.is_empty() || self.to.is_closed() {
                return Ok(());
            }
            for change in changes {
                let revision = change.revision();
                let event = match change {
                    Changed::Identity(row) => {
                        Event::Identity(rows::told(&self.service.understood(rows::identity(&row))?))
                    }
                    Changed::Operator(row) => Event::Operator(told(row)),
                };
                self.tell(revision, event).await;
                self.sent = revision;
            }
        }
    }

    async fn tell(&self, revision: i64, event: Event) {
        let revision = u64::try_from(revision).unwrap_or(0);
        // If the reader is gone, the next turn of the loop ends the stream.
        drop(self.to.send(Ok(IdentityEvent { revision, event: Some(event) })).await);
    }
}
