use std::sync::Arc;

use proto::Energy;

use super::*;
use crate::{
    charge_point::{ChargePoint, EnrolmentChange, PointInput, PointOrder, Reply},
    origin::{LinkNo, Origin},
    session::SessionId,
    testing::at_ms,
};

type PointTurns = Turns<ChargePoint>;

const OWN: usize = 512;

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

impl PointTurns {
    fn put(&mut self, input: PointInput) -> bool {
        self.offer(vec![input], at_ms(0)).is_ok()
    }

    fn take(&mut self) -> Option<PointInput> {
        self.mailbox.pop(self.own_waits, ChargePoint::speaker)
    }
}

#[test]
fn a_charging_point_that_floods_keeps_out_neither_its_removal_nor_a_stop_spec_7_4() {
    let mut turns = PointTurns::default();
    while turns.put(order(Reply::Link { link: LinkNo(1), to: 1 })) {}
    assert!(turns.put(stop()) && turns.put(order(Reply::Order(1))));
    assert!(turns.put(PointInput::Identity(EnrolmentChange::Removed { incarnation: 1 })));
    assert!(matches!(turns.take(), Some(PointInput::Order { reply: Reply::Order(1), .. })));
    assert!(matches!(turns.take(), Some(PointInput::Identity(EnrolmentChange::Removed { .. }))));
    let next: Vec<_> = [(); 2].into_iter().filter_map(|()| turns.take()).collect();
    assert!(next.iter().any(|input| matches!(input, PointInput::StopByDriver { .. })), "they take turns");
}

#[test]
fn orders_without_end_keep_out_nothing_that_registry_reports() {
    let mut turns = PointTurns::default();
    while turns.put(order(Reply::Order(1))) {}
    assert!(turns.put(PointInput::Identity(EnrolmentChange::Void { incarnation: 1 })));
    assert!(turns.take().is_some() && turns.put(order(Reply::Order(1))), "there is room again");
    assert!(!turns.put(order(Reply::Order(1))));
}

#[test]
fn what_one_message_brings_is_taken_whole_or_not_at_all() {
    let mut turns = PointTurns::default();
    let message = |to| (0..256).map(|n| started(if n == 255 { to } else { 0 })).collect::<Vec<_>>();
    assert!(turns.offer(message(1), at_ms(0)).is_ok() && turns.offer(message(2), at_ms(0)).is_ok());
    let refused = turns.offer(message(3), at_ms(0)).unwrap_err().0;
    let PointInput::Started { reply: Reply::Link { to, .. }, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(to, 3, "the reply says that nothing of it was taken");
    assert!(turns.put(PointInput::Due) && turns.put(PointInput::Due));
    assert_eq!(std::iter::from_fn(|| turns.take()).count(), OWN + 1);
}

#[test]
fn what_is_its_own_can_wait_while_others_go_on() {
    let mut turns = PointTurns { own_waits: true, ..PointTurns::default() };
    let material = Arc::new(wire::LinkKey::from_bytes([1; 32]));
    assert!(turns.put(PointInput::Grant { link: LinkNo(1), material, from: Origin::central() }) && turns.put(stop()));
    assert!(matches!(turns.take(), Some(PointInput::StopByDriver { .. })) && turns.take().is_none());
    turns.own_waits = false;
    assert!(matches!(turns.take(), Some(PointInput::Grant { .. })));
}

/// Central's first turn about a charging point, which the store has had since the beginning.
fn hanging() -> (ChargePoint, PointTurns, CentralSettings) {
    let (core, settings) = (crate::charge_point::charge_point(1), CentralSettings::default());
    let mut turns = PointTurns::default();
    assert!(turns.put(order(Reply::Order(1))));
    let decided = turns.next(&core, &settings, at_ms(0)).unwrap();
    turns.begin(decided, at_ms(0));
    (core, turns, settings)
}

#[test]
fn what_waits_behind_a_turn_that_hangs_is_refused_and_never_carried_out_spec_9_0() {
    let (core, mut turns, settings) = hanging();
    assert!(turns.put(stop()) && turns.put(order(Reply::Order(2))) && turns.put(started(7)));
    assert!(turns.put(PointInput::Identity(EnrolmentChange::Removed { incarnation: 9 })));
    assert_eq!(turns.poll_timeout(), Some(at_ms(2_000).mono));
    assert!(turns.timer_fired(at_ms(1_999)).is_empty());
    let refused = turns.timer_fired(at_ms(2_000));
    assert_eq!(refused.len(), 3);
    for input in refused {
        assert!(
            turns
                .turned_away(&core, input, &ChargePoint::unavailable(no_answer()), (&settings, at_ms(2_000)))
                .is_some()
        );
    }
    assert!(turns.offer(vec![order(Reply::Order(3))], at_ms(2_001)).is_err(), "nor does anything else wait");
    assert!(turns.end().is_some());
    assert!(matches!(turns.take(), Some(PointInput::Identity(_))) && turns.take().is_none());
    assert!(turns.offer(vec![order(Reply::Order(3))], at_ms(2_002)).is_ok());
}

#[test]
fn what_registry_reports_is_tried_again_until_the_store_takes_it_spec_7_4() {
    let (core, settings) = (crate::charge_point::charge_point(1), CentralSettings::default());
    let mut turns = PointTurns::default();
    let removed = PointInput::Identity(EnrolmentChange::Removed { incarnation: 9 });
    for _ in 0..10 {
        assert!(
            turns
                .again(&core, (removed.clone(), 1), &ChargePoint::unavailable(no_answer()), (&settings, at_ms(0)))
                .is_none()
        );
        assert!(
            turns.put(stop()) && matches!(turns.take(), Some(PointInput::StopByDriver { .. })),
            "nobody waits for it"
        );
        assert_eq!(turns.poll_timeout(), Some(at_ms(1_000).mono));
        assert!(turns.timer_fired(at_ms(1_000)).is_empty());
        assert!(matches!(turns.take(), Some(PointInput::Identity(_))) && turns.take().is_none());
    }
}
