//! `chargemesh cities`: the temperatures that Weather watches, and what frost does (SPEC 6).

use std::time::Duration;

use clap::{Args, Subcommand};
use proto::{
    central::v1::FrostPolicy,
    timestamp,
    weather::v1::{
        AddCityRequest, City, ListCitiesRequest, OverrideRequest, RemoveCityRequest, SetPolicyRequest, SuspendRequest,
    },
};

use super::{
    api_message::{ApiMessage, api_messages},
    connection::{AskedRole, OperatorConnection},
    order_call::{OrderCall, RequestArgs},
};
use crate::{failure::of_status, output::Output};

/// See the temperature of every city, and rule over what frost does
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  chargemesh cities list
  chargemesh cities override Valencia --celsius -5 --for 10m      a drill
  chargemesh cities policy Valencia let-finish
  chargemesh cities suspend")]
pub(crate) struct CitiesArgs {
    #[command(subcommand)]
    what: CitiesCommand,
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    connection: OperatorConnection,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum CitiesCommand {
    /// Every city that is watched, with its temperature
    List,
    /// Watch a city, though no charging point is in it
    Add { city: String },
    /// Watch a city no longer, which ends its blocks
    Remove { city: String },
    /// Set the temperature of a city for a drill
    Override {
        city: String,
        /// The temperature, in degrees Celsius
        #[arg(long, value_name = "CELSIUS")]
        celsius: weather::Temperature,
        /// How long the drill lasts
        #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = mesh::duration::parse_some)]
        lasts: Duration,
    },
    /// End the drill of a city
    EndOverride { city: String },
    /// Set what frost does to the charging points of a city
    Policy {
        city: String,
        #[arg(value_enum)]
        policy: weather::CityPolicy,
    },
    /// Suspend the weather policy: frost blocks nothing
    Suspend,
    /// Put the weather policy in force again
    Resume,
}

impl CitiesArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let output = self.output;
        if matches!(self.what, CitiesCommand::List) {
            return output.list(&api_messages(list(&self.connection).await?));
        }
        let call = self.request.announce(&self.connection, AskedRole::Weather)?;
        let (mut client, request_id) = (self.connection.weather()?, call.id());
        match self.what {
            CitiesCommand::List => Ok(()),
            CitiesCommand::Add { city } => {
                show(&call, client.add(AddCityRequest { request_id, city }).await, "is watched", output)
            }
            CitiesCommand::Remove { city } => {
                let removed = client.remove(RemoveCityRequest { request_id, city: city.clone() }).await;
                output.sentence(&format!("{city} is not watched"), &ApiMessage(call.answered(removed)?))
            }
            CitiesCommand::Override { city, celsius, lasts } => {
                let lasts = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
                let end_time = timestamp(mesh::clock::Clock::system().wall_ms().saturating_add(lasts));
                let temperature_celsius = Some(celsius.celsius());
                let request = OverrideRequest { request_id, city, temperature_celsius, end_time };
                show(&call, client.r#override(request).await, &format!("counts as {celsius}"), output)
            }
            CitiesCommand::EndOverride { city } => {
                let request = OverrideRequest { request_id, city, ..OverrideRequest::default() };
                show(&call, client.r#override(request).await, "has its measured temperature again", output)
            }
            CitiesCommand::Policy { city, policy } => {
                let policy = i32::from(policy_of(policy));
                let request = SetPolicyRequest { request_id, city, policy };
                show(&call, client.set_policy(request).await, "has this policy", output)
            }
            CitiesCommand::Suspend => suspend(&call, &mut client, true, output).await,
            CitiesCommand::Resume => suspend(&call, &mut client, false, output).await,
        }
    }
}

fn policy_of(policy: weather::CityPolicy) -> FrostPolicy {
    match policy {
        weather::CityPolicy::StopNow => FrostPolicy::StopNow,
        weather::CityPolicy::LetFinish => FrostPolicy::LetFinish,
        weather::CityPolicy::Ignore => FrostPolicy::Ignore,
    }
}

type WeatherClient = proto::weather::v1::weather_client::WeatherClient<mesh::client::Channel>;

async fn suspend(call: &OrderCall, client: &mut WeatherClient, suspended: bool, output: Output) -> anyhow::Result<()> {
    let request = SuspendRequest { request_id: call.id(), suspended: Some(suspended) };
    let answer = call.answered(client.suspend(request).await)?;
    let how = if suspended { "suspended: frost blocks nothing" } else { "in force" };
    output.sentence(&format!("the weather policy is {how}"), &ApiMessage(answer))
}

fn show(
    call: &OrderCall,
    answer: Result<tonic::Response<City>, tonic::Status>,
    how: &str,
    output: Output,
) -> anyhow::Result<()> {
    let city = call.answered(answer)?;
    let name = city.condition.as_ref().map(|condition| condition.city.clone()).unwrap_or_default();
    output.sentence(&format!("{} {how}", crate::output::escaped(&name)), &ApiMessage(city))
}

async fn list(connection: &OperatorConnection) -> anyhow::Result<Vec<City>> {
    let (mut client, mut request, mut all) = (connection.weather()?, ListCitiesRequest::default(), Vec::new());
    loop {
        let page = client.list(request.clone()).await.map_err(|status| of_status(&status))?.into_inner();
        all.extend(page.cities);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}
