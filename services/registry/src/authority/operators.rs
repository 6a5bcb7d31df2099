//! Who operates. A person is known by his certificate; this list says who was removed and is refused at once, whatever
//! his certificate says (SPEC 7.3), and who was added, so that operators can be listed.

use std::collections::HashSet;

use proto::{
    OperatorName,
    link::v1::Reason,
    registry::v1::{self as contract, OperatorRole},
};
use store::{Conn, StoreError, registry::OperatorRow};

use super::{Asked, Authority, Decided};
use crate::{
    audit::{Action, Entry},
    refusal::{Refusal, refuse},
};

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
        let answered = self.order(asked, move |conn, revision| {
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
        });
        let answer = answered.await?.answer;
        self.refresh_denied().await;
        Ok(answer)
    }

    /// Also whom nobody added: a certificate is enough to operate, so it must be enough to be removed.
    pub(crate) async fn remove_operator(
        &self,
        asked: Asked,
        name: OperatorName,
    ) -> Result<contract::RemoveOperatorResponse, Refusal> {
        let (now_ms, actor, removed) = (self.now().wall_ms, asked.actor.clone(), name.clone());
        let answered = self.order(asked, move |conn, revision| {
            let known = OperatorRow::find(conn, removed.as_str())?;
            let changed = !known.as_ref().is_some_and(|row| row.removed);
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
            Ok(Decided::new(contract::RemoveOperatorResponse { changed }, entry))
        });
        let answer = answered.await?.answer;
        self.refresh_denied().await;
        Ok(answer)
    }

    pub(crate) async fn list_operators(&self) -> Result<contract::ListOperatorsResponse, Refusal> {
        let rows = self.read("operators", |conn| Ok(OperatorRow::all(conn)?)).await?;
        Ok(contract::ListOperatorsResponse { operators: rows.into_iter().map(told).collect() })
    }

    pub(super) async fn load_denied(&self) -> Result<(), StoreError> {
        let removed = |conn: &mut Conn| {
            let rows = OperatorRow::all(conn)?.into_iter().filter(|row| row.removed);
            Ok(rows.filter_map(|row| row.name.parse().ok()).collect::<HashSet<OperatorName>>())
        };
        let names = self.database().read("removed operators", removed).await?;
        self.0.parts.denied.replace(names);
        Ok(())
    }

    /// From what is on disk, because a repeated request may be older than a later order.
    async fn refresh_denied(&self) {
        if let Err(error) = self.load_denied().await {
            tracing::error!(error = error.to_string(), "the list of removed operators is not fresh; restart Registry");
        }
    }
}

pub(crate) fn told(row: OperatorRow) -> contract::Operator {
    contract::Operator { name: row.name, role: row.role, removed: row.removed }
}
