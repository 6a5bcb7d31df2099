//! How each process of a network says that it is: asked on its admin port (SPEC 7.1, 12.1).

use std::{net::SocketAddr, time::Duration};

use mesh::{
    admin::report_of,
    health::{ComponentState, Readiness, Report},
};
use serde::{Deserialize, Serialize};

use super::{process::ProcessPhase, status::ProcessStatus};

/// A process that is alive answers at once; one that is frozen, not at all.
const WITHIN: Duration = Duration::from_secs(1);

/// What a process says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessHealth {
    /// `ready`, `degraded`, `starting`, `stopping`, or `silent` where it says nothing.
    pub(crate) status: String,
    /// Each component that is not ready, with its reason.
    pub(crate) reasons: Vec<String>,
}

/// The processes, each with what it says of itself now.
pub(crate) async fn examined(processes: Vec<ProcessStatus>) -> Vec<ProcessStatus> {
    let each = processes.into_iter().map(|process| async {
        let health = match asked_at(&process) {
            Some(address) => Some(of(report_of(address, WITHIN).await)),
            None => None,
        };
        ProcessStatus { health, ..process }
    });
    futures::future::join_all(each).await
}

/// Nothing where it is not running, or has not said where it listens.
fn asked_at(process: &ProcessStatus) -> Option<SocketAddr> {
    let alive = [ProcessPhase::Running.name(), ProcessPhase::Paused.name()].contains(&process.state.as_str());
    process.addresses.get("admin").filter(|_| alive)?.as_str()?.parse().ok()
}

fn of(report: Result<Report, String>) -> ProcessHealth {
    let report = match report {
        Ok(report) => report,
        Err(why) => return ProcessHealth { status: "silent".into(), reasons: vec![why] },
    };
    let status = match report.status {
        Readiness::Ready => "ready",
        Readiness::Degraded => "degraded",
        Readiness::Starting => "starting",
        Readiness::Stopping => "stopping",
    };
    let reasons = report.components.into_iter().filter_map(|(name, state)| match state {
        ComponentState::Ready => None,
        ComponentState::Degraded { reason } | ComponentState::Starting { reason } => Some(format!("{name}: {reason}")),
    });
    ProcessHealth { status: status.into(), reasons: reasons.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_as_it_says_with_the_reason_of_each_component_spec_7_1() {
        let health = mesh::health::Health::default();
        health.component("store").ready();
        health.component("registry").degraded("it cannot be reached");
        let said = of(Ok(health.report()));
        assert_eq!(
            (said.status.as_str(), said.reasons),
            ("degraded", vec!["registry: it cannot be reached".to_owned()])
        );
        assert_eq!(of(Err("no answer within 1000 ms".into())).status, "silent");
    }

    #[tokio::test]
    async fn only_what_runs_is_asked() {
        let process = ProcessStatus { state: "waiting".into(), ..ProcessStatus::default() };
        assert_eq!(examined(vec![process]).await[0].health, None);
    }
}
