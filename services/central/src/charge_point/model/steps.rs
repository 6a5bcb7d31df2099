//! What can happen in the model.

use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
pub(super) enum ModelStep {
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

pub(super) fn step() -> impl Strategy<Value = ModelStep> {
    let point = 0..POINTS;
    prop_oneof![
        6 => (point.clone(), 0..DRIVERS, prop::bool::weighted(0.2))
            .prop_map(|(point, driver, manual)| ModelStep::Request { point, driver, manual }),
        1 => Just(ModelStep::Repeat),
        6 => (point.clone(), prop::bool::weighted(0.9)).prop_map(|(point, accepted)| ModelStep::Answer { point, accepted }),
        2 => (point.clone(), any::<bool>()).prop_map(|(point, accepted)| ModelStep::Confirm { point, accepted }),
        6 => point.clone().prop_map(|point| ModelStep::PlugIn { point }),
        8 => (point.clone(), 0..5_000u64).prop_map(|(point, wh)| ModelStep::Flow { point, wh }),
        4 => point.clone().prop_map(|point| ModelStep::Unplug { point }),
        1 => point.clone().prop_map(|point| ModelStep::EngineDown { point }),
        4 => point.clone().prop_map(|point| ModelStep::EngineUp { point }),
        1 => point.clone().prop_map(|point| ModelStep::EngineKilled { point }),
        1 => point.clone().prop_map(|point| ModelStep::MonitorDown { point }),
        4 => point.clone().prop_map(|point| ModelStep::MonitorUp { point }),
        3 => (point.clone(), prop::bool::weighted(0.8)).prop_map(|(point, healthy)| ModelStep::Health { point, healthy }),
        1 => point.clone().prop_map(|point| ModelStep::DriverStops { point }),
        2 => (point, 0..9u8).prop_map(|(point, which)| ModelStep::Order { point, which }),
        4 => prop_oneof![4 => 0..120_000u64, 1 => 0..1_200_000u64].prop_map(|ms| ModelStep::Pass { ms }),
        1 => prop::bool::weighted(0.3).prop_map(|fails| ModelStep::Disk { fails }),
        1 => Just(ModelStep::CentralKilled),
    ]
}
