//! What an archive says of itself.

use mesh::process::Misuse;
use serde::{Deserialize, Serialize};

/// The form of the archives that this program writes.
const FORMAT: u32 = 1;
/// Its name in the archive, as the first entry.
pub(super) const MANIFEST: &str = "manifest.json";

/// The first file of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BackupManifest {
    format: u32,
    /// The program that wrote it.
    version: String,
    /// Before anything was copied, milliseconds since 1970.
    pub(super) taken_at_ms: i64,
    pub(super) central: Option<BackedUpService>,
    pub(super) registry: Option<BackedUpService>,
}

/// What there is of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BackedUpService {
    /// Whether the database is in the archive; PostgreSQL's is copied with PostgreSQL's own tools.
    pub(super) has_database: bool,
}

impl BackupManifest {
    pub(super) fn new(taken_at_ms: i64) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, version, taken_at_ms, central: None, registry: None }
    }

    /// # Errors
    /// Where the text is no manifest, or of a form that this program does not know.
    pub(super) fn parse(text: &str) -> Result<Self, Misuse> {
        let manifest: Self = serde_json::from_str(text)
            .map_err(|error| Misuse::new(format!("this is no backup of chargemesh: its {MANIFEST} says {error}")))?;
        if manifest.format != FORMAT {
            return Err(Misuse::new(format!(
                "this backup has the form {} and this program knows {FORMAT}: restore it with chargemesh {}",
                manifest.format, manifest.version
            )));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_of_an_unknown_form_names_the_program_that_reads_it_spec_10_5() {
        let manifest = BackupManifest { format: 9, version: "7.0".into(), ..BackupManifest::new(5) };
        let error = BackupManifest::parse(&serde_json::to_string(&manifest).unwrap()).unwrap_err();
        assert!(error.to_string().contains("restore it with chargemesh 7.0"), "{error}");
        assert!(BackupManifest::parse("{}").unwrap_err().to_string().contains("no backup of chargemesh"));
        let own = BackupManifest::new(5);
        assert_eq!(BackupManifest::parse(&serde_json::to_string(&own).unwrap()).unwrap(), own);
    }
}
