//! Operators: the list of those that were added, and of those that were removed and are refused at once, whatever
//! their certificates say (SPEC 7.3).

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

use super::{DecidedAnswer, IdempotentCall, IdentityService, to_the_end};
use crate::{
    audit::{RegistryAction, RegistryEntry},
    error::{Error, refuse},
};

/// Time between two attempts to read the list again.
const READ_AGAIN: Duration = Duration::from_secs(1);

impl IdentityService {
    pub(crate) async fn add_operator(
        &self,
        call: IdempotentCall,
        name: OperatorName,
        role: OperatorRole,
    ) -> Result<contract::Operator, Error> {
        if role == OperatorRole::Unspecified {
            return Err(refuse(Reason::Invalid, format!("say whether {name} is a viewer or an operator")));
        }
        let (now_ms, actor, added) = (self.now().wall_ms, call.actor.clone(), name.clone());
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
                RegistryEntry::done(now_ms, &actor, RegistryAction::OperatorAdded, format!("operator/{added}"))
                    .with("role", role.as_str_name().trim_start_matches("OPERATOR_ROLE_").to_lowercase())
            });
            if !same {
                row.save(conn)?;
            }
            Ok(DecidedAnswer::new(told(row), entry))
        };
        self.order_of_operators(call, decide).await
    }

    /// An operator that nobody added can be removed too: a certificate is enough to operate, so it must be enough to
    /// be removed.
    pub(crate) async fn remove_operator(
        &self,
        call: IdempotentCall,
        name: OperatorName,
        force: bool,
    ) -> Result<contract::RemoveOperatorResponse, Error> {
        let (now_ms, actor, removed) = (self.now().wall_ms, call.actor.clone(), name.clone());
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
            let entry = changed.then(|| {
                RegistryEntry::done(now_ms, &actor, RegistryAction::OperatorRemoved, format!("operator/{removed}"))
            });
            Ok(DecidedAnswer::new(contract::RemoveOperatorResponse { changed, unknown }, entry))
        };
        self.order_of_operators(call, decide).await
    }

    /// Also applies the change to Registry's own gRPC server, even if the caller stops waiting.
    async fn order_of_operators<A, F>(&self, call: IdempotentCall, decide: F) -> Result<A, Error>
    where
        A: Message + Default + 'static,
        F: FnMut(&mut Conn, i64) -> Result<DecidedAnswer<A>, Abort<Error>> + Send + 'static,
    {
        let service = self.clone();
        let work = async move {
            let answer = service.decide_once(call, decide).await?.answer;
            service.refresh_denied().await;
            Ok(answer)
        };
        to_the_end(work).await
    }

    /// All of them, in order of their names.
    pub(crate) async fn list_operators(&self) -> Result<Vec<contract::Operator>, Error> {
        let rows = self.read("operators", |conn| Ok(OperatorRow::all(conn)?)).await?;
        Ok(rows.into_iter().map(told).collect())
    }

    /// Reads the list of removed operators, unless a later version of it was read already.
    pub(super) async fn load_denied(&self) -> Result<(), StoreError> {
        let removed = |conn: &mut Conn| {
            // Read before the rows, which are therefore as new as this revision or newer.
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

    /// Reads the list from the database, because a repeated request may be older than a later order.
    async fn refresh_denied(&self) {
        let Err(error) = self.load_denied().await else { return };
        tracing::warn!(error = error.to_string(), "the list of removed operators could not be read; retrying");
        let service = self.clone();
        // The caller is answered now, because the change is durable.
        tokio::spawn(async move {
            tokio::time::sleep(READ_AGAIN).await;
            while service.load_denied().await.is_err() {
                tokio::time::sleep(READ_AGAIN).await;
            }
        });
    }
}

/// Refuses the removal of the caller itself and of the last operator: without an operator nobody could add one.
fn somebody_stays(all: &[OperatorRow], removed: &OperatorName, actor: &str) -> Result<(), Error> {
    let operates = |row: &&OperatorRow| !row.removed && row.role == OperatorRole::Operator as i32;
    let is_self = actor.strip_prefix("operator/") == Some(removed.as_str());
    let is_last = all.iter().filter(operates).all(|row| row.name == removed.as_str());
    let was_one = all.iter().filter(operates).any(|row| row.name == removed.as_str());
    // A caller with an operator's certificate remains an operator, even if nobody added it to the list.
    let why = if is_self {
        format!("{removed} is the caller")
    } else if is_last && was_one && !actor.starts_with("operator/") {
        format!("{removed} is the last operator")
    } else {
        return Ok(());
    };
    Err(refuse(
        Reason::WrongState,
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
        assert_eq!(refused.reason, Reason::WrongState);
        assert!(
            refused.detail.contains("is the caller") && refused.detail.contains("certs issue operator"),
            "{refused}"
        );
        assert!(stays("anna", "dashboard").unwrap_err().detail.contains("is the last operator"));
        for (name, actor) in
            [("anna", "operator/carl"), ("guest", "operator/anna"), ("nobody", "dashboard"), ("guest", "dashboard")]
        {
            assert_eq!(stays(name, actor), Ok(()), "{name} by {actor}");
        }
    }
}
