//! The files, sockets and addresses of a network with one data folder.

use std::{
    ffi::OsString,
    net::{SocketAddr, TcpListener},
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Unix socket paths have at most 107 bytes; this length leaves room for a file name.
const SOCKET_FOLDER: usize = 60;

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The data folder, absolute.
    pub(crate) data: PathBuf,
    /// Sockets and address files: `run` in the data folder or, where that path is too long for a socket, a private folder
    /// of this user below the system's temporary folder.
    pub(crate) run: PathBuf,
}

impl Layout {
    pub(crate) fn new(data: &Path) -> anyhow::Result<Self> {
        let data = data.canonicalize().with_context(|| format!("cannot use {}", data.display()))?;
        let inside = data.join("run");
        let run = if inside.as_os_str().len() <= SOCKET_FOLDER { inside } else { private_folder(&data) };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&run)
            .with_context(|| format!("cannot create the folder {}", run.display()))?;
        Ok(Self { data, run })
    }

    pub(crate) fn certs(&self) -> PathBuf {
        self.data.join("certs")
    }

    pub(crate) fn identity(&self, name: &str) -> PathBuf {
        self.certs().join(name)
    }

    pub(crate) fn role(&self, role: &str) -> PathBuf {
        self.data.join(role)
    }

    pub(crate) fn database(&self, role: &str) -> String {
        format!("sqlite:{}", self.role(role).join(format!("{role}.db")).display())
    }

    /// The control socket of a process.
    pub(crate) fn socket(&self, process: &str) -> PathBuf {
        self.run.join(format!("{}.sock", process.replace('/', "-")))
    }

    /// The file to which a process writes its listen addresses.
    pub(crate) fn addresses(&self, process: &str) -> PathBuf {
        self.run.join(format!("{}.json", process.replace('/', "-")))
    }
}

/// A folder that only this user can read, the same at each start with this data folder.
fn private_folder(data: &Path) -> PathBuf {
    let hash = data
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    std::env::temp_dir().join(format!("chargemesh-{}-{hash:016x}", nix::unistd::geteuid()))
}

/// The four listen addresses of a network; kept over restarts, so that peers find it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkAddresses {
    pub(crate) central_grpc: SocketAddr,
    pub(crate) central_link: SocketAddr,
    pub(crate) registry_grpc: SocketAddr,
    pub(crate) registry_https: SocketAddr,
}

/// The addresses that were asked for, as far as any were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequestedAddresses {
    /// Prefer the usual ports, so that a role started by hand with its defaults finds this network.
    pub(crate) usual: bool,
    pub(crate) central_grpc: Option<SocketAddr>,
    pub(crate) central_link: Option<SocketAddr>,
    pub(crate) registry_grpc: Option<SocketAddr>,
    pub(crate) registry_https: Option<SocketAddr>,
}

impl NetworkAddresses {
    /// For each server the requested address, else that of the last start, else (with `usual`) the usual port, else a free
    /// one. An address in use is skipped, except that a requested one is an error.
    pub(crate) fn choose(requested: RequestedAddresses, kept: Option<Self>) -> anyhow::Result<Self> {
        let mut taken = Vec::new();
        let mut one = |name: &str, given: Option<SocketAddr>, kept: Option<SocketAddr>, port: u16| {
            let address = choose(name, given, kept, requested.usual.then_some(port), &taken)?;
            taken.push(address.port());
            anyhow::Ok(address)
        };
        Ok(Self {
            central_grpc: one("--central-grpc", requested.central_grpc, kept.map(|k| k.central_grpc), 7443)?,
            central_link: one("--central-link", requested.central_link, kept.map(|k| k.central_link), 7400)?,
            registry_grpc: one("--registry-grpc", requested.registry_grpc, kept.map(|k| k.registry_grpc), 7543)?,
            registry_https: one("--registry-https", requested.registry_https, kept.map(|k| k.registry_https), 7580)?,
        })
    }
}

fn choose(
    flag: &str,
    given: Option<SocketAddr>,
    kept: Option<SocketAddr>,
    usual: Option<u16>,
    taken: &[u16],
) -> anyhow::Result<SocketAddr> {
    if let Some(given) = given {
        return bound(given).map_err(|error| {
            let text =
                format!("cannot listen on {given} ({flag}): {error}; stop what listens there, or give another port");
            mesh::process::Misuse::new(text).into()
        });
    }
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let candidates = kept.into_iter().chain(usual.map(local)).filter(|a| !taken.contains(&a.port()));
    for candidate in candidates {
        if let Ok(address) = bound(candidate) {
            return Ok(address);
        }
    }
    bound(local(0)).context("no port of this machine is free")
}

/// Binds the address for a moment; answers it with its port, where port 0 was asked for.
fn bound(address: SocketAddr) -> std::io::Result<SocketAddr> {
    TcpListener::bind(address)?.local_addr()
}

/// Command line flags with their values.
pub(crate) fn flags<const N: usize>(pairs: [(&str, &dyn AsOsArg); N]) -> Vec<OsString> {
    pairs.into_iter().flat_map(|(flag, value)| [OsString::from(flag), value.as_os_arg()]).collect()
}

/// A value of a command line flag.
pub(crate) trait AsOsArg {
    fn as_os_arg(&self) -> OsString;
}

impl AsOsArg for PathBuf {
    fn as_os_arg(&self) -> OsString {
        self.as_os_str().to_owned()
    }
}

impl AsOsArg for String {
    fn as_os_arg(&self) -> OsString {
        self.into()
    }
}

impl AsOsArg for &str {
    fn as_os_arg(&self) -> OsString {
        self.into()
    }
}

impl AsOsArg for SocketAddr {
    fn as_os_arg(&self) -> OsString {
        self.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_port_in_use_is_an_error_and_another_is_found_for_one_not_given() {
        let used = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = used.local_addr().unwrap();
        let given = RequestedAddresses { central_link: Some(address), ..RequestedAddresses::default() };
        let error = NetworkAddresses::choose(given, None).unwrap_err();
        assert!(error.to_string().contains("--central-link") && error.to_string().contains("another port"), "{error}");
        let kept = NetworkAddresses::choose(RequestedAddresses::default(), None).unwrap();
        let again = NetworkAddresses::choose(
            RequestedAddresses::default(),
            Some(NetworkAddresses { central_link: address, ..kept }),
        )
        .unwrap();
        assert_ne!(again.central_link, address);
        assert_eq!(again.central_grpc, kept.central_grpc, "the other addresses stay");
    }

    #[test]
    fn sockets_of_a_folder_with_a_long_path_are_in_a_private_folder() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a".repeat(90));
        std::fs::create_dir_all(&deep).unwrap();
        let layout = Layout::new(&deep).unwrap();
        assert!(layout.socket("CP-1/engine").as_os_str().len() < 107, "{layout:?}");
        assert_eq!(Layout::new(&deep).unwrap().run, layout.run, "the same at the next start");
        std::fs::remove_dir_all(layout.run).unwrap();
    }
}
