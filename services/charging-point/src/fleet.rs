//! Many charging points in one process, for load and for recorded sessions: the same cores, the same links to Central,
//! but a channel in place of the pairing socket, and journals that hold no descriptor while nothing is written.

use std::{
    fs::{self, File},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh::{
    control::{ControlRefusal, ControlRequest},
    peer::{self, RegistryClient, StoredIdentity},
    process::{Context, Misuse},
};
use prometheus_client::metrics::gauge::Gauge;
use proto::{
    ChargingPointId, Energy,
    enrolment::{EnrolBody, PeerKind},
};
use rand::{SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    args::Args,
    commands,
    config::{FleetConfig, engine_settings},
    engine::{
        Engine, EngineAction, EngineSettings,
        event_loop::{Disk, EngineEvent, EngineHandle, EngineLoop},
    },
    journal::Journal,
    meter::Profile,
    monitor::{
        Monitor, MonitorSettings,
        event_loop::{MonitorEvent, MonitorHandle, MonitorLoop},
    },
    other_part::{FromOther, OtherPart},
};

/// Inputs that may wait for one charging point's loop; a channel's smallest block holds as many.
const EVENTS: usize = 32;
/// Journals written at once.
const WRITES: usize = 8;

/// One charging point of a fleet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Member {
    pub id: ChargingPointId,
    pub engine: EngineHandle,
    pub monitor: MonitorHandle,
}

impl Member {
    /// The next supply delivers exactly `energy`, evenly over `over` of the meter's time.
    ///
    /// # Errors
    /// Where the charging point is stopping.
    pub async fn deliver(&self, energy: Energy, over: Duration) -> Result<(), String> {
        self.engine.act(EngineAction::Next(Profile::Even { energy, over })).await
    }
}

/// A fleet that runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fleet {
    parts: Arc<Parts>,
    members: Arc<Mutex<Vec<Member>>>,
}

/// What its members share.
#[derive(Debug)]
struct Parts {
    config: FleetConfig,
    engine: EngineSettings,
    monitor: MonitorSettings,
    registry: RegistryClient,
    disk: Disk,
    stop: CancellationToken,
    /// Held, so that no second fleet writes to the same folder.
    _lock: File,
}

/// How many are what.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct FleetStatus {
    pub charging_points: usize,
    pub enrolled: usize,
    pub central_reachable: usize,
    pub reserved: usize,
    pub supplying: usize,
    /// Ended sessions that Central has not settled.
    pub unsettled: usize,
    pub warnings: usize,
}

/// A gauge and its figure.
type FleetGauge = (Gauge, fn(&FleetStatus) -> usize);

impl Fleet {
    /// Takes the folder; members are added in the background, as many a second as configured.
    ///
    /// # Errors
    /// Where the folder cannot be used or an id would not be one.
    pub fn start(config: &FleetConfig, ctx: &Context) -> anyhow::Result<Self> {
        let fleet = Self::new(config, ctx)?;
        let ids = ids(config)?;
        let (adding, ctx_in) = (fleet.clone(), ctx.clone());
        ctx.spawn("fleet", async move {
            let pause = Duration::from_secs(1) / adding.parts.config.starts_per_second.max(1);
            for (n, id) in ids.into_iter().enumerate() {
                adding.add(&ctx_in, n, id)?;
                if ctx_in.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    break;
                }
            }
            Ok(())
        });
        Ok(fleet)
    }

    /// A fleet without members, to be [`Self::add`]ed.
    ///
    /// # Errors
    /// Where the folder cannot be used.
    pub fn new(config: &FleetConfig, ctx: &Context) -> anyhow::Result<Self> {
        let parts = Parts {
            engine: engine_settings(&config.vehicle, &config.meter, &config.reach, false),
            monitor: config.enrolment.settings(&config.reach)?,
            registry: RegistryClient::new(PeerKind::ChargingPoint, &config.enrolment.registry),
            disk: Disk::new(WRITES),
            stop: ctx.stop.clone(),
            _lock: lock(&config.data)?,
            config: config.clone(),
        };
        Ok(Self { parts: Arc::new(parts), members: Arc::default() })
    }

    /// Starts one charging point; `number` chooses its city.
    ///
    /// # Errors
    /// Where its journal or identity cannot be used.
    pub fn add(&self, ctx: &Context, number: usize, id: ChargingPointId) -> anyhow::Result<Member> {
        let parts = &self.parts;
        let now = ctx.clock.now();
        let path = parts.config.data.join(format!("{id}.journal"));
        let journal = Journal::open(&path, parts.config.meter.journal(false), now.wall_ms)
            .map_err(|error| Misuse::new(error.to_string()))?;
        let identity = parts.config.data.join(format!("{id}.identity.json"));
        let stored = StoredIdentity::load(&identity).map_err(|error| Misuse::new(error.to_string()))?;

        let (to_engine, engine_hears) = mpsc::channel(EVENTS);
        let (to_monitor, monitor_hears) = mpsc::channel(EVENTS);
        let member = Member {
            id: id.clone(),
            engine: EngineHandle(to_engine.clone()),
            monitor: MonitorHandle(to_monitor.clone()),
        };
        let (journal_state, rng) = (journal.state().clone(), || StdRng::seed_from_u64(rand::random()));
        let engine = Engine::new(parts.engine.clone(), journal_state, rand::random(), rng(), now);
        let monitor = Monitor::new(self.monitor_of(number, &id), stored, rng(), now);

        // Paired from the first moment: the first word in both channels.
        drop(to_engine.try_send(EngineEvent::Monitor(FromOther::Paired)));
        drop(to_monitor.try_send(MonitorEvent::Engine(FromOther::Paired)));
        let other = OtherPart::in_process(&to_monitor, MonitorEvent::Engine);
        let engine = EngineLoop::new(engine, journal, parts.disk.clone(), ctx.clock, to_engine.clone(), other);
        let other = OtherPart::in_process(&to_engine, EngineEvent::Monitor);
        let registry = parts.registry.clone();
        let monitor = MonitorLoop::new(monitor, identity, registry, ctx.clock, to_monitor, other);
        ctx.spawn("engine", peer::run(engine, engine_hears, parts.stop.clone(), ctx.clock));
        ctx.spawn("monitor", peer::run(monitor, monitor_hears, parts.stop.clone(), ctx.clock));
        self.members().push(member.clone());
        Ok(member)
    }

    fn monitor_of(&self, number: usize, id: &ChargingPointId) -> MonitorSettings {
        let cities = &self.parts.config.cities;
        let city = cities.get(number.checked_rem(cities.len()).unwrap_or(0)).cloned().unwrap_or_default();
        let mut settings = self.parts.monitor.clone();
        let (id, place) = (id.to_string(), format!("Bay {id}"));
        settings.enrollee.enrolment = EnrolBody { id, city, place, ..settings.enrollee.enrolment };
        settings
    }

    fn members(&self) -> std::sync::MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that were started so far.
    pub fn all(&self) -> Vec<Member> {
        self.members().clone()
    }

    pub fn member(&self, id: &str) -> Option<Member> {
        self.members().iter().find(|m| m.id.as_str() == id).cloned()
    }

    /// Asks every one how it is.
    pub async fn status(&self) -> FleetStatus {
        let mut status = FleetStatus::default();
        for member in self.all() {
            let (Some(engine), Some(monitor)) = (member.engine.status().await, member.monitor.status().await) else {
                continue;
            };
            status.charging_points += 1;
            status.enrolled += usize::from(monitor.enrolment == "ENROLLED");
            status.central_reachable += usize::from(engine.central.reachable && monitor.central.reachable);
            let session = engine.session.as_ref().map(|s| s.state);
            status.supplying += usize::from(session == Some("SUPPLYING"));
            status.reserved += usize::from(session == Some("RESERVED"));
            status.unsettled += engine.unsettled;
            status.warnings += usize::from(!engine.warnings.is_empty() || !monitor.warnings.is_empty());
        }
        status
    }

    /// Says from time to time how the fleet is, until the process stops.
    pub(crate) async fn watch(&self, ctx: &Context) -> anyhow::Result<()> {
        let gauge = |name: &str, help: &str| ctx.metrics.register(name, help, Gauge::default());
        let figures: [FleetGauge; 5] = [
            (gauge("charging_points", "Charging points of this fleet"), |t| t.charging_points),
            (gauge("charging_points_enrolled", "Those that are enrolled"), |t| t.enrolled),
            (gauge("charging_points_linked", "Those with both links to Central"), |t| t.central_reachable),
            (gauge("charging_points_supplying", "Those that supply"), |t| t.supplying),
            (gauge("sessions_unsettled", "Ended sessions that Central has not settled"), |t| t.unsettled),
        ];
        let mut before = String::new();
        let mut every = tokio::time::interval(Duration::from_secs(5));
        while ctx.stop.run_until_cancelled(every.tick()).await.is_some() {
            let status = self.status().await;
            for (gauge, figure) in &figures {
                gauge.set(i64::try_from(figure(&status)).unwrap_or(i64::MAX));
            }
            let line = serde_json::to_string(&status)?;
            if line != before {
                tracing::info!(
                    charging_points = status.charging_points,
                    enrolled = status.enrolled,
                    central_reachable = status.central_reachable,
                    reserved = status.reserved,
                    supplying = status.supplying,
                    unsettled = status.unsettled,
                    "fleet"
                );
                before = line;
            }
        }
        Ok(())
    }
}

/// A fleet's control socket: `status`, `list`, and every command of an engine or a monitor behind `engine ID` or
/// `monitor ID`.
pub(crate) async fn answer(fleet: Fleet, request: ControlRequest) -> Result<Value, ControlRefusal> {
    let args = Args(&request.args);
    match request.command.as_str() {
        "status" => serde_json::to_value(fleet.status().await).map_err(|error| error.to_string().into()),
        "list" => Ok(fleet.all().iter().map(|m| Value::from(m.id.as_str())).collect()),
        "engine" | "monitor" => {
            let id = args.get("id", 0);
            let id = id.ok_or_else(|| ControlRefusal::misuse("which charging point? engine ID COMMAND"))?;
            let member = fleet.member(&id).ok_or_else(|| format!("there is no charging point {id:?} in this fleet"))?;
            let command = args.get("command", 1).unwrap_or_else(|| "status".to_owned());
            let inner = ControlRequest::new(command, rest(&request.args));
            if request.command == "engine" {
                commands::engine(member.engine, inner).await
            } else {
                commands::monitor(member.monitor, inner).await
            }
        }
        other => {
            let text = format!("no command {other:?}; there are: status, list, engine ID COMMAND, monitor ID COMMAND");
            Err(ControlRefusal::misuse(text))
        }
    }
}

/// The arguments behind id and command.
fn rest(args: &Value) -> Value {
    match args {
        Value::Array(list) => Value::Array(list.iter().skip(2).cloned().collect()),
        named @ Value::Object(_) => named.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Value::Null,
    }
}

fn ids(config: &FleetConfig) -> anyhow::Result<Vec<ChargingPointId>> {
    let numbers = config.first..config.first.saturating_add(config.count);
    let ids = numbers.map(|n| format!("{}{n}", config.prefix).parse());
    let ids: Result<Vec<ChargingPointId>, _> = ids.collect();
    Ok(ids.map_err(|error| Misuse::new(format!("--prefix {:?} makes no ids: {error}", config.prefix)))?)
}

fn lock(folder: &Path) -> anyhow::Result<File> {
    let cannot = |why: &dyn std::fmt::Display| {
        Misuse::new(format!("the folder {} cannot be used: {why}; give another one with --data", folder.display()))
    };
    fs::create_dir_all(folder).map_err(|error| cannot(&error))?;
    let file = File::options().create(true).truncate(false).write(true).open(folder.join("lock"));
    let file = file.map_err(|error| cannot(&error))?;
    file.try_lock().map_err(|_| cannot(&"another fleet uses it"))?;
    Ok(file)
}
