//! Every time and number of SPEC 2 to 4 that the decisions use. Plain values: the pure core is given them, the command
//! line of [`crate::Config`] fills them.

use std::time::Duration;

use mesh::rate::RateLimit;
use proto::{Currency, Price};

/// Defaults are those of the specification.
#[derive(Clone, Debug)]
pub struct CentralSettings {
    /// How long an engine may think about an `Ask`.
    pub ask_timeout: Duration,
    /// How long a reservation waits for the plug (SPEC 2.2).
    pub reservation: Duration,
    /// How long a driver may think about a manual supply that names him.
    pub confirmation: Duration,
    /// How long an engine may take to report the end of a supply it was told to stop.
    pub stop_timeout: Duration,
    /// Both links gone for this long settle a supply (SPEC 3.8).
    pub links_lost: Duration,
    /// A settling session without a report is billed after this (SPEC 3.8).
    pub settle_after: Duration,
    /// The running meter value is made durable this often.
    pub meter_saved_every: Duration,
    /// What is left of a settling session's time is made durable this often.
    pub settling_saved_every: Duration,
    /// How long the engine's link may be missing before the charging point is shown as broken.
    pub engine_grace: Duration,
    /// Where its monitor has come back before it, so much longer: each tries again after waits of its own, the longest
    /// of which this is.
    pub engine_return: Duration,
    /// The old key is retired this long after the new one was first proven (SPEC 4.6).
    pub key_overlap: Duration,
    /// A link on which a credential was shown ends after this: a key is granted by then, or whoever has none comes again.
    /// A status link that is in use stays (SPEC 4.7).
    pub contact_ends: Duration,
    /// A charging point whose key was renewed authenticates again after this (SPEC 4.7).
    pub renew_after: Duration,
    /// Age at which a key expires; it rotates when a third of it is left.
    pub key_lifetime: Duration,
    /// So many takeovers of a live link within the window quarantine the charging point (SPEC 4.9).
    pub takeovers: usize,
    pub takeover_window: Duration,
    /// What one peer may ask for that costs a row: requests, stops, confirmations, its maintenance.
    pub requests: RateLimit,
    /// Tickets that a linked driver has not acknowledged are sent again after this.
    pub tickets_again: Duration,
    /// An order over more charging points than this states how many it expects, and is staggered (SPEC 7.3).
    pub many: usize,
    /// Weather is taken for lost where it has not reported for so long: temperatures are stale then (SPEC 6.5).
    pub weather_silence: Duration,
    /// What a charging point costs for which Registry names no price.
    pub price: Price,
    pub currency: Currency,
    /// The most power in watts that a charging point has for which no rated power is set (SPEC 3.8a).
    pub max_power_w: u32,
    /// How much faster than real time charging points are simulated: what they can supply is so much more.
    pub simulated_speed: u32,
}

impl CentralSettings {
    /// How often keys are looked at: a key that is due to rotate has a sixth of its life left at least, and is seen
    /// several times before that is over. Once a minute is often enough for all else.
    pub fn sweep_every(&self) -> Duration {
        (self.key_lifetime / 24).clamp(Duration::from_millis(50), Duration::from_secs(60))
    }
}

impl Default for CentralSettings {
    fn default() -> Self {
        Self {
            ask_timeout: Duration::from_secs(5),
            reservation: Duration::from_secs(60),
            confirmation: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(5),
            links_lost: Duration::from_secs(60),
            settle_after: Duration::from_secs(15 * 60),
            meter_saved_every: Duration::from_secs(10),
            settling_saved_every: Duration::from_secs(60),
            engine_grace: Duration::from_millis(500),
            engine_return: Duration::from_secs(5),
            key_overlap: Duration::from_secs(60),
            contact_ends: Duration::from_secs(10),
            renew_after: Duration::from_secs(5),
            key_lifetime: Duration::from_secs(30 * 24 * 3600),
            takeovers: 3,
            takeover_window: Duration::from_secs(5 * 60),
            requests: RateLimit { burst: 32, every: Duration::from_millis(250) },
            tickets_again: Duration::from_secs(10),
            many: 50,
            weather_silence: Duration::from_secs(8),
            price: Price::from_e4(3950),
            currency: Currency::EUR,
            max_power_w: 400_000,
            simulated_speed: 1,
        }
    }
}
