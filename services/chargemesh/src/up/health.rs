//! Asks each process of a network for its health, at its admin address (SPEC 7.1, 12.1).

use std::{net::SocketAddr, time::Duration};

use super::{
    process::ProcessPhase,
    status::{ProcessHealth, ProcessStatus},
};
use mesh::{
    admin::report_of,
    health::{ComponentState, Readiness, Report},
};

/// A live process answers at once; a stopped one never does.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The same processes with their current health.
pub(crate) async fn examined(processes: Vec<ProcessStatus>) -> Vec<ProcessStatus> {
    let each = processes.into_iter().map(|process| async {
        let health = match admin_address(&process) {
            Some(address) => Some(of(report_of(address, ANSWER_WITHIN).await)),
            None => None,
        };
        ProcessStatus { health, ..process }
    });
    futures::future::join_all(each).await
}

/// Its admin address; `None` where it does not run or has not written its addresses yet.
fn admin_address(process: &ProcessStatus) -> Option<SocketAddr> {
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
    fn health_has_a_status_and_the_reason_of_each_component_spec_7_1() {
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
    async fn only_running_processes_are_asked() {
        let process = ProcessStatus { state: "waiting".into(), ..ProcessStatus::default() };
        assert_eq!(examined(vec![process]).await[0].health, None);
    }
}
