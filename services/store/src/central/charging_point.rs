//! The durable state of a charging point: its owner, the durable causes of its state, its meter.

use diesel::prelude::*;

use super::schema::charging_points;
use crate::{Conn, StoreError, connection::on};

#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = charging_points, treat_none_as_default_value = false)]
pub struct ChargingPointRow {
    pub cp_id: String,
    /// Rises with each enrolment of the id.
    pub incarnation: i64,
    pub removed: bool,
    pub city: String,
    pub place: String,
    pub price_e4: i64,
    /// 0: not set, so that the network-wide maximum limits its energy (SPEC 3.8a).
    pub rated_power_w: i64,
    /// The replica that owns it; empty: none yet.
    pub owner: String,
    /// The restore count in the upper 32 bits. Only a takeover changes it.
    pub epoch: i64,
    /// Rises by one with each guarded turn.
    pub version: i64,
    /// The id of the last guarded turn that was committed.
    pub last_turn: String,
    /// The durable causes of SPEC 2.1, each with who caused it; `None`: not in effect.
    pub stopped_by: Option<String>,
    pub stop_reason: String,
    pub maintenance_by: Option<String>,
    pub maintenance_reason: String,
    pub weather_blocked: bool,
    pub quarantined: bool,
    /// `proto::link::v1::KeyState`.
    pub key_state: i32,
    /// The last accepted value of the lifetime register.
    pub meter_wh: i64,
    pub unintelligible: i64,
    /// The time of the last change of state, in milliseconds since 1970.
    pub since_ms: i64,
}

impl ChargingPointRow {
    pub fn find(conn: &mut Conn, cp_id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| charging_points::table.find(cp_id).select(Self::as_select()).first(c).optional())?)
    }

    /// The epoch under which it is held; 0 where there is none with this id.
    pub(super) fn epoch(conn: &mut Conn, cp_id: &str) -> Result<i64, StoreError> {
        let found =
            on!(conn, |c| charging_points::table.find(cp_id).select(charging_points::epoch).first(c).optional())?;
        Ok(found.unwrap_or_default())
    }

    /// All charging points by id, including removed ones.
    pub fn all(conn: &mut Conn) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| charging_points::table.order(charging_points::cp_id).select(Self::as_select()).load(c))?)
    }

    /// Inserts a new charging point; an existing one is not changed.
    pub(super) fn add(&self, conn: &mut Conn) -> Result<(), StoreError> {
        on!(conn, |c| diesel::insert_into(charging_points::table).values(self).on_conflict_do_nothing().execute(c))?;
        Ok(())
    }

    /// Updates every column except those that guards change: owner, epoch, version, last turn.
    pub(super) fn update(&self, conn: &mut Conn) -> Result<(), StoreError> {
        use charging_points as t;
        let changed = on!(conn, |c| diesel::update(t::table.find(&self.cp_id))
            .set((
                t::incarnation.eq(self.incarnation),
                t::removed.eq(self.removed),
                t::city.eq(&self.city),
                t::place.eq(&self.place),
                t::price_e4.eq(self.price_e4),
                t::rated_power_w.eq(self.rated_power_w),
                t::stopped_by.eq(&self.stopped_by),
                t::stop_reason.eq(&self.stop_reason),
                t::maintenance_by.eq(&self.maintenance_by),
                t::maintenance_reason.eq(&self.maintenance_reason),
                t::weather_blocked.eq(self.weather_blocked),
                t::quarantined.eq(self.quarantined),
                t::key_state.eq(self.key_state),
                t::meter_wh.eq(self.meter_wh),
                t::unintelligible.eq(self.unintelligible),
                t::since_ms.eq(self.since_ms),
            ))
            .execute(c))?;
        if changed == 1 {
            Ok(())
        } else {
            Err(StoreError::Rejected(format!("there is no charging point {:?} to change", self.cp_id)))
        }
    }
}

/// The epoch under which a charging point is owned, and its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowVersion {
    pub(super) epoch: i64,
    pub(super) version: i64,
}

/// The one statement that fences former owners and later answers whether a commit arrived. `None`: fenced.
pub(super) fn guard(
    conn: &mut Conn,
    cp_id: &str,
    seen: RowVersion,
    turn: &str,
) -> Result<Option<RowVersion>, StoreError> {
    use charging_points as t;
    let changed = on!(conn, |c| diesel::update(
        t::table.filter(t::cp_id.eq(cp_id)).filter(t::epoch.eq(seen.epoch)).filter(t::version.eq(seen.version))
    )
    .set((t::version.eq(t::version + 1), t::last_turn.eq(turn)))
    .execute(c))?;
    Ok((changed == 1).then_some(RowVersion { version: seen.version + 1, ..seen }))
}

/// Takes a charging point over under the next epoch, which is at least the first of this generation. `None`: it does
/// not exist, or `expected_owner` does not own it any more.
pub(super) fn take_over(
    conn: &mut Conn,
    cp_id: &str,
    owner: &str,
    expected_owner: Option<&str>,
    generation: i64,
    turn: &str,
) -> Result<Option<RowVersion>, StoreError> {
    use charging_points as t;
    // Another replica may take it over between the two statements, so the update names the version that was read.
    loop {
        let seen: Option<(String, i64, i64)> =
            on!(conn, |c| t::table.find(cp_id).select((t::owner, t::epoch, t::version)).first(c).optional())?;
        let Some((was, epoch, version)) = seen else { return Ok(None) };
        if expected_owner.is_some_and(|expected| expected != was) {
            return Ok(None);
        }
        let next = RowVersion { epoch: epoch.max(generation << 32) + 1, version: version + 1 };
        let changed = on!(conn, |c| diesel::update(
            t::table.filter(t::cp_id.eq(cp_id)).filter(t::epoch.eq(epoch)).filter(t::version.eq(version))
        )
        .set((t::owner.eq(owner), t::epoch.eq(next.epoch), t::version.eq(next.version), t::last_turn.eq(turn)))
        .execute(c))?;
        if changed == 1 {
            return Ok(Some(next));
        }
    }
}
