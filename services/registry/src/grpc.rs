//! `registry.v1` over mutual TLS: converts between the contract and the authority. Who may call what is the contract's
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
    authority::{Asked, Asker, Authority},
    refusal::{Refusal, refuse},
    rows,
    token::Limits,
};

/// Both services of the contract.
#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    pub(crate) authority: Authority,
    pub(crate) stop: CancellationToken,
}

/// The only way from a refusal to a status.
pub(crate) fn status(refusal: Refusal) -> Status {
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
    fn asked<T: Message>(
        &self,
        request: &Request<T>,
        order: &'static str,
        object: impl ToString,
        id: fn(&T) -> &str,
    ) -> Result<Asked, Status> {
        let (actor, message) = (actor(request)?, request.get_ref());
        self.authority.asked(actor, order, object.to_string(), id(message), message).map_err(status)
    }
}

fn answer<T>(result: Result<T, Refusal>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(status)
}

#[tonic::async_trait]
impl Identities for Grpc {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let asker = Asker::Operator(actor(&request)?);
        let enrolled = self.authority.enrol(asker, request.into_inner()).await.map_err(status)?;
        Ok(Response::new(EnrolResponse {
            credential: enrolled.credential.to_string(),
            pins: self.authority.pins().into_iter().map(Vec::from).collect(),
            identity: Some(enrolled.identity),
        }))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        let peer = peer(request.get_ref().kind, &request.get_ref().id)?;
        let asked = self.asked(&request, "Remove", &peer, |r| &r.request_id)?;
        answer(self.authority.remove(asked, peer).await)
    }

    async fn list(&self, request: Request<ListIdentitiesRequest>) -> Result<Response<ListIdentitiesResponse>, Status> {
        answer(self.authority.list(request.into_inner()).await)
    }

    type WatchStream = ReceiverStream<Result<IdentityEvent, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let actor = actor(&request)?;
        let stream = crate::watch::watch(self.authority.clone(), actor, request.into_inner(), self.stop.clone());
        stream.await.map(Response::new)
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        let request = request.into_inner();
        let peer = peer(request.kind, &request.id)?;
        let address: Option<IpAddr> = request.address.parse().ok();
        let text = zeroize::Zeroizing::new(String::from_utf8_lossy(&request.credential).into_owned());
        let (reason, identity) = match self.authority.shown("VERIFY", &peer, &text, address).await {
            Ok(shown) => {
                let reason = shown.worth.err().map_or(Reason::Unspecified, |why| why.reason);
                (reason, Some(rows::told(&shown.identity)))
            }
            Err(why) if matches!(why.reason, Reason::Overloaded | Reason::Unavailable) => return Err(status(why)),
            Err(why) => (why.reason, None),
        };
        self.authority.metrics().verified(reason);
        Ok(Response::new(VerifyResponse { reason: reason as i32, identity }))
    }

    async fn reissue(&self, request: Request<ReissueRequest>) -> Result<Response<TokenCreated>, Status> {
        let peer = peer(request.get_ref().kind, &request.get_ref().id)?;
        let asked = self.asked(&request, "Reissue", &peer, |r| &r.request_id)?;
        answer(self.authority.reissue(asked, peer).await)
    }

    async fn readmit(&self, request: Request<ReadmitRequest>) -> Result<Response<ReadmitResponse>, Status> {
        let peer = peer(request.get_ref().kind, &request.get_ref().id)?;
        let asked = self.asked(&request, "Readmit", &peer, |r| &r.request_id)?;
        answer(self.authority.readmit(asked, peer).await)
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Result<Response<TokenCreated>, Status> {
        let asked = self.asked(&request, "CreateToken", "tokens", |r| &r.request_id)?;
        let CreateTokenRequest { kind, id_pattern, city, uses, lifetime_s, .. } = request.into_inner();
        if kind != contract::Kind::Unspecified as i32 && rows::kind_of(kind).is_none() {
            return Err(status(refuse(Reason::Invalid, format!("{kind} is no kind of identity"))));
        }
        let limits = Limits { kind: rows::kind_of(kind), pattern: id_pattern, city, uses, lifetime_s };
        answer(self.authority.create_token(asked, limits).await)
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        answer(self.authority.list_tokens().await)
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let id: String = request.get_ref().token_id.chars().take(64).collect();
        let asked = self.asked(&request, "RevokeToken", format!("token/{id}"), |r| &r.request_id)?;
        answer(self.authority.revoke_token(asked, id).await)
    }

    async fn void(&self, request: Request<VoidRequest>) -> Result<Response<VoidResponse>, Status> {
        let peer = peer(request.get_ref().kind, &request.get_ref().id)?;
        let asked = self.asked(&request, "Void", &peer, |r| &r.request_id)?;
        answer(self.authority.make_void(asked, peer).await)
    }

    async fn pins(&self, _: Request<PinsRequest>) -> Result<Response<PinsResponse>, Status> {
        Ok(Response::new(PinsResponse { pins: self.authority.pins().into_iter().map(Vec::from).collect() }))
    }
}

#[tonic::async_trait]
impl Operators for Grpc {
    async fn add(&self, request: Request<AddOperatorRequest>) -> Result<Response<contract::Operator>, Status> {
        let name = name(&request.get_ref().name)?;
        let role = request.get_ref().role();
        let asked = self.asked(&request, "AddOperator", format!("operator/{name}"), |r| &r.request_id)?;
        answer(self.authority.add_operator(asked, name, role).await)
    }

    async fn remove(
        &self,
        request: Request<RemoveOperatorRequest>,
    ) -> Result<Response<RemoveOperatorResponse>, Status> {
        let (name, force) = (name(&request.get_ref().name)?, request.get_ref().force);
        let asked = self.asked(&request, "RemoveOperator", format!("operator/{name}"), |r| &r.request_id)?;
        answer(self.authority.remove_operator(asked, name, force).await)
    }

    async fn list(&self, _: Request<ListOperatorsRequest>) -> Result<Response<ListOperatorsResponse>, Status> {
        answer(self.authority.list_operators().await)
    }
}
