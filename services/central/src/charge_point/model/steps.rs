//! What can happen in the model.

use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Request { point: usize, driver: usize, manual: bool },
    Repeat,
    Answer { point: usize, accepted: bool },
    Confirm { point: usize, accepted: bool },
    PlugIn { point: usize },
    Flow { point: usize, wh: u64 },
    Unplug { point: usize },
    EngineDown { point: usize },
    EngineUp { point: usize },
    EngineKilled { point: usize },
    MonitorDown { point: usize },
    MonitorUp { point: usize },
    Health { point: usize, healthy: bool },
    DriverStops { point: usize },
    Order { point: usize, which: u8 },
    Pass { ms: u64 },
    Disk { fails: bool },
    CentralKilled,
}

pub(super) const POINTS: usize = 3;
const DRIVERS: usize = 3;

pub(super) fn step() -> impl Strategy<Value = Step> {
    let point = 0..POINTS;
    prop_oneof![
        6 => (point.clone(), 0..DRIVERS, prop::bool::weighted(0.2))
            .prop_map(|(point, driver, manual)| Step::Request { point, driver, manual }),
        1 => Just(Step::Repeat),
        6 => (point.clone(), prop::bool::weighted(0.9)).prop_map(|(point, accepted)| Step::Answer { point, accepted }),
        2 => (point.clone(), any::<bool>()).prop_map(|(point, accepted)| Step::Confirm { point, accepted }),
        6 => point.clone().prop_map(|point| Step::PlugIn { point }),
        8 => (point.clone(), 0..5_000u64).prop_map(|(point, wh)| Step::Flow { point, wh }),
        4 => point.clone().prop_map(|point| Step::Unplug { point }),
        1 => point.clone().prop_map(|point| Step::EngineDown { point }),
        4 => point.clone().prop_map(|point| Step::EngineUp { point }),
        1 => point.clone().prop_map(|point| Step::EngineKilled { point }),
        1 => point.clone().prop_map(|point| Step::MonitorDown { point }),
        4 => point.clone().prop_map(|point| Step::MonitorUp { point }),
        3 => (point.clone(), prop::bool::weighted(0.8)).prop_map(|(point, healthy)| Step::Health { point, healthy }),
        1 => point.clone().prop_map(|point| Step::DriverStops { point }),
        2 => (point, 0..9u8).prop_map(|(point, which)| Step::Order { point, which }),
        4 => prop_oneof![4 => 0..120_000u64, 1 => 0..1_200_000u64].prop_map(|ms| Step::Pass { ms }),
        1 => prop::bool::weighted(0.3).prop_map(|fails| Step::Disk { fails }),
        1 => Just(Step::CentralKilled),
    ]
}
