//! The lease on Central's database: until several Centrals are supported, one uses it at a time, and a second one is told
//! so. Only the database's clock counts (SPEC 10.8).
//!
//! A process that holds it renews it every [`RENEW_LEASE_EVERY`] for as long as it may write. One that did not run, or could
//! not reach the database, for longer than [`HELD`] may find it taken. Then it can only be taken back by a new start, since
//! what this process knows may be old; and the committer, which looks at the holder in each of its transactions, refuses
//! every turn. A lease that ended and that nobody took still has its holder, who may write on: there is no other writer.

use std::time::Duration;

use diesel::{
    prelude::*,
    sql_types::{Bool, Text},
};

use super::schema::lease;
use crate::{
    Abort, Conn, Database, OpenDatabaseError, StoreError,
    connection::{Backend, on},
};

/// How often a lease is renewed.
pub const RENEW_LEASE_EVERY: Duration = Duration::from_secs(2);
/// How long a lease lasts that is not renewed.
const HELD: Duration = Duration::from_secs(10);

impl Database {
    /// Takes the lease for the Central whose writer's name is `holder`, if no other has it now. A process that was killed takes it
    /// again at once under its name.
    ///
    /// # Errors
    /// If another Central holds it, with its name: waiting helps once that one has stopped.
    pub async fn take_lease(&self, holder: &str) -> Result<(), OpenDatabaseError> {
        let at = self.inner.address.to_string();
        let taken = self.lease(holder, true).await.map_err(|error| OpenDatabaseError::of(&error, &at))?;
        taken.map_err(|holder| OpenDatabaseError::Leased { at, holder })
    }

    /// Renews the lease, unless another Central has taken it since; the inner error is the name of that one, also where it
    /// has given it back meanwhile.
    pub async fn renew_lease(&self, holder: &str) -> Result<Result<(), String>, StoreError> {
        self.lease(holder, false).await
    }

    async fn lease(&self, holder: &str, from_others: bool) -> Result<Result<(), String>, StoreError> {
        let holder = holder.to_owned();
        let work = move |conn: &mut Conn| match renew(conn, &holder, from_others)? {
            true => Ok(()),
            false => Err(Abort::Refused(self::holder(conn)?.unwrap_or_default())),
        };
        self.transaction("lease", work).await
    }

    /// Gives the lease back, so that another Central need not wait until it ends. Its holder stays named until then.
    pub async fn give_lease_back(&self, holder: &str) -> Result<(), StoreError> {
        let holder = holder.to_owned();
        let work = move |conn: &mut Conn| -> Result<(), Abort<()>> {
            on!(conn, |c| diesel::update(lease::table.filter(lease::holder.eq(&holder)))
                .set(lease::until_ms.eq(0))
                .execute(c))
            .map_err(StoreError::from)?;
            Ok(())
        };
        self.transaction("lease", work).await.map(|_| ())
    }
}

/// Whether `holder` has the lease now. `from_others`: also where it was another's and has ended.
fn renew(conn: &mut Conn, holder: &str, from_others: bool) -> Result<bool, StoreError> {
    let now = match &conn.0 {
        Backend::Sqlite(_) => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        Backend::Postgres(..) => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
    };
    let held_ms = HELD.as_millis();
    let take = format!(
        "INSERT INTO lease (id, holder, until_ms) VALUES (1, $1, {now} + {held_ms})
         ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, until_ms = excluded.until_ms
         WHERE lease.holder = excluded.holder OR ($2 AND lease.until_ms < {now})"
    );
    Ok(on!(conn, |c| diesel::sql_query(take.as_str()).bind::<Text, _>(holder).bind::<Bool, _>(from_others).execute(c))?
        == 1)
}

/// Why `writer` may commit nothing: another Central has taken the database. No clock is asked. The holder cannot change
/// before the running transaction ends.
pub(super) fn refusal(conn: &mut Conn, writer: &str) -> Result<Option<String>, StoreError> {
    let found = lease::table.find(1).select(lease::holder);
    let holder: Option<String> = match &mut conn.0 {
        // Its transaction is the only one that writes.
        Backend::Sqlite(c) => found.first(c).optional()?,
        Backend::Postgres(c, _) => found.for_share().first(&mut **c).optional()?,
    };
    let other = holder.filter(|holder| holder != writer);
    Ok(other.map(|other| {
        format!("another Central ({other}) has taken the database, so this one writes nothing more; stop one of them")
    }))
}

fn holder(conn: &mut Conn) -> Result<Option<String>, StoreError> {
    Ok(on!(conn, |c| lease::table.find(1).select(lease::holder).first(c).optional())?)
}
