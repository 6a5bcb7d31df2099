//! Orders of charging points, one or many, and what is said of them.

use clap::{Args, Subcommand};
use proto::{
    central::v1::{MoveRequest, Order, OrderRequest, SetMaintenanceRequest, SetPriceRequest, SetRatedPowerRequest},
    link::v1::Reason,
};

use super::super::{
    SelectorArgs,
    api_message::ApiMessage,
    connection::{AskedRole, OperatorConnection},
    order_call::{OrderCall, RequestArgs},
    price,
    tables::sentence,
};
use crate::{
    failure::CommandRefused,
    output::{Output, note},
};

#[derive(Debug, Subcommand)]
pub(super) enum PointOrderArgs {
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
        #[command(flatten)]
        request: RequestArgs,
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
        #[command(flatten)]
        request: RequestArgs,
    },
    /// Move to another city
    Move {
        id: String,
        #[arg(long)]
        city: String,
        /// New place; unchanged if not given
        #[arg(long)]
        place: Option<String>,
        #[command(flatten)]
        request: RequestArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct OrderArgs {
    #[command(flatten)]
    which: SelectorArgs,
    /// How many are meant; needed for more than 50
    #[arg(long, value_name = "N")]
    expected: Option<u32>,
    /// Why; shown on the tile and in the audit
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    request: RequestArgs,
}

impl OrderArgs {
    fn order(self, call: &OrderCall) -> OrderRequest {
        let Self { which, expected, reason, request: _ } = self;
        OrderRequest { request_id: call.id(), selector: which.selector(), expected, reason }
    }
}

impl PointOrderArgs {
    pub(super) async fn give(self, connection: &OperatorConnection, output: Output) -> anyhow::Result<()> {
        let has_a_reason = self.has_a_reason();
        let call = self.request_args().announce(connection, AskedRole::Central)?;
        let order = self.call(&call, connection).await?;
        let (verdict, kept) = (verdict(&order), has_a_reason && order.unchanged > 0);
        output.sentence(&sentence(&order), &ApiMessage(order))?;
        if kept {
            note("what was so already keeps the reason that was given then");
        }
        verdict
    }

    async fn call(self, call: &OrderCall, connection: &OperatorConnection) -> anyhow::Result<Order> {
        let mut client = connection.charging_points()?;
        let request_id = call.id();
        let answer = match self {
            Self::Stop(order) => client.stop(order.order(call)).await,
            Self::Resume(order) => client.resume(order.order(call)).await,
            Self::Maintenance { order, off } => {
                let OrderRequest { selector, expected, reason, .. } = order.order(call);
                let on = Some(!off);
                client.set_maintenance(SetMaintenanceRequest { request_id, selector, expected, on, reason }).await
            }
            Self::Rotate(order) => client.rotate(order.order(call)).await,
            Self::Renew(order) => client.renew(order.order(call)).await,
            Self::Revoke(order) => client.revoke(order.order(call)).await,
            Self::Release(order) => client.release(order.order(call)).await,
            Self::Price { price, which, expected, .. } => {
                let (selector, price_e4) = (which.selector(), Some(price));
                client.set_price(SetPriceRequest { request_id, selector, expected, price_e4 }).await
            }
            Self::RatedPower { watts, which, expected, .. } => {
                let (selector, rated_power_w) = (which.selector(), Some(watts));
                client.set_rated_power(SetRatedPowerRequest { request_id, selector, expected, rated_power_w }).await
            }
            Self::Move { id, city, place, .. } => client.r#move(MoveRequest { request_id, id, city, place }).await,
        };
        call.answered(answer)
    }

    fn request_args(&self) -> RequestArgs {
        let (Self::Stop(OrderArgs { request, .. })
        | Self::Resume(OrderArgs { request, .. })
        | Self::Maintenance { order: OrderArgs { request, .. }, .. }
        | Self::Rotate(OrderArgs { request, .. })
        | Self::Renew(OrderArgs { request, .. })
        | Self::Revoke(OrderArgs { request, .. })
        | Self::Release(OrderArgs { request, .. })
        | Self::Price { request, .. }
        | Self::RatedPower { request, .. }
        | Self::Move { request, .. }) = self;
        request.clone()
    }

    /// Whether it gives a reason that a tile shows until another order ends it.
    fn has_a_reason(&self) -> bool {
        match self {
            Self::Stop(order) | Self::Maintenance { order, off: false } => !order.reason.is_empty(),
            Self::Resume(_)
            | Self::Maintenance { .. }
            | Self::Rotate(_)
            | Self::Renew(_)
            | Self::Revoke(_)
            | Self::Release(_)
            | Self::Price { .. }
            | Self::RatedPower { .. }
            | Self::Move { .. } => false,
        }
    }
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
