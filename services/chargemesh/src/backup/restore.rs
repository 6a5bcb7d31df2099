//! `chargemesh restore`: puts a backup in place of what is lost, or goes on from raw files that somebody put back.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use mesh::{clock::Clock, process::Misuse};
use serde::Serialize;
use store::{Abort, Conn, Database, central::GenerationRow};

use super::{
    archive::{self, StagingFolder},
    manifest::{BackedUpService, BackupManifest},
    places::{KeepingService, KeptPlaces, beside, database_file, database_name},
};
use crate::output::Output;

/// Restore Central and Registry from a backup, while neither runs
#[derive(Debug, Args)]
#[command(after_help = "\
What a data folder holds is set aside under another name, and nothing is deleted. Afterwards start Registry and Central:
charging points and drivers come back by themselves and bring the tickets and the supplies that followed the backup. The
command lists what nobody can know.

A PostgreSQL database is put back with pg_restore first. Where somebody put raw files of an older database back without
this command, charging points are out of order until `chargemesh restore --raise-generation`.

Examples:
  chargemesh restore monday.tar
  chargemesh restore monday.tar --only registry --registry-data /var/lib/chargemesh/registry
  chargemesh restore --raise-generation")]
pub(crate) struct RestoreCommand {
    /// Archive that `chargemesh backup` wrote
    #[arg(value_name = "FILE", required_unless_present = "raise_generation")]
    archive: Option<PathBuf>,
    /// The databases are in place, from files or by pg_restore: raise the generation, and nothing else
    #[arg(long, conflicts_with = "archive")]
    raise_generation: bool,
    #[command(flatten)]
    places: KeptPlaces,
    #[command(flatten)]
    output: Output,
}

/// What was done, and what remains to be done by a person.
#[derive(Debug, Default, Serialize)]
struct RestoredNetwork {
    /// Of Central's database from now on; 0: it was not restored.
    generation: i64,
    /// What is in the databases is as old as this, milliseconds since 1970.
    as_of_ms: i64,
    set_aside: Vec<PathBuf>,
    /// What happened after the backup and cannot be known.
    unknown: Vec<String>,
}

impl RestoreCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut restored = RestoredNetwork::default();
        let services = self.places.services();
        let mut locks = Vec::new();
        for &service in &services {
            locks.push(mesh::data_folder::lock(self.places.data(service), service.title())?);
        }
        let as_of_ms = match &self.archive {
            Some(path) => Some(self.put_in_place(path, &services, &mut restored)?.taken_at_ms),
            None => None,
        };
        for service in services {
            self.raise(service, as_of_ms, &mut restored).await?;
        }
        drop(locks);
        self.report(&restored)
    }

    fn put_in_place(
        &self,
        archive: &Path,
        services: &[KeepingService],
        restored: &mut RestoredNetwork,
    ) -> anyhow::Result<BackupManifest> {
        let staging = StagingFolder::new(beside(archive, ".unpacked"))?;
        let manifest = archive::read(archive, &staging.0)?;
        for &service in services {
            let part = part_of(&manifest, service).with_context(|| {
                Misuse::new(format!("{} is not in this backup: restore the other one with --only", service.title()))
            })?;
            self.put_service(service, part, &staging, &mut restored.set_aside)?;
        }
        if let Some(certs) = &self.places.certs {
            let from = staging.0.join("certs");
            anyhow::ensure!(from.is_dir(), Misuse::new("no certificates are in this backup: leave --certs out"));
            set_aside(certs, &mut restored.set_aside)?;
            archive::copy(&from, certs)?;
        }
        Ok(manifest)
    }

    fn put_service(
        &self,
        service: KeepingService,
        part: BackedUpService,
        staging: &StagingFolder,
        aside: &mut Vec<PathBuf>,
    ) -> anyhow::Result<()> {
        let (data, from) = (self.places.data(service), staging.0.join(service.name()));
        for name in service.kept() {
            put(&from.join(name), &data.join(name), aside)?;
        }
        if service == KeepingService::Registry {
            put(&from.join("secret"), &self.places.secret(), aside)?;
        }
        if let Some(database) = database_file(&self.places.database(service)) {
            anyhow::ensure!(
                part.has_database,
                Misuse::new(format!(
                    "{}'s database was PostgreSQL: name it with --{}-database, after pg_restore",
                    service.title(),
                    service.name()
                ))
            );
            // What SQLite keeps beside a database belongs to that one alone.
            for end in ["-wal", "-shm"] {
                set_aside(&beside(&database, end), aside)?;
            }
            put(&from.join(database_name(service)), &database, aside)?;
        }
        Ok(())
    }

    /// Makes everything from now on order after all that was before, also after what followed the backup and is lost.
    async fn raise(
        &self,
        service: KeepingService,
        as_of_ms: Option<i64>,
        restored: &mut RestoredNetwork,
    ) -> anyhow::Result<()> {
        let url = self.places.database(service);
        let database = Database::open(&url, service.schema()).await.map_err(|error| Misuse::new(error.to_string()))?;
        // The same backup may be restored twice: the time of the restore, in minutes, orders the two.
        let minutes = Clock::system().now().wall_ms / 60_000;
        match service {
            KeepingService::Central => {
                let raise = move |conn: &mut Conn| {
                    let as_of_ms = as_of_ms.map_or_else(|| GenerationRow::last_change_ms(conn), Ok)?;
                    let number = store::central::raise_generation(conn, minutes, as_of_ms)?;
                    Ok::<_, Abort<anyhow::Error>>((number, as_of_ms))
                };
                let (number, as_of_ms) = database.transaction("generation", raise).await??;
                (restored.generation, restored.as_of_ms) = (number, as_of_ms);
                new_writer(&self.places.data(service).join("identity"))?;
            }
            KeepingService::Registry => {
                let raise = move |conn: &mut Conn| {
                    Ok::<_, Abort<anyhow::Error>>(store::registry::raise_revision(conn, minutes << REVISIONS)?)
                };
                database.transaction("revision", raise).await??;
                restored.as_of_ms = as_of_ms.unwrap_or(restored.as_of_ms);
            }
        }
        restored.unknown.extend(unknown(service).iter().map(|&line| line.to_owned()));
        Ok(())
    }

    fn report(&self, restored: &RestoredNetwork) -> anyhow::Result<()> {
        let mut lines = vec![format!(
            "restored as of {}; generation {}; now start Registry and Central",
            driver::utc(restored.as_of_ms),
            restored.generation
        )];
        lines.extend(restored.set_aside.iter().map(|path| format!("set aside: {}", path.display())));
        lines.push(
            "Charging points and drivers bring the tickets and supplies that followed. Nobody brings:".to_owned(),
        );
        lines.extend(restored.unknown.iter().map(|line| format!("  {line}")));
        self.output.sentence(&lines.join("\n"), restored)
    }
}

/// Registry's revisions from one restore to the next, as a power of two: more than it can take in a minute.
const REVISIONS: u32 = 20;

fn part_of(manifest: &BackupManifest, service: KeepingService) -> Option<BackedUpService> {
    match service {
        KeepingService::Central => manifest.central,
        KeepingService::Registry => manifest.registry,
    }
}

/// What happens in a service and is known there alone.
fn unknown(service: KeepingService) -> &'static [&'static str] {
    match service {
        KeepingService::Central => &[
            "prices, rated powers, stops, resumptions, moves, maintenance and releases that operators ordered since",
            "corrections of tickets and settled disputes since: look for them in what was exported, and give them again",
            "revocations since, unless Registry was not restored: revoke again whoever was revoked",
            "the audit since; the checkpoints that were set aside say how many entries it had",
        ],
        KeepingService::Registry => &[
            "enrolments since: who enrolled needs a new token, and enrols again",
            "removals since, unless Central was not restored: remove again whoever was removed",
            "tokens and operators that were added or removed since",
        ],
    }
}

/// Puts a file or folder of a backup in place; what is there already goes aside.
fn put(from: &Path, to: &Path, aside: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    set_aside(to, aside)?;
    if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| Misuse::new(format!("cannot make {}", folder.display())))?;
    }
    archive::copy(from, to)
}

fn set_aside(path: &Path, aside: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let free = (1..).map(|number| beside(path, &format!(".before-restore-{number}"))).find(|name| !name.exists());
    let name = free.with_context(|| format!("no name is free beside {}", path.display()))?;
    fs::rename(path, &name).with_context(|| format!("cannot set {} aside", path.display()))?;
    aside.push(name);
    Ok(())
}

/// The audit and the events of a restored Central go under a name of their own: the numbers of the old one were used for
/// entries that are lost.
fn new_writer(identity: &Path) -> anyhow::Result<()> {
    let path = identity.join("writer");
    let draft = beside(&path, ".new");
    let write = || {
        let open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
        let mut file = open?;
        writeln!(file, "central-{:08x}", rand::random::<u32>())?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_restore_finds_is_set_aside_and_never_deleted_spec_10_5() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("backup"), folder.path().join("data/central.db"));
        fs::write(&from, "new").unwrap();
        let mut aside = Vec::new();
        for (count, found) in ["new", "changed", "again"].into_iter().enumerate() {
            put(&from, &to, &mut aside).unwrap();
            assert_eq!((aside.len(), fs::read_to_string(&to).unwrap().as_str()), (count, "new"));
            fs::write(&to, found).unwrap();
        }
        let kept: Vec<_> = aside.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        assert_eq!(kept, ["new", "changed"]);
    }

    #[test]
    fn a_restored_central_writes_under_another_name_spec_10_5() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("writer"), "central-00000000\n").unwrap();
        new_writer(folder.path()).unwrap();
        let name = fs::read_to_string(folder.path().join("writer")).unwrap();
        assert!(name.starts_with("central-") && name != "central-00000000\n", "{name}");
    }
}
