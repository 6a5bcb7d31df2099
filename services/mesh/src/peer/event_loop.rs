//! The event loop of a role that is a peer: feeds inputs and the time to its core, and has its commands carried out.

use std::time::{Duration, Instant};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// How long a stop waits for what must be on disk.
const PERSIST: Duration = Duration::from_secs(3);

/// A core with the I/O that carries out its commands.
pub trait PeerRole: Send {
    /// What the loop takes: one bounded channel, so that everything is in order.
    type Event: Send;

    fn handle(&mut self, event: Self::Event) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Carries out what the core has commanded.
    fn carry_out(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;

    fn poll_timeout(&self) -> Option<Instant>;

    fn handle_timeout(&mut self);

    /// Work beside the loop, such as a write to the disk; its result is an event, ahead of all others.
    fn job(&mut self) -> &mut Option<JoinHandle<Self::Event>>;

    /// The loop ends by itself.
    fn is_over(&self) -> bool {
        false
    }

    /// The process stops: what runs is to end.
    fn stop(&mut self) {}

    /// A stop has nothing more to wait for.
    fn is_persisted(&self) -> bool;

    /// Closes the links in order.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Until `stop`, or until the role is over.
///
/// # Errors
/// Where a command could not be carried out and the role cannot go on without it.
pub async fn run<R: PeerRole>(
    mut role: R,
    mut events: mpsc::Receiver<R::Event>,
    stop: CancellationToken,
    clock: Clock,
) -> anyhow::Result<()> {
    loop {
        role.carry_out().await?;
        if role.is_over() {
            break;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            done = step(&mut role, &mut events, clock) => done?,
        }
    }
    role.stop();
    role.carry_out().await?;
    let persisted = async {
        while !role.is_persisted() {
            step(&mut role, &mut events, clock).await?;
            role.carry_out().await?;
        }
        anyhow::Ok(())
    };
    // A disk that takes longer has been reported before.
    if let Ok(done) = tokio::time::timeout(PERSIST, persisted).await {
        done?;
    }
    // Whatever still comes must not hold the links back while they are closed.
    events.close();
    role.close().await;
    Ok(())
}

async fn step<R: PeerRole>(role: &mut R, events: &mut mpsc::Receiver<R::Event>, clock: Clock) -> anyhow::Result<()> {
    let due = role.poll_timeout();
    let event = tokio::select! {
        biased;
        done = finished(role.job()) => Some(done),
        Some(event) = events.recv() => Some(event),
        () = sleep_until(clock, due) => None,
    };
    match event {
        Some(event) => role.handle(event).await?,
        None => role.handle_timeout(),
    }
    Ok(())
}

async fn finished<E>(job: &mut Option<JoinHandle<E>>) -> E {
    let Some(task) = job else { return std::future::pending().await };
    let done = task.await;
    *job = None;
    match done {
        Ok(event) => event,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn sleep_until(clock: Clock, due: Option<Instant>) {
    match due {
        Some(due) => clock.sleep_until(due).await,
        None => std::future::pending().await,
    }
}
