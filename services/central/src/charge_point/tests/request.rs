//! From a request to a reservation (SPEC 3.1 to 3.3).

use super::*;

#[test]
fn a_supply_goes_from_request_to_ticket_spec_3() {
    let mut world = World::ready();
    world.request("s1", "r1");
    assert_eq!(world.take_told(), ["D1: RECEIVED", "D1: ASKING", "engine: ask s1"]);
    world.accept("s1");
    assert_eq!(world.take_told(), ["engine: supply s1", "D1: AUTHORISED", "answer: done"]);
    assert_eq!(world.state(0), State::Reserved);
    world.started("s1", 1_000);
    assert_eq!(world.take_told(), ["D1: SUPPLYING", "answer: done"]);
    world.meter("s1", 2_000);
    assert_eq!(world.take_told(), ["D1: running 1000 Wh 40 EUR"]);
    assert_eq!(world.state(0), State::Supplying);
    world.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(world.take_told(), ["D1: ticket 1000 Wh UNPLUGGED", "engine: settled s1", "answer: done"]);
    assert_eq!((world.state(0), world.session("s1").state), (State::Available, SessionState::Billed));
}

#[test]
fn the_charging_point_itself_may_refuse_spec_3_2() {
    let mut world = World::ready();
    world.request("s1", "r1");
    world.take_told();
    world.input(0, Input::AskAnswer { session: SessionId::new("s1"), accepted: false, detail: "no".into() });
    assert_eq!(world.take_told(), ["D1: REFUSED REFUSED_BY_CHARGING_POINT", "answer: REFUSED_BY_CHARGING_POINT"]);
    assert!(world.store.sessions.is_empty());
}

#[test]
fn each_cause_refuses_with_its_reason_spec_3_2() {
    let refusal = |prepare: &dyn Fn(&mut World)| {
        let mut world = World::ready();
        prepare(&mut world);
        world.take_told();
        world.input(0, Input::Request(world::request("D2", "s9", "r9")));
        world.take_told().pop().unwrap()
    };
    assert_eq!(refusal(&|w| w.link_down(MONITOR)), "answer: DISCONNECTED");
    assert_eq!(refusal(&|w| w.healthy(false)), "answer: BROKEN");
    assert_eq!(refusal(&|w| w.order(Order::Stop)), "answer: OUT_OF_ORDER");
    assert_eq!(refusal(&|w| w.order(Order::Renew)), "answer: OUT_OF_ORDER");
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
    let mut world = World::ready();
    world.input(0, Input::Request(Request { known: false, ..world::request("X", "s1", "r1") }));
    assert_eq!(world.take_told(), ["answer: UNKNOWN_DRIVER"]);
    world.input(0, Input::Request(Request { busy: true, ..world::request("D1", "s2", "r2") }));
    assert_eq!(world.take_told(), ["D1: REFUSED DRIVER_BUSY", "answer: DRIVER_BUSY"]);
}

#[test]
fn a_manual_supply_of_a_driver_without_a_link_is_refused_at_once_in_words_spec_3_1() {
    let mut world = World::ready();
    let manual = Request { manual: true, away: true, reply: engine_reply(), ..world::request("D1", "s1", "r1") };
    world.input(0, Input::Request(manual));
    assert_eq!(world.take_told(), ["answer: NOT_CONFIRMED"]);
    assert!(world.points[0].pending.ask.is_none(), "and the next one is not kept waiting");
}

#[test]
fn a_charging_point_that_waits_for_a_confirmation_says_so_and_is_still_available_spec_2_1() {
    let mut world = World::ready();
    let manual = Request { manual: true, reply: engine_reply(), ..world::request("D1", "s1", "r1") };
    world.input(0, Input::Request(manual));
    let view = world.points[0].view(&world.settings, world.now);
    assert_eq!((view.state(), view.detail.as_str()), (State::Available, "waits until D1 confirms a manual supply"));
    world.input(
        0,
        Input::Confirmed {
            session: SessionId::new("s1"),
            driver: "D1".parse().unwrap(),
            accepted: false,
            reply: Reply::None,
        },
    );
    assert_eq!(world.points[0].view(&world.settings, world.now).detail, "");
}

#[test]
fn a_driver_in_a_session_elsewhere_is_refused_by_the_store_and_the_engine_released_spec_3_2() {
    let mut world = World::ready();
    let elsewhere = Session { charging_point: "CP9".parse().unwrap(), ..crate::testing::session("s0") };
    world.store.sessions.insert(elsewhere.id.clone(), elsewhere);
    world.request("s1", "r1");
    world.take_told();
    world.accept("s1");
    assert_eq!(world.take_told(), ["engine: release s1 DRIVER_BUSY", "D1: REFUSED DRIVER_BUSY", "answer: DRIVER_BUSY"]);
    assert_eq!(world.state(0), State::Available);
}

#[test]
fn a_request_sent_again_gets_the_first_answer_spec_3_2() {
    let mut world = World::ready();
    world.request("s1", "r1");
    world.request("s2", "r1");
    world.take_told();
    world.accept("s1");
    world.take_told();
    world.request("s3", "r1");
    assert_eq!(world.take_told(), ["engine: supply s1", "D1: AUTHORISED", "answer: done"], "while it is open");
    world.started("s1", 0);
    world.ended("s1", 0, 10, Reason::Unplugged);
    world.take_told();
    world.request("s4", "r1");
    world.accept("s4");
    assert_eq!(
        world.take_told()[3..],
        ["engine: release s4 NONE", "D1: AUTHORISED", "answer: done"],
        "the first answer, and no second session"
    );
    assert_eq!(world.store.sessions.len(), 1);
}

#[test]
fn an_engine_that_does_not_answer_is_given_up_spec_3_2() {
    let mut world = World::ready();
    world.request("s1", "r1");
    world.take_told();
    world.pass(5_000);
    assert_eq!(world.take_told(), ["engine: release s1 NO_ANSWER", "D1: REFUSED NO_ANSWER", "answer: NO_ANSWER"]);
}

#[test]
fn an_engine_that_comes_back_meanwhile_is_asked_again() {
    let mut world = World::ready();
    world.link_down(ENGINE);
    world.request("s1", "r1");
    world.take_told();
    world.engine_up(LinkNo(7), 1);
    assert_eq!(world.take_told(), ["engine: ask s1"]);
}

#[test]
fn a_reservation_expires_after_sixty_seconds_with_no_ticket_spec_2_2() {
    let mut world = World::reserved();
    world.pass(59_999);
    assert_eq!(world.state(0), State::Reserved);
    world.pass(1);
    assert_eq!(world.take_told(), ["D1: RELEASED RESERVATION_EXPIRED", "engine: release s1 RESERVATION_EXPIRED"]);
    assert_eq!((world.session("s1").state, world.store.tickets.len()), (SessionState::Released, 0));
}

#[test]
fn a_stop_or_a_fault_while_reserved_releases_it_with_no_ticket_spec_3_2() {
    let mut stopped = World::reserved();
    stopped.order(Order::Stop);
    assert_eq!(stopped.session("s1").reason, Reason::StoppedByOperator);
    let mut broken = World::reserved();
    broken.healthy(false);
    assert_eq!(broken.session("s1").reason, Reason::Fault);
    for world in [stopped, broken] {
        assert_eq!((world.session("s1").state, world.store.tickets.len()), (SessionState::Released, 0));
    }
}

#[test]
fn a_manual_supply_on_its_own_account_needs_nobodys_word_spec_3_1() {
    let mut world = World::ready();
    let own = Request { driver: None, manual: true, ..world::request("D1", "s1", "m1") };
    world.input(0, Input::Request(own));
    assert_eq!(world.take_told(), ["engine: supply s1", "answer: done"]);
    assert_eq!(world.session("s1").driver, None);
}

#[test]
fn a_manual_supply_for_a_named_driver_waits_for_his_word_spec_3_1() {
    let mut world = World::ready();
    let named = Request { manual: true, ..world::request("D1", "s1", "m1") };
    world.input(0, Input::Request(named.clone()));
    assert_eq!(world.take_told(), ["D1: confirm s1?"]);
    assert_eq!(world.state(0), State::Available, "nothing is reserved yet");
    let word = |session: &str, driver: &str, accepted| Input::Confirmed {
        session: SessionId::new(session),
        driver: driver.parse().unwrap(),
        accepted,
        reply: Reply::Link { link: LinkNo(3), to: 6 },
    };
    world.input(0, word("s1", "D2", true));
    assert_eq!(world.take_told(), ["answer: NOT_FOUND"], "nobody spends another's money");
    world.input(0, word("s1", "D1", true));
    assert_eq!(world.take_told(), ["answer: done", "engine: supply s1", "D1: AUTHORISED", "answer: done"]);

    let mut refused = World::ready();
    refused.input(0, Input::Request(named.clone()));
    refused.input(0, word("s1", "D1", false));
    assert_eq!(refused.take_told()[1..], ["answer: done", "D1: REFUSED NOT_CONFIRMED", "answer: NOT_CONFIRMED"]);

    let mut silent = World::ready();
    silent.input(0, Input::Request(named));
    silent.pass(60_000);
    assert_eq!(silent.take_told()[1..], ["D1: REFUSED NOT_CONFIRMED", "answer: NOT_CONFIRMED"]);
}

#[test]
fn what_cannot_be_made_durable_is_refused_in_words_spec_9() {
    let mut world = World::ready();
    world.request("s1", "r1");
    world.take_told();
    world.store.fail = Some("disk full".into());
    world.accept("s1");
    assert_eq!(world.take_told(), ["engine: release s1 UNAVAILABLE", "D1: REFUSED UNAVAILABLE", "answer: UNAVAILABLE"]);
    world.store.fail = None;
    world.request("s2", "r1");
    world.accept("s2");
    assert_eq!(world.state(0), State::Reserved, "it was no durable answer, so the request may come again");
}
