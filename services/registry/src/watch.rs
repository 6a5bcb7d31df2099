//! `Identities.Watch`: all that changed since a revision, `synchronised`, then each change as it is made.
//!
//! Each stream reads from the database what is newer than it has sent, whenever the head moves; so it misses nothing,
//! a slow reader only sees fewer steps in between, and nothing is queued without bound.

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
    authority::{Authority, told},
    refusal::Refusal,
    rows,
};

const BATCH: i64 = 500;
const AHEAD: usize = 64;

type Item = Result<IdentityEvent, Status>;

/// Begins a stream for one Central.
///
/// # Errors
/// Where the first message does not come, or its link keys are none.
pub(crate) async fn watch(
    authority: Authority,
    actor: Actor,
    mut from: Streaming<WatchRequest>,
    stop: CancellationToken,
) -> Result<ReceiverStream<Item>, Status> {
    let first = from.message().await?;
    let first = first.ok_or_else(|| mesh::status::refuse(Reason::Invalid, "the first message names a revision"))?;
    authority.report_pins(actor.clone(), first.link_keys).await.map_err(crate::grpc::status)?;
    let (to, events) = mpsc::channel(AHEAD);
    let stream = Stream { authority, to, sent: i64::try_from(first.since_revision).unwrap_or(i64::MAX) };
    tokio::spawn(stop.run_until_cancelled_owned(stream.run(actor, from)));
    Ok(ReceiverStream::new(events))
}

struct Stream {
    authority: Authority,
    to: mpsc::Sender<Item>,
    /// Everything up to here.
    sent: i64,
}

impl Stream {
    async fn run(mut self, actor: Actor, mut from: Streaming<WatchRequest>) {
        let mut moves = self.authority.head();
        let result = async {
            self.begin().await?;
            loop {
                self.catch_up().await?;
                tokio::select! {
                    moved = moves.changed() => if moved.is_err() { return Ok(()) },
                    () = self.to.closed() => return Ok(()),
                    message = from.next() => match message {
                        // Later messages carry new link keys alone.
                        Some(Ok(message)) => self.authority.report_pins(actor.clone(), message.link_keys).await?,
                        Some(Err(_)) => return Ok(()),
                        // Half-closed: Central has nothing more to say, and still listens.
                        None => self.listen_only(&mut moves).await?,
                    },
                }
            }
        };
        let result: Result<(), Refusal> = result.await;
        if let Err(why) = result {
            drop(self.to.send(Err(crate::grpc::status(why))).await);
        }
    }

    async fn listen_only(&mut self, moves: &mut tokio::sync::watch::Receiver<i64>) -> Result<(), Refusal> {
        loop {
            self.catch_up().await?;
            tokio::select! {
                moved = moves.changed() => if moved.is_err() { return Ok(()) },
                () = self.to.closed() => return Ok(()),
            }
        }
    }

    /// What is there already, then the mark that it was all.
    async fn begin(&mut self) -> Result<(), Refusal> {
        let last = self.authority.query("head", head).await?;
        if self.sent > last {
            // Our database is older than what Central has seen of it: everything is said again.
            tracing::warn!(since = self.sent, head = last, "Central has seen later revisions; is this an old backup?");
            self.sent = 0;
        }
        self.catch_up().await?;
        self.tell(self.sent.max(last), Event::Synchronised(true)).await;
        Ok(())
    }

    async fn catch_up(&mut self) -> Result<(), Refusal> {
        loop {
            let since = self.sent;
            let changes = self.authority.query("changes", move |conn| changed_since(conn, since, BATCH)).await?;
            if changes.is_empty() || self.to.is_closed() {
                return Ok(());
            }
            for change in changes {
                let revision = change.revision();
                let event = match change {
                    Changed::Identity(row) => {
                        Event::Identity(rows::told(&self.authority.understood(rows::identity(&row))?))
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
        // A reader that is gone ends the stream at the next turn.
        drop(self.to.send(Ok(IdentityEvent { revision, event: Some(event) })).await);
    }
}
