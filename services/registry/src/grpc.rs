//! `registry.v1` over mutual TLS: converts between the contract and the service. Who may call what is the contract's
//! policy, kept by mesh's server before anything here runs.

mod watch;

use std::net::IpAddr;

use mesh::{field_checks::FieldChecks, paging::AskedPage, principal::Principal};
use prost::Message;
use proto::{
    Duration, OperatorName, PeerId,
    link::v1::Reason,
    registry::v1::{self as contract, identities_server::Identities, operators_server::Operators, *},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    audit::Actor,
    error::Error,
    identity_service::{Enroller, IdempotentCall, IdentityService},
    rows,
    token::{MAX_LIFETIME_S, TokenLimits},
};

/// Both services of the contract.
#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    pub(crate) service: IdentityService,
    pub(crate) stop: CancellationToken,
}

/// The only way from a refusal to a status.
pub(crate) fn status(refusal: Error) -> Status {
    let status = mesh::status::refuse(refusal.reason, refusal.detail);
    match refusal.retry_after {
        Some(wait) => mesh::status::retry_after(&status, wait),
        None => status,
    }
}

fn actor<T>(request: &Request<T>) -> Result<Actor, Status> {
    let principal = Principal::of(request)?;
    Ok(Actor { name: principal.to_string(), address: Some(principal.address.ip()) })
}

/// Whom a request names; nothing where it names nobody.
fn named(checks: &mut FieldChecks, kind: i32, id: &str) -> Option<PeerId> {
    checks.specified::<contract::Kind>("kind", kind);
    checks.not_empty("id", id);
    match rows::kind_of(kind).filter(|_| !id.is_empty())?.peer(id) {
        Ok(peer) => Some(peer),
        Err(error) => {
            checks.wrong("id", error);
            None
        }
    }
}

fn peer(kind: i32, id: &str) -> Result<PeerId, Status> {
    let mut checks = FieldChecks::default();
    let peer = named(&mut checks, kind, id);
    checks.finish()?;
    peer.ok_or_else(|| mesh::status::refuse(Reason::Invalid, id))
}

fn name(text: &str) -> Result<OperatorName, Status> {
    let mut checks = FieldChecks::default();
    let name = checks.parsed("name", text);
    checks.finish()?;
    name.ok_or_else(|| mesh::status::refuse(Reason::Invalid, text))
}

/// Nothing is taken for granted: what may be enrolled with a token, how often and for how long is said.
fn limits(request: &CreateTokenRequest) -> Result<TokenLimits, Status> {
    let mut checks = FieldChecks::default();
    let kinds: Vec<_> = request.kinds.iter().filter_map(|kind| rows::kind_of(*kind)).collect();
    if request.kinds.is_empty() {
        checks.wrong("kinds", "it is missing, and nothing is taken for granted");
    }
    for (n, kind) in request.kinds.iter().enumerate() {
        checks.specified::<contract::Kind>(&format!("kinds[{n}]"), *kind);
    }
    checks.not_empty("id_pattern", &request.id_pattern);
    let uses = checks.required("uses", request.uses);
    if request.uses == Some(0) {
        checks.wrong("uses", "it is at least 1");
    }
    let lifetime_s = lifetime_s(&mut checks, request.lifetime.as_ref());
    checks.finish()?;
    let is_one = kinds.iter().all(|kind| Some(kind) == kinds.first());
    let kind = kinds.first().copied().filter(|_| is_one);
    Ok(TokenLimits { kind, pattern: request.id_pattern.clone(), city: request.city.clone(), uses, lifetime_s })
}

fn lifetime_s(checks: &mut FieldChecks, lifetime: Option<&Duration>) -> u32 {
    let asked = checks.required("lifetime", lifetime.copied());
    let seconds = u32::try_from(asked.seconds).unwrap_or_default();
    if lifetime.is_some() && (!(1..=MAX_LIFETIME_S).contains(&seconds) || asked.nanos != 0) {
        checks.wrong("lifetime", format!("it is from 1 to {MAX_LIFETIME_S} whole seconds"));
    }
    seconds
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
        let mut checks = FieldChecks::default();
        named(&mut checks, request.get_ref().kind, &request.get_ref().id);
        if request.get_ref().price_e4 == Some(0) {
            checks.wrong("price_e4", "it is at least 1; energy is made free of charge by SetPrice");
        }
        if !request.get_ref().token.is_empty() && !request.get_ref().old_credential.is_empty() {
            checks.wrong("old_credential", "show either a token or the old credential, not both");
        }
        checks.finish()?;
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
        let (mut wanted, mut checks) = (request.into_inner(), FieldChecks::default());
        let page = AskedPage::of(&mut wanted, &mut checks);
        checks.known::<contract::Kind>("kind", wanted.kind);
        checks.finish()?;
        let read = async |size, after: String| self.service.list(wanted.kind, size, &after).await.map_err(status);
        let (identities, next_page_token) = page.read(read).await?;
        Ok(Response::new(ListIdentitiesResponse { identities, next_page_token }))
    }

    type WatchStream = ReceiverStream<Result<IdentityEvent, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let actor = actor(&request)?;
        let stream = watch::watch(self.service.clone(), actor, request.into_inner(), self.stop.clone());
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
        Ok(Response::new(VerifyResponse { reason_code: reason.public_code(), identity }))
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
        let limits = limits(request.get_ref())?;
        answer(self.service.create_token(call, limits).await)
    }

    async fn list_tokens(&self, request: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        let mut checks = FieldChecks::default();
        let page = AskedPage::of(&mut request.into_inner(), &mut checks);
        checks.finish()?;
        let all = self.service.list_tokens().await.map_err(status)?.into_iter();
        let following = all.filter(|(place, _)| page.after().is_none_or(|after| place.as_str() > after));
        let (tokens, next_page_token) = page.cut(following);
        Ok(Response::new(ListTokensResponse { tokens, next_page_token }))
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
        let mut checks = FieldChecks::default();
        let role = checks.specified("role", request.get_ref().role);
        checks.finish()?;
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

    async fn list(&self, request: Request<ListOperatorsRequest>) -> Result<Response<ListOperatorsResponse>, Status> {
        let mut checks = FieldChecks::default();
        let page = AskedPage::of(&mut request.into_inner(), &mut checks);
        checks.finish()?;
        let all = self.service.list_operators().await.map_err(status)?.into_iter();
        let following = all.filter(|operator| page.after().is_none_or(|after| operator.name.as_str() > after));
        let (operators, next_page_token) = page.cut(following.map(|operator| (operator.name.clone(), operator)));
        Ok(Response::new(ListOperatorsResponse { operators, next_page_token }))
    }
}
