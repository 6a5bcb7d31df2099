//! Reports the state of all cities to Central: at once when it changes, again until Central acknowledges it, and at least
//! every few seconds, so that a Central that was restarted, or one that counts a silence, knows it (SPEC 6.5). The answer
//! says which cities have charging points.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{client::Channel, clock::Clock, process::Context};
use proto::central::v1::{ReportConditionsRequest, conditions_client::ConditionsClient};

use crate::event_loop::WeatherHandle;

/// Between two reports, also where the temperatures of many cities come one after another.
const SHORTEST: Duration = Duration::from_millis(200);

pub(crate) struct ConditionsReporter {
    central: ConditionsClient<Channel>,
    handle: WeatherHandle,
    every: Duration,
    clock: Clock,
    health: mesh::health::Component,
}

impl ConditionsReporter {
    pub(crate) fn new(channel: Channel, handle: WeatherHandle, every: Duration, ctx: &Context) -> Self {
        let health = ctx.health.component("reports");
        Self { central: ConditionsClient::new(channel), handle, every, clock: ctx.clock, health }
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        let mut state = self.handle.state();
        loop {
            let began = self.clock.mono();
            let report = {
                let state = state.borrow_and_update();
                let conditions = state.cities.iter().filter_map(|city| city.condition.clone()).collect();
                ReportConditionsRequest { conditions, suspended: state.suspended }
            };
            match self.central.report(report).await {
                Ok(answer) => {
                    self.health.ready();
                    self.handle.follow(answer.into_inner().cities.into_iter().map(Arc::from).collect()).await;
                }
                Err(status) => {
                    self.health
                        .degraded(format!("Central does not take the state of the cities: {}", status.message()));
                    // Not acknowledged, so it is sent again, whether or not anything changes.
                    self.clock.sleep_until(began + SHORTEST.max(self.every / 4)).await;
                    continue;
                }
            }
            self.clock.sleep_until(began + SHORTEST).await;
            self.until_next(&mut state, began).await;
        }
    }

    async fn until_next(
        &self,
        state: &mut tokio::sync::watch::Receiver<Arc<proto::weather::v1::WeatherState>>,
        began: Instant,
    ) {
        tokio::select! {
            changed = state.changed() => if changed.is_err() {
                // The loop has ended, and the process with it.
                std::future::pending::<()>().await;
            },
            () = self.clock.sleep_until(began + self.every) => {}
        }
    }
}
