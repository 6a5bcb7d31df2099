//! Sees to it that what was revoked here is void at Registry too (SPEC 4.7). Until it is, whoever has the credential can
//! enrol anew with it, so no enrolment ends the revocation; from then on one can only be what an operator allows.

use std::{collections::BTreeMap, time::Duration};

use mesh::{
    process::Context,
    status::{reason_of, retry_of},
};
use proto::{
    ChargingPointId, PeerId, Retry,
    link::v1::{KeyState, Reason},
    registry::v1::{IdentityState, Kind, ReissueRequest, TokenCreated, VoidRequest},
};
use store::central::{ChargingPointRow, MirroredIdentityRow};
use tonic::Status;

use super::{Verifier, kind};
use crate::event_loop::Message;

/// What was revoked here and could not be made void at Registry is tried again after this.
const VOID_EVERY: Duration = Duration::from_secs(2);

impl Verifier {
    /// A one-use token for a new enrolment of a revoked id. Its credential is void before: what is enrolled from then on
    /// is what the operator allows.
    ///
    /// # Errors
    /// What Registry says, or that it cannot be reached.
    pub(crate) async fn reissue(&self, request_id: String, peer: &PeerId) -> Result<TokenCreated, Status> {
        if let PeerId::ChargingPoint(id) = peer {
            // Also where it is void already: so Registry remembers that it was asked, and asked again after a crash it
            // makes nothing void.
            let wanted = id.to_string();
            let read = move |conn: &mut store::Conn| ChargingPointRow::find(conn, &wanted);
            let row = self.shared.store.read("restore", read).await.map_err(crate::grpc::unread)?;
            let revoked = row.filter(|row| row.key_state == i32::from(KeyState::Revoked));
            if let Some(row) = revoked {
                self.void(id, crate::rows::unsigned(row.incarnation)).await?;
            }
        }
        let request = ReissueRequest { request_id, kind: kind(peer).into(), id: peer.as_str().to_owned() };
        Ok(self.client.clone().reissue(request).await?.into_inner())
    }

    /// Makes the credential of a revoked charging point void at Registry. The request is named after the enrolment that
    /// was revoked: repeated after a restoration it does nothing.
    async fn void(&self, id: &ChargingPointId, incarnation: u64) -> Result<(), Status> {
        let kind = Kind::ChargingPoint.into();
        let request = VoidRequest { request_id: format!("void/{id}/{incarnation}"), kind, id: id.to_string() };
        let voided = |incarnation| MirroredIdentityRow {
            kind,
            id: id.to_string(),
            state: IdentityState::Void.into(),
            incarnation: crate::rows::signed(incarnation),
            ..MirroredIdentityRow::default()
        };
        let identity = match self.client.clone().void(request).await {
            Ok(answer) => answer.into_inner().identity,
            // Not enrolled: nothing there is worth anything.
            Err(status) if reason_of(&status) == Some(Reason::NotEnrolled) => None,
            Err(status) => return Err(status),
        };
        // An enrolment that stands now was allowed since: the credential cannot have been shown for it.
        let last = match &identity {
            Some(now) if now.state() == IdentityState::Enrolled => now.incarnation.saturating_sub(1),
            Some(now) => now.incarnation,
            None => incarnation,
        };
        self.event_loop.send(Message::Identities(vec![voided(last.max(incarnation))])).await;
        if let Some(identity) = identity
            && let Err(why) = self.mirror(identity).await
        {
            tracing::debug!(cp.id = %id, why, "the mirror does not say yet that its credential is void");
        }
        Ok(())
    }
}

/// What was revoked here becomes void at Registry at once, or however often it takes (SPEC 4.7).
pub(crate) async fn void(verifier: Verifier, ctx: Context) {
    let component = ctx.health.component("revocations at Registry");
    let mut unvoided = verifier.shared.directory.unvoided().follow();
    let keep = async {
        loop {
            let waiting = unvoided.borrow_and_update().clone();
            match void_all(&verifier, &waiting).await {
                Ok(()) => component.ready(),
                Err(why) => component.degraded(why),
            }
            let again = tokio::time::sleep(VOID_EVERY);
            tokio::select! {
                changed = unvoided.changed() => if changed.is_err() { return },
                () = again, if !waiting.is_empty() => {}
            }
        }
    };
    ctx.stop.run_until_cancelled(keep).await;
}

/// All that can be; else why not, in words for whoever has revoked them.
async fn void_all(verifier: &Verifier, waiting: &BTreeMap<ChargingPointId, u64>) -> Result<(), String> {
    let mut failed = None;
    for (id, incarnation) in waiting {
        let Err(status) = verifier.void(id, *incarnation).await else { continue };
        let is_away = retry_of(&status) == Retry::SameIdLater;
        failed.get_or_insert((id, status));
        if is_away {
            break;
        }
    }
    let Some((id, status)) = failed else { return Ok(()) };
    let why = status.message();
    Err(format!("{id} is revoked, but its credential is not void at Registry yet, and can be used there: {why}"))
}
