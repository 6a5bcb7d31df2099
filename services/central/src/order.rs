//! Orders over many charging points (SPEC 7.3): which ones, how many were expected, in which portions. Pure.

use std::collections::BTreeSet;

use proto::{
    ChargingPointId,
    central::v1::{Order as Answer, OrderFailure, Selector, selector::Which},
    link::v1::Reason,
};
use serde::{Deserialize, Serialize};

use crate::charge_point::OrderOutcome;

/// Failures that an answer lists.
const FAILURES: usize = 1_000;
/// Characters of a text that is shown and audited.
pub const LONGEST: usize = 500;
/// Of a city or a place, in bytes.
const LONGEST_NAME: usize = 200;

/// What is ordered, as it is kept with the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderKind {
    Stop,
    Resume,
    Maintenance { on: bool },
    Rotate,
    Renew,
    Revoke,
    Release,
    SetPrice { price_e4: u32 },
    SetRatedPower { rated_power_w: u32 },
    Move { city: String, place: String },
}

/// Of all kinds.
pub const METHODS: [&str; 10] =
    ["Stop", "Resume", "SetMaintenance", "Rotate", "Renew", "Revoke", "Release", "SetPrice", "SetRatedPower", "Move"];

impl OrderKind {
    /// Stop alone goes to all at once.
    pub fn is_staggered(&self, matched: usize, many: usize) -> bool {
        matched > many && !matches!(self, Self::Stop)
    }

    pub fn method(&self) -> &'static str {
        match self {
            Self::Stop => "Stop",
            Self::Resume => "Resume",
            Self::Maintenance { .. } => "SetMaintenance",
            Self::Rotate => "Rotate",
            Self::Renew => "Renew",
            Self::Revoke => "Revoke",
            Self::Release => "Release",
            Self::SetPrice { .. } => "SetPrice",
            Self::SetRatedPower { .. } => "SetRatedPower",
            Self::Move { .. } => "Move",
        }
    }
}

impl OrderKind {
    /// What it decides about a charging point: of two orders with one subject the later one counts. A key order is no
    /// answer to another one: who revokes and then rotates has revoked.
    pub fn subject(&self) -> &'static str {
        match self {
            Self::Stop | Self::Resume => "Stop",
            Self::Maintenance { .. }
            | Self::Rotate
            | Self::Renew
            | Self::Revoke
            | Self::Release
            | Self::SetPrice { .. }
            | Self::SetRatedPower { .. }
            | Self::Move { .. } => self.method(),
        }
    }
}

/// Which charging points an order reaches, and which of those named do not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    pub ids: Vec<ChargingPointId>,
    pub unknown: Vec<String>,
}

/// Why an order is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    Invalid(String),
    Expectation { matched: usize, expected: u32 },
}

/// A reason is shown on every tile it concerns.
///
/// # Errors
/// Where it is too long for that.
pub fn check_reason(reason: &str) -> Result<(), Objection> {
    let length = reason.chars().count();
    if length > LONGEST {
        return Err(Objection::Invalid(format!("a reason of {length} characters; at most {LONGEST}")));
    }
    Ok(())
}

/// What an order is about, in the words of the audit: whoever asks what concerns a charging point finds it by its id.
pub fn object(selector: Option<&Selector>) -> String {
    match selector.and_then(|selector| selector.which.as_ref()) {
        Some(Which::Ids(wanted)) => match wanted.ids.as_slice() {
            [id] => format!("charging-point/{}", clipped(id)),
            ids => format!("{} charging points", ids.len()),
        },
        Some(Which::City(city)) => format!("city/{}", clipped(city)),
        Some(Which::All(true)) => "all charging points".to_owned(),
        Some(Which::All(false)) | None => "no charging point".to_owned(),
    }
}

/// Of a text that nobody has looked at yet.
pub fn clipped(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// Where a charging point is moved to: names of one line, as at its enrolment.
///
/// # Errors
/// Says which name cannot be.
pub fn check_move(city: &str, place: &str) -> Result<(), String> {
    if city.is_empty() {
        return Err("say to which city".to_owned());
    }
    for (what, name) in [("city", city), ("place", place)] {
        if name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(format!("the {what} must be one line of at most {LONGEST_NAME} bytes"));
        }
    }
    Ok(())
}

/// Looks the selector's charging points up among `all` (id and city).
///
/// # Errors
/// Where it selects nothing by its form.
pub fn select(selector: Option<&Selector>, all: &[(ChargingPointId, String)]) -> Result<Selected, Objection> {
    let nothing = || Objection::Invalid("say which charging points: ids, a city, or all".to_owned());
    match selector.and_then(|selector| selector.which.as_ref()).ok_or_else(nothing)? {
        Which::All(true) => Ok(Selected { ids: all.iter().map(|(id, _)| id.clone()).collect(), unknown: Vec::new() }),
        Which::All(false) => Err(nothing()),
        Which::City(city) => {
            let ids: Vec<_> = all.iter().filter(|(_, of)| of == city).map(|(id, _)| id.clone()).collect();
            Ok(Selected { ids, unknown: Vec::new() })
        }
        Which::Ids(wanted) => {
            if wanted.ids.is_empty() {
                return Err(nothing());
            }
            let mut selected = Selected::default();
            for text in wanted.ids.iter().collect::<BTreeSet<_>>() {
                let id: ChargingPointId =
                    text.parse().map_err(|error: proto::IdError| Objection::Invalid(error.to_string()))?;
                match all.binary_search_by(|(other, _)| other.cmp(&id)) {
                    Ok(_) => selected.ids.push(id),
                    Err(_) => selected.unknown.push(id.to_string()),
                }
            }
            Ok(selected)
        }
    }
}

/// An order over more than `many` states how many it expects.
///
/// # Errors
/// Where it does not, or is wrong.
pub fn check_expectation(matched: usize, expected: u32, many: usize) -> Result<(), Objection> {
    let stated = expected != 0 || matched > many;
    if stated && usize::try_from(expected).ok() != Some(matched) {
        return Err(Objection::Expectation { matched, expected });
    }
    Ok(())
}

/// How far an order has come.
#[derive(Clone, Debug)]
pub struct OrderProgress {
    answer: Answer,
    remaining: Vec<ChargingPointId>,
    /// Asked, and not answered yet: perhaps done.
    asked: BTreeSet<ChargingPointId>,
}

impl OrderProgress {
    pub fn new(order_id: String, selected: Selected) -> Self {
        let matched = u32::try_from(selected.ids.len()).unwrap_or(u32::MAX);
        let answer = Answer { order_id, matched, left: matched, ..Answer::default() };
        let mut progress = Self { answer, remaining: selected.ids, asked: BTreeSet::new() };
        for id in selected.unknown {
            progress.fail(id, Reason::UnknownChargingPoint, "");
        }
        progress
    }

    /// As it was kept.
    pub fn resumed(answer: Answer, remaining: Vec<ChargingPointId>) -> Self {
        Self { answer, remaining, asked: BTreeSet::new() }
    }

    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// What a restart has still to reach, soonest what may have been reached.
    pub fn remaining(&self) -> Vec<&ChargingPointId> {
        self.asked.iter().chain(&self.remaining).collect()
    }

    /// The next ones to reach; none when it is done or cancelled.
    pub fn portion(&mut self, size: usize) -> Vec<ChargingPointId> {
        if self.answer.cancelled {
            return Vec::new();
        }
        let size = size.min(self.remaining.len());
        let portion: Vec<_> = self.remaining.drain(..size).collect();
        self.asked.extend(portion.iter().cloned());
        portion
    }

    /// Nobody is to be asked any more, and whoever was has answered.
    pub fn is_over(&self) -> bool {
        self.asked.is_empty() && (self.answer.cancelled || self.remaining.is_empty())
    }

    pub fn reached(&mut self, id: &ChargingPointId, outcome: &OrderOutcome) {
        self.asked.remove(id);
        self.answer.left = self.answer.left.saturating_sub(1);
        match outcome {
            OrderOutcome::Done => self.answer.done += 1,
            OrderOutcome::Unchanged => self.answer.unchanged += 1,
            OrderOutcome::Failed(reason, detail) => self.fail(id.to_string(), *reason, detail),
        }
    }

    /// Leaves to a later order what that is about, and says which ones; what has been asked already comes before it.
    pub fn overtaken(&mut self, later: &BTreeSet<ChargingPointId>) -> Vec<ChargingPointId> {
        self.remaining.extract_if(.., |id| later.contains(id)).collect()
    }

    /// Whether there is something to be left as it was.
    pub fn is_cancellable(&self) -> bool {
        !self.answer.cancelled && !self.remaining.is_empty()
    }

    /// What has not been reached yet stays as it was.
    pub fn cancel(&mut self) {
        self.answer.cancelled = true;
        self.remaining.clear();
    }

    fn fail(&mut self, id: String, reason: Reason, detail: &str) {
        self.answer.failed += 1;
        if self.answer.failures.len() < FAILURES {
            self.answer.failures.push(OrderFailure { id, reason: reason.into(), detail: detail.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::central::v1::Ids;

    use super::*;

    fn all(count: usize) -> Vec<(ChargingPointId, String)> {
        let city = |n: usize| if n.is_multiple_of(2) { "Alicante" } else { "Elche" };
        (0..count).map(|n| (format!("CP{n:04}").parse().unwrap(), city(n).to_owned())).collect()
    }

    fn selector(which: Which) -> Selector {
        Selector { which: Some(which) }
    }

    #[test]
    fn an_order_reaches_ids_a_city_or_all_spec_7_1() {
        let all = all(10);
        let matched = |which| select(Some(&selector(which)), &all).map(|s| (s.ids.len(), s.unknown.len()));
        assert_eq!(matched(Which::All(true)), Ok((10, 0)));
        assert_eq!(matched(Which::City("Elche".into())), Ok((5, 0)));
        let ids = Ids { ids: vec!["CP0001".into(), "CP0001".into(), "nobody".into()] };
        assert_eq!(matched(Which::Ids(ids)), Ok((1, 1)));
        assert!(matched(Which::Ids(Ids::default())).is_err() && matched(Which::All(false)).is_err());
        assert!(select(None, &all).is_err(), "an empty selector is not everything");
    }

    #[test]
    fn an_order_over_more_than_fifty_states_how_many_it_expects_spec_7_3() {
        assert_eq!(check_expectation(50, 0, 50), Ok(()));
        assert_eq!(check_expectation(51, 51, 50), Ok(()));
        assert_eq!(check_expectation(51, 0, 50), Err(Objection::Expectation { matched: 51, expected: 0 }));
        assert_eq!(check_expectation(3, 4, 50), Err(Objection::Expectation { matched: 3, expected: 4 }));
        assert_eq!(check_expectation(51, 0, 51), Ok(()), "how many are many is a setting");
    }

    #[test]
    fn every_kind_is_listed_under_its_method_spec_7_3() {
        let kinds = [
            OrderKind::Stop,
            OrderKind::Resume,
            OrderKind::Maintenance { on: true },
            OrderKind::Rotate,
            OrderKind::Renew,
            OrderKind::Revoke,
            OrderKind::Release,
            OrderKind::SetPrice { price_e4: 1 },
            OrderKind::SetRatedPower { rated_power_w: 1 },
            OrderKind::Move { city: String::new(), place: String::new() },
        ];
        assert_eq!(kinds.map(|kind| kind.method()), METHODS);
    }

    #[test]
    fn stop_alone_goes_to_all_at_once_spec_7_3() {
        assert!(!OrderKind::Stop.is_staggered(9_000, 50));
        assert!(OrderKind::Rotate.is_staggered(51, 50) && !OrderKind::Rotate.is_staggered(50, 50));
    }

    #[test]
    fn what_a_cancelled_order_has_not_reached_stays_as_it_was_spec_7_3() {
        let selected = select(Some(&selector(Which::All(true))), &all(100)).unwrap();
        let mut progress = OrderProgress::new("o1".into(), selected);
        for id in progress.portion(30) {
            progress.reached(&id, &OrderOutcome::Done);
        }
        progress.cancel();
        assert!(progress.portion(30).is_empty());
        let answer = progress.answer();
        assert_eq!((answer.matched, answer.done, answer.left, answer.cancelled), (100, 30, 70, true));
    }

    #[test]
    fn what_has_been_asked_and_has_not_answered_is_reached_again_after_a_restart_spec_7_3() {
        let selected = select(Some(&selector(Which::All(true))), &all(3)).unwrap();
        let ids = selected.ids.clone();
        let mut progress = OrderProgress::new("o1".into(), selected);
        progress.portion(2);
        progress.reached(&ids[0], &OrderOutcome::Done);
        assert_eq!(progress.remaining(), [&ids[1], &ids[2]]);
        let later: BTreeSet<_> = ids.iter().cloned().collect();
        assert_eq!(progress.overtaken(&later), [ids[2].clone()], "what is asked first is done first");
        assert_eq!((progress.remaining(), progress.answer().left), (vec![&ids[1]], 2));
        assert!(!progress.is_cancellable());
    }

    #[test]
    fn a_charging_point_moves_to_a_name_of_one_line_spec_7_1() {
        assert!(check_move("Elche", "").is_ok() && check_move(&"x".repeat(200), &"y".repeat(200)).is_ok());
        for (city, place, says) in [("", "", "which city"), ("a\nb", "", "city"), ("Elche", "a\u{1b}[2J", "place")] {
            assert!(check_move(city, place).unwrap_err().contains(says));
        }
        assert!(check_move(&"x".repeat(201), "").unwrap_err().contains("at most 200 bytes"));
    }

    #[test]
    fn of_two_orders_with_one_subject_the_later_one_counts_spec_7_3() {
        assert_eq!(OrderKind::Stop.subject(), OrderKind::Resume.subject());
        assert_eq!(OrderKind::SetPrice { price_e4: 1 }.subject(), OrderKind::SetPrice { price_e4: 2 }.subject());
        assert_ne!(OrderKind::Revoke.subject(), OrderKind::Rotate.subject());
    }

    #[test]
    fn what_an_order_was_about_is_said_in_its_refusal_spec_8_1() {
        let of = |which| object(Some(&selector(which)));
        assert_eq!(of(Which::Ids(Ids { ids: vec!["CP1".into()] })), "charging-point/CP1");
        assert_eq!(of(Which::Ids(Ids { ids: vec!["CP1".into(), "CP2".into()] })), "2 charging points");
        assert_eq!(
            (of(Which::City("Elche".into())), of(Which::All(true))),
            ("city/Elche".into(), "all charging points".into())
        );
        assert_eq!(of(Which::City("x".repeat(9_999))).len(), "city/".len() + LONGEST, "nobody fills the audit with it");
    }

    #[test]
    fn a_reason_fits_on_a_tile_spec_7_1() {
        assert_eq!(check_reason(&"é".repeat(LONGEST)), Ok(()));
        assert!(check_reason(&"é".repeat(LONGEST + 1)).is_err());
    }
}
