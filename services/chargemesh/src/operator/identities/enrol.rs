//! `chargemesh identities enrol`: an operator enrols an id himself (SPEC 7.1). The credential is shown once: it goes into
//! a new file that only this user can read, or to standard output where that was asked for.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use mesh::process::Misuse;
use proto::{
    enrolment::PeerKind,
    registry::v1::{EnrolRequest, Kind},
};

use super::{
    super::{
        api_message::ApiMessage,
        connection::{AskedRole, OperatorConnection},
        order_call::RequestArgs,
        price,
    },
    KindArg,
};
use crate::output::{Output, note};

#[derive(Debug, Args)]
pub(super) struct Enrol {
    #[arg(value_enum)]
    kind: KindArg,
    id: String,
    /// City of a charging point
    #[arg(long, default_value = "")]
    city: String,
    /// Place of a charging point
    #[arg(long, default_value = "")]
    place: String,
    /// Currency units per kWh, at most four decimal places; Central's usual price if not given
    #[arg(long, value_name = "PRICE", value_parser = price)]
    price: Option<u32>,
    #[command(flatten)]
    to: CredentialOutput,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct CredentialOutput {
    /// New file for the credential, readable by this user alone
    #[arg(long, value_name = "FILE")]
    credential_file: Option<PathBuf>,
    /// Print the credential on standard output
    #[arg(long)]
    print_credential: bool,
}

impl Enrol {
    pub(super) async fn run(self, connection: &OperatorConnection, output: Output) -> anyhow::Result<()> {
        let kind = match self.kind {
            KindArg::ChargingPoint => PeerKind::ChargingPoint,
            KindArg::Driver => PeerKind::Driver,
        };
        let peer = kind.peer(&self.id).map_err(|error| Misuse::new(error.to_string()))?;
        // Before the id is enrolled: a credential that nobody can keep would be lost.
        let file = self.to.credential_file.as_deref().map(CredentialFile::new).transpose()?;
        let call = self.request.announce(connection, AskedRole::Registry)?;
        let request = EnrolRequest {
            request_id: call.id(),
            kind: Kind::from(self.kind).into(),
            id: self.id,
            city: self.city,
            place: self.place,
            price_e4: self.price,
            ..EnrolRequest::default()
        };
        let mut enrolled = call.answered(connection.identities()?.enrol(request).await)?;
        let Some(place) = file else {
            note(&format!("{peer} is enrolled; its credential, shown once:"));
            return output.sentence(&enrolled.credential.clone(), &ApiMessage(enrolled));
        };
        // Into the file alone.
        let credential = zeroize::Zeroizing::new(std::mem::take(&mut enrolled.credential));
        let path = place.path.to_owned();
        place.keep(&credential).with_context(|| {
            format!("{peer} is enrolled, but its credential could not be kept; get another with `identities reissue`")
        })?;
        output.sentence(&format!("{peer} is enrolled; its credential is in {}", path.display()), &ApiMessage(enrolled))
    }
}

/// A new file of mode 0600; gone again where nothing came into it.
struct CredentialFile<'a> {
    path: &'a Path,
    file: Option<File>,
}

impl<'a> CredentialFile<'a> {
    fn new(path: &'a Path) -> Result<Self, Misuse> {
        let opened = File::options().write(true).create_new(true).mode(0o600).open(path);
        let file = opened.map_err(|error| {
            Misuse::new(format!("cannot keep a credential in {}: {error}; give a new file", path.display()))
        })?;
        Ok(Self { path, file: Some(file) })
    }

    fn keep(mut self, credential: &str) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "{credential}")?;
            file.sync_all()?;
        }
        self.file = None;
        Ok(())
    }
}

impl Drop for CredentialFile<'_> {
    fn drop(&mut self) {
        if self.file.is_some() {
            drop(std::fs::remove_file(self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_credential_is_kept_in_a_new_file_of_mode_0600_spec_7_4() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credential");
        CredentialFile::new(&path).unwrap().keep("cmc1.CP-1.secret.tag").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "cmc1.CP-1.secret.tag\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = CredentialFile::new(&path).err().unwrap().to_string();
        assert!(error.contains("give a new file"), "none is overwritten: {error}");
    }

    #[test]
    fn no_file_is_left_where_nothing_was_enrolled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credential");
        drop(CredentialFile::new(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn where_the_credential_goes_must_be_said_spec_7_4() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct EnrolCli {
            #[command(flatten)]
            enrol: Enrol,
        }
        let parsed = |more: &[&str]| EnrolCli::try_parse_from([&["x", "driver", "ann"], more].concat()).is_ok();
        assert!(!parsed(&[]) && parsed(&["--print-credential"]) && parsed(&["--credential-file", "f"]));
        assert!(!parsed(&["--print-credential", "--credential-file", "f"]));
    }
}
