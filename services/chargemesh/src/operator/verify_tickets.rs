//! `chargemesh tickets verify`: whether Central signed the tickets of a file, without Central (SPEC 10.5).

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use mesh::process::Misuse;
use proto::{
    central::v1 as public,
    link::v1::{Reason, SignedDocument, Ticket},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wire::signature::{DocumentKeys, DocumentKind, SignatureError};

use super::api_message::ApiMessage;
use crate::{
    failure::CommandRefused,
    output::{Columns, Output, note},
};

/// What is to be checked, and by which keys.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyTicketsArgs {
    /// Tickets, one JSON object per line: a driver's tickets.jsonl, or what `tickets export` wrote; `-`: standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Central's public keys, as `chargemesh tickets keys` prints them
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum TicketVerdict {
    Valid,
    WrongSignature,
    UnknownKey,
    NotSigned,
}

#[derive(Debug, Serialize)]
struct CheckedTicket {
    line: usize,
    session_id: String,
    verdict: TicketVerdict,
    detail: String,
}

impl Columns for CheckedTicket {
    const HEADERS: &'static [&'static str] = &["line", "session", "verdict", "detail"];
    fn cells(&self) -> Vec<String> {
        let verdict = match self.verdict {
            TicketVerdict::Valid => "valid",
            TicketVerdict::WrongSignature => "WRONG SIGNATURE",
            TicketVerdict::UnknownKey => "unknown key",
            TicketVerdict::NotSigned => "not signed",
        };
        let session = crate::output::escaped(&self.session_id);
        vec![self.line.to_string(), session, verdict.to_owned(), self.detail.clone()]
    }
}

impl VerifyTicketsArgs {
    pub(crate) fn run(&self, output: Output) -> anyhow::Result<()> {
        let keys = read(&self.key)?;
        let keys = DocumentKeys::parse(&keys)
            .map_err(|error| Misuse::new(format!("{} is not usable: {error}", self.key.display())))?;
        let text = read(&self.file)?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let checked: Vec<_> = lines
            .map(|(at, line)| {
                let said: Value = serde_json::from_str(line).map_err(|error| {
                    Misuse::new(format!("line {} of {} is not JSON: {error}", at + 1, self.file.display()))
                })?;
                Ok(check(at + 1, &said, &keys))
            })
            .collect::<anyhow::Result<_>>()?;
        output.list(&checked)?;
        conclusion(&checked)
    }
}

fn conclusion(checked: &[CheckedTicket]) -> anyhow::Result<()> {
    let count = |verdict| checked.iter().filter(|ticket| ticket.verdict == verdict).count();
    let (wrong, unknown) =
        (count(TicketVerdict::WrongSignature) + count(TicketVerdict::NotSigned), count(TicketVerdict::UnknownKey));
    note(&format!(
        "{} tickets: {} valid, {wrong} wrong, {unknown} by unknown keys",
        checked.len(),
        checked.len() - wrong - unknown
    ));
    if wrong > 0 {
        return Err(CommandRefused::new(Reason::Invalid, format!("{wrong} tickets are not Central's")).into());
    }
    anyhow::ensure!(unknown == 0, "{unknown} tickets were signed by keys that are not in the key file");
    Ok(())
}

fn check(line: usize, said: &Value, keys: &DocumentKeys) -> CheckedTicket {
    let session_id = ["session_id", "sessionId"].iter().find_map(|name| said[*name].as_str()).unwrap_or_default();
    let (verdict, detail) = match verify(said, keys) {
        Ok(()) => (TicketVerdict::Valid, String::new()),
        Err((verdict, detail)) => (verdict, detail),
    };
    CheckedTicket { line, session_id: session_id.to_owned(), verdict, detail }
}

fn verify(said: &Value, keys: &DocumentKeys) -> Result<(), (TicketVerdict, String)> {
    let wrong = |detail: &str| (TicketVerdict::WrongSignature, detail.to_owned());
    let Some(signed) = said.get("signed") else {
        return Err((TicketVerdict::NotSigned, "there is no signature in it".to_owned()));
    };
    // The two JSON forms differ in the name of one field alone.
    let mut signed = signed.clone();
    if let Some(id) = signed.get("keyId").cloned() {
        signed["key_id"] = id;
    }
    let signed = SignedDocument::deserialize(signed).map_err(|error| wrong(&error.to_string()))?;
    keys.verify(DocumentKind::Ticket, &signed).map_err(|error| match error {
        SignatureError::UnknownKey(_) => (TicketVerdict::UnknownKey, error.to_string()),
        SignatureError::Wrong => wrong(&error.to_string()),
    })?;
    let ticket = Ticket::of_document(signed).ok_or_else(|| wrong("what was signed is no ticket"))?;
    // What people read of it must be what was signed.
    let is_drivers = said.get("session_id").is_some();
    let stated = if is_drivers {
        serde_json::to_value(&ticket)
    } else {
        serde_json::to_value(ApiMessage(public::Ticket::from(ticket)))
    };
    let stated = stated.map_err(|error| wrong(&error.to_string()))?;
    let differing = stated.as_object().into_iter().flatten().find(|(name, value)| {
        !["corrections", "signed"].contains(&name.as_str()) && said.get(name.as_str()) != Some(value)
    });
    match differing {
        None => Ok(()),
        Some((name, value)) => Err(wrong(&format!("its {name} was changed: Central signed {value}"))),
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        fs::read_to_string(path).map(|read| text = read)
    };
    read.with_context(|| Misuse::new(format!("cannot read {}", path.display())))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use wire::signature::DocumentKey;

    use super::*;

    #[test]
    fn a_ticket_is_checked_in_both_its_forms_without_central_spec_10_5() {
        let key = DocumentKey::parse(&DocumentKey::generate()).unwrap();
        let other = DocumentKey::parse(&DocumentKey::generate()).unwrap();
        let keys = DocumentKeys::parse(&key.public()).unwrap();
        let signed = |key: &DocumentKey| {
            let ticket = Ticket { session_id: "s-1".into(), energy_wh: 7, currency: "EUR".into(), ..Ticket::default() };
            Ticket { signed: Some(key.sign(DocumentKind::Ticket, ticket.document())), ..ticket }
        };
        let drivers = serde_json::to_value(signed(&key)).unwrap();
        let exported = serde_json::to_value(ApiMessage(public::Ticket::from(signed(&key)))).unwrap();
        let verdict = |said: &Value| check(1, said, &keys).verdict;
        assert_eq!((verdict(&drivers), verdict(&exported)), (TicketVerdict::Valid, TicketVerdict::Valid));
        let mut dearer = drivers;
        dearer["energy_wh"] = 9.into();
        assert_eq!(verdict(&dearer), TicketVerdict::WrongSignature);
        let mut cheaper = exported;
        cheaper["energyWh"] = "1".into();
        assert_eq!(check(1, &cheaper, &keys).detail, "its energyWh was changed: Central signed \"7\"");
        assert_eq!(verdict(&serde_json::to_value(signed(&other)).unwrap()), TicketVerdict::UnknownKey);
        assert_eq!(verdict(&serde_json::json!({ "session_id": "s-1" })), TicketVerdict::NotSigned);
    }
}
