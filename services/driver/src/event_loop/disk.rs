//! What a full disk takes from a driver (SPEC 9): nothing new is asked for, since a restart would not know of it; what
//! runs goes on, and is written once there is room.

use std::time::Duration;

use crate::request::DriverRequest;

use super::DriverLoop;

/// What could not be written is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);

impl DriverLoop {
    /// A request that is gone from the list is over, and so is its line: both in one file, replaced as a whole. One that
    /// cannot be kept is forgotten before it is sent. Why something could not be kept.
    pub(super) async fn save_requests(&mut self, requests: Vec<DriverRequest>) -> Option<String> {
        let now = self.clock.mono();
        let before = std::mem::replace(&mut self.plans.state.requests, requests);
        for line in before.iter().filter_map(|r| r.line) {
            if !self.plans.state.requests.iter().any(|r| r.line == Some(line)) {
                self.plans.state.done = self.plans.state.done.max(line);
                if let Some(queue) = &mut self.plans.queue {
                    queue.finish(line, now);
                }
            }
        }
        if before.len() > self.plans.state.requests.len()
            && let Some(random_requests) = &mut self.plans.random_requests
        {
            random_requests.request_ended(now);
        }
        let error = match self.data_dir.save_state(&self.plans.state) {
            Ok(()) => {
                self.plans.save_at = None;
                return None;
            }
            Err(error) => error,
        };
        self.plans.save_at = Some(now + AGAIN);
        let is_new = |request: &DriverRequest| !before.iter().any(|known| known.id == request.id);
        let (new, known): (Vec<_>, Vec<_>) = self.plans.state.requests.drain(..).partition(is_new);
        self.plans.state.requests = known;
        for request in &new {
            self.trips.request_not_saved(&request.id);
            if let (Some(queue), Some(line)) = (&mut self.plans.queue, request.line) {
                queue.retry(line, now);
            }
            if let Some(random_requests) = &mut self.plans.random_requests {
                random_requests.request_ended(now);
            }
        }
        let text = if new.is_empty() {
            format!("what has changed is not kept yet: {error}")
        } else {
            format!("not asked for, since it cannot be kept: {error}")
        };
        self.reporter.hint(text.clone()).await;
        Some(text)
    }

    pub(super) fn save_again(&mut self) {
        let now = self.clock.mono();
        if self.plans.save_at.is_some_and(|at| at <= now) {
            let kept = self.data_dir.save_state(&self.plans.state);
            self.plans.save_at = kept.is_err().then_some(now + AGAIN);
        }
    }
}
