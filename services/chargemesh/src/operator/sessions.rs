//! `chargemesh sessions` and `chargemesh statistics`.

use clap::{Args, Subcommand, ValueEnum};
use proto::{
    central::v1::{
        EndSessionRequest, GetSessionRequest, ListSessionsRequest, Session, SessionEvent, SessionState,
        StatisticsRequest, WatchSessionsRequest, session_event::Event, statistics_request::By,
    },
    timestamp,
};

use super::{
    api_message::{ApiMessage, api_messages},
    connection::{AskedRole, OperatorConnection},
    order_call::RequestArgs,
    since,
};
use crate::{
    failure::of_status,
    output::{Output, one_line},
};

/// See the sessions, or end one
#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    what: SessionsCommand,
    #[command(flatten)]
    connection: OperatorConnection,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// All, or of one charging point, driver or state
    List {
        #[command(flatten)]
        of: WhoseArgs,
        /// Only those in this state
        #[arg(long, value_parser = state)]
        state: Option<SessionState>,
    },
    /// Everything about one
    Get { id: String },
    /// The open ones, then every change as it happens
    Watch {
        #[command(flatten)]
        of: WhoseArgs,
    },
    /// End a running supply, or release a reservation
    End {
        id: String,
        #[command(flatten)]
        request: RequestArgs,
    },
}

/// Whose.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct WhoseArgs {
    /// Only those at this charging point
    #[arg(long, value_name = "CP-ID", default_value = "")]
    pub(crate) charging_point: String,
    /// Only those of this driver
    #[arg(long, value_name = "ID", default_value = "")]
    pub(crate) driver: String,
}

fn state(text: &str) -> Result<SessionState, String> {
    let name = format!("SESSION_STATE_{}", text.to_ascii_uppercase());
    SessionState::from_str_name(&name)
        .filter(|s| *s != SessionState::Unspecified)
        .ok_or_else(|| format!("{text:?} is no state: reserved, supplying, settling, billed or released"))
}

impl SessionsArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let output = self.output;
        match self.what {
            SessionsCommand::List { of, state } => {
                let all = list(&self.connection, of, state).await?;
                output.list(&api_messages(all))
            }
            SessionsCommand::Get { id } => {
                let mut client = self.connection.sessions()?;
                let found = client.get(GetSessionRequest { id }).await.map_err(|s| of_status(&s))?.into_inner();
                output.one(&ApiMessage(found))
            }
            SessionsCommand::Watch { of } => watch(&self.connection, of, output).await,
            SessionsCommand::End { id, request } => {
                let call = request.announce(&self.connection, AskedRole::Central)?;
                let request = EndSessionRequest { request_id: call.id(), session_id: id };
                output.one(&ApiMessage(call.answered(self.connection.sessions()?.end(request).await)?))
            }
        }
    }
}

/// All pages.
pub(crate) async fn list(
    connection: &OperatorConnection,
    of: WhoseArgs,
    state: Option<SessionState>,
) -> anyhow::Result<Vec<Session>> {
    let mut client = connection.sessions()?;
    let mut request = ListSessionsRequest {
        charging_point_id: of.charging_point,
        driver_id: of.driver,
        state: state.unwrap_or_default().into(),
        page_size: 1000,
        page_token: String::new(),
    };
    let mut all = Vec::new();
    loop {
        let page = client.list(request.clone()).await.map_err(|s| of_status(&s))?.into_inner();
        all.extend(page.sessions);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

async fn watch(connection: &OperatorConnection, of: WhoseArgs, output: Output) -> anyhow::Result<()> {
    let mut client = connection.sessions()?;
    let request = WatchSessionsRequest { charging_point_id: of.charging_point, driver_id: of.driver };
    let mut changes = client.watch(request).await.map_err(|s| of_status(&s))?.into_inner();
    while let Some(step) = changes.message().await.map_err(|s| of_status(&s))? {
        let SessionEvent { event } = &step;
        let said = match event {
            Some(Event::Changed(changed)) => one_line(&ApiMessage(changed.clone())),
            Some(Event::Synchronised(_)) => "-- that is all; changes follow".to_owned(),
            Some(Event::Restarted(_)) => "-- anew".to_owned(),
            None => continue,
        };
        output.sentence(&said, &ApiMessage(step))?;
    }
    anyhow::bail!("Central ended the stream; run it again")
}

/// Sessions, energy and money per charging point or per driver
#[derive(Debug, Args)]
#[command(after_help = "Example:
  chargemesh statistics --by driver --since 7d")]
pub(crate) struct StatisticsArgs {
    /// StatisticsGroup what
    #[arg(long, value_enum, default_value_t)]
    by: StatisticsGroup,
    /// Only tickets that ended from then on: a time ago (7d) or a UTC time
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<i64>,
    /// Only tickets that ended before
    #[arg(long, value_name = "TIME", value_parser = since)]
    until: Option<i64>,
    #[command(flatten)]
    connection: OperatorConnection,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum StatisticsGroup {
    #[default]
    ChargingPoint,
    Driver,
}

impl StatisticsArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let by = match self.by {
            StatisticsGroup::ChargingPoint => By::ChargingPoint,
            StatisticsGroup::Driver => By::Driver,
        };
        let mut request = StatisticsRequest {
            by: by.into(),
            from_time: self.since.and_then(timestamp),
            until_time: self.until.and_then(timestamp),
            ..StatisticsRequest::default()
        };
        let mut client = self.connection.sessions()?;
        let mut all = Vec::new();
        loop {
            let page = client.statistics(request.clone()).await.map_err(|s| of_status(&s))?.into_inner();
            all.extend(page.statistics);
            if page.next_page_token.is_empty() {
                return self.output.list(&api_messages(all));
            }
            request.page_token = page.next_page_token;
        }
    }
}
