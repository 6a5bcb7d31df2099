//! Which charging points an order means, between the contract and the core.

use std::collections::BTreeSet;

use mesh::field_checks::FieldChecks;
use proto::{
    ChargingPointId,
    central::v1::{Ids, Selector, selector::Which},
};

use crate::order::{Scope, clipped};

/// Ids that one order can name.
const MOST_IDS: usize = 10_000;

/// Which charging points are meant, as far as the selector says it rightly.
pub(super) fn scope(checks: &mut FieldChecks, selector: Option<&Selector>) -> Scope {
    let nobody = || Scope::Ids(BTreeSet::new());
    match selector.and_then(|selector| selector.which.as_ref()) {
        Some(Which::All(true)) => Scope::All,
        Some(Which::All(false)) => {
            checks.wrong("selector.all", "it can only be true; otherwise name ids or a city");
            nobody()
        }
        Some(Which::City(city)) => {
            checks.not_empty("selector.city", city);
            Scope::City(city.clone())
        }
        Some(Which::Ids(Ids { ids })) => {
            if ids.is_empty() {
                checks.wrong("selector.ids.ids", "it names no charging point");
            }
            if ids.len() > MOST_IDS {
                checks.wrong("selector.ids.ids", format!("it names {} charging points; at most {MOST_IDS}", ids.len()));
            }
            let each = ids.iter().enumerate().take(MOST_IDS);
            Scope::Ids(each.filter_map(|(n, id)| checks.parsed(&format!("selector.ids.ids[{n}]"), id)).collect())
        }
        None => {
            checks.wrong("selector", "it is missing: ids, a city, or all");
            nobody()
        }
    }
}

/// As the contract says it.
pub(super) fn selector(scope: &Scope) -> Selector {
    let which = match scope {
        Scope::All => Which::All(true),
        Scope::City(city) => Which::City(city.clone()),
        Scope::Ids(ids) => Which::Ids(Ids { ids: ids.iter().map(ChargingPointId::to_string).collect() }),
    };
    Selector { which: Some(which) }
}

/// What a selector is about that need not be right, in the words of the audit.
pub(super) fn object(selector: Option<&Selector>) -> String {
    match selector.and_then(|selector| selector.which.as_ref()) {
        Some(Which::Ids(Ids { ids })) => match ids.as_slice() {
            [id] => format!("charging-point/{}", clipped(id)),
            ids => format!("{} charging points", ids.len()),
        },
        Some(Which::City(city)) => format!("city/{}", clipped(city)),
        Some(Which::All(_)) => "all charging points".to_owned(),
        None => "no charging point".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(which: Option<Which>) -> Result<Scope, String> {
        let mut checks = FieldChecks::default();
        let scope = scope(&mut checks, which.map(|which| Selector { which: Some(which) }).as_ref());
        checks.finish().map(|()| scope).map_err(|status| status.message().to_owned())
    }

    fn ids(ids: &[&str]) -> Option<Which> {
        Some(Which::Ids(Ids { ids: ids.iter().map(ToString::to_string).collect() }))
    }

    #[test]
    fn a_selector_says_whom_it_means_or_what_is_wrong_with_it_spec_7_3() {
        for which in [ids(&["CP-1", "CP-2"]), Some(Which::City("Elche".into())), Some(Which::All(true))] {
            let scope = checked(which.clone()).unwrap();
            assert_eq!(selector(&scope).which, which);
        }
        let many: Vec<_> = (0..=MOST_IDS).map(|n| format!("CP-{n}")).collect();
        for (which, says) in [
            (None, "selector: it is missing"),
            (ids(&[]), "selector.ids.ids: it names no charging point"),
            (ids(&["CP-1", "no id"]), "selector.ids.ids[1]: "),
            (ids(&many.iter().map(String::as_str).collect::<Vec<_>>()), "at most 10000"),
            (Some(Which::City(" ".into())), "selector.city: it is missing"),
            (Some(Which::All(false)), "selector.all: "),
        ] {
            let why = checked(which).unwrap_err();
            assert!(why.contains(says), "{says}: {why}");
        }
    }

    #[test]
    fn what_was_meant_is_said_in_a_refusal_spec_8_1() {
        let of = |which: Option<Which>| object(which.map(|which| Selector { which: Some(which) }).as_ref());
        assert_eq!(of(ids(&["no id"])), "charging-point/no id");
        assert_eq!((of(ids(&["a", "b"])), of(None)), ("2 charging points".into(), "no charging point".into()));
    }
}
