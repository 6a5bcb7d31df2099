//! Keys in the running loop: they age and rotate by themselves, and old ones still open what was sealed under them.

use std::time::Duration;

use proto::{
    PeerId,
    link::v1::{KeyState, Part},
};

use super::{Rim, ana};
use crate::{charge_point::Order, settings::Settings};

const LIFETIME: Duration = Duration::from_millis(4_500);

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_age_rotate_by_themselves_with_no_gap_spec_4_6() {
    let rim = Rim::new(Settings { key_lifetime: LIFETIME, ..Settings::default() }, 10).await;
    let id = rim.charging_points(1).await.remove(0);
    let (point, driver) = (PeerId::ChargingPoint(id.clone()), PeerId::Driver(rim.driver("D1").await));
    rim.authenticate(point.clone()).await;
    rim.authenticate(driver.clone()).await;
    for key_no in 1..=3 {
        // Granted by the loop, by the age of the one before; both take it up as soon as it is there.
        rim.until(|| rim.shared.directory.usable(&driver, key_no).is_some()).await;
        rim.arrive(driver.clone(), Part::Driver, key_no).await;
        rim.both_parts(&id, key_no).await;
        assert_eq!(rim.key_state(&id), KeyState::Active);
    }
    rim.until(|| rim.shared.directory.usable(&driver, 4).is_some()).await;
    for peer in [point, driver] {
        let rotated = rim.audited("KEY_ROTATED").await.into_iter().filter(|row| row.object == peer.to_string());
        assert_eq!(rotated.count(), 2, "{peer}");
    }
    assert!(rim.audited("KEY_RENEWED").await.is_empty(), "no key came to its end");
}

#[tokio::test]
async fn what_was_sealed_under_a_key_long_retired_can_be_opened_spec_4_6() {
    let rim = Rim::new(Settings::default(), 10).await;
    let id = rim.charging_points(1).await.remove(0);
    let holder = PeerId::ChargingPoint(id.clone());
    rim.authenticate(holder.clone()).await;
    rim.both_parts(&id, 1).await;
    let first = rim.shared.directory.usable(&holder, 1).expect("the key in use");
    for key_no in 2..=6 {
        let material = std::sync::Arc::new(wire::LinkKey::from_bytes([key_no as u8; 32]));
        rim.orders.one(&id, Order::Rotate { material }, ana()).await;
        rim.both_parts(&id, key_no).await;
    }
    assert!(rim.shared.directory.openable(&holder, 1).is_none(), "it is not at hand any more");
    let streams = rim.shared.telemetry.of(&id);
    assert_eq!(rim.shared.reading_key(&streams, &holder, 1).await, Some(first));
    assert_eq!(rim.shared.reading_key(&streams, &holder, 99).await, None, "made up");

    // A new enrolment makes void what the one before was granted.
    rim.enrol_again(&id).await;
    rim.authenticate(holder.clone()).await;
    rim.both_parts(&id, 7).await;
    let streams = rim.shared.telemetry.of(&id);
    assert_eq!(rim.shared.reading_key(&streams, &holder, 1).await, None);
}
