//! `chargemesh migrate`: creates or upgrades the tables of a database. `up` does so too; a role alone never does.

use clap::{Args, ValueEnum};
use mesh::process::Misuse;
use serde_json::json;

use crate::output::Output;

/// Create or upgrade the tables of a service's database
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  chargemesh migrate central sqlite:data/central/central.db
  chargemesh migrate registry postgres://registry@db.example/registry")]
pub(crate) struct Migrate {
    /// Service that the database belongs to
    #[arg(value_enum)]
    service: Service,
    /// Address of the database: sqlite:PATH or postgres://…
    #[arg(value_name = "URL", env = "CHARGEMESH_DATABASE", hide_env_values = true)]
    url: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    Central,
    Registry,
}

impl Migrate {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let ran = migrate(self.service, &self.url).await?;
        let sentence = if ran.is_empty() {
            "the tables are up to date".to_owned()
        } else {
            format!("migrated: {}", ran.join(", "))
        };
        self.output.sentence(&sentence, &json!({ "migrations": ran }))
    }
}

pub(crate) async fn migrate(service: Service, url: &str) -> anyhow::Result<Vec<String>> {
    let schema = match service {
        Service::Central => store::central::SCHEMA,
        Service::Registry => store::registry::SCHEMA,
    };
    store::Database::migrate(url, schema).await.map_err(|error| {
        let is_away = error.is_transient() && !error.is_denied();
        if is_away { anyhow::Error::new(error) } else { Misuse::new(error.to_string()).into() }
    })
}
