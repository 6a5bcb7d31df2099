//! Deadlines, load, strangers and the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::Router;
use proto::{Caller, link::v1::Reason};
use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::Notify};
use tonic::{Code, Status};
use tower::Service as _;

use super::network::{LOCAL, MeshNetwork, READ, STREAM, answer, call, counting, endless, request, trailers, until};
use crate::{server::Limits, status::reason_of};

struct Dropped(Arc<AtomicU32>);
impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Runs until it is given up; says when it began and counts when it was dropped.
fn stuck() -> (Router, Arc<Notify>, Arc<AtomicU32>) {
    let (began, dropped) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
    let (begins, drops) = (began.clone(), dropped.clone());
    let router = Router::new().fallback(async move || {
        let _dropped = Dropped(drops.clone());
        begins.notify_one();
        std::future::pending::<axum::response::Response>().await
    });
    (router, began, dropped)
}

#[tokio::test]
async fn the_server_keeps_the_callers_deadline_and_says_what_was_slow() {
    let network = MeshNetwork::new();
    let (router, _, dropped) = stuck();
    let central = network.central(router).await;
    let channel = network.channel(Caller::Operator, central.address);
    let mut slow = request(READ);
    slow.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("300m"));
    let status = super::network::send(&channel, slow).await.unwrap_err();
    assert_eq!((status.code(), reason_of(&status)), (Code::DeadlineExceeded, Some(Reason::DeadlineExceeded)));
    assert!(status.message().contains("took longer than 285 ms"), "the server's words: {}", status.message());
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "and the work is given up");
}

#[tokio::test]
async fn no_caller_can_exceed_the_servers_own_limit() {
    let network = MeshNetwork::new();
    let limits = Limits { max_deadline: Duration::from_millis(100), ..Limits::default() };
    let central = network.central_with(stuck().0, limits, LOCAL.parse().unwrap()).await;
    let status = call(&network.channel(Caller::Operator, central.address), READ).await.unwrap_err();
    assert!(status.message().contains("took longer than 100 ms"), "{}", status.message());
}

#[tokio::test]
async fn a_call_too_many_is_answered_at_once_and_not_queued() {
    let network = MeshNetwork::new();
    let (router, began, _) = stuck();
    let limits = Limits { max_calls: 1, ..Limits::default() };
    let central = network.central_with(router, limits, LOCAL.parse().unwrap()).await;
    let (first, second) = (network.channel(Caller::Operator, central.address), Caller::Viewer);
    let running = tokio::spawn(async move { call(&first, READ).await });
    began.notified().await;
    let status = call(&network.channel(second, central.address), READ).await.unwrap_err();
    assert_eq!((status.code(), reason_of(&status)), (Code::ResourceExhausted, Some(Reason::Overloaded)));
    running.abort();
    let channel = network.channel(second, central.address);
    let free = async || {
        let mut short = request(READ);
        short.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("50m"));
        super::network::send(&channel, short).await.unwrap_err().code() == Code::DeadlineExceeded
    };
    until("the place of a call given up is free again", free).await;
}

#[tokio::test]
async fn silent_strangers_hold_up_nobody_and_are_cut_off() {
    let network = MeshNetwork::new();
    let limits = Limits { max_handshakes: 64, tls_timeout: Duration::from_millis(300), ..Limits::default() };
    let central = network.central_with(counting().0, limits, LOCAL.parse().unwrap()).await;
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(TcpStream::connect(central.address).await.unwrap());
    }
    call(&network.channel(Caller::Operator, central.address), READ).await.unwrap();
    for mut stranger in silent {
        assert!(matches!(stranger.read(&mut [0; 1]).await, Ok(0) | Err(_)), "closed without a word");
    }
    let metrics = central.ctx.metrics.encode().unwrap();
    assert!(metrics.contains(r#"chargemesh_grpc_refused_total{cause="slow handshake"} 7"#), "{metrics}");
}

#[tokio::test]
async fn at_the_end_running_calls_finish_streams_end_with_a_status_and_nobody_new_comes_in() {
    let network = MeshNetwork::new();
    let (began, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, finishes) = (began.clone(), finish.clone());
    let slow = async move || {
        begins.notify_one();
        finishes.notified().await;
        answer(Code::Ok)
    };
    let router = endless().route(READ, axum::routing::post(slow));
    let central = network.central(router).await;
    let channel = network.channel(Caller::Operator, central.address);
    let stream = channel.clone().call(request(STREAM)).await.unwrap();
    let running = tokio::spawn({
        let channel = channel.clone();
        async move { call(&channel, READ).await }
    });
    began.notified().await;

    central.ctx.stop.cancel();
    let ended: Status = trailers(stream.into_body()).await.unwrap();
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.message().contains("stopping"), "{}", ended.message());
    let refused = async || TcpStream::connect(central.address).await.is_err();
    until("nobody listens any more", refused).await;
    finish.notify_one();
    running.await.unwrap().unwrap();
    central.ctx.ended().await.unwrap();
}

#[tokio::test]
async fn what_does_not_end_is_dropped_before_the_grace_is_over() {
    let network = MeshNetwork::new();
    let (router, began, dropped) = stuck();
    let mut central = network.central(router).await;
    central.ctx.grace = Duration::from_secs(3);
    let channel = network.channel(Caller::Operator, central.address);
    let running = tokio::spawn(async move { call(&channel, READ).await });
    began.notified().await;
    tokio::time::timeout(Duration::from_secs(3), central.stop()).await.unwrap();
    assert_eq!(running.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn every_call_is_counted_by_method_and_code_and_a_strangers_path_is_no_label() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let channel = network.channel(Caller::Viewer, central.address);
    call(&channel, READ).await.unwrap();
    call(&channel, NOT_MINE).await.unwrap_err();
    call(&channel, "/a.stranger/chose-this").await.unwrap_err();
    let metrics = central.ctx.metrics.encode().unwrap();
    for line in [
        format!(r#"chargemesh_grpc_server_calls_total{{method="{READ}",code="Ok"}} 1"#),
        format!(r#"chargemesh_grpc_server_calls_total{{method="{NOT_MINE}",code="PermissionDenied"}} 1"#),
        r#"chargemesh_grpc_server_calls_total{method="unknown",code="PermissionDenied"} 1"#.into(),
        "chargemesh_grpc_connections 1".into(),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("chose-this"));
}

const NOT_MINE: &str = "/chargemesh.central.v1.Sessions/End";
