//! Who operates. A person is known by his certificate; this list says who was removed and is refused at once, whatever
//! his certificate says (SPEC 7.3), and who was added, so that operators can be listed.

use std::{collections::HashSet, sync::PoisonError, time::Duration};

use prost::Message;
use proto::{
    OperatorName,
    link::v1::Reason,
    registry::v1::{self as contract, OperatorRole},
};
use store::{
    Abort, Conn, StoreError,
    registry::{OperatorRow, head},
};

use super::{Asked, Authority, Decided, to_the_end};
use crate::{
    audit::{Action, Entry},
    refusal::{Refusal, refuse},
};

/// Between two tries to read the list anew.
const READ_AGAIN: Duration = Duration::from_secs(1);

impl Authority {
    pub(crate) async fn add_operator(
        &self,
        asked: Asked,
        name: OperatorName,
        role: OperatorRole,
    ) -> Result<contract::Operator, Refusal> {
        if role == OperatorRole::Unspecified {
            return Err(refuse(Reason::Invalid, format!("say whether {name} is a viewer or an operator")));
        }
        let (now_ms, actor, added) = (self.now().wall_ms, asked.actor.clone(), name.clone());
        let decide = move |conn: &mut Conn, revision| {
            let known = OperatorRow::find(conn, added.as_str())?;
            let same = known.is_some_and(|row| !row.removed && row.role == role as i32);
            let row = OperatorRow {
                name: added.as_str().to_owned(),
                role: role as i32,
                removed: false,
                changed_at_ms: now_ms,
                changed_by: actor.name.clone(),
                revision,
            };
            let entry = (!same).then(|| {
                Entry::done(now_ms, &actor, Action::OperatorAdded, format!("operator/{added}"))
                    .with("role", role.as_str_name().trim_start_matches("OPERATOR_ROLE_").to_lowercase())
            });
            if !same {
                row.save(conn)?;
            }
            Ok(Decided::new(told(row), entry))
        };
        self.order_of_operators(asked, decide).await
    }

    /// Also whom nobody added: a certificate is enough to operate, so it must be enough to be removed.
    pub(crate) async fn remove_operator(
        &self,
        asked: Asked,
        name: OperatorName,
        force: bool,
    ) -> Result<contract::RemoveOperatorResponse, Refusal> {
        let (now_ms, actor, removed) = (self.now().wall_ms, asked.actor.clone(), name.clone());
        let decide = move |conn: &mut Conn, revision| {
            let known = OperatorRow::find(conn, removed.as_str())?;
            let changed = !known.as_ref().is_some_and(|row| row.removed);
            let unknown = known.is_none();
            if changed && !force {
                somebody_stays(&OperatorRow::all(conn)?, &removed, &actor.name).map_err(Abort::Refused)?;
            }
            if changed {
                let row = OperatorRow {
                    name: removed.as_str().to_owned(),
                    role: known.map_or(OperatorRole::Unspecified as i32, |row| row.role),
                    removed: true,
                    changed_at_ms: now_ms,
                    changed_by: actor.name.clone(),
                    revision,
                };
                row.save(conn)?;
            }
            let entry =
                changed.then(|| Entry::done(now_ms, &actor, Action::OperatorRemoved, format!("operator/{removed}")));
            Ok(Decided::new(contract::RemoveOperatorResponse { changed, unknown }, entry))
        };
        self.order_of_operators(asked, decide).await
    }

    /// What is ordered holds at our own server as well, also where whoever ordered it has gone.
    async fn order_of_operators<A, F>(&self, asked: Asked, decide: F) -> Result<A, Refusal>
    where
        A: Message + Default + 'static,
        F: FnMut(&mut Conn, i64) -> Result<Decided<A>, Abort<Refusal>> + Send + 'static,
    {
        let authority = self.clone();
        let work = async move {
            let answer = authority.order(asked, decide).await?.answer;
            authority.refresh_denied().await;
            Ok(answer)
        };
        to_the_end(work).await
    }

    pub(crate) async fn list_operators(&self) -> Result<contract::ListOperatorsResponse, Refusal> {
        let rows = self.read("operators", |conn| Ok(OperatorRow::all(conn)?)).await?;
        Ok(contract::ListOperatorsResponse { operators: rows.into_iter().map(told).collect() })
    }

    /// As of the change that is the last one on disk, unless a later one is here already.
    pub(super) async fn load_denied(&self) -> Result<(), StoreError> {
        let removed = |conn: &mut Conn| {
            // Before the rows, which are as new or newer.
            let revision = head(conn)?;
            let rows = OperatorRow::all(conn)?.into_iter().filter(|row| row.removed);
            Ok((revision, rows.filter_map(|row| row.name.parse().ok()).collect::<HashSet<OperatorName>>()))
        };
        let (revision, names) = self.database().read("removed operators", removed).await?;
        let mut denied_as_of = self.0.denied_as_of.lock().unwrap_or_else(PoisonError::into_inner);
        if *denied_as_of <= revision {
            *denied_as_of = revision;
            self.0.parts.denied.replace(names);
        }
        Ok(())
    }

    /// From what is on disk, because a repeated request may be older than a later order.
    async fn refresh_denied(&self) {
        let Err(error) = self.load_denied().await else { return };
        tracing::warn!(error = error.to_string(), "the list of removed operators is not fresh yet");
        let authority = self.clone();
        // Whoever ordered it is answered: it is on disk.
        tokio::spawn(async move {
            tokio::time::sleep(READ_AGAIN).await;
            while authority.load_denied().await.is_err() {
                tokio::time::sleep(READ_AGAIN).await;
            }
        });
    }
}

/// Without an operator nobody can add one.
fn somebody_stays(all: &[OperatorRow], removed: &OperatorName, actor: &str) -> Result<(), Refusal> {
    let operates = |row: &&OperatorRow| !row.removed && row.role == OperatorRole::Operator as i32;
    let is_self = actor.strip_prefix("operator/") == Some(removed.as_str());
    let is_last = all.iter().filter(operates).all(|row| row.name == removed.as_str());
    let was_one = all.iter().filter(operates).any(|row| row.name == removed.as_str());
    // An operator who asks is one who stays, though nobody added him.
    let why = if is_self {
        format!("{removed} is who asks")
    } else if is_last && was_one && !actor.starts_with("operator/") {
        format!("{removed} is the last operator")
    } else {
        return Ok(());
    };
    Err(refuse(
        Reason::NotAllowed,
        format!(
            "{why}; let another operator do it, or force it: then only one with a new operator's certificate \
             (`chargemesh certs issue operator NAME`) can add {removed} again"
        ),
    ))
}

pub(crate) fn told(row: OperatorRow) -> contract::Operator {
    contract::Operator { name: row.name, role: row.role, removed: row.removed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, role: OperatorRole, removed: bool) -> OperatorRow {
        OperatorRow {
            name: name.into(),
            role: role as i32,
            removed,
            changed_at_ms: 0,
            changed_by: String::new(),
            revision: 1,
        }
    }

    #[test]
    fn nobody_removes_himself_or_the_last_operator_unforced_spec_7_1() {
        let all = [
            row("anna", OperatorRole::Operator, false),
            row("bob", OperatorRole::Operator, true),
            row("guest", OperatorRole::Viewer, false),
        ];
        let stays = |name: &str, actor: &str| somebody_stays(&all, &name.parse().unwrap(), actor);
        let refused = stays("anna", "operator/anna").unwrap_err();
        assert_eq!(refused.reason, Reason::NotAllowed);
        assert!(refused.detail.contains("is who asks") && refused.detail.contains("certs issue operator"), "{refused}");
        assert!(stays("anna", "dashboard").unwrap_err().detail.contains("is the last operator"));
        for (name, actor) in
            [("anna", "operator/carl"), ("guest", "operator/anna"), ("nobody", "dashboard"), ("guest", "dashboard")]
        {
            assert_eq!(stays(name, actor), Ok(()), "{name} by {actor}");
        }
    }
}
