//! Links in the running loop.

use std::time::Duration;

use mesh::link::SendQueue;
use proto::{
    ChargingPointId, PeerId,
    link::v1::{Cause, Part},
};

use super::{Rim, ana};
use crate::{charge_point::Order, drive::Message, settings::Settings};

#[tokio::test]
async fn a_quarantined_charging_point_is_counted_until_it_is_released_spec_4_9() {
    let rim = Rim::new(Settings::default(), 10).await;
    let id = rim.charging_points(1).await.remove(0);
    let peer = PeerId::ChargingPoint(id.clone());
    rim.authenticate(peer.clone()).await;
    rim.both_parts(&id, 1).await;
    let quarantined = || rim.ctx.metrics.encode().unwrap().contains("charging_points_quarantined 1\n");
    assert!(!quarantined());
    let mut old = rim.arrive(peer.clone(), Part::Monitor, 1).await;
    for _ in 0..3 {
        let link = std::mem::replace(&mut old, rim.arrive(peer.clone(), Part::Monitor, 1).await);
        rim.drive.send(Message::Left { link, answered: true, detail: "closed in order by this end".into() }).await;
    }
    rim.until(|| rim.shown(&id).view.is_some_and(|view| view.causes().any(|cause| cause == Cause::Quarantined))).await;
    assert!(quarantined() && rim.shown(&id).view.unwrap_or_default().detail.starts_with("ALARM"));
    rim.orders.one(&id, Order::Release, ana()).await;
    rim.until(|| !quarantined()).await;
}

/// A first contact whose credential is right.
async fn verified(rim: &Rim, peer: &PeerId) -> SendQueue {
    let (link, send_queue) = rim.link();
    let (peer, end, from) = (peer.clone(), send_queue.clone(), "192.0.2.1:7".into());
    rim.drive.send(Message::Verified { peer, link, send_queue, from, to: 0, void: false }).await;
    end
}

async fn with_a_key_in_force(contact_ends: Duration) -> (Rim, ChargingPointId, [PeerId; 2]) {
    let rim = Rim::new(Settings { contact_ends, ..Settings::default() }, 10).await;
    let (id, driver) = (rim.charging_points(1).await.remove(0), PeerId::Driver(rim.driver("D1").await));
    let point = PeerId::ChargingPoint(id.clone());
    rim.authenticate(point.clone()).await;
    rim.both_parts(&id, 1).await;
    (rim, id, [point, driver])
}

#[tokio::test]
async fn a_peer_has_one_link_on_which_it_showed_its_credential_spec_4_4() {
    let (rim, id, peers) = with_a_key_in_force(Duration::from_secs(3600)).await;
    for peer in &peers {
        let (first, second) = (verified(&rim, peer).await, verified(&rim, peer).await);
        rim.until(|| first.is_closed()).await;
        assert!(!second.is_closed());
    }
    let contact = verified(&rim, &peers[0]).await;
    rim.remove(&id).await;
    rim.until(|| contact.is_closed()).await;
}

#[tokio::test]
async fn a_first_contact_ends_and_a_status_link_that_is_in_use_does_not_spec_4_7() {
    let (rim, id, peers) = with_a_key_in_force(Duration::from_millis(300)).await;
    for peer in &peers {
        let contact = verified(&rim, peer).await;
        rim.until(|| contact.is_closed()).await;
    }
    rim.orders.one(&id, Order::Revoke, ana()).await;
    let monitor = rim.arrive(peers[0].clone(), Part::Monitor, 1).await;
    rim.drive.send(Message::Left { link: monitor, answered: true, detail: "".into() }).await;
    let status = verified(&rim, &peers[0]).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!status.is_closed());
}

#[tokio::test]
async fn who_answers_beside_the_loop_knows_the_epoch_as_soon_as_it_is_told_spec_4_9() {
    let rim = Rim::new(Settings::default(), 10).await;
    let id = rim.charging_points(1).await.remove(0);
    let epoch = rim.shared.directory.epoch(&id);
    let before = epoch.get();
    rim.authenticate(PeerId::ChargingPoint(id.clone())).await;
    rim.both_parts(&id, 1).await;
    assert!(epoch.get() > before && epoch.get() == rim.shown(&id).epoch);
}
