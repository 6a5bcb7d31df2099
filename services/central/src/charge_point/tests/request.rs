//! From a request to a reservation (SPEC 3.1 to 3.3).

use super::*;

#[test]
fn a_supply_goes_from_request_to_ticket_spec_3() {
    let mut harness = PointHarness::ready();
    harness.request("s1", "r1");
    assert_eq!(harness.take_sent(), ["D1: RECEIVED", "D1: ASKING", "engine: ask s1"]);
    harness.accept("s1");
    assert_eq!(harness.take_sent(), ["engine: supply s1", "D1: AUTHORISED", "answer: done"]);
    assert_eq!(harness.state(0), State::Reserved);
    harness.started("s1", 1_000);
    assert_eq!(harness.take_sent(), ["D1: SUPPLYING", "answer: done"]);
    harness.meter("s1", 2_000);
    assert_eq!(harness.take_sent(), ["D1: running 1000 Wh 40 EUR"]);
    assert_eq!(harness.state(0), State::Supplying);
    harness.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(harness.take_sent(), ["D1: ticket 1000 Wh UNPLUGGED", "engine: settled s1", "answer: done"]);
    assert_eq!((harness.state(0), harness.session("s1").state), (State::Available, SessionState::Billed));
}

#[test]
fn the_charging_point_itself_may_refuse_spec_3_2() {
    let mut harness = PointHarness::ready();
    harness.request("s1", "r1");
    harness.take_sent();
    harness.input(0, PointInput::AskAnswer { session: SessionId::new("s1"), accepted: false, detail: "no".into() });
    assert_eq!(harness.take_sent(), ["D1: REFUSED REFUSED_BY_CHARGING_POINT", "answer: REFUSED_BY_CHARGING_POINT"]);
    assert!(harness.store.sessions.is_empty());
}

#[test]
fn each_cause_refuses_with_its_reason_spec_3_2() {
    let refusal = |prepare: &dyn Fn(&mut PointHarness)| {
        let mut harness = PointHarness::ready();
        prepare(&mut harness);
        harness.take_sent();
        harness.input(0, PointInput::Request(harness::request("D2", "s9", "r9")));
        harness.take_sent().pop().unwrap()
    };
    assert_eq!(refusal(&|w| w.link_down(MONITOR)), "answer: DISCONNECTED");
    assert_eq!(refusal(&|w| w.healthy(false)), "answer: BROKEN");
    assert_eq!(refusal(&|w| w.order(PointOrder::Stop)), "answer: OUT_OF_ORDER");
    assert_eq!(refusal(&|w| w.order(PointOrder::Renew)), "answer: OUT_OF_ORDER");
    assert_eq!(refusal(&|w| w.request("s1", "r1")), "answer: RESERVED");
    assert_eq!(
        refusal(&|w| {
            w.request("s1", "r1");
            w.accept("s1");
        }),
        "answer: RESERVED"
    );
    assert_eq!(
        refusal(&|w| {
            w.request("s1", "r1");
            w.accept("s1");
            w.started("s1", 0);
        }),
        "answer: OCCUPIED"
    );
}

#[test]
fn an_unknown_or_busy_driver_is_refused_spec_3_2() {
    let mut harness = PointHarness::ready();
    harness.input(0, PointInput::Request(SupplyRequest { known: false, ..harness::request("X", "s1", "r1") }));
    assert_eq!(harness.take_sent(), ["answer: UNKNOWN_DRIVER"]);
    harness.input(0, PointInput::Request(SupplyRequest { busy: true, ..harness::request("D1", "s2", "r2") }));
    assert_eq!(harness.take_sent(), ["D1: REFUSED DRIVER_BUSY", "answer: DRIVER_BUSY"]);
}

#[test]
fn a_manual_supply_of_a_driver_without_a_link_is_refused_at_once_in_words_spec_3_1() {
    let mut harness = PointHarness::ready();
    let manual =
        SupplyRequest { manual: true, away: true, reply: engine_reply(), ..harness::request("D1", "s1", "r1") };
    harness.input(0, PointInput::Request(manual));
    assert_eq!(harness.take_sent(), ["answer: NOT_CONFIRMED"]);
    assert!(harness.points[0].pending.ask.is_none(), "and the next one is not kept waiting");
}

#[test]
fn a_charging_point_that_waits_for_a_confirmation_says_so_and_is_still_available_spec_2_1() {
    let mut harness = PointHarness::ready();
    let manual = SupplyRequest { manual: true, reply: engine_reply(), ..harness::request("D1", "s1", "r1") };
    harness.input(0, PointInput::Request(manual));
    let view = harness.points[0].view(&harness.settings, harness.now);
    assert_eq!((view.state(), view.detail.as_str()), (State::Available, "waits until D1 confirms a manual supply"));
    harness.input(
        0,
        PointInput::Confirmed {
            session: SessionId::new("s1"),
            driver: "D1".parse().unwrap(),
            accepted: None,
            reply: Reply::None,
        },
    );
    assert_eq!(harness.points[0].view(&harness.settings, harness.now).detail, "");
}

#[test]
fn a_driver_in_a_session_elsewhere_is_refused_by_the_store_and_the_engine_released_spec_3_2() {
    let mut harness = PointHarness::ready();
    let elsewhere = Session { charging_point: "CP9".parse().unwrap(), ..crate::testing::session("s0") };
    harness.store.sessions.insert(elsewhere.id.clone(), elsewhere);
    harness.request("s1", "r1");
    harness.take_sent();
    harness.accept("s1");
    assert_eq!(
        harness.take_sent(),
        ["engine: release s1 DRIVER_BUSY", "D1: REFUSED DRIVER_BUSY", "answer: DRIVER_BUSY"]
    );
    assert_eq!(harness.state(0), State::Available);
}

#[test]
fn a_request_sent_again_gets_the_first_answer_spec_3_2() {
    let mut harness = PointHarness::ready();
    harness.request("s1", "r1");
    harness.request("s2", "r1");
    harness.take_sent();
    harness.accept("s1");
    harness.take_sent();
    harness.request("s3", "r1");
    assert_eq!(harness.take_sent(), ["engine: supply s1", "D1: AUTHORISED", "answer: done"], "while it is open");
    harness.started("s1", 0);
    harness.ended("s1", 0, 10, Reason::Unplugged);
    harness.take_sent();
    harness.request("s4", "r1");
    harness.accept("s4");
    assert_eq!(
        harness.take_sent()[3..],
        ["engine: release s4 NONE", "D1: AUTHORISED", "answer: done"],
        "the first answer, and no second session"
    );
    assert_eq!(harness.store.sessions.len(), 1);
}

#[test]
fn an_engine_that_does_not_answer_is_given_up_spec_3_2() {
    let mut harness = PointHarness::ready();
    harness.request("s1", "r1");
    harness.take_sent();
    harness.pass(5_000);
    assert_eq!(harness.take_sent(), ["engine: release s1 NO_ANSWER", "D1: REFUSED NO_ANSWER", "answer: NO_ANSWER"]);
}

#[test]
fn an_engine_that_comes_back_meanwhile_is_asked_again() {
    let mut harness = PointHarness::ready();
    harness.link_down(ENGINE);
    harness.request("s1", "r1");
    harness.take_sent();
    harness.engine_up(LinkNo(7), 1);
    assert_eq!(harness.take_sent(), ["engine: ask s1"]);
}

#[test]
fn a_reservation_expires_after_sixty_seconds_with_no_ticket_spec_2_2() {
    let mut harness = PointHarness::reserved();
    harness.pass(59_999);
    assert_eq!(harness.state(0), State::Reserved);
    harness.pass(1);
    assert_eq!(harness.take_sent(), ["D1: RELEASED RESERVATION_EXPIRED", "engine: release s1 RESERVATION_EXPIRED"]);
    assert_eq!((harness.session("s1").state, harness.store.tickets.len()), (SessionState::Released, 0));
}

#[test]
fn a_stop_or_a_fault_while_reserved_releases_it_with_no_ticket_spec_3_2() {
    let mut stopped = PointHarness::reserved();
    stopped.order(PointOrder::Stop);
    assert_eq!(stopped.session("s1").reason, Reason::StoppedByOperator);
    let mut broken = PointHarness::reserved();
    broken.healthy(false);
    assert_eq!(broken.session("s1").reason, Reason::Fault);
    for harness in [stopped, broken] {
        assert_eq!((harness.session("s1").state, harness.store.tickets.len()), (SessionState::Released, 0));
    }
}

#[test]
fn a_manual_supply_on_its_own_account_needs_nobodys_word_spec_3_1() {
    let mut harness = PointHarness::ready();
    let own = SupplyRequest { driver: None, manual: true, ..harness::request("D1", "s1", "m1") };
    harness.input(0, PointInput::Request(own));
    assert_eq!(harness.take_sent(), ["engine: supply s1", "answer: done"]);
    assert_eq!(harness.session("s1").driver, None);
}

#[test]
fn a_manual_supply_for_a_named_driver_waits_for_his_word_spec_3_1() {
    let mut harness = PointHarness::ready();
    let named = SupplyRequest { manual: true, ..harness::request("D1", "s1", "m1") };
    harness.input(0, PointInput::Request(named.clone()));
    assert_eq!(harness.take_sent(), ["D1: confirm s1?"]);
    assert_eq!(harness.state(0), State::Available, "nothing is reserved yet");
    let word = |session: &str, driver: &str, accepted: bool| PointInput::Confirmed {
        session: SessionId::new(session),
        driver: driver.parse().unwrap(),
        accepted: accepted.then(|| Price::from_e4(3_950)),
        reply: Reply::Link { link: LinkNo(3), to: 6 },
    };
    harness.input(0, word("s1", "D2", true));
    assert_eq!(harness.take_sent(), ["answer: NOT_FOUND"], "nobody spends another's money");
    harness.input(0, word("s1", "D1", true));
    assert_eq!(harness.take_sent(), ["answer: done", "engine: supply s1", "D1: AUTHORISED", "answer: done"]);

    let mut refused = PointHarness::ready();
    refused.input(0, PointInput::Request(named.clone()));
    refused.input(0, word("s1", "D1", false));
    assert_eq!(refused.take_sent()[1..], ["answer: done", "D1: REFUSED NOT_CONFIRMED", "answer: NOT_CONFIRMED"]);

    let mut silent = PointHarness::ready();
    silent.input(0, PointInput::Request(named));
    silent.pass(60_000);
    assert_eq!(silent.take_sent()[1..], ["D1: REFUSED NOT_CONFIRMED", "answer: NOT_CONFIRMED"]);
}

/// What D1 was told of a refusal: its reason and the price that its step names.
fn refused(harness: &PointHarness) -> Option<(Reason, u32)> {
    harness.effects.iter().rev().find_map(|(_, effect)| {
        let Effect::Driver(_, proto::link::v1::down::Body::Step(step)) = effect else { return None };
        (step.reason != 0).then(|| (step.reason(), step.price_e4))
    })
}

#[test]
fn a_price_that_changes_between_ask_and_supply_is_refused_and_never_billed_spec_3_2() {
    let mut harness = PointHarness::ready();
    harness.request("s1", "r1");
    harness.order(PointOrder::SetPrice(Price::from_e4(99_900)));
    harness.take_sent();
    harness.accept("s1");
    assert_eq!(
        harness.take_sent(),
        ["engine: release s1 PRICE_CHANGED", "D1: REFUSED PRICE_CHANGED", "answer: PRICE_CHANGED"]
    );
    assert_eq!(refused(&harness), Some((Reason::PriceChanged, 99_900)), "the step names the new price");
    assert!(harness.store.sessions.is_empty());
    harness.request("s2", "r2");
    harness.accept("s2");
    assert_eq!(harness.session("s2").price.e4(), 99_900, "asked again, he agrees to it");
}

#[test]
fn a_confirmation_at_a_price_that_has_changed_is_refused_and_the_new_one_may_be_confirmed_spec_3_2() {
    let mut harness = PointHarness::ready();
    harness.input(0, PointInput::Request(SupplyRequest { manual: true, ..harness::request("D1", "s1", "m1") }));
    harness.order(PointOrder::SetPrice(Price::from_e4(99_900)));
    harness.take_sent();
    let word = |price| PointInput::Confirmed {
        session: SessionId::new("s1"),
        driver: "D1".parse().unwrap(),
        accepted: Some(Price::from_e4(price)),
        reply: Reply::Link { link: LinkNo(3), to: 6 },
    };
    for _repeated in 0..2 {
        harness.input(0, word(3_950));
        assert_eq!(harness.take_sent(), ["answer: PRICE_CHANGED", "D1: confirm s1?"]);
        let asked = harness.effects.last().map(|(_, effect)| effect.clone());
        let Some(Effect::Driver(_, proto::link::v1::down::Body::ConfirmRequest(asked))) = asked else {
            panic!("he is asked again")
        };
        assert_eq!((asked.price_e4, harness.store.sessions.len()), (99_900, 0));
    }
    harness.input(0, word(99_900));
    assert_eq!(harness.session("s1").price.e4(), 99_900);
}

#[test]
fn a_request_is_refused_where_the_price_is_above_the_highest_that_it_names_spec_3_2() {
    let at_most = |price| {
        let mut harness = PointHarness::ready();
        let terms = SupplyTerms { highest_price: Some(Price::from_e4(price)), ..SupplyTerms::default() };
        harness.input(0, PointInput::Request(SupplyRequest { terms, ..harness::request("D1", "s1", "r1") }));
        harness.take_sent().pop()
    };
    assert_eq!(at_most(3_949).as_deref(), Some("answer: PRICE_CHANGED"));
    assert_eq!(at_most(3_950).as_deref(), Some("engine: ask s1"));
}

#[test]
fn what_cannot_be_made_durable_is_refused_in_words_spec_9() {
    let mut harness = PointHarness::ready();
    harness.request("s1", "r1");
    harness.take_sent();
    harness.store.fail = Some("disk full".into());
    harness.accept("s1");
    assert_eq!(
        harness.take_sent(),
        ["engine: release s1 UNAVAILABLE", "D1: REFUSED UNAVAILABLE", "answer: UNAVAILABLE"]
    );
    harness.store.fail = None;
    harness.request("s2", "r1");
    harness.accept("s2");
    assert_eq!(harness.state(0), State::Reserved, "it was no durable answer, so the request may come again");
}
