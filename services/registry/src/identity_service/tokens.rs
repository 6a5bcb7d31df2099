//! Creates, lists and revokes tokens. The text of a token is shown once and contains the roots and pins by which
//! Registry and Central are recognised.

use proto::{
    PeerId,
    enrolment::{EnrolmentToken, PeerKind},
    link::v1::Reason,
    registry::v1::{self as contract, TokenCreated},
    timestamp,
};
use store::{Abort, Conn, registry::TokenRow};

use super::{DecidedAnswer, IdempotentCall, IdentityService, known, once::StoredAnswer, random};
use crate::{
    audit::{RegistryAction, RegistryEntry},
    credential::{token_hash, token_id},
    enrolment,
    error::{Error, refuse},
    rows,
    token::{Permits, TokenLimits, TokenRecord},
};

impl IdentityService {
    pub(crate) async fn create_token(&self, call: IdempotentCall, limits: TokenLimits) -> Result<TokenCreated, Error> {
        let by = call.actor.name.clone();
        let make = move |_: &mut Conn, id: String, now_ms| {
            let token = TokenRecord::for_anyone(id, limits.clone(), by.clone(), now_ms).map_err(Abort::Refused)?;
            Ok((token, Vec::new()))
        };
        self.new_token(call, RegistryAction::TokenCreated, make).await
    }

    /// Creates a token with one use, for one identity in its current state. Earlier tokens for this identity are
    /// revoked, because somebody else may hold them.
    pub(crate) async fn reissue(&self, call: IdempotentCall, peer: PeerId) -> Result<TokenCreated, Error> {
        let by = call.actor.name.clone();
        let make = move |conn: &mut Conn, id: String, now_ms| {
            let known = known(conn, &peer)?;
            let known = known.as_ref().map(|(identity, _)| identity);
            let token = enrolment::reissue(known, &peer, id, by.clone(), now_ms).map_err(Abort::Refused)?;
            let former = TokenRow::revoke_bound(conn, rows::kind_no(PeerKind::of(&peer)), peer.as_str())?;
            Ok((token, former))
        };
        self.new_token(call, RegistryAction::ReissueAllowed, make).await
    }

    async fn new_token<F>(
        &self,
        call: IdempotentCall,
        action: RegistryAction,
        mut make: F,
    ) -> Result<TokenCreated, Error>
    where
        F: FnMut(&mut Conn, String, i64) -> Result<(TokenRecord, Vec<String>), Abort<Error>> + Send + 'static,
    {
        let (nonce, id, now_ms) = (random(), token_id(random()), self.now().wall_ms);
        let hash = hex::encode(token_hash(&self.secret_issuer().token_secret(&id, &nonce)));
        let actor = call.actor.clone();
        let answered = self.decide_once(call, move |conn, _| {
            let (token, former) = make(conn, id.clone(), now_ms)?;
            rows::token_row(&token, now_ms, hash.clone()).save(conn)?;
            let entry = |action, id: &str| RegistryEntry::done(now_ms, &actor, action, format!("token/{id}"));
            let revoked =
                former.iter().map(|former| entry(RegistryAction::TokenRevoked, former).with("followed_by", id.clone()));
            let entries = revoked.chain([describe(entry(action, &id), &token)]).collect();
            let answer = TokenCreated {
                token_id: id.clone(),
                token: String::new(),
                expire_time: timestamp(token.expires_at_ms),
            };
            Ok(DecidedAnswer { answer, nonce: Some(nonce), entries })
        });
        self.token_text(answered.await?)
    }

    fn token_text(&self, answered: StoredAnswer<TokenCreated>) -> Result<TokenCreated, Error> {
        let StoredAnswer { mut answer, nonce, at_ms } = answered;
        let Some(nonce) = nonce else {
            let detail = format!(
                "this request created token {} before (at {at_ms}) and showed it then; revoke it and create another",
                answer.token_id
            );
            return Err(refuse(Reason::Invalid, detail));
        };
        let secret = self.secret_issuer().token_secret(&answer.token_id, &nonce);
        let token = EnrolmentToken { id: answer.token_id.clone(), secret, roots: self.roots(), pins: self.pins() };
        answer.token = token.to_text().to_string();
        Ok(answer)
    }

    /// All of them, the newest first, each with a text that says where it stands in this order.
    pub(crate) async fn list_tokens(&self) -> Result<Vec<(String, contract::Token)>, Error> {
        let rows = self.read("tokens", |conn| Ok(TokenRow::list(conn, i64::MAX)?)).await?;
        let place = |row: &TokenRow| format!("{:020}/{}", i64::MAX.saturating_sub(row.created_at_ms), row.id);
        Ok(rows.into_iter().map(|row| (place(&row), told(row))).collect())
    }

    pub(crate) async fn revoke_token(
        &self,
        call: IdempotentCall,
        id: String,
    ) -> Result<contract::RevokeTokenResponse, Error> {
        let (now_ms, actor) = (self.now().wall_ms, call.actor.clone());
        let answered = self.decide_once(call, move |conn, _| {
            let unknown = || Abort::Refused(refuse(Reason::NotFound, format!("there is no token {id:?}")));
            let row = TokenRow::find(conn, &id)?.ok_or_else(unknown)?;
            let changed = !row.revoked;
            let entry = changed
                .then(|| RegistryEntry::done(now_ms, &actor, RegistryAction::TokenRevoked, format!("token/{id}")));
            TokenRow { revoked: true, ..row }.save(conn)?;
            Ok(DecidedAnswer::new(contract::RevokeTokenResponse { changed }, entry))
        });
        Ok(answered.await?.answer)
    }
}

fn told(row: TokenRow) -> contract::Token {
    contract::Token {
        token_id: row.id,
        kinds: rows::kind_of(row.kind)
            .map_or(PeerKind::ALL.to_vec(), |kind| vec![kind])
            .into_iter()
            .map(rows::kind_no)
            .collect(),
        id_pattern: if row.id_pattern.is_empty() { "*".to_owned() } else { row.id_pattern },
        city: row.city,
        uses_left: u32::try_from(row.uses_left).unwrap_or(0),
        expire_time: timestamp(row.expires_at_ms),
        created_by: row.created_by,
        revoked: row.revoked,
    }
}

fn describe(entry: RegistryEntry, token: &TokenRecord) -> RegistryEntry {
    let entry = match &token.permits {
        Permits::One { peer, .. } => entry.with("for", peer.to_string()),
        Permits::Anyone { kind, pattern, city } => entry
            .with("kind", kind.map_or("any", |kind| kind.collection()))
            .with("id_pattern", pattern.clone())
            .with("city", city.clone()),
    };
    entry.with("uses", token.uses_left.to_string()).with("expires_at_ms", token.expires_at_ms.to_string())
}
