//! Orders over many charging points (SPEC 7.3): which ones, how many were expected, in which portions. Pure.

use std::collections::BTreeSet;

use proto::{
    ChargingPointId,
    central::v1::{Order as Answer, OrderFailure, OrderState},
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
    Maintenance {
        on: bool,
    },
    Rotate,
    Renew,
    Revoke,
    Release,
    SetPrice {
        price_e4: u32,
    },
    SetRatedPower {
        rated_power_w: u32,
    },
    /// Without a place: it stays as it was.
    Move {
        city: String,
        place: Option<String>,
    },
}

/// Which charging points are meant, as it is kept with the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Ids(BTreeSet<ChargingPointId>),
    City(String),
    All,
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
        if self.is_cancelled() {
            return Vec::new();
        }
        let size = size.min(self.remaining.len());
        let portion: Vec<_> = self.remaining.drain(..size).collect();
        self.asked.extend(portion.iter().cloned());
        portion
    }

    /// Every charging point that was asked has answered, and none is left to be asked.
    pub fn is_over(&self) -> bool {
        self.asked.is_empty() && (self.is_cancelled() || self.remaining.is_empty())
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
        !self.is_cancelled() && !self.remaining.is_empty()
    }

    /// What has not been reached yet stays as it was.
    pub fn cancel(&mut self) {
        self.answer.set_state(OrderState::Cancelled);
        self.remaining.clear();
    }

    pub fn is_cancelled(&self) -> bool {
        self.answer.state() == OrderState::Cancelled
    }

    fn fail(&mut self, id: String, reason: Reason, detail: &str) {
        self.answer.failed += 1;
        if self.answer.failures.len() < FAILURES {
            self.answer.failures.push(OrderFailure {
                id,
                reason_code: reason.public_code(),
                detail: detail.to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
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
            OrderKind::Move { city: String::new(), place: None },
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
        let selected = select(&Scope::All, &all(100));
        let mut progress = OrderProgress::new("o1".into(), selected);
        for id in progress.portion(30) {
            progress.reached(&id, &OrderOutcome::Done);
        }
        progress.cancel();
        assert!(progress.portion(30).is_empty());
        let answer = progress.answer();
        assert_eq!((answer.matched, answer.done, answer.left, answer.state()), (100, 30, 70, OrderState::Cancelled));
    }

    #[test]
    fn what_has_been_asked_and_has_not_answered_is_reached_again_after_a_restart_spec_7_3() {
        let selected = select(&Scope::All, &all(3));
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
        assert!(check_name("Elche").is_ok() && check_name(&"x".repeat(200)).is_ok());
        for name in ["a\nb", "a\u{1b}[2J", &"x".repeat(201)] {
            assert!(check_name(name).unwrap_err().contains("at most 200 bytes"), "{name:?}");
        }
    }

    #[test]
    fn of_two_orders_with_one_subject_the_later_one_counts_spec_7_3() {
        assert_eq!(OrderKind::Stop.subject(), OrderKind::Resume.subject());
        assert_eq!(OrderKind::SetPrice { price_e4: 1 }.subject(), OrderKind::SetPrice { price_e4: 2 }.subject());
        assert_ne!(OrderKind::Revoke.subject(), OrderKind::Rotate.subject());
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
