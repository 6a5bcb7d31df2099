//! `registry.v1` over mutual TLS: converts between the contract and the service. Who may call what is the contract's
//! policy, kept by mesh's server before anything here runs.

use std::net::IpAddr;

use mesh::principal::Principal;
use prost::Message;
use proto::{
    OperatorName, PeerId,
    link::v1::Reason,
    registry::v1::{self as contract, identities_server::Identities, operators_server::Operators, *},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    audit::Actor,
    error::{Error, refuse},
    identity_service::{Enroller, IdempotentCall, IdentityService},
    rows,
    token::TokenLimits,
};

/// Both services of the contract.
#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    pub(crate) service: IdentityService,
    pub(crate) stop: CancellationToken,
}

/// The only way from a refusal to a status.
pub(crate) fn status(refusal: Error) -> Status {
    mesh::status::refuse(refusal.reason, refusal.detail)
}

fn actor<T>(request: &Request<T>) -> Result<Actor, Status> {
    let principal = Principal::of(request)?;
    Ok(Actor { name: principal.to_string(), address: Some(principal.address.ip()) })
}

fn peer(kind: i32, id: &str) -> Result<PeerId, Status> {
    let kind = rows::kind_of(kind)
        .ok_or_else(|| mesh::status::refuse(Reason::Invalid, "say whether it is a charging point or a driver"))?;
    kind.peer(id).map_err(|error| mesh::status::refuse(Reason::Invalid, error))
}

fn name(text: &str) -> Result<OperatorName, Status> {
    text.parse().map_err(|error| mesh::status::refuse(Reason::Invalid, error))
}

impl Grpc {
    /// Who asks, and for what.
    fn idempotent_call<T: Message>(
        &self,
        request: &Request<T>,
        method: &'static str,
        object: impl ToString,
        id: fn(&T) -> &str,
    ) -> Result<IdempotentCall, Status> {
        let (actor, message) = (actor(request)?, request.get_ref());
        self.service.idempotent_call(actor, method, object.to_string(), id(message), message).map_err(status)
    }
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(status)
}

#[tonic::async_trait]
impl Identities for Grpc {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let enroller = Enroller::Operator(actor(&request)?);
        let enrolled = self.service.enrol(enroller, request.into_inner()).await.map_err(status)?;
        Ok(Response::new(EnrolResponse {
            credential: enrolled.credential.to_string(),
            pins: self.service.pins().into_iter().map(Vec::from).collect(),
            identity: Some(enrolled.identity),
        }))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        let peer = peer(request.get_ref().kind, &request.get_ref().id)?;
        let call = self.idempotent_call(&request, "Remove", &peer, |r| &r.request_id)?;
        answer(self.service.remove(call, peer).await)
    }

    async fn list(&self, request: Request<ListIdentitiesRequest>) -> Result<Response<ListIdentitiesResponse>, Status> {
        answer(self.service.list(request.into_inner()).await)
    }

    type WatchStream = ReceiverStream<Result<IdentityEvent, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let actor = actor(&request)?;
        let stream = crate::watch::watch(self.service.clone(), actor, request.into_inner(), self.stop.clone());
        stream.await.map(Response::new)
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        let request = request.into_inner();
        let peer = peer(request.kind, &request.id)?;
        let address: Option<IpAddr> = request.address.parse().ok();
        let text = zeroize::Zeroizing::new(String::from_utf8_lossy(&request.credential).into_owned());
        let (reason, identity) = match self.service.verify_credential("VERIFY", &peer, &text, address).await {
            Ok(verified) => {
                let reason = verified.worth.err().map_or(Reason::Unspecified, |why| why.reason);
                (reason, Some(rows::told(&verified.identity)))
            }
            Err(why) if why.reason.is_undecided() => return Err(status(why)),
            Err(why) => (why.reason, None),
        };
        self.service.metrics().verified(reason);
        Ok(Response::new(VerifyResponse { reason: reason as i32, identity }))
    }

    async fn reissue(&self, request: Request<ReissueRequest>) -> Result<Response<TokenCreated>, Status> {
        let peer = peer(request.get_ref().kind, &request.get_ref().id)?;
        let call = self.idempotent_call(&request, "Reissue", &peer, |r| &r.request_id)?;
        answer(self.service.reissue(call, peer).await)
    }

    async fn readmit(&self, request: Request<ReadmitRequest>) -> Result<Response<ReadmitResponse>, Status> {
        let peer = peer(request.get_ref().kind, &request.get_ref().id)?;
        let call = self.idempotent_call(&request, "Readmit", &peer, |r| &r.request_id)?;
        answer(self.service.readmit(call, peer).await)
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Result<Response<TokenCreated>, Status> {
        let call = self.idempotent_call(&request, "CreateToken", "tokens", |r| &r.request_id)?;
        let CreateTokenRequest { kind, id_pattern, city, uses, lifetime_s, .. } = request.into_inner();
        if kind != contract::Kind::Unspecified as i32 && rows::kind_of(kind).is_none() {
            return Err(status(refuse(Reason::Invalid, format!("{kind} is no kind of identity"))));
        }
        let limits = TokenLimits { kind: rows::kind_of(kind), pattern: id_pattern, city, uses, lifetime_s };
        answer(self.service.create_token(call, limits).await)
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        answer(self.service.list_tokens().await)
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let id: String = request.get_ref().token_id.chars().take(64).collect();
        let call = self.idempotent_call(&request, "RevokeToken", format!("token/{id}"), |r| &r.request_id)?;
        answer(self.service.revoke_token(call, id).await)
    }

    async fn void(&self, request: Request<VoidRequest>) -> Result<Response<VoidResponse>, Status> {
        let peer = peer(request.get_ref().kind, &request.get_ref().id)?;
        let call = self.idempotent_call(&request, "Void", &peer, |r| &r.request_id)?;
        answer(self.service.make_void(call, peer).await)
    }

    async fn pins(&self, _: Request<PinsRequest>) -> Result<Response<PinsResponse>, Status> {
        Ok(Response::new(PinsResponse { pins: self.service.pins().into_iter().map(Vec::from).collect() }))
    }
}

#[tonic::async_trait]
impl Operators for Grpc {
    async fn add(&self, request: Request<AddOperatorRequest>) -> Result<Response<contract::Operator>, Status> {
        let name = name(&request.get_ref().name)?;
        let role = request.get_ref().role();
        let call = self.idempotent_call(&request, "AddOperator", format!("operator/{name}"), |r| &r.request_id)?;
        answer(self.service.add_operator(call, name, role).await)
    }

    async fn remove(
        &self,
        request: Request<RemoveOperatorRequest>,
    ) -> Result<Response<RemoveOperatorResponse>, Status> {
        let (name, force) = (name(&request.get_ref().name)?, request.get_ref().force);
        let call = self.idempotent_call(&request, "RemoveOperator", format!("operator/{name}"), |r| &r.request_id)?;
        answer(self.service.remove_operator(call, name, force).await)
    }

    async fn list(&self, _: Request<ListOperatorsRequest>) -> Result<Response<ListOperatorsResponse>, Status> {
        answer(self.service.list_operators().await)
    }
}
