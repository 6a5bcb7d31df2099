//! `chargemesh charging-points`.

use clap::{Args, Subcommand};
use proto::{
    central::v1::{
        ChargingPoint, ChargingPointEvent, ChargingPointState, GetChargingPointRequest, ListChargingPointsRequest,
        MoveRequest, Order, OrderRequest, RestoreRequest, SetMaintenanceRequest, SetPriceRequest, SetRatedPowerRequest,
        WatchChargingPointsRequest, charging_point_event::Event,
    },
    link::v1::Reason,
};

use super::{
    SelectorArgs,
    api_message::{ApiMessage, api_messages, at},
    connection::OperatorConnection,
    price, request_id,
    tables::{ChargingPointRecord, sentence},
};
use crate::{
    failure::{CommandRefused, of_status},
    output::{Output, note, one_line},
};

/// See the charging points and order them about
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  chargemesh charging-points list
  chargemesh charging-points watch --city Valencia
  chargemesh charging-points stop CP-01 CP-02 --reason 'cable theft'
  chargemesh charging-points stop --all --expected 120
  chargemesh charging-points price CP-01 --to 0.4200")]
pub(crate) struct ChargingPointsArgs {
    #[command(subcommand)]
    what: ChargingPointsCommand,
    #[command(flatten)]
    connection: OperatorConnection,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum ChargingPointsCommand {
    /// All of them, with state, price and running supply
    List {
        /// Only those of this city
        #[arg(long)]
        city: Option<String>,
        /// Only those in this state
        #[arg(long, value_parser = state)]
        state: Option<ChargingPointState>,
    },
    /// Everything about one
    Get { id: String },
    /// All of them, then every change as it happens
    Watch {
        /// Only those of this city
        #[arg(long)]
        city: Option<String>,
    },
    /// Take out of service at once; a running supply ends
    Stop(OrderArgs),
    /// Back into service
    Resume(OrderArgs),
    /// Take out of service when the running supply has ended; --off ends it
    Maintenance {
        #[command(flatten)]
        order: OrderArgs,
        /// Maintenance is over
        #[arg(long)]
        off: bool,
    },
    /// A new key, live, with no gap
    Rotate(OrderArgs),
    /// Delete the key; the charging point authenticates again by itself
    Renew(OrderArgs),
    /// Key and credential are void (compromised) until it is restored
    Revoke(OrderArgs),
    /// End a revocation: prints a one-use token for a new enrolment at the monitor
    Restore { id: String },
    /// End a quarantine after repeated takeovers
    Release(OrderArgs),
    /// Set the price of a kWh; a running supply keeps its own
    Price {
        /// Currency units per kWh, at most four decimal places
        #[arg(long = "to", value_name = "PRICE", value_parser = price)]
        price: u32,
        #[command(flatten)]
        which: SelectorArgs,
        /// How many are meant; needed for more than 50
        #[arg(long, value_name = "N")]
        expected: Option<u32>,
    },
    /// Set the rated power; energy beyond it is disputed and not billed
    RatedPower {
        /// Watts; 0 takes it away
        #[arg(long = "to", value_name = "WATTS")]
        watts: u32,
        #[command(flatten)]
        which: SelectorArgs,
        /// How many are meant; needed for more than 50
        #[arg(long, value_name = "N")]
        expected: Option<u32>,
    },
    /// Move to another city
    Move {
        id: String,
        #[arg(long)]
        city: String,
        /// New place; unchanged if not given
        #[arg(long)]
        place: Option<String>,
    },
}

#[derive(Debug, Args)]
struct OrderArgs {
    #[command(flatten)]
    which: SelectorArgs,
    /// How many are meant; needed for more than 50
    #[arg(long, value_name = "N")]
    expected: Option<u32>,
    /// Why; shown on the tile and in the audit
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

impl OrderArgs {
    fn request(&self) -> OrderRequest {
        OrderRequest {
            request_id: request_id(),
            selector: self.which.selector(),
            expected: self.expected,
            reason: self.reason.clone(),
        }
    }
}

fn state(text: &str) -> Result<ChargingPointState, String> {
    let name = format!("CHARGING_POINT_STATE_{}", text.to_ascii_uppercase().replace(['-', ' '], "_"));
    ChargingPointState::from_str_name(&name).filter(|s| *s != ChargingPointState::Unspecified).ok_or_else(|| {
        format!("{text:?} is no state: disconnected, broken, out-of-order, supplying, reserved or available")
    })
}

impl ChargingPointsArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut client = self.connection.charging_points()?;
        let output = self.output;
        let reasoned = self.what.has_a_reason();
        let order = match self.what {
            ChargingPointsCommand::List { city, state } => {
                let all = list(&self.connection, city.unwrap_or_default(), state).await?;
                return output.list(&api_messages(all));
            }
            ChargingPointsCommand::Get { id } => {
                let request = GetChargingPointRequest { id };
                let found = client.get(request).await.map_err(|s| of_status(&s))?.into_inner();
                return output.one(&ChargingPointRecord(ApiMessage(found)));
            }
            ChargingPointsCommand::Watch { city } => {
                return watch(&self.connection, city.unwrap_or_default(), output).await;
            }
            ChargingPointsCommand::Restore { id } => {
                let request = RestoreRequest { request_id: request_id(), id };
                let restored = client.restore(request).await.map_err(|s| of_status(&s))?.into_inner();
                let until = at(restored.expire_time.as_ref());
                note(&format!("a one-use token, shown once, good until {until}:"));
                return output.sentence(&restored.enrolment_token.clone(), &ApiMessage(restored));
            }
            ChargingPointsCommand::Stop(order) => client.stop(order.request()).await,
            ChargingPointsCommand::Resume(order) => client.resume(order.request()).await,
            ChargingPointsCommand::Maintenance { order, off } => {
                let OrderRequest { request_id, selector, expected, reason } = order.request();
                client
                    .set_maintenance(SetMaintenanceRequest { request_id, selector, expected, on: Some(!off), reason })
                    .await
            }
            ChargingPointsCommand::Rotate(order) => client.rotate(order.request()).await,
            ChargingPointsCommand::Renew(order) => client.renew(order.request()).await,
            ChargingPointsCommand::Revoke(order) => client.revoke(order.request()).await,
            ChargingPointsCommand::Release(order) => client.release(order.request()).await,
            ChargingPointsCommand::Price { price, which, expected } => {
                let selector = which.selector();
                let request = SetPriceRequest { request_id: request_id(), selector, expected, price_e4: Some(price) };
                client.set_price(request).await
            }
            ChargingPointsCommand::RatedPower { watts, which, expected } => {
                let selector = which.selector();
                let (request_id, rated_power_w) = (request_id(), Some(watts));
                client.set_rated_power(SetRatedPowerRequest { request_id, selector, expected, rated_power_w }).await
            }
            ChargingPointsCommand::Move { id, city, place } => {
                client.r#move(MoveRequest { request_id: request_id(), id, city, place }).await
            }
        };
        let order = order.map_err(|s| of_status(&s))?.into_inner();
        let (verdict, kept) = (verdict(&order), reasoned && order.unchanged > 0);
        output.sentence(&sentence(&order), &ApiMessage(order))?;
        if kept {
            note("what was so already keeps the reason that was given then");
        }
        verdict
    }
}

impl ChargingPointsCommand {
    /// Whether it gives a reason that a tile shows until another order ends it.
    fn has_a_reason(&self) -> bool {
        match self {
            Self::Stop(order) | Self::Maintenance { order, off: false } => !order.reason.is_empty(),
            Self::List { .. }
            | Self::Get { .. }
            | Self::Watch { .. }
            | Self::Resume(_)
            | Self::Maintenance { .. }
            | Self::Rotate(_)
            | Self::Renew(_)
            | Self::Revoke(_)
            | Self::Restore { .. }
            | Self::Release(_)
            | Self::Price { .. }
            | Self::RatedPower { .. }
            | Self::Move { .. } => false,
        }
    }
}

/// All pages.
pub(crate) async fn list(
    connection: &OperatorConnection,
    city: String,
    state: Option<ChargingPointState>,
) -> anyhow::Result<Vec<ChargingPoint>> {
    let mut client = connection.charging_points()?;
    let mut request = ListChargingPointsRequest {
        city,
        state: state.unwrap_or_default().into(),
        page_size: 1000,
        page_token: String::new(),
    };
    let mut all = Vec::new();
    loop {
        let page = client.list(request.clone()).await.map_err(|s| of_status(&s))?.into_inner();
        all.extend(page.charging_points);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

async fn watch(connection: &OperatorConnection, city: String, output: Output) -> anyhow::Result<()> {
    let mut client = connection.charging_points()?;
    let mut changes = client.watch(WatchChargingPointsRequest { city }).await.map_err(|s| of_status(&s))?.into_inner();
    while let Some(step) = changes.message().await.map_err(|s| of_status(&s))? {
        let ChargingPointEvent { event } = &step;
        let said = match event {
            Some(Event::Changed(changed)) => one_line(&ApiMessage(changed.clone())),
            Some(Event::Removed(id)) => format!("{id}  removed"),
            Some(Event::Synchronised(_)) => "-- that is all; changes follow".to_owned(),
            Some(Event::Restarted(_)) => "-- anew".to_owned(),
            None => continue,
        };
        output.sentence(&said, &ApiMessage(step))?;
    }
    anyhow::bail!("Central ended the stream; run it again")
}

/// Failed only where nothing of it was done. An id that nobody knows failed too, and is not among those that matched.
fn verdict(order: &Order) -> anyhow::Result<()> {
    if order.matched == 0 {
        return Err(CommandRefused::new(Reason::UnknownChargingPoint, "no charging point matches").into());
    }
    let is_unknown = |code: &str| Reason::of_code(code) == Some(Reason::UnknownChargingPoint);
    let unknown = order.failures.iter().filter(|failure| is_unknown(&failure.reason_code)).count();
    let meant = usize::try_from(order.matched).unwrap_or(usize::MAX).saturating_add(unknown);
    match order.failures.len() {
        0 => Ok(()),
        failed if failed == meant => {
            Err(CommandRefused::new(Reason::ExpectationFailed, "it failed at every charging point, see above").into())
        }
        failed => anyhow::bail!("it failed at {failed} of {meant} charging points, see above"),
    }
}

#[cfg(test)]
mod tests {
    use proto::central::v1::OrderFailure;

    use super::*;

    fn ended(matched: u32, failures: &[(&str, Reason)]) -> (u8, String) {
        let failure = |(id, reason): &(&str, Reason)| OrderFailure {
            id: (*id).to_owned(),
            reason_code: reason.public_code(),
            detail: String::new(),
        };
        let order = Order { matched, failures: failures.iter().map(failure).collect(), ..Order::default() };
        match verdict(&order) {
            Ok(()) => (0, String::new()),
            Err(error) if error.is::<CommandRefused>() => (3, error.to_string()),
            Err(error) => (mesh::process::exit_code(&error), error.to_string()),
        }
    }

    #[test]
    fn an_order_that_reached_some_failed_only_at_the_others_spec_7_3() {
        let nobody = ("CP-99", Reason::UnknownChargingPoint);
        assert_eq!(ended(2, &[]).0, 0);
        for (matched, failures, code, says) in [
            (1, vec![nobody], 1, "1 of 2"),
            (2, vec![nobody], 1, "1 of 3"),
            (2, vec![nobody, ("CP-1", Reason::Unavailable)], 1, "2 of 3"),
            (1, vec![nobody, ("CP-1", Reason::Unavailable)], 3, "every charging point"),
            (2, vec![("CP-1", Reason::Unavailable), ("CP-2", Reason::Unavailable)], 3, "every charging point"),
            (0, vec![nobody], 3, "no charging point matches"),
        ] {
            let (got, text) = ended(matched, &failures);
            assert!(got == code && text.contains(says), "{matched} {failures:?}: {got} {text}");
        }
    }
}
