//! A throw-away PostgreSQL, started by the tests themselves.
//!
//! Each process has one server, and each test its own database. A small shell holds a pipe from the process; when the
//! pipe closes, however the process ended, it stops the server and deletes its folder. If PostgreSQL is missing and
//! the caller is root on Debian, it is installed; otherwise the tests fail with the reason.

mod frozen;

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

pub use frozen::Frozen;

use crate::{Conn, address::Address, connection::Use};

/// Waits for the line `crash` or the end of the pipe, then kills the server. At the end of the pipe it deletes the
/// folder too.
const KEEPER: &str = r#"
folder=$1; shift
"$@" </dev/null >>"$folder/server.log" 2>&1 &
server=$!
read -r word || word=stop
kill -QUIT $server 2>/dev/null
wait $server
[ "$word" = crash ] || rm -rf "$folder"
"#;

/// How long the server may take for a statement of the tests.
const ANSWER: Duration = Duration::from_secs(10);

/// A PostgreSQL server that belongs to this process.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    folder: PathBuf,
    port: u16,
    tls: bool,
    /// Settings of this server alone.
    more: Vec<&'static str>,
    keeper: Option<Child>,
    databases: AtomicU32,
}

/// The one server that the tests of this process share.
///
/// # Panics
/// If PostgreSQL cannot be started, with the reason.
pub fn postgres() -> &'static Postgres {
    static SHARED: OnceLock<Result<Postgres, String>> = OnceLock::new();
    match SHARED.get_or_init(Postgres::start) {
        Ok(server) => server,
        Err(why) => panic!("these tests need PostgreSQL: {why}"),
    }
}

/// Executes a statement outside of all rules, as a newer program or an attacker would.
///
/// # Panics
/// If the database cannot be reached or refuses the statement.
pub async fn sql(url: &str, statement: &str) {
    let (address, statement) = (Address::parse(url).expect("an address"), statement.to_owned());
    let work = move || Conn::establish(&address, Use::Write, ANSWER).and_then(|mut conn| conn.execute(&statement));
    tokio::task::spawn_blocking(work).await.expect("no panic").expect("the database takes it");
}

impl Postgres {
    /// A separate server, for tests that kill it.
    pub fn start() -> Result<Self, String> {
        Self::start_with(None, &[])
    }

    /// A server that only accepts TLS, with this certificate and key (PEM).
    pub fn start_with_tls(certificate: &str, key: &str) -> Result<Self, String> {
        Self::start_with(Some((certificate, key)), &[])
    }

    /// A server that may lose commits in a power failure.
    pub fn start_without_fsync() -> Result<Self, String> {
        Self::start_with(None, &["fsync=off"])
    }

    fn start_with(tls: Option<(&str, &str)>, more: &[&'static str]) -> Result<Self, String> {
        let bin = found_or_installed()?;
        let folder = tempfile::Builder::new()
            .prefix("store-postgres-")
            .tempdir()
            .map_err(|error| format!("no temporary folder: {error}"))?
            .keep();
        let mut server = Self {
            bin,
            folder,
            port: 0,
            tls: tls.is_some(),
            more: more.to_vec(),
            keeper: None,
            databases: AtomicU32::new(0),
        };
        let prepared = server.initialise(tls).and_then(|()| {
            // Another process may take the port between its choice and its use.
            let mut last = String::new();
            for _ in 0..5 {
                server.port = free_port()?;
                match server.launch() {
                    Ok(()) => return Ok(()),
                    Err(why) => last = why,
                }
            }
            Err(last)
        });
        if prepared.is_err() && server.keeper.is_none() {
            let _ = fs::remove_dir_all(&server.folder);
        }
        prepared.map(|()| server)
    }

    /// Creates an empty database and returns its URL.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn create_database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut conn = self.admin().expect("the server answers");
        conn.execute(&format!("CREATE DATABASE {name}")).expect("an administrator can make a database");
        self.url(&name)
    }

    /// Kills the server. Committed data is there after [`restart`](Self::restart).
    pub fn crash(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            if let Some(mut pipe) = keeper.stdin.take() {
                let _ = pipe.write_all(b"crash\n");
            }
            let _ = keeper.wait();
        }
    }

    /// Starts the server again on the same port.
    pub fn restart(&mut self) -> Result<(), String> {
        self.launch()
    }

    /// Stops all processes of the server where they are (SIGSTOP), as a stalled machine would.
    ///
    /// # Panics
    /// If the server does not run.
    pub fn freeze(&self) -> Frozen {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).expect("the server runs");
        Frozen::new(file.lines().next().and_then(|pid| pid.parse().ok()).expect("a process id"))
    }

    fn url(&self, database: &str) -> String {
        let mode = if self.tls { "require" } else { "disable" };
        format!("postgres://postgres:test@127.0.0.1:{}/{database}?sslmode={mode}", self.port)
    }

    /// Connects through the Unix socket, which needs no TLS.
    fn admin(&self) -> Result<Conn, String> {
        let socket = self.folder.display().to_string().replace('/', "%2F");
        let url = format!("postgres://postgres:test@{socket}:{}/postgres?sslmode=disable", self.port);
        let address = Address::parse(&url).map_err(|error| error.to_string())?;
        Conn::establish(&address, Use::Write, ANSWER).map_err(|error| error.to_string())
    }

    fn initialise(&self, tls: Option<(&str, &str)>) -> Result<(), String> {
        let wrong = |error: std::io::Error| format!("cannot write in {}: {error}", self.folder.display());
        fs::write(self.folder.join("password"), "test\n").map_err(wrong)?;
        let account = ServerUser::choose(&self.folder)?;
        let data = self.folder.join("data");
        let made = account
            .command(&self.bin.join("initdb"))
            .args(["--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync", "--auth=scram-sha-256"])
            .arg(format!("--pwfile={}", self.folder.join("password").display()))
            .arg("--pgdata")
            .arg(&data)
            .current_dir(&self.folder)
            .output()
            .map_err(|error| format!("cannot run initdb: {error}"))?;
        if !made.status.success() {
            return Err(format!("initdb failed: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        if let Some((certificate, key)) = tls {
            fs::write(self.folder.join("server.crt"), certificate).map_err(wrong)?;
            let file = self.folder.join("server.key");
            fs::write(&file, key).map_err(wrong)?;
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(wrong)?;
            account.own(&file)?;
            let rules = "local all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
            fs::write(data.join("pg_hba.conf"), rules).map_err(wrong)?;
        }
        Ok(())
    }

    fn launch(&mut self) -> Result<(), String> {
        let account = ServerUser::choose(&self.folder)?;
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper"]).arg(&self.folder).args(account.prefix()).arg(self.bin.join("postgres"));
        command.arg("-D").arg(self.folder.join("data"));
        for setting in self.settings() {
            command.args(["-c", &setting]);
        }
        // In its own process group, so that Ctrl-C at the tests ends the server through the pipe.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = command.current_dir(&self.folder).spawn().map_err(|error| format!("cannot run sh: {error}"))?;
        self.keeper = Some(keeper);
        let mut last = String::new();
        for _ in 0..600 {
            match self.admin() {
                Ok(_) => return Ok(()),
                Err(why) => last = why,
            }
            std::thread::sleep(Duration::from_millis(50));
            let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
            if log.contains("FATAL:  could not") || log.contains("could not create any TCP/IP sockets") {
                last = log.lines().last().unwrap_or_default().to_owned();
                break;
            }
        }
        self.crash();
        Err(format!("the server does not answer: {last}"))
    }

    fn settings(&self) -> Vec<String> {
        let folder = self.folder.display();
        let mut settings = vec![
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={folder}"),
            "max_connections=200".to_owned(),
            "jit=off".to_owned(),
        ];
        settings.extend(self.more.iter().map(|&setting| setting.to_owned()));
        if self.tls {
            settings.push("ssl=on".to_owned());
            settings.push(format!("ssl_cert_file={folder}/server.crt"));
            settings.push(format!("ssl_key_file={folder}/server.key"));
        }
        settings
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The user that runs the server, because PostgreSQL refuses uid 0.
enum ServerUser {
    /// This process does not run as root.
    Own,
    /// Root, mapped to nobody in a user namespace, so that no account and no change of ownership is needed.
    Namespace,
    /// Another account that owns the folder, if user namespaces are forbidden.
    Other { uid: u32, gid: u32 },
}

impl ServerUser {
    fn choose(folder: &Path) -> Result<Self, String> {
        if !nix::unistd::Uid::effective().is_root() {
            return Ok(Self::Own);
        }
        let namespace = Command::new("unshare").args(&NAMESPACE[1..]).arg("true").stderr(Stdio::null()).status();
        if namespace.is_ok_and(|status| status.success()) {
            return Ok(Self::Namespace);
        }
        let user = ["postgres", "nobody"].iter().find_map(|name| nix::unistd::User::from_name(name).ok().flatten());
        let user = user.ok_or("as root it needs user namespaces, or an account `postgres` or `nobody`")?;
        let account = Self::Other { uid: user.uid.as_raw(), gid: user.gid.as_raw() };
        account.own(folder)?;
        account.own(&folder.join("password"))?;
        Ok(account)
    }

    fn own(&self, file: &Path) -> Result<(), String> {
        match self {
            Self::Own | Self::Namespace => Ok(()),
            Self::Other { uid, gid } => std::os::unix::fs::chown(file, Some(*uid), Some(*gid))
                .map_err(|error| format!("cannot give {} away: {error}", file.display())),
        }
    }

    fn prefix(&self) -> Vec<String> {
        match self {
            Self::Own => Vec::new(),
            Self::Namespace => NAMESPACE.map(str::to_owned).to_vec(),
            Self::Other { uid, gid } => {
                vec!["setpriv".into(), format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]
            }
        }
    }

    fn command(&self, program: &Path) -> Command {
        match self.prefix().split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        }
    }
}

const NAMESPACE: [&str; 4] = ["unshare", "--user", "--map-user=65534", "--map-group=65534"];

fn found_or_installed() -> Result<PathBuf, String> {
    if let Some(bin) = found() {
        return Ok(bin);
    }
    if !nix::unistd::Uid::effective().is_root() || !Path::new("/etc/debian_version").exists() {
        return Err(
            "neither initdb nor postgres is in PATH or /usr/lib/postgresql (Debian: apt-get install postgresql)".into(),
        );
    }
    for arguments in [&["update"][..], &["install", "-y", "--no-install-recommends", "postgresql"]] {
        let run = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").output();
        let run = run.map_err(|error| format!("cannot run apt-get: {error}"))?;
        if !run.status.success() {
            let why = String::from_utf8_lossy(&run.stderr);
            return Err(format!("apt-get {} failed: {}", arguments.join(" "), why.trim()));
        }
    }
    found().ok_or_else(|| "apt-get installed postgresql, but there is no initdb under /usr/lib/postgresql".into())
}

/// The folder that contains both initdb and postgres; the newest of several versions.
fn found() -> Option<PathBuf> {
    let mut packaged: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin")))
        })
        .collect();
    packaged.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| real_folder(&folder));
    packaged
        .into_iter()
        .rev()
        .map(|(_, bin)| bin)
        .chain(in_path)
        .chain([PathBuf::from("/usr/local/bin")])
        .find(|bin| bin.join("initdb").exists() && bin.join("postgres").exists())
}

/// initdb expects postgres in its own folder, so links are followed.
fn real_folder(folder: &Path) -> PathBuf {
    let real = fs::canonicalize(folder.join("initdb")).ok();
    real.and_then(|file| file.parent().map(Path::to_owned)).unwrap_or_else(|| folder.to_owned())
}

fn free_port() -> Result<u16, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("no free port: {error}"))
}
