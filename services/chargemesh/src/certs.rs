//! `chargemesh certs`: a certificate authority for development, the identities it issues, and the rotation of its root
//! (SPEC 10.7).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use mesh::{
    certs::{Authority, CertsError, identities_in},
    process::Misuse,
};
use proto::{Caller, OperatorName};
use serde_json::json;

use crate::output::Output;

/// Create and rotate the certificates of a network
#[derive(Debug, Args)]
#[command(after_help = "\
The folder of certificates has one folder for the authority (authority/) and one for each identity (central/,
operator-ann/, …).

Examples:
  chargemesh certs init --dir certs
  chargemesh certs issue role central --dir certs --name central.example --name 10.0.0.5
  chargemesh certs issue operator ann --dir certs
  chargemesh certs roll --dir certs       then, when every host has the new ca.pem:
  chargemesh certs renew --dir certs      then, when every host has its new certificate:
  chargemesh certs retire --dir certs")]
pub(crate) struct Certs {
    #[command(subcommand)]
    command: CertsCommand,
    /// Folder of certificates
    #[arg(long, env = "CHARGEMESH_CERTS", value_name = "DIR", default_value = "certs", global = true)]
    dir: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum CertsCommand {
    /// Create a certificate authority
    Init {
        /// Trust domain in the name of every identity
        #[arg(long, value_name = "DOMAIN", default_value = TRUST_DOMAIN)]
        trust_domain: String,
        #[command(flatten)]
        lifetime: RootLifetime,
    },
    /// Issue an identity
    Issue {
        #[command(subcommand)]
        subject: CertsSubject,
        /// Replace an existing identity
        #[arg(long, global = true)]
        overwrite: bool,
        /// Lifetime of the certificate
        #[arg(long, value_name = "DURATION", default_value = "90d", global = true,
              value_parser = mesh::duration::parse_seconds)]
        lifetime: Duration,
    },
    /// Add a second root, which every identity in the folder then trusts as well
    Roll {
        #[command(flatten)]
        lifetime: RootLifetime,
    },
    /// Issue new keys and certificates for every identity in the folder, or for one
    Renew {
        /// Folder name of the only identity to renew
        name: Option<String>,
    },
    /// Remove all roots but the newest
    Retire,
}

#[derive(Debug, Args)]
struct RootLifetime {
    /// Lifetime of the root certificate
    #[arg(long, value_name = "DURATION", default_value = "3650d",
          value_parser = mesh::duration::parse_seconds)]
    lifetime: Duration,
}

#[derive(Debug, Subcommand)]
enum CertsSubject {
    /// A role of the mesh
    Role {
        #[arg(value_enum)]
        role: CertsRole,
        /// Another DNS name or IP address of this role; may be given several times
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
    /// A person who may give orders
    Operator { name: OperatorName },
    /// A person who may only read
    Viewer { name: OperatorName },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CertsRole {
    Central,
    Registry,
    Weather,
    Dashboard,
}

/// The trust domain of a network unless another is given.
pub(crate) const TRUST_DOMAIN: &str = "chargemesh.local";

impl From<CertsRole> for Caller {
    fn from(role: CertsRole) -> Self {
        match role {
            CertsRole::Central => Self::Central,
            CertsRole::Registry => Self::Registry,
            CertsRole::Weather => Self::Weather,
            CertsRole::Dashboard => Self::Dashboard,
        }
    }
}

impl Certs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let authority = self.dir.join("authority");
        let said = |text: String, paths: &[PathBuf]| self.output.sentence(&text, &json!({ "identities": paths }));
        match self.command {
            CertsCommand::Init { trust_domain, lifetime } => {
                Authority::create(&authority, &trust_domain, lifetime.lifetime)
                    .map_err(|error| Misuse::new(format!("{error} with --dir")))?;
                said(format!("created the authority of {trust_domain} in {}", authority.display()), &[])
            }
            CertsCommand::Issue { subject, overwrite, lifetime } => {
                let authority = open(&authority)?;
                let out = issue(&authority, &self.dir, subject, lifetime, overwrite).map_err(|error| match error {
                    CertsError::Exists(path) => Misuse::new(format!(
                        "{} exists already; replace it with --overwrite, or choose another folder with --dir",
                        path.display()
                    ))
                    .into(),
                    other @ (CertsError::OfOlderRoot(_)
                    | CertsError::File { .. }
                    | CertsError::Broken { .. }
                    | CertsError::Name(_)
                    | CertsError::Domain(_)
                    | CertsError::Making(_)) => misuse(other),
                })?;
                said(format!("issued {}", out.display()), &[out])
            }
            CertsCommand::Roll { lifetime } => {
                let identities = identities_in(&self.dir).map_err(misuse)?;
                open(&authority)?.roll(lifetime.lifetime, &identities).map_err(misuse)?;
                let text = format!(
                    "a second root is in force and trusted by {} identities; once every host has its new ca.pem, \
                     continue with `chargemesh certs renew`",
                    identities.len()
                );
                said(text, &identities)
            }
            CertsCommand::Renew { name } => {
                let identities = match name {
                    Some(name) => vec![self.dir.join(name)],
                    None => identities_in(&self.dir).map_err(misuse)?,
                };
                let authority = open(&authority)?;
                for identity in &identities {
                    authority.renew(identity).map_err(misuse)?;
                }
                said(format!("renewed {} identities", identities.len()), &identities)
            }
            CertsCommand::Retire => {
                let identities = identities_in(&self.dir).map_err(misuse)?;
                open(&authority)?.retire(&identities).map_err(misuse)?;
                said("only the newest root is in force".to_owned(), &identities)
            }
        }
    }
}

fn open(authority: &Path) -> anyhow::Result<Authority> {
    Authority::open(authority).map_err(misuse).with_context(|| {
        format!("there is no authority in {}; create one with `chargemesh certs init`", authority.display())
    })
}

fn issue(
    authority: &Authority,
    dir: &Path,
    subject: CertsSubject,
    lifetime: Duration,
    overwrite: bool,
) -> Result<PathBuf, CertsError> {
    let (out, made) = match subject {
        CertsSubject::Role { role, names } => {
            let role = Caller::from(role);
            let out = dir.join(mesh::principal::role_of(role));
            let made = authority.issue_role(role, &out, &names, lifetime, overwrite);
            (out, made)
        }
        CertsSubject::Operator { name } => person(authority, dir, Caller::Operator, &name, lifetime, overwrite),
        CertsSubject::Viewer { name } => person(authority, dir, Caller::Viewer, &name, lifetime, overwrite),
    };
    made.map(|()| out)
}

fn person(
    authority: &Authority,
    dir: &Path,
    role: Caller,
    name: &OperatorName,
    lifetime: Duration,
    overwrite: bool,
) -> (PathBuf, Result<(), CertsError>) {
    let out = dir.join(format!("{}-{name}", mesh::principal::role_of(role)));
    let made = authority.issue_person(role, name, &out, lifetime, overwrite);
    (out, made)
}

fn misuse(error: CertsError) -> anyhow::Error {
    Misuse::new(error.to_string()).into()
}
