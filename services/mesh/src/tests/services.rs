//! What every server offers beside its own: health, reflection; and the HTTPS door.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo, routing::get};
use proto::{
    Caller,
    registry::v1::{
        AddOperatorRequest, ListOperatorsRequest, ListOperatorsResponse, Operator, RemoveOperatorRequest,
        RemoveOperatorResponse, operators_client::OperatorsClient, operators_server,
    },
};
use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::network::{LOCAL, MeshNetwork, until};
use crate::{
    access_log::AccessLog,
    client::{Channel, ClientConfig, https},
    principal::Principal,
    process::Context,
    server::{Limits, Server},
};

pub(super) struct FakeOperators;

#[tonic::async_trait]
impl operators_server::Operators for FakeOperators {
    async fn add(&self, request: Request<AddOperatorRequest>) -> Result<Response<Operator>, Status> {
        let name = Principal::of(&request)?.to_string();
        Ok(Response::new(Operator { name, ..Default::default() }))
    }

    async fn remove(&self, _: Request<RemoveOperatorRequest>) -> Result<Response<RemoveOperatorResponse>, Status> {
        Ok(Response::new(RemoveOperatorResponse::default()))
    }

    async fn list(&self, _: Request<ListOperatorsRequest>) -> Result<Response<ListOperatorsResponse>, Status> {
        Ok(Response::new(ListOperatorsResponse::default()))
    }
}

async fn served(network: &MeshNetwork) -> (Context, SocketAddr) {
    let ctx = Context::detached("central");
    let server = Server::new(&ctx, &network.identity(Caller::Central), Limits::default());
    let server = server.add_service(operators_server::OperatorsServer::new(FakeOperators));
    let address = server.start("grpc", LOCAL.parse().unwrap()).await.unwrap();
    (ctx, address)
}

#[tokio::test]
async fn a_handler_is_told_who_calls() {
    let network = MeshNetwork::new();
    let (_ctx, address) = served(&network).await;
    let mut client = OperatorsClient::new(network.channel(Caller::Operator, address));
    let added = client.add(AddOperatorRequest { request_id: "r".into(), ..Default::default() }).await.unwrap();
    assert_eq!(added.into_inner().name, "operator/anna");
    let refused = client.add(AddOperatorRequest::default()).await.unwrap_err();
    assert!(refused.message().contains("request_id"), "{}", refused.message());
}

#[tokio::test]
async fn health_follows_the_roles_readiness() {
    let network = MeshNetwork::new();
    let (ctx, address) = served(&network).await;
    let store = ctx.health.component("store");
    let client = HealthClient::new(network.channel(Caller::Viewer, address));
    let status = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        client.clone().check(request).await.unwrap().into_inner().status()
    };
    for service in ["", "chargemesh.registry.v1.Operators"] {
        store.starting("opens");
        until("not serving", async || status(service).await == ServingStatus::NotServing).await;
        store.degraded("slow");
        until("serving", async || status(service).await == ServingStatus::Serving).await;
    }
}

macro_rules! reflects {
    ($test:ident, $version:ident) => {
        #[tokio::test]
        async fn $test() {
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };
            async fn ask(channel: &Channel, request: MessageRequest) -> MessageResponse {
                let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
                let mut client = ServerReflectionClient::new(channel.clone());
                let stream = client.server_reflection_info(futures::stream::iter([request])).await;
                stream.unwrap().into_inner().message().await.unwrap().unwrap().message_response.unwrap()
            }
            let network = MeshNetwork::new();
            let (_ctx, address) = served(&network).await;
            let channel = network.channel(Caller::Viewer, address);
            let MessageResponse::ListServicesResponse(list) =
                ask(&channel, MessageRequest::ListServices(String::new())).await
            else {
                panic!("no list");
            };
            let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
            names.sort();
            assert_eq!(
                names,
                [
                    "chargemesh.registry.v1.Operators",
                    "grpc.health.v1.Health",
                    "grpc.reflection.v1.ServerReflection",
                    "grpc.reflection.v1alpha.ServerReflection",
                ],
                "what is served, and nothing else"
            );
            let symbol = "chargemesh.registry.v1.Operators".to_owned();
            let MessageResponse::FileDescriptorResponse(file) =
                ask(&channel, MessageRequest::FileContainingSymbol(symbol)).await
            else {
                panic!("no file");
            };
            let file = &file.file_descriptor_proto[0];
            let kept = proto::DESCRIPTORS.windows(file.len()).any(|window| window == &file[..]);
            assert!(kept, "byte for byte as compiled, so with the policy options");
            let details = MessageRequest::FileContainingSymbol("google.rpc.ErrorInfo".to_owned());
            let details = ask(&channel, details).await;
            assert!(matches!(details, MessageResponse::FileDescriptorResponse(_)), "a refusal's details can be shown");
        }
    };
}

reflects!(reflection_v1_lists_and_describes_with_the_policy_options_kept, v1);
reflects!(reflection_v1alpha_lists_and_describes_with_the_policy_options_kept, v1alpha);

#[tokio::test]
async fn the_https_door_takes_those_without_a_certificate_who_know_our_roots() {
    let network = MeshNetwork::new();
    let ctx = Context::detached("registry");
    let slow = axum::routing::post(async |body: String| body);
    let app = Router::new()
        .route("/v1/slow", slow)
        .route("/v1/me", get(async |ConnectInfo(me): ConnectInfo<SocketAddr>| me.ip().to_string()));
    let identity = network.identity(Caller::Registry);
    let limits = Limits { default_deadline: Duration::from_millis(300), ..Limits::default() };
    let timeouts = crate::http::HttpsTimeouts::default();
    let access_log = AccessLog::new(ctx.clock, limits.access_log_interval);
    let settings = crate::http::HttpsSettings { limits, timeouts, access_log };
    let address = LOCAL.parse().unwrap();
    let address = crate::http::start(&ctx, &identity, settings, "https", address, app).await.unwrap();
    let (address, settings) = (address.to_string(), ClientConfig::default());
    let known = https("registry", &address, &identity.roots_pem().unwrap(), &settings).unwrap();
    assert_eq!(known.get("/v1/me").send().await.unwrap().text().await.unwrap(), "127.0.0.1");

    let stuck = known
        .post("/v1/slow")
        .body(reqwest::Body::wrap_stream(futures::stream::pending::<Result<Vec<u8>, Infallible>>()));
    assert_eq!(stuck.send().await.unwrap().status().as_u16(), 408, "a body that does not come is not waited for");

    let other = MeshNetwork::new().authority.roots_pem().unwrap();
    let foreign = https("registry", &address, &other, &settings).unwrap();
    let error = foreign.get("/v1/me").send().await.unwrap_err();
    assert!(crate::client::explain(&error).contains("its certificate is foreign"), "{error:?}");

    ctx.stop.cancel();
    ctx.ended().await.unwrap();
    let error = known.get("/v1/me").send().await.unwrap_err();
    assert!(crate::client::explain(&error).contains("refused"), "{error:?}");
}
