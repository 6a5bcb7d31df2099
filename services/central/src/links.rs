//! The link port (SPEC 4): accepts connections, admits those who name a key or ask for a first contact, and hands what
//! proven peers say to the loop.
//!
//! Guarantees: until a peer's first sealed message has opened, nothing is owned, stored or told; unknown ids and wrong
//! keys get the same answer after the same work; a link that takes or sends too slowly holds up itself alone.

mod allowances;
mod attempts;
mod contact;
mod door;
mod driver;
mod guest;
mod part;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::{
    link::{Outbox, Posted, outbox},
    process::Context,
    visitors::Visitors,
};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use proto::{PeerId, link::v1::Reason};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use wire::{Admit, Link};

use self::{
    allowances::Allowances,
    attempts::Attempts,
    door::{Door, Place},
    guest::Guest,
};
use crate::{charge_point::LinkNo, drive::Driver, registry::Verifier, shared::Shared};

pub(crate) use door::Bounds;

/// Messages to a peer that may wait; one that takes them slower is closed, and told how things stand when it is back.
const OUTBOX: usize = 256;
/// What a peer is told when Central is overloaded.
const BUSY: Duration = Duration::from_secs(2);

/// A newcomer, with what drives his connection.
struct Seated {
    guest: Guest,
    evicted: CancellationToken,
    outbox: Outbox,
    link: Box<Link>,
    posted: Posted,
}

/// What all links share.
#[derive(Debug)]
pub(crate) struct Links {
    pub shared: Arc<Shared>,
    drive: Driver,
    verifier: Verifier,
    settings: wire::Settings,
    door: Arc<Door>,
    attempts: Mutex<Attempts>,
    allowances: Mutex<Allowances>,
    visitors: Visitors,
    next: AtomicU64,
    open: Gauge,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Links {
    pub(crate) fn new(
        shared: Arc<Shared>,
        drive: Driver,
        verifier: Verifier,
        settings: wire::Settings,
        bounds: Bounds,
        visitors: Visitors,
        ctx: &Context,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            drive,
            verifier,
            settings,
            door: Door::new(bounds),
            attempts: Mutex::default(),
            allowances: Mutex::default(),
            visitors,
            next: AtomicU64::new(1),
            open: ctx.metrics.register("links", "Open connections of the link", Gauge::default()),
            refused: ctx.metrics.register("links_refused", "Connections and handshakes refused", Family::default()),
        })
    }

    /// Binds `address` and accepts until the process stops; then closes every link in order.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub(crate) async fn start(self: &Arc<Self>, ctx: &Context, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        let listener = mesh::process::bind("link", address).await?;
        let address = listener.local_addr()?;
        ctx.listening("link", address)?;
        let (links, accepting) = (Arc::clone(self), ctx.clone());
        ctx.spawn("links", async move {
            links.accept(listener, accepting).await;
            Ok(())
        });
        Ok(address)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, ctx: Context) {
        let open = tokio_util::task::TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = ctx.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    open.spawn(Arc::clone(&self).serve(stream, address, ctx.stop.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: those that end make room.
                    tracing::warn!(%error, "cannot accept a link");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        open.close();
        open.wait().await;
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr, stop: CancellationToken) {
        let Seated { mut guest, evicted, outbox, link, posted } = self.seat(&stream, address);
        self.open.inc();
        let closed = {
            let running = mesh::link::run(stream, *link, posted, &mut guest, self.shared.clock);
            let mut running = std::pin::pin!(running);
            tokio::select! {
                closed = &mut running => Some(closed),
                // Its place is needed by another of its address.
                () = evicted.cancelled() => None,
                () = stop.cancelled() => {
                    outbox.close();
                    tokio::time::timeout(Duration::from_secs(1), running).await.ok()
                }
            }
        };
        self.open.dec();
        // Boxed, as are all rare things that a link waits for: its task is as large as the largest of them.
        Box::pin(guest.leave(closed)).await;
    }

    /// Takes a place for a newcomer, or tells him to come later.
    fn seat(self: &Arc<Self>, stream: &TcpStream, address: SocketAddr) -> Seated {
        drop(stream.set_nodelay(true));
        let now = self.shared.clock.mono();
        let mut link = Box::new(Link::responder(self.settings, now));
        let (outbox, posted) = outbox(OUTBOX);
        let place = if self.drive.is_overloaded() { None } else { self.door.enter(address.ip(), now) };
        if place.is_none() {
            self.refuse("BUSY", address.ip());
            link.admit(Admit::Busy(BUSY), now);
        }
        let evicted = place.as_ref().map(|place| place.evicted.clone()).unwrap_or_default();
        let number = LinkNo(self.next.fetch_add(1, Ordering::Relaxed));
        let guest = Guest::new(Arc::clone(self), number, address, outbox.clone(), place.map(Arc::new));
        Seated { guest, evicted, outbox, link, posted }
    }

    fn refuse(&self, reason: &'static str, address: IpAddr) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
        self.visitors.stranger("link", reason, Some(address));
    }

    /// Whether `peer` may ask for something that costs a row; what is beyond its allowance is counted in the audit.
    fn may_ask(&self, peer: &PeerId, address: IpAddr) -> bool {
        let (limit, now) = (self.shared.settings.requests, self.shared.clock.mono());
        let may = self.allowances.lock().unwrap_or_else(PoisonError::into_inner).take(peer, limit, now);
        if !may {
            self.refused.get_or_create(&[("reason", Reason::TooManyAttempts.code())]).inc();
            self.visitors.peer("request", Reason::TooManyAttempts.code(), peer.to_string(), address);
        }
        may
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
