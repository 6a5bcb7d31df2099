//! Links in the running loop.

use std::time::Duration;

use mesh::link::SendQueue;
use proto::{ChargingPointId, PeerId, central::v1::Cause, link::v1::Part};

use super::{TestCentral, ana};
use crate::{charge_point::PointOrder, event_loop::Message, settings::CentralSettings};

#[tokio::test]
async fn a_quarantined_charging_point_is_counted_until_it_is_released_spec_4_9() {
    let central = TestCentral::new(CentralSettings::default(), 10).await;
    let id = central.charging_points(1).await.remove(0);
    let peer = PeerId::ChargingPoint(id.clone());
    central.authenticate(peer.clone()).await;
    central.both_parts(&id, 1).await;
    let quarantined = || central.ctx.metrics.encode().unwrap().contains("charging_points_quarantined 1\n");
    assert!(!quarantined());
    let mut old = central.arrive(peer.clone(), Part::Monitor, 1).await;
    for _ in 0..3 {
        let link = std::mem::replace(&mut old, central.arrive(peer.clone(), Part::Monitor, 1).await);
        central
            .event_loop
            .send(Message::Left { link, answered: true, detail: "closed in order by this end".into() })
            .await;
    }
    central.until(|| central.shown(&id).causes().any(|cause| cause == Cause::Quarantined)).await;
    assert!(quarantined() && central.shown(&id).detail.starts_with("ALARM"));
    central.orders.one(&id, PointOrder::Release, ana()).await;
    central.until(|| !quarantined()).await;
}

/// A first contact whose credential is right.
async fn verified(central: &TestCentral, peer: &PeerId) -> SendQueue {
    let (link, send_queue) = central.link();
    let (peer, end, from) = (peer.clone(), send_queue.clone(), "192.0.2.1:7".into());
    central.event_loop.send(Message::Verified { peer, link, send_queue, from, to: 0, void: false }).await;
    end
}

async fn with_a_key_in_force(contact_ends: Duration) -> (TestCentral, ChargingPointId, [PeerId; 2]) {
    let central = TestCentral::new(CentralSettings { contact_ends, ..CentralSettings::default() }, 10).await;
    let (id, driver) = (central.charging_points(1).await.remove(0), PeerId::Driver(central.driver("D1").await));
    let point = PeerId::ChargingPoint(id.clone());
    central.authenticate(point.clone()).await;
    central.both_parts(&id, 1).await;
    (central, id, [point, driver])
}

#[tokio::test]
async fn a_peer_has_one_link_on_which_it_showed_its_credential_spec_4_4() {
    let (central, id, peers) = with_a_key_in_force(Duration::from_secs(3600)).await;
    for peer in &peers {
        let (first, second) = (verified(&central, peer).await, verified(&central, peer).await);
        central.until(|| first.is_closed()).await;
        assert!(!second.is_closed());
    }
    let contact = verified(&central, &peers[0]).await;
    central.remove(&id).await;
    central.until(|| contact.is_closed()).await;
}

#[tokio::test]
async fn a_first_contact_ends_and_a_status_link_that_is_in_use_does_not_spec_4_7() {
    let (central, id, peers) = with_a_key_in_force(Duration::from_millis(300)).await;
    for peer in &peers {
        let contact = verified(&central, peer).await;
        central.until(|| contact.is_closed()).await;
    }
    central.orders.one(&id, PointOrder::Revoke, ana()).await;
    let monitor = central.arrive(peers[0].clone(), Part::Monitor, 1).await;
    central.event_loop.send(Message::Left { link: monitor, answered: true, detail: "".into() }).await;
    let status = verified(&central, &peers[0]).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!status.is_closed());
}

#[tokio::test]
async fn who_answers_beside_the_loop_knows_the_epoch_as_soon_as_it_is_told_spec_4_9() {
    let central = TestCentral::new(CentralSettings::default(), 10).await;
    let id = central.charging_points(1).await.remove(0);
    let epoch = central.shared.directory.epoch(&id);
    let before = epoch.get();
    central.authenticate(PeerId::ChargingPoint(id.clone())).await;
    central.both_parts(&id, 1).await;
    let shown = central.shown(&id).version.unwrap_or_default();
    let shown = (u64::from(shown.generation) << 32) | u64::from(shown.epoch);
    assert!(epoch.get() > before && epoch.get() == shown);
}
