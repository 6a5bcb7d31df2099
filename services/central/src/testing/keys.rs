//! Keys in the running loop: they age and rotate by themselves, and old ones still open what was sealed under them.

use std::time::Duration;

use proto::{PeerId, central::v1::KeyState, link::v1::Part};

use super::{TestCentral, ana};
use crate::{charge_point::PointOrder, settings::CentralSettings};

const LIFETIME: Duration = Duration::from_millis(4_500);

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_age_rotate_by_themselves_with_no_gap_spec_4_6() {
    let central = TestCentral::new(CentralSettings { key_lifetime: LIFETIME, ..CentralSettings::default() }, 10).await;
    let id = central.charging_points(1).await.remove(0);
    let (point, driver) = (PeerId::ChargingPoint(id.clone()), PeerId::Driver(central.driver("D1").await));
    central.authenticate(point.clone()).await;
    central.authenticate(driver.clone()).await;
    for key_no in 1..=3 {
        // Granted by the loop, by the age of the one before; both take it up as soon as it is there.
        central.until(|| central.shared.directory.usable(&driver, key_no).is_some()).await;
        central.arrive(driver.clone(), Part::Driver, key_no).await;
        central.both_parts(&id, key_no).await;
        assert_eq!(central.key_state(&id), KeyState::Active);
    }
    central.until(|| central.shared.directory.usable(&driver, 4).is_some()).await;
    for peer in [point, driver] {
        let rotated = central.audited("KEY_ROTATED").await.into_iter().filter(|row| row.object == peer.to_string());
        assert_eq!(rotated.count(), 2, "{peer}");
    }
    assert!(central.audited("KEY_RENEWED").await.is_empty(), "no key came to its end");
}

#[tokio::test]
async fn what_was_sealed_under_a_key_long_retired_can_be_opened_spec_4_6() {
    let central = TestCentral::new(CentralSettings::default(), 10).await;
    let id = central.charging_points(1).await.remove(0);
    let holder = PeerId::ChargingPoint(id.clone());
    central.authenticate(holder.clone()).await;
    central.both_parts(&id, 1).await;
    let first = central.shared.directory.usable(&holder, 1).expect("the key in use");
    for key_no in 2..=6 {
        let material = std::sync::Arc::new(wire::LinkKey::from_bytes([key_no as u8; 32]));
        central.orders.one(&id, PointOrder::Rotate { material }, ana()).await;
        central.both_parts(&id, key_no).await;
    }
    assert!(central.shared.directory.openable(&holder, 1).is_none(), "it is not at hand any more");
    let streams = central.shared.telemetry.of(&id);
    assert_eq!(central.shared.reading_key(&streams, &holder, 1).await, Some(first));
    assert_eq!(central.shared.reading_key(&streams, &holder, 99).await, None, "made up");

    // A new enrolment makes void what the one before was granted.
    central.enrol_again(&id).await;
    central.authenticate(holder.clone()).await;
    central.both_parts(&id, 7).await;
    let streams = central.shared.telemetry.of(&id);
    assert_eq!(central.shared.reading_key(&streams, &holder, 1).await, None);
}
