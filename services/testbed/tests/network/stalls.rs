//! A Central that was itself stopped hears what waits before it acts on deadlines that passed meanwhile (SPEC 9.0).

use std::time::Duration;

use proto::central::v1::SessionState;
use serde_json::Value;
use testbed::{network::PATIENCE, operator::active_session};

use crate::support::{one_of_each, reserve, until_session};

const RESERVATION: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_supply_that_began_while_central_was_stopped_past_its_reservations_end_is_billed_spec_3_8_9_0()
-> anyhow::Result<()> {
    let seconds = format!("{}s", RESERVATION.as_secs());
    let (network, point, driver) = one_of_each(&["--reservation", &seconds], &["--meter-every", "200ms"]).await?;
    for nth in 1..=3 {
        reserve(&network, &point, &driver, "").await?;
        let session = active_session(&network.operator.charging_point(&point.id).await?);
        network.central.freeze()?;
        point.engine("plug", Value::Null).await?;
        point.until_engine("supplying", PATIENCE, |status| status["session"]["state"] == "SUPPLYING").await?;
        // What is measured is that this time is over, so it is waited for as such.
        tokio::time::sleep(RESERVATION + Duration::from_secs(1)).await;
        network.central.thaw()?;
        until_session(&network, &session, SessionState::Supplying, PATIENCE).await?;
        point.engine("unplug", Value::Null).await?;
        let tickets = network.until_tickets(&point.id, nth).await?;
        let ticket = tickets.iter().find(|ticket| ticket.session_id == session);
        assert!(ticket.is_some_and(|ticket| ticket.driver_id == "ana" && ticket.energy_wh > 0), "{tickets:?}");
        point.until_engine("free again", PATIENCE, |status| status["session"].is_null()).await?;
    }
    Ok(())
}
