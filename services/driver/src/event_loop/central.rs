//! What Registry and Central say to a driver, and what the person and the health of the process are told of it.

use mesh::{
    clock::Now,
    peer::{EnrolleeEvent, LinkNo, Membership, PeerEvent, RegistryError},
    process::Misuse,
};
use proto::link::v1::{AuthStatus, Opened, up};
use serde_json::json;

use super::{DriverLoop, waiting::AwaitedAnswer};
use crate::{format, notification::Notification, trip::TripInput};

impl DriverLoop {
    pub(super) async fn heed_enrollee(&mut self) -> anyhow::Result<()> {
        let now = self.clock.now();
        while let Some(event) = self.enrollee.next_event() {
            match event {
                EnrolleeEvent::Peer(event) => self.heed_peer(event, now).await,
                EnrolleeEvent::Enrolled => self.enrolled(now).await,
                EnrolleeEvent::EnrolmentRefused(error) => self.enrolment_refused(&error)?,
                EnrolleeEvent::KeyStored { .. } => self.enrollee.use_key(now),
                EnrolleeEvent::NotAuthenticated(status) => self.not_authenticated(&status, now).await,
                EnrolleeEvent::IdentityChanged | EnrolleeEvent::RemovalFailed(_) => {}
            }
        }
        self.report_troubles().await;
        Ok(())
    }

    async fn heed_peer(&mut self, event: PeerEvent, now: Now) {
        let input = match event {
            PeerEvent::Open { link, .. } => return self.greet(link),
            PeerEvent::Proven { key_no } => {
                let address = self.enrollee.peer.address().unwrap_or_default().to_owned();
                self.reporter.linked(address, key_no).await;
                TripInput::LinkOpen
            }
            PeerEvent::Lost(why) => {
                self.reporter.unreachable(why).await;
                TripInput::LinkLost
            }
            PeerEvent::Failed(why) => return self.reporter.unreachable(why).await,
            PeerEvent::Unintelligible => {
                let count = self.enrollee.peer.unintelligible();
                return self.reporter.notify(Notification::Unintelligible { count }).await;
            }
            PeerEvent::Message(body) => TripInput::Message(body),
            PeerEvent::Answered { body, reason, detail } => TripInput::Answered { body, reason, detail },
            PeerEvent::Deferred { reason, detail, .. } => TripInput::Deferred { reason, detail },
            PeerEvent::Reached | PeerEvent::UnknownKey { .. } | PeerEvent::Epoch(_) => return,
        };
        self.trips.handle(input, now);
    }

    fn greet(&mut self, link: LinkNo) {
        let opened = Opened {
            highest_epoch: 0,
            life_sign_ms: u32::try_from(self.settings.enrollee.life_sign.as_millis()).unwrap_or(u32::MAX),
            software: concat!("chargemesh-driver ", env!("CARGO_PKG_VERSION")).to_owned(),
            meter_wh: 0,
        };
        self.enrollee.peer.greet(link, up::Body::Opened(opened));
    }

    async fn enrolled(&mut self, now: Now) {
        self.trips.handle(TripInput::LinkLost, now);
        let driver = self.settings.enrollee.enrolment.id.clone();
        self.waiting.answer(AwaitedAnswer::Enrolment, &Ok(json!({ "enrolled": driver })));
        self.reporter.notify(Notification::Enrolled { driver }).await;
    }

    /// Whoever gave a token that is refused can mend that alone: with another one.
    fn enrolment_refused(&mut self, error: &RegistryError) -> anyhow::Result<()> {
        let driver = &self.settings.enrollee.enrolment.id;
        let why = match error {
            RegistryError::Refused { reason, message } => {
                format!("Registry refused to enrol {driver} ({}): {message}", reason.code())
            }
            RegistryError::Unreachable(_) => error.to_string(),
        };
        if self.waiting.wait_for(AwaitedAnswer::Enrolment) {
            self.waiting.answer(AwaitedAnswer::Enrolment, &Err(why));
            return Ok(());
        }
        Err(Misuse::new(why).into())
    }

    async fn not_authenticated(&mut self, status: &AuthStatus, now: Now) {
        let detail = format::reason(status.reason(), &status.detail);
        self.reporter.notify(Notification::AuthStatus { reason: status.reason().code(), detail }).await;
        self.trips.handle(TripInput::LinkLost, now);
    }

    /// Why Central cannot be asked for anything, in words.
    pub(super) fn trouble(&self) -> Option<String> {
        match self.enrollee.membership() {
            Membership::NotEnrolled(why) => return Some(format!("not enrolled: {why}")),
            Membership::Enrolling { trouble, .. } => {
                let why = trouble.as_deref().unwrap_or("waiting for Registry");
                return Some(format!("not enrolled yet: {why}"));
            }
            Membership::Enrolled => {}
        }
        if let Some(status) = self.enrollee.auth_status() {
            return Some(format::reason(status.reason(), &status.detail));
        }
        let unlinked = || self.enrollee.registry_trouble().or(self.enrollee.peer.trouble()).unwrap_or("connecting");
        (!self.is_reachable()).then(|| unlinked().to_owned())
    }

    /// What the driver cannot do now.
    async fn report_troubles(&mut self) {
        self.reporter.central(self.trouble());
        self.reporter.save(self.enrollee.save_trouble().map(str::to_owned)).await;
        self.reporter.clock(self.enrollee.peer.clock_trouble()).await;
    }
}
