//! The simulated meter of one supply: power, and the energy that it adds up to.
//!
//! Pure, and calculated in integers. Energy is summed in watt-milliseconds over steps of a fixed simulated length, counted
//! from the start: the sum depends only on the time that has passed, not on how often the meter is read. Watt-hours are
//! rounded down from that sum. An energy limit is met exactly: the last step is cut at the limit.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use proto::Energy;

#[cfg(test)]
mod tests;

/// Simulated length of one step.
const STEP_MS: u64 = 100;
/// Watt-milliseconds in a watt-hour.
const WMS_PER_WH: u64 = 3_600_000;
const MILLION: u64 = 1_000_000;
const AMBIENT_MDEG: i64 = 25_000;
/// How much warmer than its surroundings the connector gets at rated power.
const RISE_MDEG: i64 = 20_000;

/// How much faster than real time meters and plugs are simulated: a factor with three decimal places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed(u32);

impl Speed {
    pub const REAL: Self = Self(1000);

    /// Simulated milliseconds that pass within `real`.
    pub fn simulated_ms(self, real: Duration) -> u64 {
        u64::try_from(real.as_micros() * u128::from(self.0) / 1_000_000).unwrap_or(u64::MAX)
    }

    /// As a whole number, rounded up: by how much more Central must believe to be possible.
    pub fn rounded_up(self) -> u32 {
        self.0.div_ceil(1000)
    }

    /// Real time that `simulated` takes, rounded up to a millisecond.
    pub fn real(self, simulated: Duration) -> Duration {
        let ms = (simulated.as_millis() * 1000).div_ceil(u128::from(self.0));
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

impl Default for Speed {
    fn default() -> Self {
        Self::REAL
    }
}

/// The text is not a decimal number from 0.001 to 1000000.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a speed: a number from 0.001 to 1000000 with at most three places, such as 60")]
pub struct SpeedError(String);

impl FromStr for Speed {
    type Err = SpeedError;
    fn from_str(text: &str) -> Result<Self, SpeedError> {
        let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let parse = || {
            if !digits(whole) || !digits(places) || places.len() > 3 {
                return None;
            }
            let whole: u32 = whole.parse().ok().filter(|n| *n <= 1_000_000)?;
            let places: u32 = format!("{places:0<3}").parse().ok()?;
            whole.checked_mul(1000)?.checked_add(places).filter(|n| (1..=1_000_000_000).contains(n)).map(Self)
        };
        parse().ok_or_else(|| SpeedError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// What determines the power at each point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A vehicle's battery behind a power limit.
    Battery(Battery),
    /// A recorded session: exactly `energy`, spread evenly over the time `over`.
    Even { energy: Energy, over: Duration },
}

/// The battery of a vehicle: power rises to the rated power, and falls as the battery fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Battery {
    pub rated_w: u32,
    pub ramp_w_per_s: u32,
    pub capacity_wh: u32,
    pub initial_permille: u32,
    pub taper_from_permille: u32,
}

impl Battery {
    /// Enlarges or empties the battery until it has room for `requested`.
    fn with_room_for(mut self, requested: Energy) -> Self {
        let requested = u32::try_from(requested.wh()).unwrap_or(u32::MAX);
        self.capacity_wh = self.capacity_wh.max(requested.saturating_add(requested / 4)).max(1);
        let requested_permille = (u64::from(requested) * 1000).div_ceil(u64::from(self.capacity_wh));
        let room = 1000 - u32::try_from(requested_permille).unwrap_or(1000).min(1000);
        self.initial_permille = self.initial_permille.min(room);
        self
    }

    fn charge_ppm(&self, energy_wms: u64) -> u64 {
        // Gained energy as a share of the capacity (× 3,600,000 W·ms), in millionths.
        let gained = energy_wms / 36 * 10 / u64::from(self.capacity_wh);
        (u64::from(self.initial_permille) * 1000 + gained).min(MILLION)
    }

    fn target_w(&self, charge_ppm: u64) -> u64 {
        let rated = u64::from(self.rated_w);
        let from = u64::from(self.taper_from_permille.min(999)) * 1000;
        if charge_ppm >= MILLION {
            0
        } else if charge_ppm <= from {
            rated
        } else {
            // At least a fiftieth of the rated power, or the battery would never be full.
            (rated * (MILLION - charge_ppm) / (MILLION - from)).max(rated / 50).max(1)
        }
    }
}

/// The values of the meter at one point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Since the start of this supply.
    pub energy: Energy,
    pub power_w: u32,
    pub current_ma: u32,
    pub voltage_mv: u32,
    pub charge_permille: u32,
    /// Tenths of a degree Celsius.
    pub temperature_dc: i32,
}

/// The meter of one supply.
#[derive(Clone, Debug)]
pub struct Meter {
    profile: Profile,
    speed: Speed,
    /// Energy at which the meter stops; zero: no limit.
    limit: Energy,
    started: Instant,
    steps: u64,
    energy_wms: u64,
    power_w: u64,
    temperature_mdeg: i64,
}

impl Meter {
    /// A meter that starts at `now` and stops by itself at `limit`; zero: no limit.
    pub fn start(profile: Profile, limit: Energy, speed: Speed, now: Instant) -> Self {
        let profile = match profile {
            Profile::Battery(battery) => Profile::Battery(battery.with_room_for(limit)),
            even @ Profile::Even { .. } => even,
        };
        Self {
            profile,
            speed,
            limit,
            started: now,
            steps: 0,
            energy_wms: 0,
            power_w: 0,
            temperature_mdeg: AMBIENT_MDEG,
        }
    }

    /// Advances the simulation to `now`, and reads the meter.
    pub fn advance(&mut self, now: Instant) -> Sample {
        let simulated = self.speed.simulated_ms(now.saturating_duration_since(self.started));
        match self.profile.clone() {
            Profile::Even { energy, over } => self.spread(energy, over, simulated),
            Profile::Battery(battery) => {
                while self.steps < simulated / STEP_MS && !self.limit_met() {
                    self.step(&battery);
                }
            }
        }
        self.sample()
    }

    /// Whether the requested energy has been delivered.
    pub fn limit_met(&self) -> bool {
        self.limit > Energy::ZERO && self.energy() >= self.limit
    }

    /// When a recorded session is over, in real time.
    pub fn ends_at(&self) -> Option<Instant> {
        match &self.profile {
            Profile::Even { over, .. } => Some(self.started + self.speed.real(*over)),
            Profile::Battery(_) => None,
        }
    }

    pub fn energy(&self) -> Energy {
        Energy::from_wh(self.energy_wms / WMS_PER_WH)
    }

    fn limit_wms(&self) -> u64 {
        if self.limit == Energy::ZERO { u64::MAX } else { self.limit.wh().saturating_mul(WMS_PER_WH) }
    }

    /// Interpolates a recorded session: a straight line from no energy at the start to all of it at the end.
    fn spread(&mut self, energy: Energy, over: Duration, simulated_ms: u64) {
        let over_ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX).max(1);
        let all = u128::from(energy.wh()) * u128::from(WMS_PER_WH);
        let at = all * u128::from(simulated_ms.min(over_ms)) / u128::from(over_ms);
        self.energy_wms = u64::try_from(at).unwrap_or(u64::MAX).min(self.limit_wms());
        let running = simulated_ms < over_ms && !self.limit_met();
        self.power_w = if running { u64::try_from(all / u128::from(over_ms)).unwrap_or(u64::MAX) } else { 0 };
    }

    fn step(&mut self, battery: &Battery) {
        let target = battery.target_w(battery.charge_ppm(self.energy_wms));
        let rise = (u64::from(battery.ramp_w_per_s) * STEP_MS / 1000).max(1);
        self.power_w = target.min(self.power_w + rise);
        self.energy_wms = (self.energy_wms + self.power_w * STEP_MS).min(self.limit_wms());
        if self.limit_met() {
            self.power_w = 0;
        }
        let rated = i64::from(battery.rated_w.max(1));
        let towards = AMBIENT_MDEG + RISE_MDEG * i64::try_from(self.power_w).unwrap_or(rated) / rated;
        // The temperature follows with a time constant of about two minutes.
        self.temperature_mdeg += (towards - self.temperature_mdeg) / 1200;
        self.steps += 1;
    }

    fn sample(&self) -> Sample {
        let power_w = u32::try_from(self.power_w).unwrap_or(u32::MAX);
        let charge_ppm = match &self.profile {
            Profile::Battery(battery) => battery.charge_ppm(self.energy_wms),
            Profile::Even { .. } => 0,
        };
        // Three phases; the voltage falls by one volt for every ten kilowatts.
        let voltage_mv = 230_000 - (power_w / 10).min(20_000);
        let current_ma = u64::from(power_w) * MILLION / (3 * u64::from(voltage_mv));
        Sample {
            energy: self.energy(),
            power_w,
            current_ma: u32::try_from(current_ma).unwrap_or(u32::MAX),
            voltage_mv,
            charge_permille: u32::try_from(charge_ppm / 1000).unwrap_or(1000),
            temperature_dc: i32::try_from(self.temperature_mdeg / 100).unwrap_or(0),
        }
    }
}
