//! Links over real and in-memory streams, with real and paused time.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use proto::link::v1::Part;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::{advance, timeout},
};
use wire::{Admit, Closed, Event, Hello, Link, LinkKey, LinkSettings, PairingSecret, Proof, StaticKey};

use super::{LinkOwner, SendQueue, connect, run, send_queue};
use crate::clock::{Clock, Now};

const LIMIT: Duration = Duration::from_secs(10);

fn own() -> StaticKey {
    StaticKey::from_bytes([9; 32])
}

fn key() -> LinkKey {
    LinkKey::from_bytes([1; 32])
}

fn initiator() -> Link {
    let proof = Proof::Key { responder: own().public(), key_no: 1, key: key() };
    Link::initiator(LinkSettings::default(), Part::Engine, "CP-1", proof, Clock::system().mono())
}

/// Records every event, and answers `echo …`.
struct Teller(mpsc::UnboundedSender<Event>);

impl LinkOwner for Teller {
    async fn handle(&mut self, event: Event, link: &mut Link, now: Now) {
        tokio::task::yield_now().await;
        match &event {
            Event::Hello(_) => link.admit(Admit::Key(&own(), &key()), now.mono),
            Event::Message(message) if message.starts_with(b"echo ") => link.send(&message[5..], now.mono).unwrap(),
            Event::Message(_) | Event::Open | Event::Busy { .. } | Event::UnknownKey => {}
            Event::Unintelligible(_) | Event::Closed(_) => {}
        }
        // The test may have ended.
        drop(self.0.send(event));
    }
}

struct RunningLink {
    send_queue: SendQueue,
    events: mpsc::UnboundedReceiver<Event>,
    ended: JoinHandle<Closed>,
}

impl RunningLink {
    async fn event(&mut self) -> Event {
        timeout(LIMIT, self.events.recv()).await.unwrap().unwrap()
    }

    async fn ended(self) -> Closed {
        timeout(LIMIT, self.ended).await.unwrap().unwrap()
    }
}

fn spawn<S>(stream: S, link: Link) -> RunningLink
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (send_queue, queued) = send_queue(16);
    let (tell, events) = mpsc::unbounded_channel();
    let ended = tokio::spawn(async move { run(stream, link, queued, &mut Teller(tell), Clock::system()).await });
    RunningLink { send_queue, events, ended }
}

fn responder() -> Link {
    Link::responder(LinkSettings::default(), Clock::system().mono())
}

async fn over_tcp() -> (RunningLink, RunningLink) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stream = connect(&address, LIMIT).await.unwrap();
    assert!(stream.nodelay().unwrap());
    let (accepted, _) = listener.accept().await.unwrap();
    opened(spawn(stream, initiator()), spawn(accepted, responder())).await
}

async fn over_memory(size: usize) -> (RunningLink, RunningLink) {
    let (near, far) = duplex(size);
    opened(spawn(near, initiator()), spawn(far, responder())).await
}

async fn opened(mut near: RunningLink, mut far: RunningLink) -> (RunningLink, RunningLink) {
    assert_eq!(near.event().await, Event::Open);
    assert!(matches!(far.event().await, Event::Hello(Hello { part: Part::Engine, .. })));
    assert_eq!(far.event().await, Event::Open);
    (near, far)
}

#[tokio::test]
async fn messages_go_both_ways_over_tcp_and_the_link_closes_in_order() {
    let (mut near, mut far) = over_tcp().await;
    near.send_queue.try_send(Bytes::from_static(b"echo me")).unwrap();
    assert_eq!(far.event().await, Event::Message(Bytes::from_static(b"echo me")));
    assert_eq!(near.event().await, Event::Message(Bytes::from_static(b"me")));
    far.send_queue.try_send(Bytes::from_static(b"last")).unwrap();
    far.send_queue.close();
    assert_eq!(near.event().await, Event::Message(Bytes::from_static(b"last")));
    assert_eq!((near.ended().await, far.ended().await), (Closed::ByPeer, Closed::ByUs));
}

#[tokio::test(start_paused = true)]
async fn a_message_larger_than_every_buffer_goes_through_the_narrowest_stream() {
    let (near, mut far) = over_memory(7).await;
    let large = Bytes::from(vec![0x02; 200_000]);
    near.send_queue.try_send(Bytes::from_static(b"opened")).unwrap();
    near.send_queue.try_send(large.clone()).unwrap();
    assert_eq!(far.event().await, Event::Message(Bytes::from_static(b"opened")));
    assert_eq!(far.event().await, Event::Message(large));
}

#[tokio::test]
async fn a_thousand_messages_each_way_arrive_in_order() {
    let (mut near, mut far) = over_tcp().await;
    let send = |send_queue: SendQueue| async move {
        for number in 0..1000u32 {
            while send_queue.try_send(Bytes::copy_from_slice(&number.to_be_bytes())).is_err() {
                tokio::task::yield_now().await;
            }
        }
    };
    let receive = async |running: &mut RunningLink| {
        for number in 0..1000u32 {
            assert_eq!(running.event().await, Event::Message(Bytes::copy_from_slice(&number.to_be_bytes())));
        }
    };
    let queues = (near.send_queue.clone(), far.send_queue.clone());
    tokio::join!(send(queues.0), send(queues.1), receive(&mut near), receive(&mut far));
}

#[tokio::test]
async fn an_end_that_vanishes_is_noticed_as_cut_and_its_send_queue_closes() {
    let (near, far) = over_tcp().await;
    near.ended.abort();
    let send_queue = far.send_queue.clone();
    assert_eq!(far.ended().await, Closed::Cut);
    assert!(send_queue.is_closed());
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_lives_and_a_half_open_one_is_found_within_two_seconds_spec_2_4() {
    let (near, mid) = duplex(4096);
    let (mid_far, far) = duplex(4096);
    let (cut, proxy) = half_open(mid, mid_far);
    let (near, far) = (spawn(near, initiator()), spawn(far, responder()));
    let (near, far) = opened(near, far).await;
    near.send_queue.try_send(Bytes::from_static(b"opened")).unwrap();
    for _ in 0..600 {
        advance(Duration::from_millis(100)).await;
        tokio::task::yield_now().await;
    }
    assert!(!near.ended.is_finished() && !far.ended.is_finished(), "a minute of silence, but for signs of life");
    let since = Clock::system().mono();
    cut.notify_one();
    assert_eq!((near.ended().await, far.ended().await), (Closed::Silent, Closed::Silent));
    let found = Clock::system().mono() - since;
    assert!(found <= Duration::from_millis(1500), "{found:?}");
    proxy.abort();
}

/// Carries bytes both ways until told to discard them while both connections stay open.
fn half_open(mut one: DuplexStream, mut other: DuplexStream) -> (Arc<tokio::sync::Notify>, JoinHandle<()>) {
    let cut = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&cut);
    let proxy = tokio::spawn(async move {
        tokio::select! {
            copied = tokio::io::copy_bidirectional(&mut one, &mut other) => drop(copied),
            () = told.notified() => {}
        }
        let (mut into_one, mut into_other) = ([0; 64], [0; 64]);
        loop {
            let read = tokio::select! {
                read = one.read(&mut into_one) => read,
                read = other.read(&mut into_other) => read,
            };
            if read.unwrap_or(0) == 0 {
                std::future::pending::<()>().await;
            }
        }
    });
    (cut, proxy)
}

/// A stream that always has a byte to read and accepts every write.
struct Flood;

impl AsyncRead for Flood {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buffer.put_slice(&[0x05][..buffer.remaining().min(1)]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_stranger_who_floods_does_not_outlast_the_time_limit_of_the_handshake() {
    let settings = LinkSettings { handshake_timeout: Duration::from_millis(100), ..LinkSettings::default() };
    let flooded = spawn(Flood, Link::responder(settings, Clock::system().mono()));
    assert_eq!(flooded.ended().await, Closed::HandshakeTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_fills_the_send_queue_and_no_more_memory_and_ends() {
    let (near, far) = duplex(1024);
    let near = spawn(near, initiator());
    // The peer answers the handshake, then never reads again.
    let mut stalled = Link::responder(LinkSettings::default(), Clock::system().mono());
    let mut far = far;
    let mut buffer = [0; 1024];
    while !stalled.is_open() {
        let read = far.read(&mut buffer).await.unwrap();
        let now = Clock::system().mono();
        stalled.handle_bytes(&buffer[..read], now);
        while let Some(event) = stalled.poll_event() {
            if let Event::Hello(_) = event {
                stalled.admit(Admit::Key(&own(), &key()), now);
            }
        }
        let mut out = Vec::new();
        stalled.transmit(&mut out, now);
        far.write_all(&out).await.unwrap();
    }
    let mut near = near;
    assert_eq!(near.event().await, Event::Open);
    let mut taken = 0;
    for _ in 0..10_000 {
        taken += usize::from(near.send_queue.try_send(Bytes::from(vec![7; 1000])).is_ok());
        tokio::task::yield_now().await;
    }
    assert!(taken <= 16 + LinkSettings::default().queue, "{taken}");
    assert_eq!(near.ended().await, Closed::Silent);
}

#[tokio::test]
async fn a_refused_caller_hears_the_busy_answer_although_it_had_more_to_say() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut caller = TcpStream::connect(address).await.unwrap();
    caller.write_all(&[0x05]).await.unwrap();
    caller.write_all(&[b'x'; 40_000]).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let mut link = responder();
    link.admit(Admit::Busy(Duration::from_secs(3)), Clock::system().mono());
    assert_eq!(spawn(accepted, link).ended().await, Closed::Busy);
    let mut heard = Vec::new();
    timeout(LIMIT, caller.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert!(heard.starts_with(&[0x15, 0]) && heard.ends_with(&[0x04]), "{heard:02x?}");
}

#[tokio::test(start_paused = true)]
async fn an_order_to_close_is_followed_before_the_link_is_open_too() {
    let (near, _far) = duplex(64);
    let near = spawn(near, initiator());
    near.send_queue.try_send(Bytes::from_static(b"too early")).unwrap();
    tokio::task::yield_now().await;
    near.send_queue.close();
    assert_eq!(near.ended().await, Closed::ByUs);
}

#[tokio::test]
async fn a_pairing_works_over_a_unix_socket_spec_1_4() {
    let secret = PairingSecret::of_local_socket();
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    let link =
        Link::initiator(LinkSettings::default(), Part::Pairing, "", Proof::Pairing(secret), Clock::system().mono());
    struct SilentMonitor;
    impl LinkOwner for SilentMonitor {
        async fn handle(&mut self, event: Event, link: &mut Link, now: Now) {
            tokio::task::yield_now().await;
            match event {
                Event::Hello(_) => link.admit(Admit::Pairing(&PairingSecret::of_local_socket()), now.mono),
                Event::Message(_) => link.close(now.mono),
                Event::Open | Event::Busy { .. } | Event::UnknownKey | Event::Unintelligible(_) | Event::Closed(_) => {}
            }
        }
    }
    let mut near = spawn(near, link);
    let (_send_queue, queued) = send_queue(1);
    let monitor = tokio::spawn(async move { run(far, responder(), queued, &mut SilentMonitor, Clock::system()).await });
    assert_eq!(near.event().await, Event::Open);
    near.send_queue.try_send(Bytes::from_static(b"paired")).unwrap();
    assert_eq!((timeout(LIMIT, monitor).await.unwrap().unwrap(), near.ended().await), (Closed::ByUs, Closed::ByPeer));
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_named_in_the_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = connect(&address, LIMIT).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot reach {address}: ")), "{error}");
}
