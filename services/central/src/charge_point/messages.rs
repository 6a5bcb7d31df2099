//! Messages to charging points and drivers, from the nouns of the core.

use proto::{
    ChargingPointId, DriverId, Energy,
    link::v1::{self as link, Progress, Reason, down},
};

use super::{Effect, FirstAnswer, OrderOutcome, Record, SupplyRequest};
use crate::{session::Session, settings::CentralSettings};

/// A step of a request, as its driver sees it (SPEC 3.2).
pub(super) fn step(
    request: &SupplyRequest,
    record: &Record,
    progress: Progress,
    (reason, detail): (Reason, &str),
    settings: &CentralSettings,
) -> down::Body {
    down::Body::Step(link::Step {
        request_id: request.request_id.as_ref().to_owned(),
        session_id: request.session.to_string(),
        charging_point_id: record.id.to_string(),
        progress: progress.into(),
        reason: reason.into(),
        detail: detail.to_owned(),
        place: record.place.as_ref().to_owned(),
        price_e4: record.price.e4(),
        currency: settings.currency.to_string(),
    })
}

/// A step of a session.
pub fn step_of(session: &Session, progress: Progress, reason: Reason, detail: &str) -> down::Body {
    down::Body::Step(link::Step {
        request_id: session.request_id.as_ref().to_owned(),
        session_id: session.id.to_string(),
        charging_point_id: session.charging_point.to_string(),
        progress: progress.into(),
        reason: reason.into(),
        detail: detail.to_owned(),
        place: session.place.as_ref().to_owned(),
        price_e4: session.price.e4(),
        currency: session.currency.to_string(),
    })
}

/// CommitRefusal of a request for a charging point that does not exist (SPEC 3.2).
pub fn unknown_charging_point(request: &SupplyRequest, at: &ChargingPointId) -> Vec<Effect> {
    let reason = Reason::UnknownChargingPoint;
    let step = link::Step {
        request_id: request.request_id.as_ref().to_owned(),
        charging_point_id: at.to_string(),
        progress: Progress::Refused.into(),
        reason: reason.into(),
        ..link::Step::default()
    };
    let answer = Effect::Answer(request.reply, OrderOutcome::Failed(reason, String::new()));
    let told = request.driver.clone().filter(|_| request.known);
    told.map(|driver| Effect::Driver(driver, down::Body::Step(step))).into_iter().chain([answer]).collect()
}

/// The step with which a request was answered first, for one that comes again (SPEC 3.2).
pub fn first_answer(first: &FirstAnswer) -> link::Step {
    let progress = if first.reason == Reason::Unspecified { Progress::Authorised } else { Progress::Refused };
    link::Step {
        request_id: first.request_id.as_ref().to_owned(),
        session_id: first.session.as_ref().map(ToString::to_string).unwrap_or_default(),
        charging_point_id: first.charging_point.to_string(),
        progress: progress.into(),
        reason: first.reason.into(),
        detail: first.detail.clone(),
        ..link::Step::default()
    }
}

pub(super) fn ask(request: &SupplyRequest, record: &Record, settings: &CentralSettings) -> down::Body {
    down::Body::Ask(link::Ask {
        session_id: request.session.to_string(),
        driver_id: driver(request.driver.as_ref()),
        energy_wh: request.terms.energy.wh(),
        price_e4: record.price.e4(),
        currency: settings.currency.to_string(),
    })
}

pub(super) fn supply(session: &Session, hold_ms: u32) -> down::Body {
    down::Body::Supply(link::Supply {
        session_id: session.id.to_string(),
        driver_id: driver(session.driver.as_ref()),
        energy_wh: session.requested.wh(),
        price_e4: session.price.e4(),
        currency: session.currency.to_string(),
        hold_ms,
        // Signed and added before it is sent.
        authorisation: None,
    })
}

pub(super) fn release(session: &str, reason: Reason) -> down::Body {
    down::Body::Release(link::Release { session_id: session.to_owned(), reason: reason.into() })
}

pub fn stop(session: &str, reason: Reason) -> down::Body {
    down::Body::Stop(link::Stop { session_id: session.to_owned(), reason: reason.into() })
}

/// With the session's ticket; where it is billed just now, the ticket is signed and added before this is sent.
pub(super) fn settled(session: &str, ticket: Option<&link::SignedDocument>) -> down::Body {
    down::Body::Settled(link::Settled { session_id: session.to_owned(), ticket: ticket.cloned() })
}

/// What a driver is asked about a manual supply that names him (SPEC 3.1).
pub fn confirm_request(
    request: &SupplyRequest,
    record: &Record,
    expires_ms: u32,
    settings: &CentralSettings,
) -> down::Body {
    down::Body::ConfirmRequest(link::ConfirmRequest {
        session_id: request.session.to_string(),
        charging_point_id: record.id.to_string(),
        place: record.place.as_ref().to_owned(),
        price_e4: record.price.e4(),
        currency: settings.currency.to_string(),
        energy_wh: request.terms.energy.wh(),
        expires_ms,
    })
}

/// The running values that the driver being served gets each second (SPEC 3.4).
pub(super) fn running(session: &Session, power_w: u32) -> down::Body {
    down::Body::Running(link::Running {
        session_id: session.id.to_string(),
        charging_point_id: session.charging_point.to_string(),
        energy_wh: session.billable().wh(),
        amount_minor: session.amount().minor,
        power_w,
        currency: session.currency.to_string(),
    })
}

fn driver(driver: Option<&DriverId>) -> String {
    driver.map(ToString::to_string).unwrap_or_default()
}

/// How an account is named where its owner may be a driver or the charging point itself.
pub(super) fn account(driver: Option<&DriverId>, charging_point: &ChargingPointId) -> String {
    driver.map_or_else(|| format!("charging-point/{charging_point}"), |driver| format!("driver/{driver}"))
}

/// `0` as "until unplugged".
pub(super) fn wished(energy: Energy) -> String {
    if energy == Energy::ZERO { "until unplugged".to_owned() } else { format!("{} Wh", energy.wh()) }
}
