//! Orders over many charging points (SPEC 7.3): what they do, which charging points they reach, and how many were
//! expected. Pure.

use std::{collections::BTreeSet, sync::Arc};

use proto::{ChargingPointId, Price, central::v1::order::Ordered};
use wire::LinkKey;

use crate::charge_point::PointOrder;

/// Characters of a text that is shown and audited.
pub const LONGEST: usize = 500;
/// Of a city or a place, in bytes.
const LONGEST_NAME: usize = 200;

/// The gRPC method that gives the order.
pub fn method(ordered: &Ordered) -> &'static str {
    match ordered {
        Ordered::Stop(_) => "Stop",
        Ordered::Resume(_) => "Resume",
        Ordered::SetMaintenance(_) => "SetMaintenance",
        Ordered::Rotate(_) => "Rotate",
        Ordered::Renew(_) => "Renew",
        Ordered::Revoke(_) => "Revoke",
        Ordered::Release(_) => "Release",
        Ordered::SetPrice(_) => "SetPrice",
        Ordered::SetRatedPower(_) => "SetRatedPower",
        Ordered::Move(_) => "Move",
    }
}

/// What the order decides about a charging point: of two orders with one subject the later one counts. A key order does
/// not replace another one: who revokes and then rotates has revoked.
pub fn subject(ordered: &Ordered) -> &'static str {
    if matches!(ordered, Ordered::Resume(_)) { "Stop" } else { method(ordered) }
}

/// Whether it reaches only so many charging points per second. Stop alone goes to all at once.
pub fn is_staggered(ordered: &Ordered, matched: usize, many: usize) -> bool {
    matched > many && !matches!(ordered, Ordered::Stop(_))
}

/// The order to one charging point; `material` is the key for a rotation.
pub fn for_point(ordered: &Ordered, material: Arc<LinkKey>) -> PointOrder {
    match ordered {
        Ordered::Stop(_) => PointOrder::Stop,
        Ordered::Resume(_) => PointOrder::Resume,
        Ordered::SetMaintenance(set) => PointOrder::Maintenance { on: set.on },
        Ordered::Rotate(_) => PointOrder::Rotate { material },
        Ordered::Renew(_) => PointOrder::Renew,
        Ordered::Revoke(_) => PointOrder::Revoke,
        Ordered::Release(_) => PointOrder::Release,
        Ordered::SetPrice(set) => PointOrder::SetPrice(Price::from_e4(set.price_e4)),
        Ordered::SetRatedPower(set) => PointOrder::SetRatedPower(set.rated_power_w),
        Ordered::Move(to) => {
            PointOrder::Move { city: to.city.as_str().into(), place: to.place.as_deref().map(Into::into) }
        }
    }
}

/// Which charging points are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Ids(BTreeSet<ChargingPointId>),
    City(String),
    All,
}

/// Which charging points an order reaches, and which of those named do not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    pub ids: Vec<ChargingPointId>,
    pub unknown: Vec<String>,
}

/// An order that would reach another number of charging points than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unexpected {
    pub matched: usize,
    pub expected: Option<u32>,
}

/// A reason is shown on every tile it concerns.
///
/// # Errors
/// Says that it is too long for that.
pub fn check_reason(reason: &str) -> Result<(), String> {
    let length = reason.chars().count();
    if length > LONGEST { Err(format!("it has {length} characters; at most {LONGEST}")) } else { Ok(()) }
}

/// What an order is about, as the audit names it, so that a search for a charging point's id finds it.
pub fn object(scope: &Scope) -> String {
    match scope {
        Scope::Ids(ids) => match ids.first() {
            Some(id) if ids.len() == 1 => format!("charging-point/{id}"),
            _ => format!("{} charging points", ids.len()),
        },
        Scope::City(city) => format!("city/{}", clipped(city)),
        Scope::All => "all charging points".to_owned(),
    }
}

/// Of a text that nobody has looked at yet.
pub fn clipped(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// The name of a city or a place: of one line, as at an enrolment.
///
/// # Errors
/// Says what it must be.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
        return Err(format!("it must be one line of at most {LONGEST_NAME} bytes"));
    }
    Ok(())
}

/// Looks charging points up among `all` (id and city, in order of id).
pub fn select(scope: &Scope, all: &[(ChargingPointId, String)]) -> Selected {
    let ids = |matches: &dyn Fn(&str) -> bool| {
        let ids = all.iter().filter(|(_, city)| matches(city)).map(|(id, _)| id.clone()).collect();
        Selected { ids, unknown: Vec::new() }
    };
    match scope {
        Scope::All => ids(&|_| true),
        Scope::City(wanted) => ids(&|city| city == wanted),
        Scope::Ids(wanted) => {
            let is_known = |id: &&ChargingPointId| all.binary_search_by(|(other, _)| other.cmp(id)).is_ok();
            let (known, unknown): (Vec<_>, Vec<_>) = wanted.iter().partition(is_known);
            Selected {
                ids: known.into_iter().cloned().collect(),
                unknown: unknown.into_iter().map(ToString::to_string).collect(),
            }
        }
    }
}

/// An order over more than `many` states how many it expects.
///
/// # Errors
/// Where it does not, or is wrong.
pub fn check_expectation(matched: usize, expected: Option<u32>, many: usize) -> Result<(), Unexpected> {
    let is_right = match expected {
        Some(expected) => usize::try_from(expected).ok() == Some(matched),
        None => matched <= many,
    };
    if is_right { Ok(()) } else { Err(Unexpected { matched, expected }) }
}

#[cfg(test)]
mod tests {
    use proto::central::v1::order::{Resume, Revoke, Rotate, SetPrice, Stop};

    use super::*;

    fn all(count: usize) -> Vec<(ChargingPointId, String)> {
        let city = |n: usize| if n.is_multiple_of(2) { "Alicante" } else { "Elche" };
        (0..count).map(|n| (format!("CP{n:04}").parse().unwrap(), city(n).to_owned())).collect()
    }

    fn ids(ids: &[&str]) -> Scope {
        Scope::Ids(ids.iter().map(|id| id.parse().unwrap()).collect())
    }

    #[test]
    fn an_order_reaches_ids_a_city_or_all_spec_7_1() {
        let all = all(10);
        let matched = |scope| {
            let selected = select(&scope, &all);
            (selected.ids.len(), selected.unknown.len())
        };
        assert_eq!(matched(Scope::All), (10, 0));
        assert_eq!(matched(Scope::City("Elche".into())), (5, 0));
        assert_eq!(matched(ids(&["CP0001", "CP0001", "nobody"])), (1, 1));
    }

    #[test]
    fn an_order_over_more_than_fifty_states_how_many_it_expects_spec_7_3() {
        assert_eq!(check_expectation(50, None, 50), Ok(()));
        assert_eq!(check_expectation(51, Some(51), 50), Ok(()));
        assert_eq!(check_expectation(51, None, 50), Err(Unexpected { matched: 51, expected: None }));
        assert_eq!(check_expectation(3, Some(4), 50), Err(Unexpected { matched: 3, expected: Some(4) }));
        assert!(check_expectation(3, Some(0), 50).is_err(), "none expected is not the same as not said");
        assert_eq!(check_expectation(51, None, 51), Ok(()), "how many are many is a setting");
    }

    #[test]
    fn stop_alone_goes_to_all_at_once_spec_7_3() {
        assert!(!is_staggered(&Ordered::Stop(Stop {}), 9_000, 50));
        let rotate = Ordered::Rotate(Rotate {});
        assert!(is_staggered(&rotate, 51, 50) && !is_staggered(&rotate, 50, 50));
    }

    #[test]
    fn a_charging_point_moves_to_a_name_of_one_line_spec_7_1() {
        assert!(check_name("Elche").is_ok() && check_name(&"x".repeat(200)).is_ok());
        for name in ["a\nb", "a\u{1b}[2J", &"x".repeat(201)] {
            assert!(check_name(name).unwrap_err().contains("at most 200 bytes"), "{name:?}");
        }
    }

    #[test]
    fn of_two_orders_with_one_subject_the_later_one_counts_spec_7_3() {
        let price = |price_e4| Ordered::SetPrice(SetPrice { price_e4 });
        assert_eq!(subject(&Ordered::Stop(Stop {})), subject(&Ordered::Resume(Resume {})));
        assert_eq!(subject(&price(1)), subject(&price(2)));
        assert_ne!(subject(&Ordered::Revoke(Revoke {})), subject(&Ordered::Rotate(Rotate {})));
    }

    #[test]
    fn what_an_order_was_about_is_said_in_its_refusal_spec_8_1() {
        assert_eq!(object(&ids(&["CP1"])), "charging-point/CP1");
        assert_eq!(object(&ids(&["CP1", "CP2"])), "2 charging points");
        assert_eq!(
            (object(&Scope::City("Elche".into())), object(&Scope::All)),
            ("city/Elche".into(), "all charging points".into())
        );
        let city = Scope::City("x".repeat(9_999));
        assert_eq!(object(&city).len(), "city/".len() + LONGEST, "nobody fills the audit with it");
    }

    #[test]
    fn a_reason_fits_on_a_tile_spec_7_1() {
        assert!(check_reason(&"é".repeat(LONGEST)).is_ok());
        assert!(check_reason(&"é".repeat(LONGEST + 1)).is_err());
    }
}
