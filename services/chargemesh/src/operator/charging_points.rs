//! `chargemesh charging-points`.

mod point_order;

use clap::{Args, Subcommand};
use proto::central::v1::{
    ChargingPoint, ChargingPointEvent, ChargingPointState, GetChargingPointRequest, ListChargingPointsRequest,
    RestoreRequest, WatchChargingPointsRequest, charging_point_event::Event,
};

use self::point_order::PointOrderArgs;
use super::{
    api_message::{ApiMessage, api_messages, at},
    connection::{AskedRole, OperatorConnection},
    order_call::RequestArgs,
    tables::ChargingPointRecord,
};
use crate::{
    failure::of_status,
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
    #[command(flatten)]
    Order(PointOrderArgs),
    /// End a revocation: prints a one-use token for a new enrolment at the monitor
    Restore {
        id: String,
        #[command(flatten)]
        request: RequestArgs,
    },
}

fn state(text: &str) -> Result<ChargingPointState, String> {
    let name = format!("CHARGING_POINT_STATE_{}", text.to_ascii_uppercase().replace(['-', ' '], "_"));
    ChargingPointState::from_str_name(&name).filter(|s| *s != ChargingPointState::Unspecified).ok_or_else(|| {
        format!("{text:?} is no state: disconnected, broken, out-of-order, supplying, reserved or available")
    })
}

impl ChargingPointsArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (connection, output) = (self.connection, self.output);
        match self.what {
            ChargingPointsCommand::List { city, state } => {
                output.list(&api_messages(list(&connection, city.unwrap_or_default(), state).await?))
            }
            ChargingPointsCommand::Get { id } => {
                let found = connection.charging_points()?.get(GetChargingPointRequest { id }).await;
                output.one(&ChargingPointRecord(ApiMessage(found.map_err(|s| of_status(&s))?.into_inner())))
            }
            ChargingPointsCommand::Watch { city } => watch(&connection, city.unwrap_or_default(), output).await,
            ChargingPointsCommand::Order(order) => order.give(&connection, output).await,
            ChargingPointsCommand::Restore { id, request } => {
                let call = request.announce(&connection, AskedRole::Central)?;
                let request = RestoreRequest { request_id: call.id(), id };
                let restored = call.answered(connection.charging_points()?.restore(request).await)?;
                let until = at(restored.expire_time.as_ref());
                note(&format!("a one-use token, shown once, good until {until}:"));
                output.sentence(&restored.enrolment_token.clone(), &ApiMessage(restored))
            }
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
