//! The first operator (SPEC 7.2): made known by a flag or by a command on the database, since nobody is there yet who
//! could be asked over gRPC.

use proto::{OperatorName, registry::v1::OperatorRole};
use store::{
    Abort, Conn, Database,
    registry::{OperatorRow, Revision, SCHEMA},
};

use crate::{
    audit::{Action, Actor, Entry},
    authority::Authority,
    refusal::Refusal,
};

/// Adds `name` to a database that no Registry need be running on; false where he was known already. One who was
/// removed is let in again. A Registry that runs on it meanwhile learns it at its next start.
///
/// # Errors
/// Where the database cannot be used.
pub async fn add_operator(database_url: &str, name: &OperatorName, role: OperatorRole) -> anyhow::Result<bool> {
    let database = Database::open(database_url, SCHEMA).await?;
    let at_ms = mesh::clock::Clock::system().wall_ms();
    add(&database, name, role, "command", at_ms).await.map(|revision| revision.is_some())
}

/// At a start, by the flag: only one whom nobody added or removed before.
pub(crate) async fn make_known(authority: &Authority, name: &OperatorName) -> anyhow::Result<()> {
    let text = name.as_str().to_owned();
    let known = authority.database().read("operator", move |conn| OperatorRow::find(conn, &text)).await?;
    if known.is_none() {
        let at_ms = authority.now().wall_ms;
        if let Some(revision) = add(authority.database(), name, OperatorRole::Operator, "flag", at_ms).await? {
            authority.changed(revision);
        }
    }
    Ok(())
}

async fn add(
    database: &Database,
    name: &OperatorName,
    role: OperatorRole,
    by: &str,
    at_ms: i64,
) -> anyhow::Result<Option<i64>> {
    let (name, by) = (name.clone(), by.to_owned());
    let work = move |conn: &mut Conn| {
        let Revision(revision) = Revision::take(conn)?;
        let known = OperatorRow::find(conn, name.as_str())?;
        if known.is_some_and(|row| !row.removed && row.role == role as i32) {
            return Ok(None);
        }
        let row = OperatorRow {
            name: name.as_str().to_owned(),
            role: role as i32,
            removed: false,
            changed_at_ms: at_ms,
            changed_by: by.clone(),
            revision,
        };
        row.save(conn)?;
        let actor = Actor { name: by.clone(), address: None };
        let entry = Entry::done(at_ms, &actor, Action::OperatorAdded, format!("operator/{name}"));
        crate::chain::append(conn, &[entry])?;
        Ok::<_, Abort<Refusal>>(Some(revision))
    };
    Ok(database.transaction("first operator", work).await?.unwrap_or_default())
}
