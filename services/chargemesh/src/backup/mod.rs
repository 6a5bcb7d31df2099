//! `chargemesh backup` and `chargemesh restore` (SPEC 10.5): one archive of what Central and Registry keep, and the way back.
//!
//! Guarantees: a backup is taken while all runs, and each database in it is one consistent state; checkpoints are copied
//! before their database, so that the audit verifies; a restore deletes nothing, it sets aside what it finds; and it
//! raises what orders before every epoch and revision, so that nothing of before is taken for newer.

mod archive;
mod manifest;
mod places;
mod restore;
mod take;

pub(crate) use restore::RestoreCommand;
pub(crate) use take::BackupCommand;
