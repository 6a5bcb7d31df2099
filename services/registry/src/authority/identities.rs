//! What is done with an identity that is there.

use proto::{PeerId, registry::v1 as contract};
use store::{Abort, Conn, registry::IdentityRow};

use super::{Asked, Authority, Decided, known, prove::Shown, to_the_end, unavailable};
use crate::{
    audit::{Action, Actor, Entry},
    enrolment::{self, Change, Identity, State, wrong_credential},
    refusal::Refusal,
    rows,
};

const MAX_PAGE: u32 = 10_000;
const PAGE: u32 = 1_000;

impl Authority {
    pub(crate) async fn remove(&self, asked: Asked, peer: PeerId) -> Result<contract::RemoveResponse, Refusal> {
        let changed = self.change(asked, peer, Action::Removed, enrolment::remove).await?;
        Ok(contract::RemoveResponse { changed })
    }

    pub(crate) async fn readmit(&self, asked: Asked, peer: PeerId) -> Result<contract::ReadmitResponse, Refusal> {
        let changed = self.change(asked, peer, Action::Readmitted, enrolment::readmit).await?;
        Ok(contract::ReadmitResponse { changed })
    }

    pub(crate) async fn make_void(&self, asked: Asked, peer: PeerId) -> Result<contract::VoidResponse, Refusal> {
        let changed = self.change(asked, peer.clone(), Action::CredentialVoid, enrolment::make_void).await?;
        // Read after it, since a repeated answer may be old.
        let identity = self.known(&peer).await?.map(|(identity, _)| rows::told(&identity));
        Ok(contract::VoidResponse { changed, identity })
    }

    async fn change(
        &self,
        asked: Asked,
        peer: PeerId,
        action: Action,
        rule: fn(Option<&Identity>, &str) -> Change,
    ) -> Result<bool, Refusal> {
        let (now_ms, actor) = (self.now().wall_ms, asked.actor.clone());
        // All three answers are one flag in the same field, so one message stands for them where they are kept.
        let answered = self.order(asked, move |conn, revision| {
            let known = known(conn, &peer)?;
            let changed = rule(known.as_ref().map(|(identity, _)| identity), peer.as_str()).map_err(Abort::Refused)?;
            let done = changed.is_some();
            save(conn, changed, known.and_then(|(_, hash)| hash), revision)?;
            let entry = done.then(|| Entry::done(now_ms, &actor, action, peer.to_string()));
            Ok(Decided::new(contract::RemoveResponse { changed: done }, entry))
        });
        answered.await.map(|answered| answered.answer.changed)
    }

    /// A peer removes itself, with its right credential.
    pub(crate) async fn leave(&self, shown: Shown, actor: Actor) -> Result<Identity, Refusal> {
        shown.worth?;
        let now_ms = self.now().wall_ms;
        let work = move |conn: &mut Conn| {
            let store::registry::Revision(revision) = store::registry::Revision::take(conn)?;
            let peer = &shown.identity.peer;
            let known = known(conn, peer)?;
            if known.as_ref().and_then(|(_, hash)| hash.as_ref()) != Some(&shown.hash) {
                return Err(Abort::Refused(wrong_credential(peer.as_str())));
            }
            let identity = known.as_ref().map(|(identity, _)| identity);
            let left = enrolment::leave(identity, peer.as_str()).map_err(Abort::Refused)?;
            save(conn, left, None, revision)?;
            crate::chain::append(conn, &[Entry::done(now_ms, &actor, Action::Left, peer.to_string())])?;
            Ok((Identity { state: State::Removed, ..shown.identity.clone() }, revision))
        };
        let authority = self.clone();
        let leaving = async move {
            let result = authority.database().transaction("leave", work).await.map_err(unavailable)?;
            authority.metrics().decided("Leave", result.as_ref().err());
            let (identity, revision) = result?;
            authority.changed(revision);
            Ok(identity)
        };
        to_the_end(leaving).await
    }

    /// In order of kind and id; `page_token` is where the page before ended.
    pub(crate) async fn list(
        &self,
        request: contract::ListIdentitiesRequest,
    ) -> Result<contract::ListIdentitiesResponse, Refusal> {
        let size = if request.page_size == 0 { PAGE } else { request.page_size.min(MAX_PAGE) };
        let after = request.page_token.split_once('/').and_then(|(kind, id)| Some((kind.parse().ok()?, id.to_owned())));
        let (after_kind, after_id) = after.unwrap_or_default();
        let page = self.read("identities", move |conn| {
            let rows = IdentityRow::page(conn, request.kind, (after_kind, &after_id), i64::from(size))?;
            let next = rows.last().map(|row| format!("{}/{}", row.kind, row.id)).unwrap_or_default();
            let full = rows.len() == usize::try_from(size).unwrap_or(usize::MAX);
            let identities = rows.iter().map(|row| Ok(rows::told(&rows::identity(row)?))).collect::<Result<_, _>>();
            let identities = identities.map_err(Abort::Store)?;
            Ok(contract::ListIdentitiesResponse {
                identities,
                next_page_token: if full { next } else { String::new() },
            })
        });
        page.await
    }
}

fn save(conn: &mut Conn, changed: Option<Identity>, hash: Option<String>, revision: i64) -> Result<(), Abort<Refusal>> {
    if let Some(identity) = changed {
        rows::identity_row(&identity, revision, hash).save(conn)?;
    }
    Ok(())
}
