//! What a restart of Weather must not forget: what operators ordered, and whether there was frost, which decides within
//! the hysteresis.

use super::CityPolicy;
use crate::frost::Temperature;

#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct SavedCities {
    pub(crate) suspended: bool,
    pub(crate) cities: Vec<SavedCity>,
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct SavedCity {
    pub(crate) name: String,
    pub(crate) added: bool,
    pub(crate) removed: bool,
    pub(crate) policy: Option<CityPolicy>,
    pub(crate) frost: Option<bool>,
    /// Temperature, whether it is frost, and its end in milliseconds since 1970.
    pub(crate) drill: Option<(Temperature, bool, i64)>,
}
