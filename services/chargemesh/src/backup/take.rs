//! `chargemesh backup`: one archive of both databases, identities and checkpoints, taken while all runs.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use mesh::{clock::Clock, process::Misuse};
use serde::Serialize;

use super::{
    archive::{self, StagingFolder},
    manifest::{BackedUpService, BackupManifest},
    places::{KeepingService, KeptPlaces, beside, database_file, database_name},
};
use crate::output::Output;

/// Back up Central and Registry into one archive, while they run
#[derive(Debug, Args)]
#[command(after_help = "\
The archive holds secrets: the link keys, the key-encryption key, the audit key, the ticket key, Registry's secret, and
with --certs the certificate authority. It has mode 0600; keep it as you keep them. A PostgreSQL database is not in it:
copy it with pg_dump at the same time, and the command says so.

Examples:
  chargemesh backup monday.tar --certs data/certs
  chargemesh backup monday.tar --only central --central-data /var/lib/chargemesh/central")]
pub(crate) struct BackupCommand {
    /// Archive to write; one of this name is replaced
    #[arg(value_name = "FILE")]
    archive: PathBuf,
    #[command(flatten)]
    places: KeptPlaces,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Serialize)]
struct TakenBackup {
    archive: PathBuf,
    bytes: u64,
    taken_at_ms: i64,
    /// What the operator has to copy by another tool.
    to_do: Vec<String>,
}

impl BackupCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let staging = StagingFolder::new(beside(&self.archive, ".partial"))?;
        let mut manifest = BackupManifest::new(Clock::system().now().wall_ms);
        let mut to_do = Vec::new();
        for service in self.places.services() {
            let has_database = self.copy_service(service, &staging).await?;
            if !has_database {
                to_do.push(format!(
                    "{}'s database is PostgreSQL and not in the archive: copy it now with `pg_dump --format=custom`",
                    service.title()
                ));
            }
            let part = Some(BackedUpService { has_database });
            match service {
                KeepingService::Central => manifest.central = part,
                KeepingService::Registry => manifest.registry = part,
            }
        }
        if let Some(certs) = &self.places.certs {
            anyhow::ensure!(certs.is_dir(), Misuse::new(format!("there is no folder {}", certs.display())));
            archive::copy(certs, &staging.0.join("certs"))?;
        }
        archive::write(&self.archive, &staging.0, &manifest)?;
        let bytes = fs::metadata(&self.archive).map_or(0, |meta| meta.len());
        let sentence = format!("{} holds {bytes} bytes", self.archive.display());
        let sentence = to_do.iter().fold(sentence, |text, more| format!("{text}\n{more}"));
        let taken_at_ms = manifest.taken_at_ms;
        self.output.sentence(&sentence, &TakenBackup { archive: self.archive, bytes, taken_at_ms, to_do })
    }

    /// Whether the database is in it.
    async fn copy_service(&self, service: KeepingService, staging: &StagingFolder) -> anyhow::Result<bool> {
        let (data, to) = (self.places.data(service), staging.0.join(service.name()));
        anyhow::ensure!(
            data.is_dir(),
            Misuse::new(format!(
                "{}'s data folder {} is not there: name it with --{}-data, or back up the other service with --only",
                service.title(),
                data.display(),
                service.name()
            ))
        );
        fs::create_dir_all(&to).with_context(|| Misuse::new(format!("cannot make the folder {}", to.display())))?;
        for name in service.kept() {
            archive::copy(&data.join(name), &to.join(name))?;
        }
        if service == KeepingService::Registry {
            archive::copy(&self.places.secret(), &to.join("secret"))?;
        }
        let url = self.places.database(service);
        if database_file(&url).is_none() {
            return Ok(false);
        }
        let copy = to.join(database_name(service));
        let database = store::Database::open(&url, service.schema()).await;
        let database = database.map_err(|error| Misuse::new(error.to_string()))?;
        database.copy_to(&copy).await.with_context(|| format!("cannot copy the database {url}"))?;
        Ok(true)
    }
}
