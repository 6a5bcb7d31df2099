//! What waits for a charging point's turn: one queue for each who may speak, so that none keeps another out.
//!
//! Guarantees: Registry's word always finds a place, and with operators' orders goes before all others; what a charging
//! point itself says, and what drivers say of it, take turns, each within a bound; what one message brings is taken
//! whole or not at all. Pure.

use std::collections::VecDeque;

use crate::charge_point::{PointInput, Reply};

/// Of operators and of Central's own.
const ORDERS: usize = 64;
/// Of drivers.
const DRIVERS: usize = 64;
/// Of the charging point: twice what one message may bring.
const OWN: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Mailbox {
    /// Registry's word, orders, and what the store was asked for.
    first: VecDeque<PointInput>,
    orders: usize,
    drivers: VecDeque<PointInput>,
    own: VecDeque<PointInput>,
    own_next: bool,
}

enum Speaker {
    /// Registry, or the store: bounded where they speak.
    Trusted,
    Operator,
    Driver,
    /// Its parts, and the time.
    Own,
}

fn speaker(input: &PointInput) -> Speaker {
    match input {
        PointInput::Identity(_) | PointInput::EndedLong { .. } => Speaker::Trusted,
        PointInput::Order { reply: Reply::Order(_) | Reply::None, .. } => Speaker::Operator,
        PointInput::StopByDriver { .. } | PointInput::Confirmed { .. } => Speaker::Driver,
        PointInput::Request(request) if !request.manual => Speaker::Driver,
        PointInput::Order { reply: Reply::Link { .. }, .. }
        | PointInput::Request(_)
        | PointInput::Due
        | PointInput::AskAnswer { .. }
        | PointInput::Started { .. }
        | PointInput::Ended { .. }
        | PointInput::ReservationInJournal { .. }
        | PointInput::JournalReport { .. }
        | PointInput::Grant { .. }
        | PointInput::KeyInstalled { .. } => Speaker::Own,
    }
}

impl Mailbox {
    /// The input itself where there is no place for it.
    pub(super) fn push(&mut self, input: PointInput) -> Result<(), Box<PointInput>> {
        match speaker(&input) {
            Speaker::Trusted => self.first.push_back(input),
            Speaker::Operator if self.orders < ORDERS => {
                self.orders += 1;
                self.first.push_back(input);
            }
            Speaker::Driver if self.drivers.len() < DRIVERS => self.drivers.push_back(input),
            Speaker::Own => return self.push_own(vec![input]),
            Speaker::Operator | Speaker::Driver => return Err(Box::new(input)),
        }
        Ok(())
    }

    /// What one message of the charging point brings; its last input speaks for all where there is no place.
    pub(super) fn push_own(&mut self, mut inputs: Vec<PointInput>) -> Result<(), Box<PointInput>> {
        if matches!(inputs[..], [PointInput::Due]) {
            // Says nothing itself, so that one is enough and none is too much.
            if !self.own.iter().any(|waiting| matches!(waiting, PointInput::Due)) {
                self.own.push_back(PointInput::Due);
            }
            return Ok(());
        }
        if self.own.len() + inputs.len() > OWN {
            return inputs.pop().map_or(Ok(()), |input| Err(Box::new(input)));
        }
        self.own.extend(inputs);
        Ok(())
    }

    /// The next to have its turn. `hold`: nothing of the charging point's own for now.
    pub(super) fn pop(&mut self, hold: bool) -> Option<PointInput> {
        if let Some(input) = self.first.pop_front() {
            self.orders -= usize::from(matches!(speaker(&input), Speaker::Operator));
            return Some(input);
        }
        let own = !hold && !self.own.is_empty() && (self.own_next || self.drivers.is_empty());
        self.own_next = !own;
        if own { self.own.pop_front() } else { self.drivers.pop_front() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::Energy;

    use super::*;
    use crate::{
        charge_point::{IdentityChange, PointOrder},
        origin::{LinkNo, Origin},
        session::SessionId,
    };

    fn order(reply: Reply) -> PointInput {
        PointInput::Order { order: PointOrder::Maintenance { on: true }, by: Origin::central(), reply }
    }

    fn started(to: u64) -> PointInput {
        let reply = Reply::Link { link: LinkNo(1), to };
        PointInput::Started { session: SessionId::new("s"), meter: Energy::ZERO, at: 0, reply }
    }

    fn stop() -> PointInput {
        let (session, driver) = (SessionId::new("s"), "D1".parse().unwrap());
        PointInput::StopByDriver { session, driver, from: Origin::new("driver/D1", ""), reply: Reply::None }
    }

    /// A charging point that says as much as it can.
    fn flooded() -> Mailbox {
        let mut waiting = Mailbox::default();
        while waiting.push(order(Reply::Link { link: LinkNo(1), to: 1 })).is_ok() {}
        waiting
    }

    #[test]
    fn a_charging_point_that_floods_keeps_out_neither_its_removal_nor_a_stop_spec_7_4() {
        let mut waiting = flooded();
        assert!(waiting.push(stop()).is_ok() && waiting.push(order(Reply::Order(1))).is_ok());
        assert!(waiting.push(PointInput::Identity(IdentityChange::Removed { incarnation: 1 })).is_ok());
        assert!(matches!(waiting.pop(false), Some(PointInput::Order { reply: Reply::Order(1), .. })));
        assert!(matches!(waiting.pop(false), Some(PointInput::Identity(IdentityChange::Removed { .. }))));
        let next: Vec<_> = [(); 2].into_iter().filter_map(|()| waiting.pop(false)).collect();
        assert!(next.iter().any(|input| matches!(input, PointInput::StopByDriver { .. })), "they take turns");
    }

    #[test]
    fn orders_without_end_keep_out_no_word_of_registrys() {
        let mut waiting = Mailbox::default();
        while waiting.push(order(Reply::Order(1))).is_ok() {}
        assert!(waiting.push(PointInput::Identity(IdentityChange::Void { incarnation: 1 })).is_ok());
        assert!(waiting.pop(false).is_some() && waiting.push(order(Reply::Order(1))).is_ok(), "a place is free again");
        assert!(waiting.push(order(Reply::Order(1))).is_err());
    }

    #[test]
    fn what_one_message_brings_is_taken_whole_or_not_at_all() {
        let mut waiting = Mailbox::default();
        let message = |to| (0..256).map(|n| started(if n == 255 { to } else { 0 })).collect::<Vec<_>>();
        assert!(waiting.push_own(message(1)).is_ok() && waiting.push_own(message(2)).is_ok());
        let refused = *waiting.push_own(message(3)).unwrap_err();
        let PointInput::Started { reply: Reply::Link { to, .. }, .. } = refused else { panic!("{refused:?}") };
        assert_eq!((to, waiting.own.len()), (3, OWN), "the reply says that nothing of it was taken");
        assert!(waiting.push(PointInput::Due).is_ok() && waiting.push(PointInput::Due).is_ok());
        assert_eq!(waiting.own.len(), OWN + 1);
    }

    #[test]
    fn what_is_its_own_can_wait_while_others_go_on() {
        let mut waiting = Mailbox::default();
        let material = Arc::new(wire::LinkKey::from_bytes([1; 32]));
        let grant = PointInput::Grant { link: LinkNo(1), material, from: Origin::central() };
        assert!(waiting.push(grant).is_ok() && waiting.push(stop()).is_ok());
        assert!(matches!(waiting.pop(true), Some(PointInput::StopByDriver { .. })) && waiting.pop(true).is_none());
        assert!(matches!(waiting.pop(false), Some(PointInput::Grant { .. })));
    }
}
