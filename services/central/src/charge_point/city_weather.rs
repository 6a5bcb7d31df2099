//! What Weather says of a city, as far as it concerns the charging points in it (SPEC 3.5, 6).

use std::sync::Arc;

use proto::link::v1::SessionState;

use crate::session::Session;

/// What the weather of a city does to the charging points in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CityWeather {
    pub city: Arc<str>,
    /// They are out of order.
    pub blocks: bool,
    /// Running supplies are stopped at once; otherwise they go on to their end.
    pub stops_supplies: bool,
    /// For people, such as `-5.0 °C`; empty: not known.
    pub temperature: Arc<str>,
}

impl CityWeather {
    /// A reservation is no supply yet, so it does not go on.
    pub(super) fn ends(&self, open: &Session) -> bool {
        self.blocks && (self.stops_supplies || open.state == SessionState::Reserved)
    }
}
