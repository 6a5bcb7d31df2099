//! Central's configuration: each field a flag and an environment variable.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use mesh::{
    descriptors::ConnectionKind,
    duration::{parse, parse_some},
    identity::IdentityConfig,
    kafka::{KafkaConfig, TopicSettings},
    rate::RateLimit,
};
use proto::{Currency, Price};

use crate::{links::LinkBounds, settings::CentralSettings};

#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Folder for what Central keeps: its keys (in `identity`), its audit checkpoints, and its database if no other is
    /// given. One process at a time
    #[arg(long, env = "CHARGEMESH_CENTRAL_DATA", value_name = "DIR", default_value = "data/central")]
    pub data: PathBuf,
    /// Database: sqlite:PATH or postgres://…; not given: central.db in the data folder
    #[arg(long, env = "CHARGEMESH_CENTRAL_DATABASE", value_name = "URL", hide_env_values = true)]
    pub database: Option<String>,
    /// Use a PostgreSQL server that runs with fsync off: what was committed is lost in a power failure
    #[arg(long, env = "CHARGEMESH_ALLOW_FSYNC_OFF")]
    pub allow_fsync_off: bool,
    /// Where to serve gRPC (mutual TLS)
    #[arg(long, env = "CHARGEMESH_CENTRAL_GRPC_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:7443")]
    pub grpc_address: SocketAddr,
    /// Where charging points and drivers connect (the sealed link)
    #[arg(long, env = "CHARGEMESH_CENTRAL_LINK_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:7400")]
    pub link_address: SocketAddr,
    /// Registry's gRPC addresses
    #[arg(
        long,
        env = "CHARGEMESH_REGISTRY",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = mesh::client::host_and_port,
        default_value = "127.0.0.1:7543"
    )]
    pub registry: Vec<String>,
    /// File that the audit is followed into, one line an entry; none if not given
    #[arg(long, env = "CHARGEMESH_AUDIT_FILE", value_name = "FILE")]
    pub audit_file: Option<PathBuf>,
    /// How often at least a signed checkpoint over the audit is written to a file
    #[arg(long, env = "CHARGEMESH_CENTRAL_CHECKPOINT_EVERY", value_name = "DURATION", default_value = "10s",
          value_parser = parse_some)]
    pub checkpoint_every: Duration,
    #[command(flatten)]
    pub supply: SupplyConfig,
    #[command(flatten)]
    pub keys: KeyConfig,
    #[command(flatten)]
    pub link: LinkConfig,
    #[command(flatten)]
    pub retention: Retention,
    /// Weather is taken for lost, and its temperatures are stale, when it has not reported for this time
    #[arg(long, env = "CHARGEMESH_WEATHER_SILENCE", value_name = "DURATION", default_value = "8s",
          value_parser = parse_some)]
    pub weather_silence: Duration,
    /// An order over more charging points than this states how many it expects, and is staggered
    #[arg(long, env = "CHARGEMESH_MANY", value_name = "N", default_value_t = 50)]
    pub many: usize,
    /// Charging points that a staggered order reaches per second
    #[arg(long, env = "CHARGEMESH_STAGGER", value_name = "N", default_value_t = 100)]
    pub stagger: usize,
    #[command(flatten)]
    pub kafka: KafkaConfig,
    #[command(flatten)]
    pub topics: TopicSettings,
    #[command(flatten)]
    pub readings: ReadingConfig,
    #[command(flatten)]
    pub identity: IdentityConfig,
    #[command(flatten)]
    pub limits: mesh::server::Limits,
    #[command(flatten)]
    pub client: mesh::client::ClientConfig,
}

/// Times of a supply, from request to ticket.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Supplies")]
pub struct SupplyConfig {
    /// How long a charging point may take to say whether it accepts a supply
    #[arg(long, env = "CHARGEMESH_ASK_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_some)]
    pub ask_timeout: Duration,
    /// How long a reservation waits for the plug
    #[arg(long, env = "CHARGEMESH_RESERVATION", value_name = "DURATION", default_value = "60s", value_parser = parse)]
    pub reservation: Duration,
    /// How long a driver may take to confirm a manual supply that names him
    #[arg(long, env = "CHARGEMESH_CONFIRMATION", value_name = "DURATION", default_value = "60s", value_parser = parse)]
    pub confirmation: Duration,
    /// How long a charging point that was told to stop may take to report the end
    #[arg(long, env = "CHARGEMESH_STOP_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_some)]
    pub stop_timeout: Duration,
    /// How long both links of a charging point may be gone before its supply settles
    #[arg(long, env = "CHARGEMESH_LINKS_LOST", value_name = "DURATION", default_value = "60s", value_parser = parse)]
    pub links_lost: Duration,
    /// How long a settling session waits for its final value before it is billed at the last one accepted
    #[arg(long, env = "CHARGEMESH_SETTLE_AFTER", value_name = "DURATION", default_value = "15m", value_parser = parse)]
    pub settle_after: Duration,
    /// How often a running meter value is made durable
    #[arg(long, env = "CHARGEMESH_METER_SAVED_EVERY", value_name = "DURATION", default_value = "10s",
          value_parser = parse_some)]
    pub meter_saved_every: Duration,
    /// How often the time left of a settling session is made durable
    #[arg(long, env = "CHARGEMESH_SETTLING_SAVED_EVERY", value_name = "DURATION", default_value = "60s",
          value_parser = parse_some)]
    pub settling_saved_every: Duration,
    /// How long an idle engine's link may be missing before its charging point is shown as broken
    #[arg(long, env = "CHARGEMESH_ENGINE_GRACE", value_name = "DURATION", default_value = "500ms", value_parser = parse)]
    pub engine_grace: Duration,
    /// How much longer it may be missing once its monitor is back: both try again after waits of their own
    #[arg(long, env = "CHARGEMESH_ENGINE_RETURN", value_name = "DURATION", default_value = "5s", value_parser = parse)]
    pub engine_return: Duration,
    /// How often tickets that a driver has not put on his disk are sent to him again, while he has a link
    #[arg(long, env = "CHARGEMESH_TICKETS_AGAIN", value_name = "DURATION", default_value = "10s",
          value_parser = parse_some)]
    pub tickets_again: Duration,
    /// Price per kWh of charging points that are enrolled without one
    #[arg(long, env = "CHARGEMESH_PRICE", value_name = "PRICE", default_value = "0.3950")]
    pub price: Price,
    /// Currency of all prices (ISO 4217)
    #[arg(long, env = "CHARGEMESH_CURRENCY", value_name = "CODE", default_value = "EUR")]
    pub currency: Currency,
    /// The most power that a charging point can have for which no rated power is set, in watts: what its meter says
    /// beyond it is disputed and not billed
    #[arg(long, env = "CHARGEMESH_MAX_POWER", value_name = "WATTS", default_value_t = 400_000,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_power: u32,
    /// How many times faster than real time charging points are simulated; their power limits are raised by so much.
    /// Nothing but 1 is right for real ones
    #[arg(long, env = "CHARGEMESH_SIMULATED_SPEED", value_name = "FACTOR", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..), hide_short_help = true)]
    pub simulated_speed: u32,
}

/// Keys of charging points and drivers.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Keys")]
pub struct KeyConfig {
    /// Life of a granted key; it is replaced when a third of it is left
    #[arg(long, env = "CHARGEMESH_KEY_LIFETIME", value_name = "DURATION", default_value = "30d", value_parser = parse_some)]
    pub key_lifetime: Duration,
    /// How long a replaced key still opens links
    #[arg(long, env = "CHARGEMESH_KEY_OVERLAP", value_name = "DURATION", default_value = "60s", value_parser = parse)]
    pub key_overlap: Duration,
    /// How long a link lasts on which a credential was shown, unless it is a charging point's status link
    #[arg(long, env = "CHARGEMESH_CONTACT_ENDS", value_name = "DURATION", default_value = "10s", value_parser = parse_some)]
    pub contact_ends: Duration,
    /// After which a charging point authenticates again whose key was renewed
    #[arg(long, env = "CHARGEMESH_RENEW_AFTER", value_name = "DURATION", default_value = "5s", value_parser = parse)]
    pub renew_after: Duration,
    /// Takeovers of a live link within the window after which a charging point is quarantined
    #[arg(long, env = "CHARGEMESH_TAKEOVERS", value_name = "N", default_value_t = 3)]
    pub takeovers: usize,
    /// The window in which takeovers are counted
    #[arg(long, env = "CHARGEMESH_TAKEOVER_WINDOW", value_name = "DURATION", default_value = "5m", value_parser = parse)]
    pub takeover_window: Duration,
}

/// The link port.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Link")]
pub struct LinkConfig {
    /// Connections at the same time; the next one is told to come later. Where this process may not have as many
    /// descriptors, fewer: some are kept for the database, files and operators
    #[arg(long, env = "CHARGEMESH_MAX_LINKS", value_name = "N", default_value_t = 100_000)]
    pub max_links: usize,
    /// Of them, that have proven nothing yet
    #[arg(long, env = "CHARGEMESH_MAX_UNPROVEN", value_name = "N", default_value_t = 8192)]
    pub max_unproven: usize,
    /// Of those, from one address; the oldest goes when another comes
    #[arg(long, env = "CHARGEMESH_MAX_UNPROVEN_PER_ADDRESS", value_name = "N", default_value_t = 2048)]
    pub max_unproven_per_address: usize,
    /// Handshakes begun per second: what strangers may cost
    #[arg(long, env = "CHARGEMESH_HANDSHAKES_PER_SECOND", value_name = "N", default_value_t = 3000)]
    pub handshakes_per_second: u32,
    /// Requests, stops and switches of its maintenance that a charging point or a driver may send at once
    #[arg(long, env = "CHARGEMESH_REQUESTS_AT_ONCE", value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub requests_at_once: u32,
    /// And then per second; those beyond it are refused
    #[arg(long, env = "CHARGEMESH_REQUESTS_PER_SECOND", value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub requests_per_second: u32,
    /// Sign of life expected from peers that name no interval of their own
    #[arg(long, env = "CHARGEMESH_LIFE_SIGN", value_name = "DURATION", default_value = "500ms", value_parser = parse_some)]
    pub life_sign: Duration,
    #[command(flatten)]
    pub conversation: mesh::link::Config,
}

/// Readings on their way to Kafka.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Kafka")]
pub struct ReadingConfig {
    /// Readings that wait for Kafka at most; beyond it new ones are dropped and counted
    #[arg(long, env = "CHARGEMESH_KAFKA_BUFFER", value_name = "COUNT", default_value_t = 100_000,
          value_parser = clap::value_parser!(u32).range(1..=4_000_000), hide_short_help = true)]
    pub kafka_buffer: u32,
    /// How long a reading waits for Kafka at most; then it is dropped and counted
    #[arg(long, env = "CHARGEMESH_KAFKA_WAIT", value_name = "DURATION", default_value = "10m", value_parser = parse_wait,
          hide_short_help = true)]
    pub kafka_wait: Duration,
}

/// A shorter wait would lose readings in outages that the buffer survives.
fn parse_wait(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        short if short < Duration::from_secs(300) => Err("it is at least 5m".to_owned()),
        long if long > Duration::from_secs(86_400) => Err("it is at most 1d".to_owned()),
        wait => Ok(wait),
    }
}

/// How long things are kept.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Retention")]
pub struct Retention {
    /// Events, after they were published; without Kafka, all of them
    #[arg(long, env = "CHARGEMESH_KEEP_EVENTS", value_name = "DURATION", default_value = "7d", value_parser = parse)]
    pub keep_events: Duration,
    /// Answers to requests and orders, which a repetition gets
    #[arg(long, env = "CHARGEMESH_KEEP_ANSWERS", value_name = "DURATION", default_value = "90d", value_parser = parse)]
    pub keep_answers: Duration,
    /// Addresses in the audit
    #[arg(long, env = "CHARGEMESH_KEEP_ADDRESSES", value_name = "DURATION", default_value = "90d", value_parser = parse)]
    pub keep_addresses: Duration,
    /// Keys that are retired, revoked or deleted; what was sealed under a retired one can be opened for so long
    #[arg(long, env = "CHARGEMESH_KEEP_KEYS", value_name = "DURATION", default_value = "90d", value_parser = parse)]
    pub keep_keys: Duration,
}

impl Config {
    /// Where the database is.
    pub fn database_url(&self) -> String {
        self.database.clone().unwrap_or_else(|| format!("sqlite:{}", self.data.join("central.db").display()))
    }

    pub(crate) fn settings(&self) -> CentralSettings {
        let (supply, keys) = (&self.supply, &self.keys);
        CentralSettings {
            ask_timeout: supply.ask_timeout,
            reservation: supply.reservation,
            confirmation: supply.confirmation,
            stop_timeout: supply.stop_timeout,
            links_lost: supply.links_lost,
            settle_after: supply.settle_after,
            meter_saved_every: supply.meter_saved_every,
            settling_saved_every: supply.settling_saved_every,
            engine_grace: supply.engine_grace,
            engine_return: supply.engine_return,
            key_overlap: keys.key_overlap,
            contact_ends: keys.contact_ends,
            renew_after: keys.renew_after,
            key_lifetime: keys.key_lifetime,
            takeovers: keys.takeovers,
            takeover_window: keys.takeover_window,
            requests: RateLimit {
                burst: self.link.requests_at_once,
                every: Duration::from_secs(1) / self.link.requests_per_second,
            },
            tickets_again: supply.tickets_again,
            many: self.many,
            weather_silence: self.weather_silence,
            price: supply.price,
            currency: supply.currency,
            max_power_w: supply.max_power,
            simulated_speed: supply.simulated_speed,
        }
    }

    pub(crate) fn bounds(&self) -> LinkBounds {
        LinkBounds {
            links: ConnectionKind::Links.capped(self.link.max_links),
            unproven: self.link.max_unproven,
            unproven_per_address: self.link.max_unproven_per_address,
            handshakes_per_second: self.link.handshakes_per_second,
        }
    }

    pub(crate) fn wire(&self) -> wire::LinkSettings {
        self.link.conversation.wire(self.link.life_sign)
    }
}
