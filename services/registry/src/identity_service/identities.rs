//! Changes and lists existing identities.

use proto::{PeerId, registry::v1 as contract};
use store::{Abort, Conn, registry::IdentityRow};

use super::{
    DecidedAnswer, IdempotentCall, IdentityService, known, to_the_end, unavailable, verify::VerifiedCredential,
};
use crate::{
    audit::{Actor, RegistryAction, RegistryEntry},
    enrolment::{self, EnrolmentState, IdentityChange, IdentityRecord, wrong_credential},
    error::Error,
    rows,
};

impl IdentityService {
    pub(crate) async fn remove(&self, call: IdempotentCall, peer: PeerId) -> Result<contract::RemoveResponse, Error> {
        let changed = self.change(call, peer, RegistryAction::Removed, enrolment::remove).await?;
        Ok(contract::RemoveResponse { changed })
    }

    pub(crate) async fn readmit(&self, call: IdempotentCall, peer: PeerId) -> Result<contract::ReadmitResponse, Error> {
        let changed = self.change(call, peer, RegistryAction::Readmitted, enrolment::readmit).await?;
        Ok(contract::ReadmitResponse { changed })
    }

    pub(crate) async fn make_void(&self, call: IdempotentCall, peer: PeerId) -> Result<contract::VoidResponse, Error> {
        let changed = self.change(call, peer.clone(), RegistryAction::CredentialVoid, enrolment::make_void).await?;
        // Read afterwards, because the answer may be that of an earlier request.
        let identity = self.known(&peer).await?.map(|(identity, _)| rows::told(&identity));
        Ok(contract::VoidResponse { changed, identity })
    }

    async fn change(
        &self,
        call: IdempotentCall,
        peer: PeerId,
        action: RegistryAction,
        rule: fn(Option<&IdentityRecord>, &str) -> IdentityChange,
    ) -> Result<bool, Error> {
        let (now_ms, actor) = (self.now().wall_ms, call.actor.clone());
        // The three answers have the same single field, so one message type is stored for all of them.
        let answered = self.decide_once(call, move |conn, revision| {
            let known = known(conn, &peer)?;
            let changed = rule(known.as_ref().map(|(identity, _)| identity), peer.as_str()).map_err(Abort::Refused)?;
            let done = changed.is_some();
            save(conn, changed, known.and_then(|(_, hash)| hash), revision)?;
            let entry = done.then(|| RegistryEntry::done(now_ms, &actor, action, peer.to_string()));
            Ok(DecidedAnswer::new(contract::RemoveResponse { changed: done }, entry))
        });
        answered.await.map(|answered| answered.answer.changed)
    }

    /// Removes an identity at its own request, after its credential was verified.
    pub(crate) async fn leave(&self, verified: VerifiedCredential, actor: Actor) -> Result<IdentityRecord, Error> {
        verified.worth?;
        let now_ms = self.now().wall_ms;
        let work = move |conn: &mut Conn| {
            let store::registry::Revision(revision) = store::registry::Revision::take(conn)?;
            let peer = &verified.identity.peer;
            let known = known(conn, peer)?;
            if known.as_ref().and_then(|(_, hash)| hash.as_ref()) != Some(&verified.hash) {
                return Err(Abort::Refused(wrong_credential(peer.as_str())));
            }
            let identity = known.as_ref().map(|(identity, _)| identity);
            let left = enrolment::leave(identity, peer.as_str()).map_err(Abort::Refused)?;
            save(conn, left, None, revision)?;
            crate::chain::append(conn, &[RegistryEntry::done(now_ms, &actor, RegistryAction::Left, peer.to_string())])?;
            Ok((IdentityRecord { state: EnrolmentState::Removed, ..verified.identity.clone() }, revision))
        };
        let service = self.clone();
        let leaving = async move {
            let result = service.database().transaction("leave", work).await.map_err(unavailable)?;
            service.metrics().decided("Leave", result.as_ref().err());
            let (identity, revision) = result?;
            service.changed(revision);
            Ok(identity)
        };
        to_the_end(leaving).await
    }

    /// At most `size` identities of a kind, or of both for 0, in order of kind and id, from the one after `after` on; and
    /// the last of them where more may follow, named as `after` names it.
    pub(crate) async fn list(
        &self,
        kind: i32,
        size: u32,
        after: &str,
    ) -> Result<(Vec<contract::Identity>, String), Error> {
        let after = after.split_once('/').and_then(|(kind, id)| Some((kind.parse().ok()?, id.to_owned())));
        let (after_kind, after_id) = after.unwrap_or_default();
        let page = self.read("identities", move |conn| {
            let rows = IdentityRow::page(conn, kind, (after_kind, &after_id), i64::from(size))?;
            let next = rows.last().map(|row| format!("{}/{}", row.kind, row.id)).unwrap_or_default();
            let full = rows.len() == usize::try_from(size).unwrap_or(usize::MAX);
            let identities = rows.iter().map(|row| Ok(rows::told(&rows::identity(row)?))).collect::<Result<_, _>>();
            Ok((identities.map_err(Abort::Store)?, if full { next } else { String::new() }))
        });
        page.await
    }
}

fn save(
    conn: &mut Conn,
    changed: Option<IdentityRecord>,
    hash: Option<String>,
    revision: i64,
) -> Result<(), Abort<Error>> {
    if let Some(identity) = changed {
        rows::identity_row(&identity, revision, hash).save(conn)?;
    }
    Ok(())
}
