//! `chargemesh orders`: how far orders over many charging points have come (SPEC 7.3).

use clap::{Args, Subcommand};
use proto::central::v1::{CancelOrderRequest, GetOrderRequest, ListOrdersRequest};

use super::{
    api_message::{ApiMessage, api_messages},
    connection::OperatorConnection,
    tables::sentence,
};
use crate::{failure::of_status, output::Output};

/// See orders over many charging points, and cancel them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  chargemesh orders list
  chargemesh orders get o-5f3c0a91d2e84b67aa10c3d4
  chargemesh orders cancel o-5f3c0a91d2e84b67aa10c3d4")]
pub(crate) struct OrdersArgs {
    #[command(subcommand)]
    what: OrdersCommand,
    #[command(flatten)]
    connection: OperatorConnection,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum OrdersCommand {
    /// The latest ones, newest first, with how many are done, failed and left
    List {
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        last: u32,
    },
    /// How far an order has come, and where it failed
    Get { order_id: String },
    /// What the order has not reached yet stays as it was
    Cancel { order_id: String },
}

impl OrdersArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut client = self.connection.charging_points()?;
        let order = match self.what {
            OrdersCommand::List { last } => {
                let request = ListOrdersRequest { page_size: last, page_token: String::new() };
                let page = client.list_orders(request).await.map_err(|s| of_status(&s))?.into_inner();
                return self.output.list(&api_messages(page.orders));
            }
            OrdersCommand::Get { order_id } => client.get_order(GetOrderRequest { order_id }).await,
            OrdersCommand::Cancel { order_id } => client.cancel_order(CancelOrderRequest { order_id }).await,
        };
        let order = order.map_err(|s| of_status(&s))?.into_inner();
        self.output.sentence(&sentence(&order), &ApiMessage(order))
    }
}
