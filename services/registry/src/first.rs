//! The first operator (SPEC 7.2) is listed by a flag, since nobody is there yet who could be asked over gRPC to add him.

use proto::{OperatorName, registry::v1::OperatorRole};
use store::{
    Abort, Conn, Database,
    registry::{OperatorRow, Revision},
};

use crate::{
    audit::{Action, Actor, Entry},
    authority::Authority,
    refusal::Refusal,
};

/// Who did it, as the list and the audit say.
const BY: &str = "flag";

/// At a start: only one whom nobody added or removed before.
pub(crate) async fn make_known(authority: &Authority, name: &OperatorName) -> anyhow::Result<()> {
    let text = name.as_str().to_owned();
    let known = authority.database().read("operator", move |conn| OperatorRow::find(conn, &text)).await?;
    if known.is_none() {
        let revision = add(authority.database(), name, authority.now().wall_ms).await?;
        authority.changed(revision);
    }
    Ok(())
}

async fn add(database: &Database, name: &OperatorName, at_ms: i64) -> anyhow::Result<i64> {
    let name = name.clone();
    let work = move |conn: &mut Conn| {
        let Revision(revision) = Revision::take(conn)?;
        let row = OperatorRow {
            name: name.as_str().to_owned(),
            role: OperatorRole::Operator.into(),
            removed: false,
            changed_at_ms: at_ms,
            changed_by: BY.to_owned(),
            revision,
        };
        row.save(conn)?;
        let actor = Actor { name: BY.to_owned(), address: None };
        let entry = Entry::done(at_ms, &actor, Action::OperatorAdded, format!("operator/{name}"));
        crate::chain::append(conn, &[entry])?;
        Ok::<_, Abort<Refusal>>(revision)
    };
    Ok(database.transaction("first operator", work).await?.unwrap_or_default())
}
