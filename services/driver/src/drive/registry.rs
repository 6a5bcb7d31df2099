//! What Registry is asked after the enrolment: whether this driver is still enrolled, and which static keys Central has
//! now. A driver who was away while they changed learns them here, with his credential (SPEC 4.4).

use mesh::clock::Now;
use proto::{
    enrolment::{CredentialState, EnrolmentStatus},
    link::v1::{AuthStatus, KeyState, Reason},
};
use tokio::task::JoinHandle;

use super::Drive;
use crate::enrolment::{EnrolError, ask};

/// A question that is on its way.
pub(super) type Asking = JoinHandle<Result<EnrolmentStatus, EnrolError>>;

impl Drive {
    /// Central knows him not even as a stranger: he was removed, or Central's key is another one. One question at a
    /// time, beside the loop.
    pub(super) fn ask_registry(&mut self) {
        if self.asking.is_none() {
            self.asking = Some(tokio::spawn(ask(self.enrolment.clone())));
        }
    }

    pub(super) async fn registry_said(
        &mut self,
        said: Result<EnrolmentStatus, EnrolError>,
        now: Now,
    ) -> anyhow::Result<()> {
        match said {
            Ok(status) if status.state == CredentialState::Removed => self.is_gone(now).await,
            Ok(status) => {
                let pins: Vec<String> = status.trust.pins.iter().map(|pin| hex::encode(&pin.0)).collect();
                if pins.is_empty() || pins == self.enrolment.pins {
                    return Ok(());
                }
                self.enrolment.pins = pins;
                if !status.trust.roots.is_empty() {
                    self.enrolment.roots = status.trust.roots;
                }
                let kept = self.data_dir.save_enrolment(&self.enrolment);
                self.say_unkept("what Central is known by", kept).await;
                self.dial_at = Some(now.mono);
                Ok(())
            }
            Err(EnrolError::Refused { reason, .. }) if reason.ends_an_enrolment() => self.is_gone(now).await,
            // Tried again at the next first contact.
            Err(error) => {
                self.cannot_reach(&format!("Central does not know this driver, and {error}")).await;
                Ok(())
            }
        }
    }

    async fn is_gone(&mut self, now: Now) -> anyhow::Result<()> {
        let auth_status = AuthStatus {
            key_state: KeyState::Revoked.into(),
            reason: Reason::Removed.into(),
            detail: "Registry does not know this driver any more; enrol with a token".to_owned(),
            retry_after_ms: 0,
        };
        for connection in [self.active.take(), self.next.take()].into_iter().flatten() {
            connection.close();
        }
        self.stands(0, &auth_status, now).await
    }
}

/// The answer, once there is one.
pub(super) async fn answered(asking: &mut Option<Asking>) -> Result<EnrolmentStatus, EnrolError> {
    match asking {
        Some(task) => task.await.unwrap_or(Err(EnrolError::Stopped)),
        None => std::future::pending().await,
    }
}
