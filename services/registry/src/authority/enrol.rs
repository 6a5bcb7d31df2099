//! Enrolment, from a wish with a permission to a credential that is shown once.

use std::net::IpAddr;

use proto::{
    PeerId,
    enrolment::{Credential, EnrolmentToken},
    link::v1::Reason,
    registry::v1::{self as contract, EnrolRequest},
};
use store::{Abort, Conn, registry::TokenRow};
use zeroize::Zeroizing;

use super::{Asked, Authority, Decided, answer::Answered, known, random};
use crate::{
    audit::{Action, Actor, Entry},
    enrolment::{self, Enrolment, Permission, Wish, wrong_credential},
    refusal::{Refusal, refuse},
    rows,
};

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Asker {
    /// Somebody with a certificate.
    Operator(Actor),
    /// Whoever has a token or a credential.
    Bearer(Option<IpAddr>),
}

/// What is answered.
pub(crate) struct Enrolled {
    pub(crate) credential: Zeroizing<String>,
    pub(crate) identity: contract::Identity,
}

/// What he shows.
enum Shows {
    Nothing,
    Token(EnrolmentToken),
    OldCredential(Credential),
}

/// What of it was right.
#[derive(Clone)]
enum Proof {
    Operator,
    Token(String),
    /// Matched this hash.
    OldCredential(String),
}

impl Authority {
    pub(crate) async fn enrol(&self, asker: Asker, request: EnrolRequest) -> Result<Enrolled, Refusal> {
        let kind = rows::kind_of(request.kind)
            .ok_or_else(|| refuse(Reason::Invalid, "say whether it is a charging point or a driver"))?;
        let peer = kind.peer(&request.id).map_err(|error| refuse(Reason::Invalid, error.to_string()))?;
        let shows = shows(&asker, &request)?;
        let asked =
            self.asked(actor(&asker, &shows, &peer), "Enrol", peer.to_string(), &request.request_id, &request)?;
        if let Some(first) = self.answered(&asked).await? {
            return self.show(&peer, first);
        }
        let wish = Wish {
            peer: peer.clone(),
            city: request.city.trim().to_owned(),
            place: request.place.trim().to_owned(),
            price_e4: request.price_e4,
        };
        let proof = match self.prove(&asker, shows, &peer).await {
            Ok(proof) => proof,
            // By the same request, said before, that has come to its end meanwhile.
            Err(why) => return self.answered(&asked).await?.ok_or(why).and_then(|first| self.show(&peer, first)),
        };
        if let Some(first) = self.foresee(&asker, &asked, &wish, &proof).await? {
            return self.show(&peer, first);
        }
        self.carry_out(asked, wish, proof).await.and_then(|answered| self.show(&peer, answered))
    }

    async fn prove(&self, asker: &Asker, shows: Shows, peer: &PeerId) -> Result<Proof, Refusal> {
        let address = match asker {
            // An operator's own errors are not a stranger's.
            Asker::Operator(_) => None,
            Asker::Bearer(address) => *address,
        };
        match shows {
            Shows::Nothing => Ok(Proof::Operator),
            Shows::Token(token) => {
                self.token_shown(&token, peer.as_str(), address).await.map(|()| Proof::Token(token.id))
            }
            Shows::OldCredential(credential) => {
                let shown = self.shown("ENROL", peer, &credential.to_text(), address).await?;
                Ok(Proof::OldCredential(shown.hash))
            }
        }
    }

    /// Decides without effect, so that no hash is spent on what will be refused. The first answer, where what would be
    /// refused has come to its end meanwhile.
    async fn foresee(
        &self,
        asker: &Asker,
        asked: &Asked,
        wish: &Wish,
        proof: &Proof,
    ) -> Result<Option<Answered<contract::Identity>>, Refusal> {
        let (wish, proof, now_ms) = (wish.clone(), proof.clone(), self.now().wall_ms);
        let foreseen = self.read("enrolment", move |conn| decide(conn, &wish, &proof, now_ms).map(drop)).await;
        let Err(why) = foreseen else { return Ok(None) };
        if let Some(first) = self.answered(asked).await? {
            return Ok(Some(first));
        }
        self.metrics().decided(asked.order, Some(&why));
        match asker {
            Asker::Operator(_) => self.refused(asked, &why).await,
            Asker::Bearer(address) => drop(self.stranger("ENROL", *address, why.clone())),
        }
        Err(why)
    }

    async fn carry_out(&self, asked: Asked, wish: Wish, proof: Proof) -> Result<Answered<contract::Identity>, Refusal> {
        let nonce = random();
        let credential = self.mint().credential(&wish.peer, &nonce);
        let hash = self.hashing().hash(credential.secret.clone()).await?;
        let (now_ms, actor) = (self.now().wall_ms, asked.actor.clone());
        let enrolled = self.order(asked, move |conn, revision| {
            let Enrolment { identity, token } = decide(conn, &wish, &proof, now_ms)?;
            rows::identity_row(&identity, revision, Some(hash.clone())).save(conn)?;
            if let Some(token) = &token {
                // Of a token that is there, only its uses and whether it is revoked are saved.
                rows::token_row(token, now_ms, String::new()).save(conn)?;
            }
            let entry = Entry::done(now_ms, &actor, Action::Enrolled, identity.peer.to_string())
                .with("incarnation", identity.incarnation.to_string())
                .with("city", identity.city.clone())
                .with("place", identity.place.clone())
                .with("price_e4", identity.price_e4.to_string())
                .with("token", token.map(|token| token.id).unwrap_or_default());
            Ok(Decided { answer: rows::told(&identity), nonce: Some(nonce), entries: vec![entry] })
        });
        enrolled.await
    }

    fn show(&self, peer: &PeerId, answered: Answered<contract::Identity>) -> Result<Enrolled, Refusal> {
        match answered.nonce {
            Some(nonce) => {
                Ok(Enrolled { credential: self.mint().credential(peer, &nonce).to_text(), identity: answered.answer })
            }
            None => Err(refuse(
                Reason::AlreadyEnrolled,
                format!(
                    "this request enrolled {peer} before and showed its credential then; an operator can reissue it"
                ),
            )),
        }
    }
}

/// What he shows, or why it cannot be that.
fn shows(asker: &Asker, request: &EnrolRequest) -> Result<Shows, Refusal> {
    if !request.old_credential.is_empty() && !request.token.is_empty() {
        return Err(refuse(Reason::Invalid, "show either a token or the old credential, not both"));
    }
    if !request.old_credential.is_empty() {
        let wrong = |_| wrong_credential(&request.id);
        return request.old_credential.parse().map(Shows::OldCredential).map_err(wrong);
    }
    if !request.token.is_empty() {
        let invalid = |error: proto::enrolment::TextError| refuse(Reason::TokenInvalid, error.to_string());
        return request.token.parse().map(Shows::Token).map_err(invalid);
    }
    match asker {
        Asker::Operator(_) => Ok(Shows::Nothing),
        Asker::Bearer(_) => Err(refuse(Reason::TokenInvalid, "show an enrolment token, or the old credential")),
    }
}

fn actor(asker: &Asker, shows: &Shows, peer: &PeerId) -> Actor {
    match (asker, shows) {
        (Asker::Operator(actor), _) => actor.clone(),
        (Asker::Bearer(address), Shows::Token(token)) => {
            Actor { name: format!("token/{}", token.id), address: *address }
        }
        (Asker::Bearer(address), Shows::OldCredential(_) | Shows::Nothing) => {
            Actor { name: peer.to_string(), address: *address }
        }
    }
}

fn decide(conn: &mut Conn, wish: &Wish, proof: &Proof, now_ms: i64) -> Result<Enrolment, Abort<Refusal>> {
    let known = known(conn, &wish.peer)?;
    let token = match proof {
        Proof::Token(id) => match TokenRow::find(conn, id)? {
            Some(row) => Some(rows::token(&row)?),
            None => {
                return Err(Abort::Refused(refuse(Reason::TokenExpired, "this token is forgotten; ask for another")));
            }
        },
        Proof::Operator | Proof::OldCredential(_) => None,
    };
    let permission = match (proof, &token) {
        (Proof::Operator, _) => Permission::Operator,
        (_, Some(token)) => Permission::Token(token),
        (Proof::OldCredential(hash) | Proof::Token(hash), None) => {
            // Somebody else may have changed it since it was compared.
            if known.as_ref().and_then(|(_, kept)| kept.as_ref()) != Some(hash) {
                return Err(Abort::Refused(wrong_credential(wish.peer.as_str())));
            }
            Permission::OldCredential
        }
    };
    enrolment::enrol(known.as_ref().map(|(identity, _)| identity), wish, permission, now_ms).map_err(Abort::Refused)
}
