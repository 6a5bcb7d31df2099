//! Bare floors: programs that do the least possible for the same work. Each is a process of its own, whose CPU time and
//! memory are measured as Central's are.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use anyhow::Context as _;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use ring::aead;

/// Bytes of one sealed message on the wire, the same as Central's frames carry.
pub(crate) const SEALED_BYTES: usize = 40;
const KEY: [u8; 32] = [7; 32];
/// Acknowledge, and a counter.
const ACK: [u8; 2] = [0x06, 0x41];

/// A message as the sealed floor expects it, `SEALED_BYTES` long.
pub(crate) fn sealed_message() -> Vec<u8> {
    let mut message = vec![0; SEALED_BYTES - aead::AES_256_GCM.tag_len()];
    key().seal_in_place_append_tag(nonce(), aead::Aad::from([0; 11]), &mut message).expect("a short message seals");
    message
}

pub(crate) fn key() -> aead::LessSafeKey {
    aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &KEY).expect("32 bytes are a key"))
}

/// The floor decrypts the same bytes again and again: its work is measured, its secrecy does not matter.
pub(crate) fn nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; 12])
}

/// One thread that waits (epoll), reads, decrypts with AES-GCM and writes one ACK per read.
pub(crate) fn sealed() -> anyhow::Result<()> {
    let listener = announce()?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let mut connections: HashMap<u64, (TcpStream, Vec<u8>)> = HashMap::new();
    let mut events = vec![EpollEvent::empty(); 1024];
    let mut buffer = vec![0; 64 * 1024];
    let key = key();
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in events.iter().take(ready) {
            if event.data() == 0 {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let token = u64::try_from(stream.as_raw_fd())?;
                    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
                    connections.insert(token, (stream, Vec::new()));
                }
                continue;
            }
            let Some((stream, rest)) = connections.get_mut(&event.data()) else { continue };
            if !serve(stream, rest, &mut buffer, &key) {
                connections.remove(&event.data());
            }
        }
    }
}

fn serve(stream: &mut TcpStream, rest: &mut Vec<u8>, buffer: &mut [u8], key: &aead::LessSafeKey) -> bool {
    match stream.read(buffer) {
        Ok(0) => return false,
        Ok(read) => rest.extend_from_slice(buffer.get(..read).unwrap_or_default()),
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    }
    let whole = rest.len() / SEALED_BYTES * SEALED_BYTES;
    for message in rest.get_mut(..whole).unwrap_or_default().chunks_exact_mut(SEALED_BYTES) {
        if key.open_in_place(nonce(), aead::Aad::from([0; 11]), message).is_err() {
            return false;
        }
    }
    rest.drain(..whole);
    whole == 0 || stream.write_all(&ACK).is_ok()
}

/// An echo server with tokio; an idle charging point is compared with two of its connections.
pub(crate) fn echo() -> anyhow::Result<()> {
    let listener = announce()?;
    listener.set_nonblocking(true)?;
    runtime()?.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                loop {
                    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                    let Ok(read @ 1..) = stream.read(&mut buffer).await else { return };
                    if stream.write_all(buffer.get(..read).unwrap_or_default()).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

/// A bare NKpsk0 responder over TCP: each message is two bytes of length and Noise's own.
pub(crate) fn handshake() -> anyhow::Result<()> {
    let listener = announce()?;
    listener.set_nonblocking(true)?;
    runtime()?.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                let _ = respond(stream).await;
            });
        }
    })
}

/// The static key of the handshake floor; its initiators know it.
pub(crate) const STATIC: [u8; 32] = [9; 32];
/// The pre-shared key of the handshake floor.
pub(crate) const PSK: [u8; 32] = [5; 32];
/// The Noise pattern that is compared.
pub(crate) const PATTERN: &str = "Noise_NKpsk0_25519_AESGCM_SHA256";

async fn respond(mut stream: tokio::net::TcpStream) -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.set_nodelay(true)?;
    let mut noise = snow::Builder::new(PATTERN.parse()?).local_private_key(&STATIC)?.psk(0, &PSK)?.build_responder()?;
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    let mut payload = [0; 256];
    noise.read_message(&message, &mut payload)?;
    let length = noise.write_message(&[], &mut payload)?;
    stream.write_u16(u16::try_from(length)?).await?;
    stream.write_all(payload.get(..length).unwrap_or_default()).await?;
    let _ = stream.read_u8().await;
    Ok(())
}

pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

/// Listens on a free port and prints its address to standard output.
#[expect(clippy::print_stdout, reason = "the parent reads the port from here")]
pub(crate) fn announce() -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").context("bind the floor")?;
    println!("{}", listener.local_addr()?);
    Ok(listener)
}
