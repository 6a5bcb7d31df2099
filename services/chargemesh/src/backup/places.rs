//! Where Central and Registry keep what is backed up; the flags and variables are those of the roles.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

/// The two services that keep something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum KeepingService {
    Central,
    Registry,
}

impl KeepingService {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Central => "central",
            Self::Registry => "registry",
        }
    }

    /// As the program calls it in a sentence.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Central => "Central",
            Self::Registry => "Registry",
        }
    }

    pub(super) fn schema(self) -> store::Schema {
        match self {
            Self::Central => store::central::SCHEMA,
            Self::Registry => store::registry::SCHEMA,
        }
    }

    /// Files and folders of its data folder that no restart makes again. Checkpoints come first: see the module.
    pub(super) fn kept(self) -> &'static [&'static str] {
        match self {
            Self::Central => &["audit.checkpoints", "identity"],
            Self::Registry => &["audit.checkpoints", "audit.key", "audit.pub"],
        }
    }
}

/// Where the services keep their things.
#[derive(Clone, Debug, Args)]
pub(super) struct KeptPlaces {
    /// Central's data folder
    #[arg(long, env = "CHARGEMESH_CENTRAL_DATA", value_name = "DIR", default_value = "data/central")]
    central_data: PathBuf,
    /// Central's database; not given: central.db in its data folder
    #[arg(long, env = "CHARGEMESH_CENTRAL_DATABASE", value_name = "URL", hide_env_values = true)]
    central_database: Option<String>,
    /// Registry's data folder
    #[arg(long, env = "CHARGEMESH_REGISTRY_DATA", value_name = "DIR", default_value = "data/registry")]
    registry_data: PathBuf,
    /// Registry's database; not given: registry.db in its data folder
    #[arg(long, env = "CHARGEMESH_REGISTRY_DATABASE", value_name = "URL", hide_env_values = true)]
    registry_database: Option<String>,
    /// Registry's secret file; not given: secret in its data folder
    #[arg(long, env = "CHARGEMESH_REGISTRY_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Folder of the certificate authority and the identities that it issued; not given: they are left alone
    #[arg(long, env = "CHARGEMESH_CERTS", value_name = "DIR")]
    pub(super) certs: Option<PathBuf>,
    /// One service alone, where the other runs on another host
    #[arg(long, value_enum, value_name = "SERVICE")]
    only: Option<KeepingService>,
}

impl KeptPlaces {
    /// The services that are meant, in the order in which they are copied: Central's mirror of Registry is then never
    /// newer than Registry.
    pub(super) fn services(&self) -> Vec<KeepingService> {
        [KeepingService::Central, KeepingService::Registry]
            .into_iter()
            .filter(|service| self.only.is_none_or(|only| only == *service))
            .collect()
    }

    pub(super) fn data(&self, service: KeepingService) -> &Path {
        match service {
            KeepingService::Central => &self.central_data,
            KeepingService::Registry => &self.registry_data,
        }
    }

    pub(super) fn database(&self, service: KeepingService) -> String {
        let given = match service {
            KeepingService::Central => &self.central_database,
            KeepingService::Registry => &self.registry_database,
        };
        let inside = || format!("sqlite:{}", self.data(service).join(database_name(service)).display());
        given.clone().unwrap_or_else(inside)
    }

    pub(super) fn secret(&self) -> PathBuf {
        self.secret_file.clone().unwrap_or_else(|| self.registry_data.join("secret"))
    }
}

/// The name of the database in the archive, and in the data folder where no other place is given.
pub(super) fn database_name(service: KeepingService) -> String {
    format!("{}.db", service.name())
}

/// The file of a SQLite database; nothing for PostgreSQL.
pub(super) fn database_file(url: &str) -> Option<PathBuf> {
    url.strip_prefix("sqlite:").map(PathBuf::from)
}

/// Beside `path`, with this at the end of its name.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}
