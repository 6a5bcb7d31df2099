//! Lists the first operator (SPEC 7.2) by a flag, since no operator exists yet who could add one over gRPC.

use proto::{OperatorName, registry::v1::OperatorRole};
use store::{
    Abort, Conn, Database,
    registry::{OperatorRow, Revision},
};

use crate::{
    audit::{Actor, RegistryAction, RegistryEntry},
    error::Error,
    identity_service::IdentityService,
};

/// Who added the operator, in the list and in the audit.
const BY: &str = "flag";

/// Adds the operator unless that name was ever added or removed.
pub(crate) async fn add_if_unknown(service: &IdentityService, name: &OperatorName) -> anyhow::Result<()> {
    let text = name.as_str().to_owned();
    let known = service.database().read("operator", move |conn| OperatorRow::find(conn, &text)).await?;
    if known.is_none() {
        let revision = add(service.database(), name, service.now().wall_ms).await?;
        service.changed(revision);
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
        let entry = RegistryEntry::done(at_ms, &actor, RegistryAction::OperatorAdded, format!("operator/{name}"));
        crate::chain::append(conn, &[entry])?;
        Ok::<_, Abort<Error>>(revision)
    };
    Ok(database.transaction("first operator", work).await?.unwrap_or_default())
}
