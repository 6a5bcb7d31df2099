//! `chargemesh replay FILE`: sends recorded charging sessions through a whole network. Registry and Central run as
//! processes of their own; each recorded station becomes a charging point and a driver in this process, with real links,
//! sealed messages and durable journals.
//!
//! Guarantees: the request id of a row is derived from the row, so that a second run on the same folder requests nothing
//! twice; a row whose supply a killed run interrupted is requested again, with the number of the attempt in its id; at the
//! end, Central must have exactly one ticket with exactly its watt-hours for each row.

mod books;
mod columns;
mod dates;
mod progress;
mod recording;
mod recording_args;
mod station;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use charging_point::{Fleet, FleetConfig, meter::Speed};
use clap::{Args, Parser};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use mesh::process::{self, Context, Misuse};
use proto::{
    central::v1::{ChargingPoint, ChargingPointState},
    enrolment::SecretText,
    registry::v1::Kind,
};

pub(crate) use self::progress::is_replay;
use self::{
    books::{Books, Summary},
    progress::{ReplayProgress, keep_mark},
    recording::{RecordedSession, Recording},
    recording_args::RecordingArgs,
    station::{BilledRow, ReplayStation, Schedule},
};
use crate::{
    operator::{charging_points, sessions, tickets},
    output::{Output, note},
    up::{
        layout::{Layout, RequestedAddresses, flags},
        log_stream::{LogSink, LogStream},
        network::{LocalNetwork, NetworkOptions},
        plan::Plan,
        process_config,
        status::FolderLock,
    },
};

/// Replay recorded charging sessions through a whole network and check what was billed
///
/// The recording is CSV with the columns session, station, plug_in, plug_out and kwh, among others; --map and --dates read
/// files that have other names and other dates. Each station is a charging point and a driver of its own; each row is
/// requested at its time and supplied with exactly its energy, evenly between plug-in and plug-out. A second run on the
/// same folder continues the first: supplies that a killed run interrupted are requested again, and what was billed for
/// the interrupted ones is shown separately.
///
/// How long it takes: the recording's whole time divided by --speed, but at least a second for each hundred rows of the
/// station that has most.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  chargemesh replay deploy/samples/caltech-2019-03-a.csv
  chargemesh replay sessions.csv --data /tmp/replay --speed 3600 --json
  chargemesh replay acn.csv --map session=sessionID --map station=stationID --map plug_in=connectionTime \\
      --map plug_out=disconnectTime --map kwh=kWhDelivered            (--dates rfc2822 where its times end with GMT)
  chargemesh replay dundee.csv --dates day-first --map session=# --map 'station=CP ID+Connector' \\
      --map 'plug_in=Start Date+Start Time' --map 'plug_out=End Date+End Time' --map 'kwh=Total kWh'

Exit code 0: every row has exactly one ticket with exactly its watt-hours.")]
pub(crate) struct Replay {
    #[command(flatten)]
    recording: RecordingArgs,
    /// Folder for the state of the replay's own network
    #[arg(long, env = "CHARGEMESH_REPLAY_DATA", value_name = "DIR", default_value = "data/replay")]
    data: PathBuf,
    /// How many times faster than recorded meters and plugs run; links and timeouts keep real time
    #[arg(long, env = "CHARGEMESH_REPLAY_SPEED", value_name = "FACTOR", default_value = "21600")]
    speed: Speed,
    /// Log level of the roles, which log to replay.log in the folder: error, warn, info, debug or trace, or by module
    #[arg(long, env = "CHARGEMESH_LOG_LEVEL", value_name = "LEVEL", default_value = "info",
          value_parser = mesh::logging::parse_filter)]
    log_level: String,
    /// Print the summary as JSON
    #[arg(long, env = "CHARGEMESH_JSON")]
    json: bool,
}

const LOG: &str = "replay.log";
/// Far more requests a second than a network of this machine answers.
const UNBOUND: &str = "1000000";
const AVAILABLE_WITHIN: Duration = Duration::from_secs(120);
/// How long running supplies may take to finish after Ctrl-C.
const FINISH_WITHIN: Duration = Duration::from_secs(30);

impl Replay {
    pub(crate) fn run(self) -> ExitCode {
        // No logs of this process, which has thousands of links: a progress bar and, at the end, the summary are shown.
        let config = process_config("off".to_owned(), ([127, 0, 0, 1], 0).into());
        process::run("replay", config, |ctx| async move {
            let result = self.run_network(ctx).await;
            result.inspect_err(|error| note(&format!("chargemesh: {error:#}")))
        })
    }

    async fn run_network(self, ctx: Context) -> anyhow::Result<()> {
        let (recording, mark) = self.recording.read()?;
        let lock = FolderLock::take(&self.data)?;
        let layout = Layout::new(&self.data)?;
        keep_mark(&layout.data, &self.recording.file, mark)?;
        let path = layout.data.join(LOG);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(|error| Misuse::new(format!("cannot write {}: {error}", path.display())))?;
        let (stream, written) = LogStream::start(LogSink::File(log));

        let mut plan = Plan::read(&layout.data)?;
        let log_level = self.log_level.clone();
        let options = NetworkOptions {
            requested: RequestedAddresses::default(),
            log_level,
            control_socket: None,
            relayed: false,
            // One station's driver may request as fast as its rows follow each other.
            kafka: mesh::kafka::KafkaConfig::default(),
            of_weather: None,
            of_central: flags([
                ("--requests-at-once", &UNBOUND),
                ("--requests-per-second", &UNBOUND),
                ("--simulated-speed", &self.speed.rounded_up().to_string()),
            ]),
        };
        let network = LocalNetwork::start(&ctx, lock, layout, &mut plan, options, stream.clone()).await;
        let network = network.with_context(|| format!("see {}", path.display()))?;
        network.set_ready();
        let result = self.replay(&ctx, &network, &recording).await;
        network.end().await;
        drop(stream);
        drop(tokio::time::timeout(Duration::from_secs(1), written).await);
        ctx.stop.cancel();
        result.with_context(|| format!("the log of the roles is in {}", path.display()))
    }

    async fn replay(&self, ctx: &Context, network: &LocalNetwork, recording: &Recording) -> anyhow::Result<()> {
        let began = ctx.clock.mono();
        let progress = ReplayProgress::open(&network.layout.data)?;
        let books = read_books(network, &progress).await?;
        let left: Vec<&RecordedSession> = recording.rows.iter().filter(|row| !books.is_billed(row)).collect();
        report_interrupted(&left.iter().copied().filter(|row| books.is_interrupted(row)).collect::<Vec<_>>());
        let refused = Arc::new(AtomicU64::new(0));
        if left.is_empty() {
            note("every row was replayed before; checking what was billed");
        } else {
            // A context of its own, so that on Ctrl-C running supplies are finished before the links are closed.
            let inner = Context::detached("replay");
            let left = Remaining { rows: left, before: Arc::new(books.requests()) };
            let result = self.rows(ctx, &inner, network, recording, &left, &progress, &refused).await;
            inner.stop.cancel();
            drop(tokio::time::timeout(Duration::from_secs(10), inner.ended()).await);
            result?;
        }
        let books = read_books(network, &progress).await?;
        let latencies = progress.authorised_us()?;
        let mut summary = books.summary(recording, &latencies, refused.load(Ordering::Relaxed));
        summary.seconds = (ctx.clock.mono() - began).as_secs_f64();
        self.report(ctx, &summary, &books.mismatches(recording))
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where a replay's parts meet")]
    async fn rows(
        &self,
        ctx: &Context,
        inner: &Context,
        network: &LocalNetwork,
        recording: &Recording,
        left: &Remaining<'_>,
        progress: &ReplayProgress,
        refused: &Arc<AtomicU64>,
    ) -> anyhow::Result<()> {
        let bar = progress_bar(recording.rows.len(), recording.rows.len() - left.rows.len());
        bar.set_message("enrolling");
        let stations = self.stations(inner, network, recording, left, &bar).await?;
        bar.set_message("waiting for the charging points");
        wait_until_available(network, &stations).await?;
        bar.set_message("");

        let first = left.rows.iter().map(|row| row.plug_in).min().context("no rows")?;
        let schedule = Schedule { start: ctx.clock.mono(), first, speed: self.speed };
        let mut running = tokio::task::JoinSet::new();
        let (done, mut finished) = tokio::sync::mpsc::channel::<BilledRow>(64);
        for station in stations {
            running.spawn(station.replay(schedule, ctx.stop.clone(), done.clone(), Arc::clone(refused)));
        }
        drop(done);
        let stopped = async {
            ctx.stop.cancelled().await;
            tokio::time::sleep(FINISH_WITHIN).await;
        };
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                done = finished.recv() => match done {
                    Some(done) => {
                        progress.keep(&done)?;
                        advance(&bar, &done);
                    }
                    None => break,
                },
                () = &mut stopped => break,
            }
        }
        bar.finish_and_clear();
        let mut failed = None;
        while let Some(result) = running.try_join_next() {
            if let Err(error) = result.context("a station's task failed").and_then(|r| r) {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// A charging point and a driver for each station that has rows left; they enrol themselves at their first start.
    async fn stations(
        &self,
        inner: &Context,
        network: &LocalNetwork,
        recording: &Recording,
        left: &Remaining<'_>,
        bar: &ProgressBar,
    ) -> anyhow::Result<Vec<ReplayStation>> {
        let mut rows: BTreeMap<_, Vec<RecordedSession>> = BTreeMap::new();
        for row in &left.rows {
            rows.entry(row.station.clone()).or_default().push((*row).clone());
        }
        let uses = u32::try_from(recording.by_station().len()).unwrap_or(u32::MAX);
        let points = network.token_for_many(Kind::ChargingPoint, uses).await?;
        let drivers = network.token_for_many(Kind::Driver, uses).await?;
        let fleet = Fleet::new(&self.fleet(network, &points)?, inner)?;
        let known = network.enrolled(Kind::Driver).await?;
        let begin = |(number, (id, rows)): (usize, (proto::ChargingPointId, Vec<RecordedSession>))| {
            let (fleet, inner, drivers, known) = (fleet.clone(), inner.clone(), &drivers, &known);
            async move {
                let member = fleet.add(&inner, number, id.clone())?;
                let name = rows.first().context("a station without rows")?.driver.clone();
                let folder = network.layout.data.join("drivers").join(name.as_str());
                let token = if known.iter().any(|i| i.id == name.as_str()) && !folder.join("identity.json").exists() {
                    network.token(Kind::Driver, name.as_str(), known).await?
                } else {
                    drivers.clone()
                };
                let (central, registry) = (network.addresses.central_link, network.addresses.registry_https);
                let (central, token) = (vec![central.to_string()], Some(SecretText::new(token)));
                let options = driver::DriverSettings::new(&name, central, registry.to_string(), token);
                let driver = driver::start(&inner, options, &folder)?;
                bar.tick();
                let (connection, before) = (network.connection.clone(), Arc::clone(&left.before));
                anyhow::Ok(ReplayStation { id, member, driver, rows, clock: inner.clock, connection, before })
            }
        };
        let started = futures::stream::iter(rows.into_iter().enumerate().map(begin)).buffer_unordered(8);
        started.collect::<Vec<_>>().await.into_iter().collect()
    }

    fn fleet(&self, network: &LocalNetwork, token: &str) -> anyhow::Result<FleetConfig> {
        /// Gives every other setting of the fleet its default.
        #[derive(Parser)]
        struct Defaults {
            #[command(flatten)]
            fleet: FleetConfig,
        }
        let data = network.layout.data.join("charging-points");
        let mut fleet = Defaults::try_parse_from(["fleet"]).context("the fleet's settings")?.fleet;
        fleet.data = data;
        fleet.count = 0;
        fleet.cities = vec!["Pasadena".to_owned()];
        fleet.enrolment.token = Some(SecretText::new(token));
        fleet.enrolment.token_file = None;
        fleet.enrolment.registry = network.addresses.registry_https.to_string();
        fleet.enrolment.central = vec![network.addresses.central_link.to_string()];
        fleet.vehicle.unattended = true;
        fleet.vehicle.plug_in_after = Duration::ZERO;
        fleet.vehicle.speed = self.speed;
        fleet.meter.tick = Duration::from_millis(20);
        Ok(fleet)
    }

    fn report(&self, ctx: &Context, summary: &Summary, mismatches: &[String]) -> anyhow::Result<()> {
        Output { json: self.json }.one(summary)?;
        if ctx.stop.is_cancelled() && summary.mismatches > 0 {
            anyhow::bail!(
                "stopped before the end: {} of {} rows have their ticket; run the command again to continue",
                summary.sessions - summary.mismatches,
                summary.sessions
            );
        }
        for mismatch in mismatches.iter().take(20) {
            note(mismatch);
        }
        if mismatches.len() > 20 {
            note(&format!("… and {} more", mismatches.len() - 20));
        }
        anyhow::ensure!(
            mismatches.is_empty(),
            "{} of {} rows do not have exactly one ticket with exactly their watt-hours",
            summary.mismatches,
            summary.sessions
        );
        Ok(())
    }
}

/// The rows that this run has to replay.
struct Remaining<'a> {
    rows: Vec<&'a RecordedSession>,
    /// Ids of earlier runs' requests.
    before: Arc<BTreeSet<String>>,
}

/// Tells the person which supplies the earlier run interrupted: its charging points ended with it, and Central billed
/// what they had supplied.
fn report_interrupted(rows: &[&RecordedSession]) {
    if rows.is_empty() {
        return;
    }
    let mut names: Vec<String> =
        rows.iter().take(10).map(|row| format!("line {} ({} at {})", row.line, row.session, row.station)).collect();
    if rows.len() > names.len() {
        names.push(format!("{} more", rows.len() - names.len()));
    }
    note(&format!(
        "the earlier run was interrupted during {} rows: {}; they are requested again, and what was billed for the \
         interrupted supplies is shown separately",
        rows.len(),
        names.join(", ")
    ));
}

async fn read_books(network: &LocalNetwork, progress: &ReplayProgress) -> anyhow::Result<Books> {
    let sessions = sessions::list(&network.connection, sessions::WhoseArgs::default(), None).await?;
    let tickets = tickets::list(&network.connection, tickets::TicketFilterArgs::default()).await?;
    Ok(Books::new(sessions, tickets, progress.ended()?))
}

async fn wait_until_available(network: &LocalNetwork, stations: &[ReplayStation]) -> anyhow::Result<()> {
    let all = async {
        loop {
            let points = charging_points::list(&network.connection, String::new(), None).await?;
            let state = |id: &str| points.iter().find(|p| p.id == id).map(ChargingPoint::state);
            // A charging point may still finish a supply of an interrupted run.
            let there = |s: &&ReplayStation| {
                use ChargingPointState::{Available, Reserved, Supplying};
                matches!(state(s.id.as_str()), Some(Available | Supplying | Reserved))
            };
            let missing = stations.len() - stations.iter().filter(there).count();
            if missing == 0 {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let waited = tokio::time::timeout(AVAILABLE_WITHIN, all).await;
    waited.map_err(|_| anyhow::anyhow!("not every charging point is available after {AVAILABLE_WITHIN:?}"))?
}

fn progress_bar(all: usize, done: usize) -> ProgressBar {
    let bar = ProgressBar::new(all as u64).with_position(done as u64);
    let template = "{bar:40} {pos}/{len} sessions  {elapsed_precise}  {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Advances the bar by one row; without a terminal, prints a line after each tenth of all rows.
fn advance(bar: &ProgressBar, done: &BilledRow) {
    bar.inc(1);
    bar.set_message(done.row.clone());
    let (at, all) = (bar.position(), bar.length().unwrap_or(1).max(1));
    if bar.is_hidden() && (at * 10 / all) != ((at - 1) * 10 / all) {
        note(&format!("{at} of {all} sessions"));
    }
}
