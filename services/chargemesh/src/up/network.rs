//! A network's control plane in one data folder: certificates, databases, Registry and Central as supervised processes,
//! and an operator's connection to them. `up` adds simulated charging points and drivers, `replay` recorded ones.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use mesh::{
    certs::Authority,
    process::{Context, Misuse},
};
use proto::{
    Caller, OperatorName,
    link::v1::Reason,
    registry::v1::{
        CreateTokenRequest, Identity, IdentityState, Kind, PinsRequest, ReadmitRequest, ReissueRequest, RemoveRequest,
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    fault_proxy::FaultProxy,
    layout::{Layout, NetworkAddresses, RequestedAddresses, flags},
    log_stream::LogStream,
    plan::Plan,
    ports::PortsLock,
    process::ProcessSpec,
    status::{FolderLock, NetworkStatus},
    supervisor::Supervisor,
};
use crate::{
    certs::TRUST_DOMAIN,
    failure::of_status,
    migrate::{Service, migrate},
    operator::{connection::OperatorConnection, identities, order_call::new_request_id},
};

const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 86_400);
const IDENTITY_LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// The operator whose identity is used unless another is named.
const ADMIN: &str = "admin";
const READY_WITHIN: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(15);

/// The running control plane of a network.
#[derive(Debug)]
pub(crate) struct LocalNetwork {
    pub(crate) layout: Layout,
    pub(crate) addresses: NetworkAddresses,
    pub(crate) fault_proxy: FaultProxy,
    pub(crate) supervisor: Supervisor,
    pub(crate) connection: OperatorConnection,
    operator: OperatorName,
    status: watch::Sender<NetworkStatus>,
    status_over: CancellationToken,
    status_task: tokio::task::JoinHandle<()>,
    _lock: FolderLock,
}

/// How to run a control plane.
#[derive(Clone, Debug)]
pub(crate) struct NetworkOptions {
    pub(crate) requested: RequestedAddresses,
    /// Log level of the roles.
    pub(crate) log_level: String,
    /// The supervisor's own control socket.
    pub(crate) control_socket: Option<std::path::PathBuf>,
    /// Whether connections pass through the fault proxy, and so can be cut.
    pub(crate) relayed: bool,
    /// Where readings and events are published.
    pub(crate) kafka: mesh::kafka::KafkaConfig,
    /// Weather's own arguments; nothing: there is no Weather.
    pub(crate) of_weather: Option<Vec<std::ffi::OsString>>,
    /// Further arguments of Central.
    pub(crate) of_central: Vec<std::ffi::OsString>,
}

impl LocalNetwork {
    /// Locks the folder, creates missing certificates and tables, starts Registry and Central and waits until both answer.
    /// Writes the chosen addresses into `plan`.
    pub(crate) async fn start(
        ctx: &Context,
        lock: FolderLock,
        layout: Layout,
        plan: &mut Plan,
        options: NetworkOptions,
        stream: LogStream,
    ) -> anyhow::Result<Self> {
        let operator = plan.operator.get_or_insert(ADMIN.parse().context("the name is valid")?).clone();
        certificates(&layout, &operator)?;
        for (service, role) in [(Service::Registry, "registry"), (Service::Central, "central")] {
            let ran = migrate(service, &layout.database(role)).await?;
            if !ran.is_empty() {
                stream.up(format!("created the tables of {role}"));
            }
        }
        // Held until both have bound the ports that are chosen here.
        let ports = PortsLock::take(ctx, READY_WITHIN).await;
        let addresses = NetworkAddresses::choose(options.requested, plan.addresses)?;
        plan.addresses = Some(addresses);
        plan.write(&layout.data)?;

        let (supervisor, changes) = Supervisor::new(stream, ctx.clock);
        let base = NetworkStatus {
            pid: std::process::id(),
            started_at_ms: ctx.clock.wall_ms(),
            central_grpc: addresses.central_grpc.to_string(),
            central_link: addresses.central_link.to_string(),
            registry_grpc: addresses.registry_grpc.to_string(),
            registry_https: addresses.registry_https.to_string(),
            operator_identity: layout.identity(&identity_folder(&operator)),
            control_socket: options.control_socket.clone().unwrap_or_default(),
            kafka: options.kafka.clone(),
            ..NetworkStatus::default()
        };
        base.write(&layout.data)?;
        let (status, shown) = watch::channel(base);
        let status_over = CancellationToken::new();
        let keep = supervisor.clone().keep_status(shown, layout.data.clone(), changes, status_over.clone());
        let network = Self {
            connection: connection(&layout, &addresses, &operator),
            status_task: tokio::spawn(keep),
            status_over,
            addresses,
            fault_proxy: FaultProxy::new(options.relayed),
            operator,
            supervisor,
            status,
            layout,
            _lock: lock,
        };
        network.launch(ctx, &options).await?;
        drop(ports);
        Ok(network)
    }

    async fn launch(&self, ctx: &Context, options: &NetworkOptions) -> anyhow::Result<()> {
        let to_central = self.fault_proxy.to(self.addresses.central_grpc, "registry").await?;
        let to_registry = self.fault_proxy.to(self.addresses.registry_grpc, "central").await?;
        for spec in [self.registry(options, to_central), self.central(options, to_registry)] {
            self.supervisor.start(spec).await.map_err(anyhow::Error::msg)?;
        }
        if let Some(of_weather) = &options.of_weather {
            let to_central = self.fault_proxy.to(self.addresses.central_grpc, "weather").await?;
            self.supervisor.start(self.weather(options, of_weather, to_central)).await.map_err(anyhow::Error::msg)?;
        }
        let ready = tokio::time::timeout(READY_WITHIN, self.wait_until_ready());
        match ctx.stop.run_until_cancelled(ready).await {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => anyhow::bail!(
                "Registry and Central did not answer within {} s; see their output above",
                READY_WITHIN.as_secs()
            ),
        }
    }

    /// Waits until Central answers and Registry has Central's link keys, which enrolment hands out.
    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        while !self.is_ready().await? {
            // A process that fails three times in a row at its first start will not succeed later.
            for process in self.supervisor.status().await {
                if process.restarts >= 3 {
                    let why = process.last_end.unwrap_or_default();
                    anyhow::bail!("{} cannot be started: it {why}; see its output above", process.name);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// # Errors
    /// Where waiting does not help.
    async fn is_ready(&self) -> anyhow::Result<bool> {
        let connection = OperatorConnection { timeout: Duration::from_secs(2), ..self.connection.clone() };
        let (Ok(mut identities), Ok(mut points)) = (connection.identities(), connection.charging_points()) else {
            return Ok(false);
        };
        match identities.pins(PinsRequest {}).await {
            Ok(pins) if pins.get_ref().pins.is_empty() => return Ok(false),
            Ok(_) => {}
            Err(status) => return self.not_yet(&status),
        }
        let listed = points.list(proto::central::v1::ListChargingPointsRequest::default()).await;
        listed.map_or_else(|status| self.not_yet(&status), |_| Ok(true))
    }

    fn not_yet(&self, status: &tonic::Status) -> anyhow::Result<bool> {
        if mesh::status::reason_of(status) != Some(Reason::Removed) {
            return Ok(false);
        }
        let text = format!(
            "the operator {0}, whose identity this network uses, was removed (REMOVED); start it with another one \
             (--operator NAME), who can then restore {0}: chargemesh operators add {0}",
            self.operator
        );
        Err(Misuse::new(text).into())
    }

    pub(crate) fn set_ready(&self) {
        self.status.send_modify(|status| status.ready = true);
    }

    /// Ends all processes in order, and writes the status file last.
    pub(crate) async fn end(self) {
        self.supervisor.end_all().await;
        self.status_over.cancel();
        drop(self.status_task.await);
        let last = NetworkStatus { processes: Vec::new(), ready: false, ..self.status.borrow().clone() };
        drop(last.write(&self.layout.data));
    }

    fn registry(&self, options: &NetworkOptions, central: SocketAddr) -> ProcessSpec {
        let a = &self.addresses;
        let own = flags([
            ("--data", &self.layout.role("registry")),
            ("--database", &self.layout.database("registry")),
            ("--identity", &self.layout.identity("registry")),
            ("--grpc-address", &a.registry_grpc),
            ("--https-address", &a.registry_https),
            ("--central", &central),
            ("--first-operator", &self.operator.to_string()),
        ]);
        self.spec("registry", "registry", own, &options.log_level)
    }

    fn central(&self, options: &NetworkOptions, registry: SocketAddr) -> ProcessSpec {
        let a = &self.addresses;
        let mut own = flags([
            ("--data", &self.layout.role("central")),
            ("--database", &self.layout.database("central")),
            ("--identity", &self.layout.identity("central")),
            ("--grpc-address", &a.central_grpc),
            ("--link-address", &a.central_link),
            ("--registry", &registry),
        ]);
        own.extend(options.kafka.arguments());
        own.extend(options.of_central.iter().cloned());
        self.spec("central", "central", own, &options.log_level)
    }

    fn weather(&self, options: &NetworkOptions, of_weather: &[std::ffi::OsString], central: SocketAddr) -> ProcessSpec {
        let mut own = flags([
            ("--data", &self.layout.role("weather")),
            ("--identity", &self.layout.identity("weather")),
            ("--grpc-address", &"127.0.0.1:0"),
            ("--central", &central),
        ]);
        own.extend(of_weather.iter().cloned());
        self.spec("weather", "weather", own, &options.log_level)
    }

    /// How to start a process of this name that runs this subcommand with these arguments of its `own`.
    pub(crate) fn spec(&self, name: &str, command: &str, own: Vec<std::ffi::OsString>, log_level: &str) -> ProcessSpec {
        let (socket, addresses) = (self.layout.socket(name), self.layout.addresses(name));
        let mut args = vec![command.into()];
        args.extend(own);
        args.extend(flags([
            ("--control-socket", &socket),
            ("--addresses", &addresses),
            ("--admin-address", &"127.0.0.1:0"),
            ("--log-level", &log_level),
        ]));
        ProcessSpec {
            name: Arc::from(name),
            args,
            control_socket: Some(socket),
            addresses: Some(addresses),
            grace: GRACE,
            finite: false,
        }
    }

    // ---- Identities

    pub(crate) async fn enrolled(&self, kind: Kind) -> anyhow::Result<Vec<Identity>> {
        identities::list(&self.connection, kind).await
    }

    /// An enrolment token for this id; a removed id is readmitted, an enrolled one reissued.
    pub(crate) async fn token(&self, kind: Kind, id: &str, known: &[Identity]) -> anyhow::Result<String> {
        let mut client = self.connection.identities()?;
        let state = known.iter().find(|i| i.id == id).map(Identity::state);
        let (kind, id) = (i32::from(kind), id.to_owned());
        if state == Some(IdentityState::Removed) {
            let request = ReadmitRequest { request_id: new_request_id(), kind, id: id.clone() };
            client.readmit(request).await.map_err(|s| of_status(&s))?;
        }
        let created = if matches!(state, Some(IdentityState::Enrolled | IdentityState::Void)) {
            client.reissue(ReissueRequest { request_id: new_request_id(), kind, id }).await
        } else {
            let request = CreateTokenRequest {
                request_id: new_request_id(),
                kinds: vec![kind],
                id_pattern: id,
                city: String::new(),
                uses: Some(1),
                lifetime: Some(proto::Duration { seconds: 3_600, nanos: 0 }),
            };
            client.create_token(request).await
        };
        Ok(created.map_err(|s| of_status(&s))?.into_inner().token)
    }

    /// One token with which `uses` identities of this kind, with any id, can enrol.
    pub(crate) async fn token_for_many(&self, kind: Kind, uses: u32) -> anyhow::Result<String> {
        let request = CreateTokenRequest {
            request_id: new_request_id(),
            kinds: vec![kind.into()],
            id_pattern: "*".to_owned(),
            city: String::new(),
            uses: Some(uses),
            lifetime: Some(proto::Duration { seconds: 86_400, nanos: 0 }),
        };
        let mut client = self.connection.identities()?;
        Ok(client.create_token(request).await.map_err(|s| of_status(&s))?.into_inner().token)
    }

    pub(crate) async fn remove_identity(&self, kind: Kind, id: &str) -> anyhow::Result<()> {
        let request = RemoveRequest { request_id: new_request_id(), kind: kind.into(), id: id.to_owned() };
        self.connection.identities()?.remove(request).await.map_err(|s| of_status(&s))?;
        Ok(())
    }
}

/// The folder of an operator's identity, below the certificates.
fn identity_folder(operator: &OperatorName) -> String {
    format!("operator-{operator}")
}

fn connection(layout: &Layout, addresses: &NetworkAddresses, operator: &OperatorName) -> OperatorConnection {
    OperatorConnection {
        data: layout.data.clone(),
        central: vec![addresses.central_grpc.to_string()],
        registry: vec![addresses.registry_grpc.to_string()],
        weather: Vec::new(),
        identity: Some(layout.identity(&identity_folder(operator))),
        timeout: Duration::from_secs(10),
    }
}

/// Creates missing certificates, and renews those that have less than a third of their lifetime left.
fn certificates(layout: &Layout, operator: &OperatorName) -> anyhow::Result<()> {
    let cannot = |error: mesh::certs::CertsError| Misuse::new(error.to_string());
    let authority =
        Authority::open_or_create(&layout.identity("authority"), TRUST_DOMAIN, ROOT_LIFETIME).map_err(cannot)?;
    let stale = |out: &Path| !out.join("cert.pem").exists() || age(&out.join("cert.pem")) > IDENTITY_LIFETIME * 2 / 3;
    for (role, name) in [(Caller::Central, "central"), (Caller::Registry, "registry"), (Caller::Weather, "weather")] {
        let out = layout.identity(name);
        if stale(&out) {
            authority.issue_role(role, &out, &[], IDENTITY_LIFETIME, true).map_err(cannot)?;
        }
    }
    let guest: OperatorName = "guest".parse().context("the name is valid")?;
    for (role, name, folder) in
        [(Caller::Operator, operator, identity_folder(operator)), (Caller::Viewer, &guest, format!("viewer-{guest}"))]
    {
        let out = layout.identity(&folder);
        if stale(&out) {
            authority.issue_person(role, name, &out, IDENTITY_LIFETIME, true).map_err(cannot)?;
        }
    }
    Ok(())
}

fn age(file: &Path) -> Duration {
    let modified = std::fs::metadata(file).and_then(|meta| meta.modified());
    let since = modified.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
    let now = u64::try_from(mesh::clock::Clock::system().wall_ms()).unwrap_or(0);
    Duration::from_millis(now).saturating_sub(since)
}
