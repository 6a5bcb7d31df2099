//! The port of the link, open from the start of the process to its end. A peer that connects before the database is there,
//! or when Central is overloaded, is told to come later (SPEC 4.2, 9.1).

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh::{
    access_log::AccessLog,
    awaited::Awaited,
    clock::{Clock, Now},
    descriptors::ConnectionKind,
    link::{LinkOwner, send_queue},
    process::Context,
};
use prometheus_client::metrics::{counter::Counter, family::Family};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use wire::{Admit, Event, Link};

use super::{BUSY, Links};

/// Peers that are told to come later at the same time. Those beyond are cut off at once, since each holds one of
/// Central's descriptors for as long as it is silent.
const TOLD: usize = 256;
/// How long telling a peer to come later may take.
const TELLING: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Port {
    pub(super) settings: wire::LinkSettings,
    telling: Semaphore,
    /// Of sockets that are accepted and not closed yet; without one nothing more is accepted.
    sockets: Arc<Semaphore>,
    clock: Clock,
    access_log: AccessLog,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
    /// Nothing could be accepted since it was said.
    stuck: AtomicBool,
}

impl Port {
    pub(crate) fn new(ctx: &Context, settings: wire::LinkSettings, access_log: &AccessLog) -> Arc<Self> {
        let refused = ctx.metrics.register("links_refused", "Connections and handshakes refused", Family::default());
        Arc::new(Self {
            settings,
            telling: Semaphore::new(ConnectionKind::TurnedAway.capped(TOLD)),
            sockets: Arc::new(Semaphore::new(ConnectionKind::AcceptedLinks.capped(Semaphore::MAX_PERMITS))),
            clock: ctx.clock,
            access_log: access_log.clone(),
            refused,
            stuck: AtomicBool::new(false),
        })
    }

    /// Binds `address` and accepts until the process stops; then waits until every link has closed in order.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub(crate) async fn open<S: Send + Sync + 'static>(
        self: &Arc<Self>,
        ctx: &Context,
        address: SocketAddr,
        awaited: Awaited<S>,
        links_of: fn(&S) -> &Arc<Links>,
    ) -> anyhow::Result<()> {
        let listener = mesh::process::bind("link", address).await?;
        ctx.listening("link", listener.local_addr()?)?;
        let (port, stop) = (Arc::clone(self), ctx.stop.clone());
        ctx.spawn("links", async move {
            port.accept(listener, awaited, links_of, stop).await;
            Ok(())
        });
        Ok(())
    }

    async fn accept<S>(
        self: Arc<Self>,
        listener: TcpListener,
        awaited: Awaited<S>,
        links_of: fn(&S) -> &Arc<Links>,
        stop: CancellationToken,
    ) {
        let open = tokio_util::task::TaskTracker::new();
        // Those that come faster than they can be turned away wait in the kernel.
        let next = async || anyhow::Ok((Arc::clone(&self.sockets).acquire_owned().await?, listener.accept().await));
        while let Some(Ok((place, accepted))) = stop.run_until_cancelled(next()).await {
            match accepted {
                Ok((stream, address)) => {
                    self.stuck.store(false, Ordering::Relaxed);
                    // A small frame must not wait for the acknowledgement of the one before.
                    drop(stream.set_nodelay(true));
                    match awaited.get() {
                        Ok(services) => {
                            open.spawn(Arc::clone(links_of(services)).serve(stream, address, stop.clone(), place))
                        }
                        Err(_) => open.spawn(Arc::clone(&self).turn_away(stream, address, stop.clone(), place)),
                    };
                }
                Err(error) => {
                    // Out of descriptors, most likely, though some are kept: those that end make room.
                    if !self.stuck.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "no link can be accepted; raise the limit of open files");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        open.close();
        open.wait().await;
    }

    /// Tells the peer when to come again, and ignores all that it sends.
    pub(super) async fn turn_away(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        stop: CancellationToken,
        _place: OwnedSemaphorePermit,
    ) {
        self.refuse("BUSY", address.ip());
        let Ok(_place) = self.telling.try_acquire() else { return };
        let now = self.clock.mono();
        let mut link = Link::responder(self.settings, now);
        link.admit(Admit::Busy(BUSY), now);
        // Nobody posts anything; but a link whose send_queue is gone closes before it has answered.
        let (_nobody, queued) = send_queue(1);
        let mut deaf = IgnoreAll;
        let told = mesh::link::run(stream, link, queued, &mut deaf, self.clock);
        stop.run_until_cancelled(tokio::time::timeout(TELLING, told)).await;
    }

    pub(super) fn refuse(&self, reason: &'static str, address: IpAddr) {
        self.count(reason);
        self.access_log.unauthenticated("link", reason, Some(address));
    }

    /// Counts a refusal of a peer that proved its key.
    pub(super) fn refuse_peer(&self, reason: &'static str, peer: String, address: IpAddr) {
        self.count(reason);
        self.access_log.peer("request", reason, peer, address);
    }

    fn count(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }
}

struct IgnoreAll;

impl LinkOwner for IgnoreAll {
    async fn handle(&mut self, _: Event, _: &mut Link, _: Now) {}
}
