//! Tokens: made, listed, revoked. A token's text is shown once, with what Registry and Central can be trusted by.

use proto::{
    PeerId,
    enrolment::{EnrolmentToken, Kind},
    link::v1::Reason,
    registry::v1::{self as contract, TokenCreated},
};
use store::{Abort, Conn, registry::TokenRow};

use super::{Asked, Authority, Decided, answer::Answered, known, random};
use crate::{
    audit::{Action, Entry},
    credential::{token_hash, token_id},
    enrolment,
    refusal::{Refusal, refuse},
    rows,
    token::{Limits, Permits, Token},
};

const LISTED: i64 = 1_000;

impl Authority {
    pub(crate) async fn create_token(&self, asked: Asked, limits: Limits) -> Result<TokenCreated, Refusal> {
        let by = asked.actor.name.clone();
        let make = move |_: &mut Conn, id: String, now_ms| {
            let token = Token::for_anyone(id, limits.clone(), by.clone(), now_ms).map_err(Abort::Refused)?;
            Ok((token, Vec::new()))
        };
        self.new_token(asked, Action::TokenCreated, make).await
    }

    /// One use, for one identity as it stands now. What was made for it before is void: it may be in other hands.
    pub(crate) async fn reissue(&self, asked: Asked, peer: PeerId) -> Result<TokenCreated, Refusal> {
        let by = asked.actor.name.clone();
        let make = move |conn: &mut Conn, id: String, now_ms| {
            let known = known(conn, &peer)?;
            let known = known.as_ref().map(|(identity, _)| identity);
            let token = enrolment::reissue(known, &peer, id, by.clone(), now_ms).map_err(Abort::Refused)?;
            let former = TokenRow::revoke_bound(conn, rows::kind_no(Kind::of(&peer)), peer.as_str())?;
            Ok((token, former))
        };
        self.new_token(asked, Action::ReissueAllowed, make).await
    }

    async fn new_token<F>(&self, asked: Asked, action: Action, mut make: F) -> Result<TokenCreated, Refusal>
    where
        F: FnMut(&mut Conn, String, i64) -> Result<(Token, Vec<String>), Abort<Refusal>> + Send + 'static,
    {
        let (nonce, id, now_ms) = (random(), token_id(random()), self.now().wall_ms);
        let hash = hex::encode(token_hash(&self.mint().token_secret(&id, &nonce)));
        let actor = asked.actor.clone();
        let answered = self.order(asked, move |conn, _| {
            let (token, former) = make(conn, id.clone(), now_ms)?;
            rows::token_row(&token, now_ms, hash.clone()).save(conn)?;
            let entry = |action, id: &str| Entry::done(now_ms, &actor, action, format!("token/{id}"));
            let revoked =
                former.iter().map(|former| entry(Action::TokenRevoked, former).with("followed_by", id.clone()));
            let entries = revoked.chain([describe(entry(action, &id), &token)]).collect();
            let answer =
                TokenCreated { token_id: id.clone(), token: String::new(), expires_at_ms: token.expires_at_ms };
            Ok(Decided { answer, nonce: Some(nonce), entries })
        });
        self.token_text(answered.await?)
    }

    fn token_text(&self, answered: Answered<TokenCreated>) -> Result<TokenCreated, Refusal> {
        let Answered { mut answer, nonce, at_ms } = answered;
        let Some(nonce) = nonce else {
            let detail = format!(
                "this request made token {} before (at {at_ms}) and showed it then; revoke it and ask for another",
                answer.token_id
            );
            return Err(refuse(Reason::Invalid, detail));
        };
        let secret = self.mint().token_secret(&answer.token_id, &nonce);
        let token = EnrolmentToken { id: answer.token_id.clone(), secret, roots: self.roots(), pins: self.pins() };
        answer.token = token.to_text().to_string();
        Ok(answer)
    }

    /// The newest first.
    pub(crate) async fn list_tokens(&self) -> Result<contract::ListTokensResponse, Refusal> {
        let rows = self.read("tokens", |conn| Ok(TokenRow::list(conn, LISTED)?)).await?;
        let told = |row: TokenRow| contract::Token {
            token_id: row.id,
            kind: row.kind,
            id_pattern: row.id_pattern,
            city: row.city,
            uses_left: u32::try_from(row.uses_left).unwrap_or(0),
            expires_at_ms: row.expires_at_ms,
            created_by: row.created_by,
            revoked: row.revoked,
        };
        Ok(contract::ListTokensResponse { tokens: rows.into_iter().map(told).collect() })
    }

    pub(crate) async fn revoke_token(
        &self,
        asked: Asked,
        id: String,
    ) -> Result<contract::RevokeTokenResponse, Refusal> {
        let (now_ms, actor) = (self.now().wall_ms, asked.actor.clone());
        let answered = self.order(asked, move |conn, _| {
            let unknown = || Abort::Refused(refuse(Reason::NotFound, format!("there is no token {id:?}")));
            let row = TokenRow::find(conn, &id)?.ok_or_else(unknown)?;
            let changed = !row.revoked;
            let entry = changed.then(|| Entry::done(now_ms, &actor, Action::TokenRevoked, format!("token/{id}")));
            TokenRow { revoked: true, ..row }.save(conn)?;
            Ok(Decided::new(contract::RevokeTokenResponse { changed }, entry))
        });
        Ok(answered.await?.answer)
    }
}

fn describe(entry: Entry, token: &Token) -> Entry {
    let entry = match &token.permits {
        Permits::One { peer, .. } => entry.with("for", peer.to_string()),
        Permits::Anyone { kind, pattern, city } => entry
            .with("kind", kind.map_or("any", |kind| kind.collection()))
            .with("id_pattern", pattern.clone())
            .with("city", city.clone()),
    };
    entry.with("uses", token.uses_left.to_string()).with("expires_at_ms", token.expires_at_ms.to_string())
}
