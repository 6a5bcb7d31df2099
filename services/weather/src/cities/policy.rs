//! What an operator may set for a city.

/// What frost does to the charging points of a city (SPEC 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CityPolicy {
    /// Stop running supplies at once
    StopNow,
    /// Let running supplies end, and allow no new ones
    LetFinish,
    /// Do nothing
    Ignore,
}
