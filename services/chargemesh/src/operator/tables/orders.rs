//! An order, as it is listed and as one.

use proto::{
    Price,
    central::v1::{
        Order, OrderFailure, OrderState, Selector,
        order::{Move, Ordered, SetMaintenance, SetPrice, SetRatedPower},
        selector::Which,
    },
    link::v1::Reason,
};

use crate::{
    operator::api_message::{ApiMessage, at, name},
    output::{Columns, escaped},
};

fn state_name(order: &Order) -> String {
    name(order.state().as_str_name(), "ORDER_STATE_")
}

/// What was ordered, in words.
fn ordered(order: &Order) -> String {
    match &order.ordered {
        None => String::new(),
        Some(Ordered::Stop(_)) => "stop".into(),
        Some(Ordered::Resume(_)) => "resume".into(),
        Some(Ordered::SetMaintenance(SetMaintenance { on: true })) => "maintenance".into(),
        Some(Ordered::SetMaintenance(SetMaintenance { on: false })) => "maintenance off".into(),
        Some(Ordered::Rotate(_)) => "rotate".into(),
        Some(Ordered::Renew(_)) => "renew".into(),
        Some(Ordered::Revoke(_)) => "revoke".into(),
        Some(Ordered::Release(_)) => "release".into(),
        Some(Ordered::SetPrice(SetPrice { price_e4 })) => format!("price {}", Price::from_e4(*price_e4)),
        Some(Ordered::SetRatedPower(SetRatedPower { rated_power_w })) => format!("rated power {rated_power_w} W"),
        Some(Ordered::Move(Move { city, place })) => {
            let to = [Some(city.as_str()), place.as_deref()].into_iter().flatten().map(escaped);
            format!("move to {}", to.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Of whom, in words.
fn selected(order: &Order) -> String {
    match order.selector.as_ref().and_then(|Selector { which }| which.as_ref()) {
        None => String::new(),
        Some(Which::All(_)) => "all".into(),
        Some(Which::City(city)) => format!("city {}", escaped(city)),
        Some(Which::Ids(ids)) => match ids.ids.as_slice() {
            [id] => id.clone(),
            ids => format!("{} ids", ids.len()),
        },
    }
}

/// For people: what it did, in a sentence or a few.
pub(crate) fn sentence(order: &Order) -> String {
    let what = ordered(order);
    let what = if what.is_empty() { what } else { format!(" ({what}, {})", state_name(order)) };
    let mut text = format!("order {}{what}: {} matched, {} done", order.order_id, order.matched, order.done);
    if order.unchanged > 0 {
        text += &format!(", {} were so already", order.unchanged);
    }
    if order.failed > 0 {
        text += &format!(", {} failed", order.failed);
    }
    match (order.state(), order.left) {
        (OrderState::Cancelled, left) => text += &format!(", {left} left as they were by its cancellation"),
        (_, 0) => {}
        (OrderState::Done, left) => text += &format!(", {left} left to a later order"),
        (OrderState::Running | OrderState::Unspecified, left) => {
            let id = &order.order_id;
            text += &format!(", {left} follow one after another (see: chargemesh orders get {id}");
            text += &format!("; cancel: chargemesh orders cancel {id})");
        }
    }
    for OrderFailure { id, reason_code, detail } in &order.failures {
        let words = Reason::of_code(reason_code).map(Reason::in_words).unwrap_or_default();
        let detail = if detail.is_empty() { words } else { detail };
        text += &format!("\n  {}: {reason_code} {}", escaped(id), escaped(detail));
    }
    if !order.request_id.is_empty() {
        text += &format!("\n  request id {}", escaped(&order.request_id));
    }
    text
}

impl Columns for ApiMessage<Order> {
    const HEADERS: &'static [&'static str] = &[
        "id",
        "given",
        "by",
        "order",
        "of",
        "state",
        "matched",
        "done",
        "unchanged",
        "failed",
        "left",
        "why",
        "request id",
    ];
    fn cells(&self) -> Vec<String> {
        let order = &self.0;
        vec![
            order.order_id.clone(),
            at(order.create_time.as_ref()),
            escaped(&order.operator),
            ordered(order),
            selected(order),
            state_name(order),
            order.matched.to_string(),
            order.done.to_string(),
            order.unchanged.to_string(),
            order.failed.to_string(),
            order.left.to_string(),
            escaped(&order.reason),
            escaped(&order.request_id),
        ]
    }
}

#[cfg(test)]
mod tests {
    use proto::central::v1::order::Rotate;

    use super::*;

    fn order() -> Order {
        Order {
            order_id: "o-1".into(),
            ordered: Some(Ordered::Rotate(Rotate {})),
            request_id: "r1".into(),
            matched: 100,
            done: 30,
            unchanged: 5,
            failed: 2,
            left: 63,
            ..Order::default()
        }
    }

    #[test]
    fn an_order_under_way_says_how_many_are_done_failed_and_left_spec_7_3() {
        let said = |state: OrderState| sentence(&Order { state: state.into(), ..order() });
        let running = said(OrderState::Running);
        for part in
            ["o-1 (rotate, running)", "30 done", "5 were so", "2 failed", "63 follow", "get o-1", "request id r1"]
        {
            assert!(running.contains(part), "{part}: {running}");
        }
        assert!(said(OrderState::Done).contains("63 left to a later order"));
        assert!(said(OrderState::Cancelled).contains("63 left as they were"));
    }

    #[test]
    fn an_order_says_what_it_ordered_and_of_whom_spec_7_3() {
        let which = Some(Which::City("Elche".into()));
        let ordered = Some(Ordered::SetPrice(SetPrice { price_e4: 4_200 }));
        let cells = ApiMessage(Order { ordered, selector: Some(Selector { which }), ..order() }).cells();
        assert_eq!((cells[3].as_str(), cells[4].as_str()), ("price 0.4200", "city Elche"));
        assert_eq!(cells.len(), ApiMessage::<Order>::HEADERS.len());
    }
}
