//! The settings of engine, monitor and fleet: each is a flag and an environment variable (SPEC 1.7).

use std::{path::PathBuf, time::Duration};

use mesh::{
    peer::{EnrolleeSettings, PeerSettings},
    process::Misuse,
};
use proto::{
    ChargingPointId, Price,
    enrolment::{EnrolBody, SecretText},
    link::v1::Part,
};

use crate::{
    engine::{EngineSettings, Unattended},
    journal,
    meter::{Battery, Speed},
    monitor::MonitorSettings,
    pairing::PairingAddress,
};

/// An engine's settings.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineConfig {
    /// Folder of the engine's journal, which holds its sessions and its meter's register
    #[arg(long, env = "CHARGEMESH_DATA", value_name = "DIR", default_value = "data/charging-point")]
    pub data: PathBuf,
    #[command(flatten)]
    pub pairing: PairingConfig,
    #[command(flatten)]
    pub vehicle: VehicleConfig,
    /// Allow the commands spoil-key and repair-key, which corrupt the engine's keys as a drill
    #[arg(long, env = "CHARGEMESH_DRILLS")]
    pub drills: bool,
    #[command(flatten)]
    pub meter: MeterConfig,
    #[command(flatten)]
    pub reach: ReachConfig,
}

/// A monitor's settings.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Monitor")]
pub struct MonitorConfig {
    /// Id of the charging point, needed for the enrolment; the stored identity holds it afterwards
    #[arg(long, env = "CHARGEMESH_CHARGING_POINT_ID", value_name = "ID")]
    pub id: Option<ChargingPointId>,
    /// City of the charging point, sent with the enrolment
    #[arg(long, env = "CHARGEMESH_CITY", value_name = "NAME", default_value = "")]
    pub city: String,
    /// Address of the charging point within the city, sent with the enrolment
    #[arg(long, env = "CHARGEMESH_PLACE", value_name = "TEXT", default_value = "")]
    pub place: String,
    #[command(flatten)]
    pub enrolment: EnrolmentConfig,
    /// Folder of the stored identity: credential and keys
    #[arg(long, env = "CHARGEMESH_DATA", value_name = "DIR", default_value = "data/charging-point")]
    pub data: PathBuf,
    #[command(flatten)]
    pub pairing: PairingConfig,
    #[command(flatten)]
    pub reach: ReachConfig,
}

/// A fleet's settings: many charging points, engine and monitor of each, in one process.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Fleet")]
pub struct FleetConfig {
    /// Number of charging points
    #[arg(long, env = "CHARGEMESH_COUNT", value_name = "N", default_value_t = 100)]
    pub count: usize,
    /// Beginning of the ids of the charging points; a number follows it
    #[arg(long, env = "CHARGEMESH_PREFIX", value_name = "TEXT", default_value = "CP-")]
    pub prefix: String,
    /// Number of the first charging point
    #[arg(long, env = "CHARGEMESH_FIRST", value_name = "N", default_value_t = 1)]
    pub first: usize,
    /// Cities of the charging points, assigned in turn
    #[arg(long, env = "CHARGEMESH_CITIES", value_name = "NAME", value_delimiter = ',', default_value = "")]
    pub cities: Vec<String>,
    /// Charging points to start per second
    #[arg(long, env = "CHARGEMESH_STARTS_PER_SECOND", value_name = "N", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub starts_per_second: u32,
    #[command(flatten)]
    pub enrolment: EnrolmentConfig,
    /// Folder of the fleet's journals, credentials and keys
    #[arg(long, env = "CHARGEMESH_DATA", value_name = "DIR", default_value = "data/fleet")]
    pub data: PathBuf,
    #[command(flatten)]
    pub vehicle: VehicleConfig,
    #[command(flatten)]
    pub meter: MeterConfig,
    #[command(flatten)]
    pub reach: ReachConfig,
}

/// Time limit of a handshake between engine and monitor, which are close to each other.
const PAIRING_HANDSHAKE: Duration = Duration::from_secs(3);

/// The settings of the link between engine and monitor.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Pairing of engine and monitor")]
pub struct PairingConfig {
    /// Where the engine connects to the monitor: the path of a Unix socket on one host, or host:port between two hosts;
    /// default: pairing.sock in the data folder
    #[arg(long, env = "CHARGEMESH_PAIRING", value_name = "PLACE")]
    pub pairing: Option<PairingAddress>,
    /// File with the pairing secret, needed where --pairing is host:port; the same text at both ends
    #[arg(long, env = "CHARGEMESH_PAIRING_SECRET_FILE", value_name = "FILE")]
    pub pairing_secret_file: Option<PathBuf>,
    /// Interval at which engine and monitor send each other a sign of life
    #[arg(long, env = "CHARGEMESH_PAIRING_LIFE_SIGN", value_name = "DURATION", default_value = "500ms",
          value_parser = mesh::duration::parse_some)]
    pub pairing_life_sign: Duration,
    /// Number of missed signs of life after which engine or monitor counts as gone
    #[arg(long, env = "CHARGEMESH_PAIRING_MISSES", value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub pairing_misses: u32,
}

impl PairingConfig {
    pub(crate) fn wire(&self) -> wire::LinkSettings {
        let (life_sign, misses) = (self.pairing_life_sign, self.pairing_misses);
        wire::LinkSettings { life_sign, misses, handshake_timeout: PAIRING_HANDSHAKE, ..wire::LinkSettings::default() }
    }

    pub(crate) fn place(&self, data: &std::path::Path) -> PairingAddress {
        self.pairing.clone().unwrap_or_else(|| PairingAddress::Unix(data.join("pairing.sock")))
    }
}

/// The settings of enrolment and authentication, and the addresses of Registry and Central.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Enrolment")]
pub struct EnrolmentConfig {
    /// Price per kWh, sent with the enrolment, such as 0.3950; 0: Central's default price
    #[arg(long, env = "CHARGEMESH_PRICE", value_name = "PRICE", default_value = "0")]
    pub price: Price,
    /// Registry's HTTPS address
    #[arg(long, env = "CHARGEMESH_REGISTRY_HTTPS", value_name = "HOST:PORT", default_value = "127.0.0.1:7580",
          value_parser = mesh::client::https_address)]
    pub registry: String,
    /// Enrolment token, needed at the first start; it is used again when an operator has readmitted the id
    #[arg(long, env = "CHARGEMESH_TOKEN", value_name = "TOKEN", value_parser = secret, hide_env_values = true)]
    pub token: Option<SecretText>,
    /// File that holds the enrolment token
    #[arg(long, env = "CHARGEMESH_TOKEN_FILE", value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Link addresses of Central, tried in turn
    #[arg(
        long,
        env = "CHARGEMESH_CENTRAL_LINK",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = mesh::client::host_and_port,
        default_value = "127.0.0.1:7400"
    )]
    pub central: Vec<String>,
    /// Interval at which to send Central a sign of life
    #[arg(long, env = "CHARGEMESH_LIFE_SIGN", value_name = "DURATION", default_value = "500ms",
          value_parser = mesh::duration::parse_some)]
    pub life_sign: Duration,
    /// Wait before authenticating again after a renewal or a refusal; Central may ask for a longer one, up to a minute
    #[arg(long, env = "CHARGEMESH_AUTHENTICATE_AGAIN", value_name = "DURATION", default_value = "5s",
          value_parser = mesh::duration::parse)]
    pub authenticate_again: Duration,
    /// Number of refused credentials after which the monitor stops authenticating, until the command authenticate
    #[arg(long, env = "CHARGEMESH_REFUSALS", value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub refusals: u32,
    /// Wait before Registry is asked again after it could not be reached
    #[arg(long, env = "CHARGEMESH_REGISTRY_AGAIN", value_name = "DURATION", default_value = "5s",
          value_parser = mesh::duration::parse_some)]
    pub registry_again: Duration,
    /// Time limit for the engine to confirm that it has stored a new key
    #[arg(long, env = "CHARGEMESH_KEY_HANDED", value_name = "DURATION", default_value = "5s",
          value_parser = mesh::duration::parse)]
    pub key_handed: Duration,
}

fn secret(text: &str) -> Result<SecretText, std::convert::Infallible> {
    Ok(SecretText::new(text.trim()))
}

impl EnrolmentConfig {
    pub(crate) fn token(&self) -> anyhow::Result<Option<SecretText>> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|e| Misuse::new(format!("the token file {} cannot be read: {e}", file.display())))?;
                if text.trim().is_empty() {
                    return Err(Misuse::new(format!("the token file {} is empty", file.display())).into());
                }
                Ok(Some(SecretText::new(text.trim())))
            }
            (None, None) => Ok(None),
        }
    }

    pub(crate) fn settings(&self, reach: &ReachConfig) -> anyhow::Result<MonitorSettings> {
        let token = self.token()?;
        if let Some(Err(error)) = token.as_ref().map(|t| t.expose().parse::<proto::enrolment::EnrolmentToken>()) {
            return Err(Misuse::new(format!("the enrolment token is not one: {error}")).into());
        }
        Ok(MonitorSettings {
            enrollee: EnrolleeSettings {
                part: Part::Monitor,
                enrolment: EnrolBody { price_e4: self.price.e4(), ..EnrolBody::default() },
                token,
                central: self.central.iter().map(|a| a.trim().to_owned()).filter(|a| !a.is_empty()).collect(),
                life_sign: self.life_sign,
                authenticate_again: self.authenticate_again,
                refusals: self.refusals,
                registry_again: self.registry_again,
                peer: reach.settings(),
            },
            key_handed: self.key_handed,
            software: software(),
        })
    }
}

/// The settings of the links to Central.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Link")]
pub struct ReachConfig {
    /// Wait after the first failure to reach Central; doubled with each further one, and jittered
    #[arg(long, env = "CHARGEMESH_RETRY_MIN", value_name = "DURATION", default_value = "200ms",
          value_parser = mesh::duration::parse_some)]
    pub retry_min: Duration,
    /// Longest wait between attempts to reach Central
    #[arg(long, env = "CHARGEMESH_RETRY_MAX", value_name = "DURATION", default_value = "5s",
          value_parser = mesh::duration::parse_some)]
    pub retry_max: Duration,
    /// Time after which an unanswered message is sent again
    #[arg(long, env = "CHARGEMESH_REPEAT", value_name = "DURATION", default_value = "5s",
          value_parser = mesh::duration::parse_some)]
    pub repeat: Duration,
    /// Time limit for Central's answer to a manual supply
    #[arg(long, env = "CHARGEMESH_MANUAL_WAIT", value_name = "DURATION", default_value = "60s",
          value_parser = mesh::duration::parse_some)]
    pub manual_wait: Duration,
    #[command(flatten)]
    pub conversation: mesh::link::Config,
    #[command(flatten)]
    pub clock: mesh::skew::Config,
}

impl ReachConfig {
    pub(crate) fn settings(&self) -> PeerSettings {
        PeerSettings {
            retry_min: self.retry_min,
            retry_max: self.retry_max,
            repeat: self.repeat,
            // The interval of the signs of life is set for each link.
            wire: self.conversation.wire(Duration::ZERO),
            clock: self.clock.reading(),
        }
    }
}

/// The settings of the simulated vehicle and its plug.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Vehicle and plug")]
pub struct VehicleConfig {
    /// Plug the vehicle in and out automatically
    #[arg(long, env = "CHARGEMESH_UNATTENDED")]
    pub unattended: bool,
    /// With --unattended: time from the reservation to plugging in
    #[arg(long, env = "CHARGEMESH_PLUG_IN_AFTER", value_name = "DURATION", default_value = "1s",
          value_parser = mesh::duration::parse)]
    pub plug_in_after: Duration,
    /// With --unattended: how long to charge where no amount of energy was requested
    #[arg(long, env = "CHARGEMESH_CHARGE_FOR", value_name = "DURATION", default_value = "60s",
          value_parser = mesh::duration::parse)]
    pub charge_for: Duration,
    /// How much faster than real time meter and plug are simulated
    #[arg(long, env = "CHARGEMESH_SPEED", value_name = "FACTOR", default_value = "1")]
    pub speed: Speed,
    /// Rated power of the charging point in watts
    #[arg(long, env = "CHARGEMESH_POWER", value_name = "WATTS", default_value_t = 22_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub power: u32,
    /// How fast the power rises, in watts per second
    #[arg(long, env = "CHARGEMESH_RAMP", value_name = "WATTS", default_value_t = 5_500,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub ramp: u32,
    /// Capacity of the vehicle's battery in watt-hours
    #[arg(long, env = "CHARGEMESH_BATTERY", value_name = "WH", default_value_t = 60_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub battery: u32,
    /// State of charge, in percent, at which the vehicle is plugged in
    #[arg(long, env = "CHARGEMESH_CHARGED", value_name = "PERCENT", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(0..=100))]
    pub charged: u32,
    /// State of charge, in percent, above which the power falls
    #[arg(long, env = "CHARGEMESH_TAPER_FROM", value_name = "PERCENT", default_value_t = 80,
          value_parser = clap::value_parser!(u32).range(0..=100))]
    pub taper_from: u32,
}

/// The intervals of the meter, and the bounds of readings and journal.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Meter and journal")]
pub struct MeterConfig {
    /// Interval at which the meter is read during a supply; an end of the supply is noticed that late at most
    #[arg(long, env = "CHARGEMESH_TICK", value_name = "DURATION", default_value = "200ms",
          value_parser = mesh::duration::parse_some)]
    pub tick: Duration,
    /// Interval at which a meter value and a reading are sent to Central during a supply
    #[arg(long, env = "CHARGEMESH_METER_EVERY", value_name = "DURATION", default_value = "1s",
          value_parser = mesh::duration::parse_some)]
    pub meter_every: Duration,
    /// Interval at which a reading is sent to Central while nothing is supplied; 0s: none is sent
    #[arg(long, env = "CHARGEMESH_IDLE_READING_EVERY", value_name = "DURATION", default_value = "0s",
          value_parser = mesh::duration::parse)]
    pub idle_reading_every: Duration,
    /// Interval at which the meter's register is written to the journal during a supply
    #[arg(long, env = "CHARGEMESH_REGISTER_EVERY", value_name = "DURATION", default_value = "1s",
          value_parser = mesh::duration::parse_some)]
    pub register_every: Duration,
    /// Interval at which these writes are synced to the disk, so that they survive a loss of power
    #[arg(long, env = "CHARGEMESH_REGISTER_SYNC_EVERY", value_name = "DURATION", default_value = "10s",
          value_parser = mesh::duration::parse_some)]
    pub register_sync_every: Duration,
    /// Maximum number of readings that are kept while Central cannot be reached
    #[arg(long, env = "CHARGEMESH_READINGS_KEPT", value_name = "N", default_value_t = 600)]
    pub readings_kept: usize,
    /// Number of kept readings that are sent per interval of --meter-every once Central can be reached again
    #[arg(long, env = "CHARGEMESH_READINGS_AT_ONCE", value_name = "N", default_value_t = 8,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub readings_at_once: usize,
    /// Time for which settled sessions are kept in the journal
    #[arg(long, env = "CHARGEMESH_JOURNAL_RETENTION", value_name = "DURATION", default_value = "35d",
          value_parser = mesh::duration::parse)]
    pub journal_retention: Duration,
}

impl MeterConfig {
    pub(crate) fn journal(&self, held_open: bool) -> journal::JournalSettings {
        journal::JournalSettings { held_open, retention: self.journal_retention, ..journal::JournalSettings::default() }
    }
}

/// The settings of an engine's pure core.
pub(crate) fn engine_settings(
    vehicle: &VehicleConfig,
    meter: &MeterConfig,
    reach: &ReachConfig,
    drills: bool,
) -> EngineSettings {
    let at_least = |every: Duration| every.max(Duration::from_millis(10));
    EngineSettings {
        unattended: vehicle
            .unattended
            .then_some(Unattended { plug_in_after: vehicle.plug_in_after, charge_for: vehicle.charge_for }),
        battery: Battery {
            rated_w: vehicle.power,
            ramp_w_per_s: vehicle.ramp,
            capacity_wh: vehicle.battery,
            initial_permille: vehicle.charged * 10,
            taper_from_permille: vehicle.taper_from * 10,
        },
        speed: vehicle.speed,
        tick: at_least(meter.tick),
        meter_value: at_least(meter.meter_every),
        idle_reading: (!meter.idle_reading_every.is_zero()).then_some(at_least(meter.idle_reading_every)),
        register: at_least(meter.register_every),
        register_sync: meter.register_sync_every,
        readings_kept: meter.readings_kept,
        readings_at_once: meter.readings_at_once,
        drills,
        manual_wait: reach.manual_wait,
        peer: reach.settings(),
        software: software(),
    }
}

fn software() -> String {
    concat!("chargemesh/", env!("CARGO_PKG_VERSION")).to_owned()
}
