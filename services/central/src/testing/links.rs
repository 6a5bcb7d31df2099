//! Links in the running loop.

use proto::{
    PeerId,
    link::v1::{Cause, Part},
};

use super::{Rim, ana};
use crate::{charge_point::Order, drive::Message, settings::Settings};

#[tokio::test]
async fn a_charging_point_that_is_held_is_counted_until_it_is_released_spec_4_9() {
    let rim = Rim::new(Settings::default(), 10).await;
    let id = rim.charging_points(1).await.remove(0);
    let peer = PeerId::ChargingPoint(id.clone());
    rim.authenticate(peer.clone()).await;
    rim.both_parts(&id, 1).await;
    let held = || rim.ctx.metrics.encode().unwrap().contains("charging_points_held 1\n");
    assert!(!held());
    let mut old = rim.arrive(peer.clone(), Part::Monitor, 1).await;
    for _ in 0..3 {
        let link = std::mem::replace(&mut old, rim.arrive(peer.clone(), Part::Monitor, 1).await);
        rim.drive.send(Message::Left { link, answered: true, detail: "closed in order by this end".into() }).await;
    }
    rim.until(|| rim.shown(&id).view.is_some_and(|view| view.causes().any(|cause| cause == Cause::Held))).await;
    assert!(held() && rim.shown(&id).view.unwrap_or_default().detail.starts_with("ALARM"));
    rim.orders.one(&id, Order::Release, ana()).await;
    rim.until(|| !held()).await;
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
