//! The restore count, which is the upper half of every epoch, and what a restore leaves to be done (SPEC 10.5).

use diesel::prelude::*;

use super::schema::{charging_points, generation, sessions};
use crate::audit::schema::audit;
use crate::{Conn, StoreError, connection::on};

/// The one row about restores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = generation)]
pub struct GenerationRow {
    /// Orders before every epoch.
    pub number: i64,
    /// Time of the backup that was restored last; 0: there was none.
    pub backup_at_ms: i64,
    /// What shows that this database is older than what Central has signed; empty: nothing does.
    pub behind: String,
}

impl GenerationRow {
    pub fn read(conn: &mut Conn) -> Result<Self, StoreError> {
        Ok(on!(conn, |c| generation::table.find(1).select(Self::as_select()).first(c))?)
    }

    /// When something was audited last, milliseconds since 1970: as old is what this database contains. 0: never.
    pub fn last_change_ms(conn: &mut Conn) -> Result<i64, StoreError> {
        let last: Option<i64> = on!(conn, |c| audit::table.select(diesel::dsl::max(audit::at_ms)).first(c))?;
        Ok(last.unwrap_or_default())
    }

    /// Notes what shows that this database is too old; the first note stays.
    pub(super) fn note_behind(conn: &mut Conn, why: &str) -> Result<(), StoreError> {
        on!(conn, |c| diesel::update(generation::table.find(1).filter(generation::behind.eq("")))
            .set(generation::behind.eq(why))
            .execute(c))?;
        Ok(())
    }
}

/// The current restore count, which orders before every epoch (SPEC 10.5).
pub(super) fn current_generation(conn: &mut Conn) -> Result<i64, StoreError> {
    Ok(on!(conn, |c| generation::table.find(1).select(generation::number).first(c))?)
}

/// Raises the restore count above `at_least` after a backup of `backup_at_ms` was put back, so that every new epoch
/// orders after all earlier ones. Nobody owns a charging point any more, and a reservation of the backup is over: where
/// a supply followed it, the engine's journal says so. Returns the new count.
pub fn raise_generation(conn: &mut Conn, at_least: i64, backup_at_ms: i64) -> Result<i64, StoreError> {
    const RESERVED: i32 = 1;
    const RELEASED: i32 = 5;
    let number = current_generation(conn)?.saturating_add(1).max(at_least);
    on!(conn, |c| diesel::update(generation::table.find(1))
        .set((generation::number.eq(number), generation::backup_at_ms.eq(backup_at_ms), generation::behind.eq("")))
        .execute(c))?;
    on!(conn, |c| diesel::update(charging_points::table).set(charging_points::owner.eq("")).execute(c))?;
    let reason = i32::from(proto::link::v1::Reason::ReservationExpired);
    on!(conn, |c| diesel::update(sessions::table.filter(sessions::state.eq(RESERVED)))
        .set((
            sessions::state.eq(RELEASED),
            sessions::reason.eq(reason),
            sessions::ended_at_ms.eq(sessions::reserved_at_ms.nullable()),
            sessions::deadline_left_ms.eq(None::<i64>),
        ))
        .execute(c))?;
    Ok(number)
}
