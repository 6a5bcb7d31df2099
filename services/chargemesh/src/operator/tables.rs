//! The columns of each kind of thing that operators list.

mod audit;
mod charging_points;
mod cities;
mod orders;
mod registry;
mod sessions;
mod tickets;

pub(crate) use self::{
    audit::{entry_time, parameters_text},
    charging_points::ChargingPointRecord,
    orders::sentence,
};
