//! Sums per charging point and per driver (SPEC 7.1), including corrections.

use std::collections::BTreeMap;

use diesel::{
    dsl::sql,
    prelude::*,
    sql_types::{BigInt, Nullable},
};

use super::{
    TicketTotals,
    schema::{corrections, discrepancies, tickets},
};
use crate::{Conn, StoreError, connection::on};

/// What the sums are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatisticsBy {
    ChargingPoint,
    Driver,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatisticRow {
    /// The charging point or the driver; empty: the charging points' own accounts.
    pub id: String,
    pub currency: String,
    pub sessions: i64,
    pub energy_wh: i64,
    pub amount_minor: i64,
    /// Not settled yet.
    pub disputed_wh: i64,
    pub discrepancy_wh: i64,
}

/// Id, currency, count and three sums.
type GroupSums = (Option<String>, String, i64, i64, i64, i64);

// PostgreSQL sums BIGINT to NUMERIC, for which diesel would need a decimal type.
const ENERGY: &str = "CAST(COALESCE(SUM(tickets.energy_wh), 0) AS BIGINT)";
const AMOUNT: &str = "CAST(COALESCE(SUM(tickets.amount_minor), 0) AS BIGINT)";
const DISPUTED: &str = "CAST(COALESCE(SUM(tickets.disputed_wh), 0) AS BIGINT)";
const ENERGY_DELTA: &str = "CAST(COALESCE(SUM(corrections.energy_delta_wh), 0) AS BIGINT)";
const AMOUNT_DELTA: &str = "CAST(COALESCE(SUM(corrections.amount_delta_minor), 0) AS BIGINT)";
const SETTLED: &str = "CAST(COALESCE(SUM(corrections.settled_wh), 0) AS BIGINT)";
const DISCREPANCY: &str = "CAST(COALESCE(SUM(discrepancies.energy_delta_wh), 0) AS BIGINT)";

/// The same three queries, grouped by either column.
macro_rules! grouped {
    ($conn:expr, $from:expr, $until:expr, $by:expr, $id:expr) => {{
        let billed = tickets::billed_at_ms.ge($from).and(tickets::billed_at_ms.lt($until));
        let billed_sums: Vec<GroupSums> = on!($conn, |c| tickets::table
            .filter(billed)
            .group_by(($by, tickets::currency))
            .select((
                $id,
                tickets::currency,
                diesel::dsl::count_star(),
                sql::<BigInt>(ENERGY),
                sql::<BigInt>(AMOUNT),
                sql::<BigInt>(DISPUTED),
            ))
            .load(c))?;
        let corrected: Vec<GroupSums> = on!($conn, |c| corrections::table
            .inner_join(tickets::table)
            .filter(billed)
            .group_by(($by, tickets::currency))
            .select((
                $id,
                tickets::currency,
                diesel::dsl::count_star(),
                sql::<BigInt>(ENERGY_DELTA),
                sql::<BigInt>(AMOUNT_DELTA),
                sql::<BigInt>(SETTLED),
            ))
            .load(c))?;
        let late: Vec<(Option<String>, String, i64)> = on!($conn, |c| discrepancies::table
            .inner_join(tickets::table.on(tickets::session_id.eq(discrepancies::session_id)))
            .filter(billed)
            .group_by(($by, tickets::currency))
            .select(($id, tickets::currency, sql::<BigInt>(DISCREPANCY)))
            .load(c))?;
        (billed_sums, corrected, late)
    }};
}

impl StatisticRow {
    /// Over tickets billed at or after `from_ms` and before `until_ms` (0: no bound), by id and currency.
    pub fn list(conn: &mut Conn, by: StatisticsBy, from_ms: i64, until_ms: i64) -> Result<Vec<Self>, StoreError> {
        let until_ms = if until_ms == 0 { i64::MAX } else { until_ms };
        let (billed, corrected, late) = match by {
            StatisticsBy::ChargingPoint => {
                grouped!(conn, from_ms, until_ms, tickets::cp_id, tickets::cp_id.nullable())
            }
            StatisticsBy::Driver => grouped!(conn, from_ms, until_ms, tickets::driver_id, tickets::driver_id),
        };
        let mut rows = BTreeMap::new();
        for (id, currency, sessions, energy_wh, amount_minor, disputed_wh) in billed {
            let row = entry(&mut rows, id, currency);
            (row.sessions, row.energy_wh, row.amount_minor, row.disputed_wh) =
                (sessions, energy_wh, amount_minor, disputed_wh);
        }
        for (id, currency, _, energy_wh, amount_minor, settled_wh) in corrected {
            let row = entry(&mut rows, id, currency);
            row.energy_wh = row.energy_wh.saturating_add(energy_wh);
            row.amount_minor = row.amount_minor.saturating_add(amount_minor);
            row.disputed_wh = row.disputed_wh.saturating_sub(settled_wh);
        }
        for (id, currency, discrepancy_wh) in late {
            entry(&mut rows, id, currency).discrepancy_wh = discrepancy_wh;
        }
        Ok(rows.into_values().collect())
    }
}

fn entry(
    rows: &mut BTreeMap<(String, String), StatisticRow>,
    id: Option<String>,
    currency: String,
) -> &mut StatisticRow {
    let id = id.unwrap_or_default();
    rows.entry((id.clone(), currency.clone())).or_insert_with(|| StatisticRow { id, currency, ..Default::default() })
}

impl TicketTotals {
    /// Over all tickets of a driver, including corrections.
    pub fn of_driver(conn: &mut Conn, driver_id: &str) -> Result<Self, StoreError> {
        let (sessions, energy, amount): (i64, i64, i64) = on!(conn, |c| tickets::table
            .filter(tickets::driver_id.eq(driver_id))
            .select((diesel::dsl::count_star(), sql::<BigInt>(ENERGY), sql::<BigInt>(AMOUNT)))
            .first(c))?;
        let (energy_delta, amount_delta): (Option<i64>, Option<i64>) = on!(conn, |c| corrections::table
            .inner_join(tickets::table)
            .filter(tickets::driver_id.eq(driver_id))
            .select((sql::<Nullable<BigInt>>(ENERGY_DELTA), sql::<Nullable<BigInt>>(AMOUNT_DELTA)))
            .first(c))?;
        Ok(Self {
            sessions,
            energy_wh: energy.saturating_add(energy_delta.unwrap_or(0)),
            amount_minor: amount.saturating_add(amount_delta.unwrap_or(0)),
        })
    }
}
