//! The lease on Central's database: until several Centrals are supported, one uses it at a time, and a second one is told
//! so. Only the database's clock counts (SPEC 10.8).
//!
//! A process that holds it renews it every [`RENEW_LEASE_EVERY`]. One that was stopped for longer than [`HELD`] may find it
//! taken; it then ends, and what it still writes is refused by the epochs of its charging points.

use std::time::Duration;

use diesel::{prelude::*, sql_types::Text};

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
    /// Takes the lease for the Central whose writer's name is `holder`, or renews it. A process that was killed takes it
    /// again at once under its name.
    ///
    /// # Errors
    /// If another Central holds it, with its name: waiting helps once that one has stopped.
    pub async fn take_lease(&self, holder: &str) -> Result<(), OpenDatabaseError> {
        let at = self.inner.address.to_string();
        let taken = self.renew_lease(holder).await.map_err(|error| OpenDatabaseError::of(&error, &at))?;
        taken.map_err(|holder| OpenDatabaseError::Leased { at, holder })
    }

    /// As [`take_lease`](Self::take_lease); the inner error is the name of the Central that holds it.
    pub async fn renew_lease(&self, holder: &str) -> Result<Result<(), String>, StoreError> {
        let holder = holder.to_owned();
        let work = move |conn: &mut Conn| match renew(conn, &holder)? {
            true => Ok(()),
            false => Err(Abort::Refused(self::holder(conn)?)),
        };
        self.transaction("lease", work).await
    }

    /// Gives the lease back, so that another Central need not wait until it ends.
    pub async fn give_lease_back(&self, holder: &str) -> Result<(), StoreError> {
        let holder = holder.to_owned();
        let work = move |conn: &mut Conn| -> Result<(), Abort<()>> {
            on!(conn, |c| diesel::delete(lease::table.filter(lease::holder.eq(&holder))).execute(c))
                .map_err(StoreError::from)?;
            Ok(())
        };
        self.transaction("lease", work).await.map(|_| ())
    }
}

/// Whether `holder` has the lease now.
fn renew(conn: &mut Conn, holder: &str) -> Result<bool, StoreError> {
    let now = match &conn.0 {
        Backend::Sqlite(_) => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        Backend::Postgres(..) => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
    };
    let held_ms = HELD.as_millis();
    let take = format!(
        "INSERT INTO lease (id, holder, until_ms) VALUES (1, $1, {now} + {held_ms})
         ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, until_ms = excluded.until_ms
         WHERE lease.holder = excluded.holder OR lease.until_ms < {now}"
    );
    Ok(on!(conn, |c| diesel::sql_query(take.as_str()).bind::<Text, _>(holder).execute(c))? == 1)
}

fn holder(conn: &mut Conn) -> Result<String, StoreError> {
    Ok(on!(conn, |c| lease::table.find(1).select(lease::holder).first(c))?)
}
