//! The driver's links: dialled, proven, replaced make-before-break, given up.

use std::time::Duration;

use mesh::{clock::Now, skew};
use prost::Message as _;
use proto::link::v1::{AuthStatus, Authenticate, Down, KeyGrant, Opened, ReadClock, Reason, Unsupported, Up, down, up};
use tokio::sync::mpsc;
use wire::{LinkKey, Proof, PublicKey};

use super::Drive;
use crate::{
    contact::{Again, How},
    data_dir::DriverKey,
    link::{Connection, Dial, LinkEvent, LinkNo},
    notification::Notification,
    trip::TripInput,
};

/// Of the one message that opens a link; ids of other messages are far above.
const GREETING: u64 = 1;
/// Of a question for Central's time, one at a time.
const READING: u64 = 2;

impl Drive {
    pub(super) fn dial(&mut self) {
        let how = self.contact.how();
        let pins = &self.enrolment.pins;
        let turn = self.contact.turn();
        let address = self.settings.central.get(turn.checked_rem(self.settings.central.len()).unwrap_or(0)).cloned();
        let pin = pins.get((turn / self.settings.central.len().max(1)).checked_rem(pins.len()).unwrap_or(0));
        let responder = pin.and_then(|pin| public_key(pin));
        let (Some(address), Some(responder)) = (address, responder) else { return };
        let key = self.key.as_ref().filter(|_| how == How::Key);
        let (key_no, proof) = match key.and_then(|k| k.bytes().map(|bytes| (k.key_no, LinkKey::from_bytes(bytes)))) {
            Some((key_no, key)) => (key_no, Proof::Key { responder, key_no, key }),
            None => (0, Proof::FirstContact { responder }),
        };
        self.last_no += 1;
        let dial = Dial {
            no: self.last_no,
            address,
            driver: self.settings.driver.clone(),
            how: if key_no == 0 { How::FirstContact } else { How::Key },
            key_no,
            proof,
            settings: self.settings.wire,
        };
        let connection = Connection::dial(dial, self.clock, self.events.clone());
        let place = if self.active.is_some() { &mut self.next } else { &mut self.active };
        if let Some(before) = place.replace(connection) {
            before.close();
        }
    }

    pub(super) async fn link_event(&mut self, no: LinkNo, event: LinkEvent) -> anyhow::Result<()> {
        let now = self.clock.now();
        let Some(connection) = [&mut self.active, &mut self.next].into_iter().flatten().find(|c| c.no == no) else {
            return Ok(()); // a link that was given up: its last words are Central's to repeat
        };
        match event {
            LinkEvent::Open => {
                connection.open = true;
                let greeting = match connection.how {
                    How::FirstContact => up::Body::Authenticate(Authenticate {
                        credential: self.enrolment.credential.expose().as_bytes().to_vec(),
                    }),
                    How::Key => up::Body::Opened(Opened {
                        highest_epoch: 0,
                        life_sign_ms: u32::try_from(self.settings.wire.life_sign.as_millis()).unwrap_or(u32::MAX),
                        software: concat!("chargemesh-driver ", env!("CARGO_PKG_VERSION")).to_owned(),
                        meter_wh: 0,
                    }),
                };
                connection.send(&Up { id: GREETING, body: Some(greeting) });
            }
            LinkEvent::Message(bytes) => match Down::decode(bytes) {
                Ok(down) => self.message(no, down, now).await?,
                Err(error) => tracing::warn!(%error, "Central sent what is no message"),
            },
            LinkEvent::Busy(retry_after) => {
                let again = self.contact.busy(retry_after, rand::random());
                self.again(again, now);
                self.cannot_reach("Central is overloaded").await;
            }
            LinkEvent::UnknownKey => {
                let not_even_as_a_first_contact = connection.how == How::FirstContact;
                let again = self.contact.unknown_key(rand::random());
                self.again(again, now);
                if not_even_as_a_first_contact {
                    self.ask_registry();
                }
            }
            LinkEvent::Unintelligible => {
                self.unintelligible += 1;
                self.tell(Notification::Unintelligible { count: self.unintelligible }).await;
            }
            LinkEvent::Closed(why) => self.closed(no, &why, now).await,
        }
        Ok(())
    }

    pub(super) async fn closed(&mut self, no: LinkNo, why: &str, now: Now) {
        if self.active.as_ref().is_some_and(|c| c.no == no) {
            self.active = self.next.take();
            self.reading.pause();
            self.trips.handle(TripInput::LinkLost, now);
            if self.active.as_ref().is_some_and(|c| c.proven) {
                self.reading.begin(now.mono);
                self.trips.handle(TripInput::LinkOpen, now);
            }
            self.cannot_reach(why).await;
        } else {
            self.next = None;
        }
        if self.dial_at.is_none() {
            let again = self.contact.lost(rand::random());
            self.again(again, now);
        }
    }

    pub(super) fn again(&mut self, again: Again, now: Now) {
        self.dial_at = match again {
            Again::After(wait) => Some(now.mono + wait),
            Again::WhenTold => None,
        };
    }

    pub(super) async fn cannot_reach(&mut self, why: &str) {
        if self.unreachable.as_deref() != Some(why) {
            self.unreachable = Some(why.to_owned());
            self.stand(why);
            self.tell(Notification::CannotReachCentral { detail: why.to_owned() }).await;
        }
    }

    pub(super) async fn message(&mut self, no: LinkNo, down: Down, now: Now) -> anyhow::Result<()> {
        match &down.body {
            Some(down::Body::KeyGrant(grant)) => {
                self.prove(no, now).await;
                self.granted(no, grant, now).await;
                return Ok(());
            }
            Some(down::Body::AuthStatus(auth_status)) => return self.stands(no, auth_status, now).await,
            Some(down::Body::Answer(answer)) if answer.to == GREETING => {
                let by_key = self.active.iter().chain(&self.next).any(|c| c.no == no && c.how == How::Key);
                if answer.reason() != Reason::Unspecified && by_key {
                    let (reason, detail) = (answer.reason, answer.detail.clone());
                    let auth_status = AuthStatus { reason, detail, ..AuthStatus::default() };
                    return self.stands(no, &auth_status, now).await;
                }
                if answer.reason() != Reason::Unspecified {
                    // The auth status that follows says the same, and when to try again.
                    return Ok(());
                }
            }
            Some(down::Body::Clock(clock)) => {
                self.reading.told(clock.to, clock.at_ms, now);
                self.look_at_clock().await;
                return Ok(());
            }
            Some(_) => {}
            // A newer Central's: it is told (SPEC 4.3).
            None => self.say_on(no, up::Body::Unsupported(Unsupported::default())),
        }
        self.prove(no, now).await;
        self.trips.handle(TripInput::Down(Box::new(down)), now);
        Ok(())
    }

    fn say_on(&self, no: LinkNo, body: up::Body) {
        if let Some(connection) = self.active.iter().chain(&self.next).find(|c| c.no == no && c.how == How::Key) {
            connection.send(&Up { id: READING, body: Some(body) });
        }
    }

    pub(super) fn read_clock(&mut self, now: Now) {
        if let Some(no) = self.active.as_ref().map(|c| c.no) {
            self.say_on(no, up::Body::ReadClock(ReadClock {}));
        }
        self.reading.asked(READING, now);
    }

    /// A wrong clock is said once, and that it is right again (SPEC 10.8).
    async fn look_at_clock(&mut self) {
        let trouble = self.reading.trouble();
        if trouble.is_some() != self.clock_trouble.is_some() {
            let text = trouble.clone().unwrap_or_else(|| "this host's clock agrees with Central's again".to_owned());
            self.tell(Notification::Hint { text }).await;
        }
        if let Some(health) = &self.health {
            skew::report(health, "clock against central", trouble.clone());
        }
        self.clock_trouble = trouble;
    }

    /// Central has spoken under the key: only now the link is the driver's, and the one before it is closed (SPEC 4.6).
    pub(super) async fn prove(&mut self, no: LinkNo, now: Now) {
        if self.next.as_ref().is_some_and(|c| c.no == no)
            && let Some(before) = std::mem::replace(&mut self.active, self.next.take())
        {
            before.close();
            self.trips.handle(TripInput::LinkLost, now);
        }
        let Some(active) = self.active.as_mut().filter(|c| c.no == no && c.how == How::Key && !c.proven) else {
            return;
        };
        active.proven = true;
        let told = Notification::LinkUp { address: active.address.clone(), key_no: active.key_no };
        self.contact.proven();
        self.unreachable = None;
        self.stand("");
        self.reading.begin(now.mono);
        self.trips.handle(TripInput::LinkOpen, now);
        self.tell(told).await;
    }

    pub(super) async fn granted(&mut self, no: LinkNo, grant: &KeyGrant, now: Now) {
        if self.key.as_ref().is_some_and(|key| key.key_no == grant.key_no) {
            return;
        }
        let key = DriverKey::new(grant);
        if key.bytes().is_none() {
            tracing::warn!("Central granted a key that is none");
            return;
        }
        let kept = self.data_dir.save_key(&key);
        self.say_unkept("the new key", kept).await;
        self.key = Some(key);
        let pins: Vec<String> = grant.pins.iter().filter(|pin| pin.len() == 32).map(hex::encode).collect();
        if !pins.is_empty() && pins != self.enrolment.pins {
            self.enrolment.pins = pins;
            let kept = self.data_dir.save_enrolment(&self.enrolment);
            self.say_unkept("what Central is known by", kept).await;
        }
        let again = self.contact.granted();
        self.again(again, now);
        // A first contact has done its work; a rotation keeps its link until the new one is proven.
        for place in [&mut self.active, &mut self.next] {
            if let Some(first) = place.take_if(|c| c.no == no && c.how == How::FirstContact) {
                first.close();
            }
        }
    }

    pub(super) async fn stands(&mut self, no: LinkNo, auth_status: &AuthStatus, now: Now) -> anyhow::Result<()> {
        let words = auth_status.reason().in_words();
        let detail =
            if auth_status.detail.is_empty() { words.to_owned() } else { format!("{words} ({})", auth_status.detail) };
        self.unreachable = Some(detail.clone());
        self.stand(&detail);
        self.reading.pause();
        self.tell(Notification::AuthStatus { reason: auth_status.reason().code(), detail }).await;
        let stands = self.contact.auth_status(auth_status, rand::random());
        if stands.key_is_void && self.key.take().is_some() {
            self.data_dir.remove_key()?;
        }
        self.again(stands.again, now);
        for place in [&mut self.active, &mut self.next] {
            if let Some(connection) = place.take_if(|c| c.no == no) {
                connection.close();
            }
        }
        self.trips.handle(TripInput::LinkLost, now);
        Ok(())
    }

    /// Links are closed in order, with what was last said, but not for ever.
    pub(super) async fn farewell(&mut self, events: &mut mpsc::Receiver<(LinkNo, LinkEvent)>) {
        let mut left = 0;
        for connection in [self.active.take(), self.next.take()].into_iter().flatten() {
            connection.close();
            left += usize::from(connection.open);
        }
        let closed = async {
            while left > 0 {
                match events.recv().await {
                    Some((_, LinkEvent::Closed(_))) => left -= 1,
                    Some(_) => {}
                    None => break,
                }
            }
        };
        drop(tokio::time::timeout(Duration::from_secs(2), closed).await);
    }
}

fn public_key(pin: &str) -> Option<PublicKey> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(pin, &mut bytes).ok().map(|()| PublicKey::from_bytes(bytes))
}
