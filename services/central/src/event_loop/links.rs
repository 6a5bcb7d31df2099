//! Links in the loop: who came, who left, who gets a key.

use std::sync::Arc;

use mesh::link::SendQueue;
use proto::{
    PeerId, Price,
    link::v1::{self as link, KeyState, Reason, down},
    registry::v1::{IdentityState, Kind},
};
use store::central::MirroredIdentityRow;

use super::{Arrival, EventLoop, OpenLink};
use crate::{
    audit::{AuditAction, AuditRecord},
    charge_point::{self, EnrolmentChange, Observation, OrderOutcome, PointInput, PointOrder, Reply},
    driver::DriverInput,
    key::Keyring,
    origin::{LinkNo, Origin},
    rows, secrets,
};

impl EventLoop {
    pub(super) fn arrived(&mut self, arrival: Arrival) {
        let Arrival { link, peer, part, key_no, from, highest_epoch, send_queue } = arrival;
        // The key may have ended between the handshake and the first message.
        if send_queue.is_closed() || self.shared.directory.usable(&peer, key_no).is_none() {
            return send_queue.close();
        }
        self.links.insert(link, OpenLink { send_queue, peer: peer.clone(), view: None });
        match peer {
            PeerId::ChargingPoint(id) => {
                let Some(number) = self.index.get(&id).copied() else { return self.close(link) };
                self.observe(number, Observation::LinkUp { link, part, key_no, from, highest_epoch });
            }
            PeerId::Driver(id) => {
                self.audit_link(AuditAction::LinkUp, &PeerId::Driver(id.clone()), &from, "");
                self.driver_arrived(&id, link, key_no, from);
                self.ask_for_tickets(link);
                self.read_due_tickets(&id);
            }
        }
    }

    pub(super) fn verified(
        &mut self,
        peer: PeerId,
        link: LinkNo,
        send_queue: SendQueue,
        from: Arc<str>,
        to: u64,
        void: bool,
    ) {
        if send_queue.is_closed() {
            return;
        }
        self.links.insert(link, OpenLink { send_queue, peer: peer.clone(), view: None });
        // One link of each peer, so that repeated first contacts take up no more of Central's connections.
        if let Some(older) = self.contacts.insert(peer.clone(), link) {
            self.close(older);
        }
        self.audit_login(&peer, &from, void);
        let origin = Origin::new(peer.to_string(), from.clone());
        self.answer(Reply::Link { link, to }, &OrderOutcome::Done);
        match peer {
            PeerId::ChargingPoint(id) => {
                let Some(number) = self.index.get(&id).copied() else {
                    return self.refuse_contact(link, Reason::NotEnrolled);
                };
                self.observe(number, Observation::StatusLinkUp { link, from });
                if !self.points[number].core.is_monitor(link) {
                    self.close_later(link, self.shared.settings.contact_ends);
                }
                if void && !self.points[number].core.record.keys.revoked {
                    return self.stand(link, KeyState::Revoked, Reason::CredentialVoid);
                }
                self.offer(number, PointInput::Grant { link, material: secrets::fresh_link_key(), from: origin });
            }
            PeerId::Driver(id) => {
                self.close_later(link, self.shared.settings.contact_ends);
                if void {
                    return self.stand(link, KeyState::Revoked, Reason::CredentialVoid);
                }
                self.offer_to_driver(
                    &id,
                    DriverInput::Grant { link, material: secrets::fresh_link_key(), from: origin },
                );
            }
        }
    }

    pub(super) fn left(&mut self, link: LinkNo, answered: bool, detail: Arc<str>) {
        let Some(OpenLink { peer, .. }) = self.links.remove(&link) else { return };
        if self.contacts.get(&peer) == Some(&link) {
            self.contacts.remove(&peer);
        }
        match peer {
            PeerId::ChargingPoint(id) => {
                if let Some(number) = self.index.get(&id).copied() {
                    self.observe(number, Observation::LinkDown { link, answered, detail });
                }
            }
            PeerId::Driver(id) => {
                let holder = self.driver(&id);
                if holder.link == Some(link) {
                    holder.link = None;
                    let from = holder.from.clone();
                    self.tickets.left(&id);
                    self.audit_link(AuditAction::LinkDown, &PeerId::Driver(id), &from, &detail);
                }
            }
        }
    }

    /// A first contact that gets no key now.
    pub(super) fn refuse_contact(&mut self, to: LinkNo, reason: Reason) {
        let retry_after_ms = u32::try_from(self.shared.settings.renew_after.as_millis()).unwrap_or(u32::MAX);
        let auth_status = link::AuthStatus { reason: reason.into(), retry_after_ms, ..link::AuthStatus::default() };
        self.send(to, 0, down::Body::AuthStatus(auth_status));
        self.close(to);
    }

    fn stand(&mut self, to: LinkNo, key_state: KeyState, reason: Reason) {
        let auth_status =
            link::AuthStatus { key_state: key_state.into(), reason: reason.into(), ..link::AuthStatus::default() };
        self.send(to, 0, down::Body::AuthStatus(auth_status));
    }

    /// Shuts out a removed identity before its removal is durable: a supply is told to stop, its links end, none is
    /// opened by a key of that enrolment, and it is not shown. Harmless to repeat (SPEC 7.4).
    pub(super) fn shut_out(&mut self, row: &MirroredIdentityRow) {
        let Some(peer) = rows::peer(row) else { return };
        let incarnation = rows::unsigned(row.incarnation);
        let known = match &peer {
            PeerId::ChargingPoint(id) => self.index.get(id).map(|number| &self.points[*number].core.record.keys),
            PeerId::Driver(id) => self.drivers.get(id).map(|holder| &holder.account.keys),
        };
        if known.is_some_and(|keys| keys.incarnation > incarnation) {
            return;
        }
        self.shared.directory.shut_out(&peer, incarnation);
        if let PeerId::ChargingPoint(id) = &peer
            && let Some(number) = self.index.get(id).copied()
        {
            self.points[number].out = Some(incarnation);
            if let Some(open) = &self.points[number].core.record.open {
                let stop = charge_point::stop_message(open.id.as_str(), Reason::Removed);
                self.perform(Some(number), charge_point::Effect::Engine(stop));
            }
            self.touch(number);
        }
        self.links_of(&peer).into_iter().flatten().for_each(|link| self.close(link));
    }

    /// Those that are not closing already.
    fn links_of(&self, peer: &PeerId) -> [Option<LinkNo>; 3] {
        let contact = self.contacts.get(peer).copied();
        match peer {
            PeerId::ChargingPoint(id) => {
                let live = self.index.get(id).map(|number| &self.points[*number].core.live);
                let link = |linked: &Option<charge_point::PartLink>| linked.as_ref().map(|linked| linked.link);
                [contact, live.and_then(|s| link(&s.monitor)), live.and_then(|s| link(&s.engine))]
            }
            PeerId::Driver(id) => [contact, self.drivers.get(id).and_then(|holder| holder.link), None],
        }
    }

    /// Takes what Registry reports about an identity, which is in the mirror already. May be repeated.
    pub(super) fn identity(&mut self, row: &MirroredIdentityRow) {
        let incarnation = rows::unsigned(row.incarnation);
        let identity = match IdentityState::try_from(row.state) {
            Ok(IdentityState::Enrolled) => EnrolmentChange::Enrolled { incarnation },
            Ok(IdentityState::Void) => EnrolmentChange::Void { incarnation },
            Ok(IdentityState::Removed) => EnrolmentChange::Removed { incarnation },
            Ok(IdentityState::Unspecified) | Err(_) => return,
        };
        if matches!(identity, EnrolmentChange::Removed { .. }) {
            self.shut_out(row);
        }
        match Kind::try_from(row.kind) {
            Ok(Kind::ChargingPoint) => self.charging_point_identity(row, identity),
            Ok(Kind::Driver) => {
                let Ok(id) = row.id.parse() else { return };
                self.offer_to_driver(&id, DriverInput::Identity(identity));
            }
            Ok(Kind::Unspecified) | Err(_) => {}
        }
    }

    fn charging_point_identity(&mut self, row: &MirroredIdentityRow, identity: EnrolmentChange) {
        let Ok(id) = row.id.parse() else { return };
        let number = match self.index.get(&id).copied() {
            Some(number) => number,
            None if matches!(identity, EnrolmentChange::Removed { .. }) => return,
            None => {
                let now = self.now();
                let new = crate::registry::new_row(row, &self.shared.settings, now);
                let Ok(record) = rows::record(&new, Keyring::stored(0, false, 0, Vec::new()), Vec::new()) else {
                    return;
                };
                self.add_point(charge_point::ChargePoint::new(record, now), now.wall_ms, now)
            }
        };
        if matches!(identity, EnrolmentChange::Void { .. }) {
            self.close_contact(number);
        }
        let returns = self.points[number].is_gone() && matches!(identity, EnrolmentChange::Enrolled { .. });
        self.offer(number, PointInput::Identity(identity));
        if returns {
            self.settle_anew(number, row);
        }
    }

    /// What was verified is void by now. The core closes its own links, and leaves a status link to who is void.
    fn close_contact(&self, number: usize) {
        let core = &self.points[number].core;
        let contact = self.contacts.get(&PeerId::ChargingPoint(core.record.id.clone()));
        if let Some(link) = contact.filter(|link| !core.is_monitor(**link)) {
            self.close(*link);
        }
    }

    /// Who was removed and is enrolled again may stand elsewhere, at another price; while it is enrolled, what operators
    /// say here counts (DESIGN 3).
    fn settle_anew(&mut self, number: usize, row: &MirroredIdentityRow) {
        let new = crate::registry::new_row(row, &self.shared.settings, self.now());
        let price = u32::try_from(new.price_e4).map_or(self.shared.settings.price, Price::from_e4);
        let moved = PointOrder::Move { city: new.city.into(), place: Some(new.place.into()) };
        for order in [moved, PointOrder::SetPrice(price)] {
            let by = Origin::new("registry", "");
            self.offer(number, PointInput::Order { order, by, reply: Reply::None });
        }
    }

    fn audit_login(&mut self, peer: &PeerId, from: &Arc<str>, void: bool) {
        let now = self.now();
        let mut entry = AuditRecord::new(AuditAction::Login, peer);
        if void {
            entry = entry.outcome(Reason::CredentialVoid, "");
        }
        self.shared.audit(Some(peer.clone()), &entry.by(&Origin::new(peer.to_string(), from.clone()), now));
    }

    fn audit_link(&mut self, action: AuditAction, peer: &PeerId, from: &str, detail: &str) {
        let now = self.now();
        let mut entry = AuditRecord::new(action, peer);
        if !detail.is_empty() {
            entry = entry.with("detail", detail);
        }
        self.shared.audit(Some(peer.clone()), &entry.by(&Origin::new(peer.to_string(), from), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event_loop::Message, settings::CentralSettings, testing::TestCentral};

    #[tokio::test]
    async fn who_was_removed_and_is_enrolled_again_stands_where_its_enrolment_says_spec_7_4() {
        let central = TestCentral::new(CentralSettings::default(), 100).await;
        let id = central.charging_points(1).await.remove(0);
        let told = |state: IdentityState, incarnation: i64, place: &str, price_e4: i64| {
            let row = MirroredIdentityRow {
                kind: Kind::ChargingPoint.into(),
                id: id.to_string(),
                state: state.into(),
                city: "Denia".into(),
                place: place.into(),
                price_e4,
                incarnation,
                revision: incarnation + 1,
                ..MirroredIdentityRow::default()
            };
            central.event_loop.send(Message::Identities(vec![row]))
        };
        let stands = |place: &str| central.shared.points.all().iter().any(|(_, point)| point.place == place);
        told(IdentityState::Enrolled, 2, "Quay 1", 5_000).await;
        told(IdentityState::Removed, 2, "Quay 1", 5_000).await;
        central.until(|| !stands("Plaza")).await;
        assert!(!stands("Quay 1"), "while it is enrolled, what operators say here counts");
        told(IdentityState::Enrolled, 3, "Quay 2", 5_000).await;
        let price = || central.shared.points.all().first().map(|(_, point)| point.price_e4);
        central.until(|| stands("Quay 2") && price() == Some(5_000)).await;
    }
}
