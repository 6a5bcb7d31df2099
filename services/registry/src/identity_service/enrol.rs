//! Enrolment: from a request with a permission to a credential that is shown once.

use std::net::IpAddr;

use proto::{
    PeerId,
    enrolment::{Credential, EnrolmentToken},
    link::v1::Reason,
    registry::v1::{self as contract, EnrolRequest},
};
use store::{Abort, Conn, registry::TokenRow};
use zeroize::Zeroizing;

use super::{DecidedAnswer, IdempotentCall, IdentityService, known, once::StoredAnswer, random};
use crate::{
    audit::{Actor, RegistryAction, RegistryEntry},
    enrolment::{self, AllowedEnrolment, EnrolmentDetails, Permission, wrong_credential},
    error::{Error, refuse},
    rows,
};

/// Who asks for the enrolment.
#[derive(Clone, Debug)]
pub(crate) enum Enroller {
    /// An operator or Central, known by a certificate.
    Operator(Actor),
    /// A caller without a certificate who presents a token or a credential, with its address.
    Bearer(Option<IpAddr>),
}

/// The answer to an enrolment.
pub(crate) struct NewEnrolment {
    pub(crate) credential: Zeroizing<String>,
    pub(crate) identity: contract::Identity,
}

/// The secret that the caller presents.
enum PresentedSecret {
    Nothing,
    Token(EnrolmentToken),
    OldCredential(Credential),
}

/// The presented secret, after it was found right.
#[derive(Clone)]
enum EnrolmentProof {
    Operator,
    Token(String),
    /// The hash that the credential matched.
    OldCredential(String),
}

impl IdentityService {
    pub(crate) async fn enrol(&self, enroller: Enroller, request: EnrolRequest) -> Result<NewEnrolment, Error> {
        let kind = rows::kind_of(request.kind)
            .ok_or_else(|| refuse(Reason::Invalid, "say whether it is a charging point or a driver"))?;
        let peer = kind.peer(&request.id).map_err(|error| refuse(Reason::Invalid, error.to_string()))?;
        let presented = presented(&enroller, &request)?;
        let call = self.idempotent_call(
            actor(&enroller, &presented, &peer),
            "Enrol",
            peer.to_string(),
            &request.request_id,
            &request,
        )?;
        if let Some(first) = self.first_answer(&call).await? {
            return self.reveal(&peer, first);
        }
        let details = EnrolmentDetails {
            peer: peer.clone(),
            city: request.city.trim().to_owned(),
            place: request.place.trim().to_owned(),
            price_e4: request.price_e4.unwrap_or_default(),
        };
        let proof = match self.prove(&enroller, presented, &peer).await {
            Ok(proof) => proof,
            // The same request, sent before, may have been carried out meanwhile.
            Err(why) => return self.first_answer(&call).await?.ok_or(why).and_then(|first| self.reveal(&peer, first)),
        };
        if let Some(first) = self.check_in_advance(&enroller, &call, &details, &proof).await? {
            return self.reveal(&peer, first);
        }
        self.carry_out(call, details, proof).await.and_then(|answered| self.reveal(&peer, answered))
    }

    async fn prove(
        &self,
        enroller: &Enroller,
        presented: PresentedSecret,
        peer: &PeerId,
    ) -> Result<EnrolmentProof, Error> {
        let address = match enroller {
            // An operator's mistakes do not count as attempts of an unauthenticated caller.
            Enroller::Operator(_) => None,
            Enroller::Bearer(address) => *address,
        };
        match presented {
            PresentedSecret::Nothing => Ok(EnrolmentProof::Operator),
            PresentedSecret::Token(token) => {
                self.verify_token(&token, address).await.map(|()| EnrolmentProof::Token(token.id))
            }
            PresentedSecret::OldCredential(credential) => {
                let verified = self.verify_credential("ENROL", peer, &credential.to_text(), address).await?;
                Ok(EnrolmentProof::OldCredential(verified.hash))
            }
        }
    }

    /// Decides without writing, so that no hash is computed for a request that will be refused. Returns the first
    /// answer if the same request was carried out meanwhile.
    async fn check_in_advance(
        &self,
        enroller: &Enroller,
        call: &IdempotentCall,
        details: &EnrolmentDetails,
        proof: &EnrolmentProof,
    ) -> Result<Option<StoredAnswer<contract::Identity>>, Error> {
        let (details, proof, now_ms) = (details.clone(), proof.clone(), self.now().wall_ms);
        let checked = self.read("enrolment", move |conn| decide(conn, &details, &proof, now_ms).map(drop)).await;
        let Err(why) = checked else { return Ok(None) };
        if let Some(first) = self.first_answer(call).await? {
            return Ok(Some(first));
        }
        self.metrics().decided(call.method, Some(&why));
        match enroller {
            Enroller::Operator(_) => self.refused(call, &why).await,
            Enroller::Bearer(address) => drop(self.count_unauthenticated("ENROL", *address, why.clone())),
        }
        Err(why)
    }

    async fn carry_out(
        &self,
        call: IdempotentCall,
        details: EnrolmentDetails,
        proof: EnrolmentProof,
    ) -> Result<StoredAnswer<contract::Identity>, Error> {
        let nonce = random();
        let credential = self.secret_issuer().credential(&details.peer, &nonce);
        let hash = self.hashing().hash(credential.secret.clone()).await?;
        let (now_ms, actor) = (self.now().wall_ms, call.actor.clone());
        let enrolled = self.decide_once(call, move |conn, revision| {
            let AllowedEnrolment { identity, token } = decide(conn, &details, &proof, now_ms)?;
            rows::identity_row(&identity, revision, Some(hash.clone())).save(conn)?;
            if let Some(token) = &token {
                // Of an existing token only the uses left and the revocation are saved.
                rows::token_row(token, now_ms, String::new()).save(conn)?;
            }
            let entry = RegistryEntry::done(now_ms, &actor, RegistryAction::Enrolled, identity.peer.to_string())
                .with("incarnation", identity.incarnation.to_string())
                .with("city", identity.city.clone())
                .with("place", identity.place.clone())
                .with("price_e4", identity.price_e4.to_string())
                .with("token", token.map(|token| token.id).unwrap_or_default());
            Ok(DecidedAnswer { answer: rows::told(&identity), nonce: Some(nonce), entries: vec![entry] })
        });
        enrolled.await
    }

    fn reveal(&self, peer: &PeerId, answered: StoredAnswer<contract::Identity>) -> Result<NewEnrolment, Error> {
        match answered.nonce {
            Some(nonce) => Ok(NewEnrolment {
                credential: self.secret_issuer().credential(peer, &nonce).to_text(),
                identity: answered.answer,
            }),
            None => Err(refuse(
                Reason::AlreadyEnrolled,
                format!(
                    "this request enrolled {peer} before and showed its credential then; an operator can reissue it"
                ),
            )),
        }
    }
}

/// Parses the presented secret.
fn presented(enroller: &Enroller, request: &EnrolRequest) -> Result<PresentedSecret, Error> {
    if !request.old_credential.is_empty() && !request.token.is_empty() {
        return Err(refuse(Reason::Invalid, "present either a token or the old credential, not both"));
    }
    if !request.old_credential.is_empty() {
        let wrong = |_| wrong_credential(&request.id);
        return request.old_credential.parse().map(PresentedSecret::OldCredential).map_err(wrong);
    }
    if !request.token.is_empty() {
        let invalid = |error: proto::enrolment::TextError| refuse(Reason::TokenInvalid, error.to_string());
        return request.token.parse().map(PresentedSecret::Token).map_err(invalid);
    }
    match enroller {
        Enroller::Operator(_) => Ok(PresentedSecret::Nothing),
        Enroller::Bearer(_) => Err(refuse(Reason::TokenInvalid, "present an enrolment token or the old credential")),
    }
}

fn actor(enroller: &Enroller, presented: &PresentedSecret, peer: &PeerId) -> Actor {
    match (enroller, presented) {
        (Enroller::Operator(actor), _) => actor.clone(),
        (Enroller::Bearer(address), PresentedSecret::Token(token)) => {
            Actor { name: format!("token/{}", token.id), address: *address }
        }
        (Enroller::Bearer(address), PresentedSecret::OldCredential(_) | PresentedSecret::Nothing) => {
            Actor { name: peer.to_string(), address: *address }
        }
    }
}

fn decide(
    conn: &mut Conn,
    details: &EnrolmentDetails,
    proof: &EnrolmentProof,
    now_ms: i64,
) -> Result<AllowedEnrolment, Abort<Error>> {
    let known = known(conn, &details.peer)?;
    let token = match proof {
        EnrolmentProof::Token(id) => match TokenRow::find(conn, id)? {
            Some(row) => Some(rows::token(&row)?),
            None => {
                return Err(Abort::Refused(refuse(
                    Reason::TokenExpired,
                    "this token has expired and was deleted; ask for another",
                )));
            }
        },
        EnrolmentProof::Operator | EnrolmentProof::OldCredential(_) => None,
    };
    let permission = match (proof, &token) {
        (EnrolmentProof::Operator, _) => Permission::Operator,
        (_, Some(token)) => Permission::Token(token),
        (EnrolmentProof::OldCredential(hash) | EnrolmentProof::Token(hash), None) => {
            // The hash may have changed since the credential was compared with it.
            if known.as_ref().and_then(|(_, kept)| kept.as_ref()) != Some(hash) {
                return Err(Abort::Refused(wrong_credential(details.peer.as_str())));
            }
            Permission::OldCredential
        }
    };
    enrolment::enrol(known.as_ref().map(|(identity, _)| identity), details, permission, now_ms).map_err(Abort::Refused)
}
