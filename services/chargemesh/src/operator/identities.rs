//! `chargemesh identities`, `tokens` and `operators`: what Registry keeps.

mod enrol;

use clap::{Args, Subcommand, ValueEnum};
use proto::registry::v1::{
    AddOperatorRequest, CreateTokenRequest, Identity, Kind, ListIdentitiesRequest, ListOperatorsRequest,
    ListTokensRequest, OperatorRole, PinsRequest, ReadmitRequest, ReissueRequest, RemoveOperatorRequest,
    RemoveOperatorResponse, RemoveRequest, RevokeTokenRequest, TokenCreated,
};

use super::{
    api_message::{ApiMessage, api_messages, at},
    connection::{AskedRole, OperatorConnection},
    order_call::RequestArgs,
};
use crate::{
    failure::of_status,
    output::{Output, note},
};

/// IdentitiesCommand can be enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    ChargingPoint,
    Driver,
}

/// Every kind.
const BOTH: [Kind; 2] = [Kind::ChargingPoint, Kind::Driver];

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::ChargingPoint => Self::ChargingPoint,
            KindArg::Driver => Self::Driver,
        }
    }
}

/// See, enrol and remove charging points and drivers
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  chargemesh identities list
  chargemesh identities enrol charging-point CP-01 --city Valencia --price 0.3950 --credential-file cp-01.credential
  chargemesh identities remove driver ann
  chargemesh identities reissue charging-point CP-01")]
pub(crate) struct IdentitiesArgs {
    #[command(subcommand)]
    what: IdentitiesCommand,
    #[command(flatten)]
    connection: OperatorConnection,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum IdentitiesCommand {
    /// Charging points and drivers, removed ones included
    List {
        /// Only these
        #[arg(long, value_enum)]
        kind: Option<KindArg>,
    },
    /// Enrol an id without a token; the credential is shown once
    Enrol(enrol::Enrol),
    /// Void the credential and end the link at once
    Remove {
        #[arg(value_enum)]
        kind: KindArg,
        id: String,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// Print a one-use token with which an enrolled id gets a new credential
    Reissue {
        #[arg(value_enum)]
        kind: KindArg,
        id: String,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// Let a removed id be enrolled again
    Readmit {
        #[arg(value_enum)]
        kind: KindArg,
        id: String,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// Central's static public keys, as enrolment hands them out
    Pins,
}

impl IdentitiesArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut client = self.connection.identities()?;
        let output = self.output;
        match self.what {
            IdentitiesCommand::List { kind } => {
                let all = list(&self.connection, kind.map_or(Kind::Unspecified, Kind::from)).await?;
                output.list(&api_messages(all))
            }
            IdentitiesCommand::Enrol(enrol) => enrol.run(&self.connection, output).await,
            IdentitiesCommand::Remove { kind, id, request } => {
                let call = request.announce(&self.connection, AskedRole::Registry)?;
                let request = RemoveRequest { request_id: call.id(), kind: Kind::from(kind).into(), id: id.clone() };
                let removed = call.answered(client.remove(request).await)?;
                let how = if removed.changed { "is removed" } else { "was removed before" };
                output.sentence(&format!("{id} {how}"), &ApiMessage(removed))
            }
            IdentitiesCommand::Reissue { kind, id, request } => {
                let call = request.announce(&self.connection, AskedRole::Registry)?;
                let request = ReissueRequest { request_id: call.id(), kind: Kind::from(kind).into(), id };
                show_token(&call.answered(client.reissue(request).await)?, output)
            }
            IdentitiesCommand::Readmit { kind, id, request } => {
                let call = request.announce(&self.connection, AskedRole::Registry)?;
                let request = ReadmitRequest { request_id: call.id(), kind: Kind::from(kind).into(), id: id.clone() };
                let readmitted = call.answered(client.readmit(request).await)?;
                let how = if readmitted.changed { "again" } else { "already" };
                output.sentence(&format!("{id} may be enrolled {how}"), &ApiMessage(readmitted))
            }
            IdentitiesCommand::Pins => {
                let answer = client.pins(PinsRequest {}).await.map_err(|s| of_status(&s))?.into_inner();
                let pins: Vec<String> = answer.pins.iter().map(hex::encode).collect();
                output.sentence(&pins.join("\n"), &ApiMessage(answer))
            }
        }
    }
}

/// All pages.
pub(crate) async fn list(connection: &OperatorConnection, kind: Kind) -> anyhow::Result<Vec<Identity>> {
    let mut client = connection.identities()?;
    let mut request = ListIdentitiesRequest { kind: kind.into(), page_size: 1000, page_token: String::new() };
    let mut all = Vec::new();
    loop {
        let page = client.list(request.clone()).await.map_err(|s| of_status(&s))?.into_inner();
        all.extend(page.identities);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

fn show_token(created: &TokenCreated, output: Output) -> anyhow::Result<()> {
    let until = at(created.expire_time.as_ref());
    note(&format!("token {}, shown once, good until {until}:", created.token_id));
    output.sentence(&created.token, &ApiMessage(created.clone()))
}

/// Make, see and revoke enrolment tokens
#[derive(Debug, Args)]
#[command(after_help = "Example: one token for twenty charging points of a city
  chargemesh tokens create --kind charging-point --ids 'VLC-*' --city Valencia --uses 20 --lifetime 2h")]
pub(crate) struct TokensArgs {
    #[command(subcommand)]
    what: TokensCommand,
    #[command(flatten)]
    connection: OperatorConnection,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum TokensCommand {
    /// Print a new token; it is shown once
    Create {
        /// Only for these; both if not given
        #[arg(long, value_enum)]
        kind: Option<KindArg>,
        /// Only for ids like this; * stands for any run of characters
        #[arg(long, value_name = "PATTERN", default_value = "*", value_parser = pattern)]
        ids: String,
        /// Only for this city
        #[arg(long, default_value = "")]
        city: String,
        /// How many can enrol with it
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = uses)]
        uses: u32,
        /// How long it is good
        #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = mesh::duration::parse_seconds)]
        lifetime: std::time::Duration,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// All, without their secrets
    List,
    /// Nobody can enrol with it any more
    Revoke {
        token_id: String,
        #[command(flatten)]
        request: RequestArgs,
    },
}

fn uses(text: &str) -> Result<u32, String> {
    let most = u32::MAX;
    text.parse().ok().filter(|uses| *uses > 0).ok_or_else(|| format!("it is a number from 1 to {most}"))
}

fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it would fit no id; * fits every one".to_owned());
    }
    Ok(text.to_owned())
}

impl TokensArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut client = self.connection.identities()?;
        let output = self.output;
        match self.what {
            TokensCommand::Create { kind, ids, city, uses, lifetime, request } => {
                let call = request.announce(&self.connection, AskedRole::Registry)?;
                let request = CreateTokenRequest {
                    request_id: call.id(),
                    kinds: kind.map_or(BOTH.to_vec(), |kind| vec![kind.into()]).into_iter().map(i32::from).collect(),
                    id_pattern: ids,
                    city,
                    uses: Some(uses),
                    lifetime: proto::Duration::try_from(lifetime).ok(),
                };
                show_token(&call.answered(client.create_token(request).await)?, output)
            }
            TokensCommand::List => {
                let (mut request, mut all) = (ListTokensRequest::default(), Vec::new());
                loop {
                    let page = client.list_tokens(request.clone()).await.map_err(|s| of_status(&s))?.into_inner();
                    all.extend(page.tokens);
                    if page.next_page_token.is_empty() {
                        return output.list(&api_messages(all));
                    }
                    request.page_token = page.next_page_token;
                }
            }
            TokensCommand::Revoke { token_id, request } => {
                let call = request.announce(&self.connection, AskedRole::Registry)?;
                let request = RevokeTokenRequest { request_id: call.id(), token_id: token_id.clone() };
                let revoked = call.answered(client.revoke_token(request).await)?;
                let how = if revoked.changed { "is revoked" } else { "was revoked before" };
                output.sentence(&format!("{token_id} {how}"), &ApiMessage(revoked))
            }
        }
    }
}

/// See, add and remove operators and viewers
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  chargemesh operators add ann
  chargemesh operators remove bob")]
pub(crate) struct OperatorsArgs {
    #[command(subcommand)]
    what: OperatorsCommand,
    #[command(flatten)]
    connection: OperatorConnection,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArg {
    Viewer,
    Operator,
}

#[derive(Debug, Subcommand)]
enum OperatorsCommand {
    /// All of them
    List,
    /// Let this name operate or look; his certificate is made by `chargemesh certs issue`
    Add {
        name: String,
        #[arg(long, value_enum, default_value = "operator")]
        role: RoleArg,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// Refused at once everywhere, whatever his certificate says
    Remove {
        name: String,
        /// Also oneself, and the last operator
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        request: RequestArgs,
    },
}

impl OperatorsArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let output = self.output;
        let mut client = self.connection.operators()?;
        match self.what {
            OperatorsCommand::List => {
                let (mut request, mut all) = (ListOperatorsRequest::default(), Vec::new());
                loop {
                    let page = client.list(request.clone()).await.map_err(|s| of_status(&s))?.into_inner();
                    all.extend(page.operators);
                    if page.next_page_token.is_empty() {
                        return output.list(&api_messages(all));
                    }
                    request.page_token = page.next_page_token;
                }
            }
            OperatorsCommand::Add { name, role, request } => {
                let call = request.announce(&self.connection, AskedRole::Registry)?;
                let request = AddOperatorRequest { request_id: call.id(), name, role: OperatorRole::from(role).into() };
                output.one(&ApiMessage(call.answered(client.add(request).await)?))
            }
            OperatorsCommand::Remove { name, force, request } => {
                let call = request.announce(&self.connection, AskedRole::Registry)?;
                let request = RemoveOperatorRequest { request_id: call.id(), name: name.clone(), force };
                let removed = call.answered(client.remove(request).await)?;
                output.sentence(&removal(&name, removed), &ApiMessage(removed))
            }
        }
    }
}

fn removal(name: &str, removed: RemoveOperatorResponse) -> String {
    match (removed.unknown, removed.changed) {
        (true, _) => format!("there was no operator {name}; the name is blocked from now on"),
        (false, true) => format!("{name} is removed"),
        (false, false) => format!("{name} was removed before"),
    }
}

impl From<RoleArg> for OperatorRole {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_name_nobody_had_added_is_said_to_be_blocked_spec_7_3() {
        let said = |changed, unknown| removal("bob", RemoveOperatorResponse { changed, unknown });
        assert_eq!(said(true, false), "bob is removed");
        assert_eq!(said(false, false), "bob was removed before");
        assert_eq!(said(true, true), "there was no operator bob; the name is blocked from now on");
    }

    #[test]
    fn a_token_that_nobody_could_use_is_not_made_spec_7_4() {
        assert_eq!((uses("1"), uses("20")), (Ok(1), Ok(20)));
        for bad in ["0", "-1", "many", "4294967296"] {
            assert!(uses(bad).unwrap_err().contains("from 1 to"), "{bad}");
        }
        assert!(pattern("").unwrap_err().contains("* fits every one"));
        assert_eq!(pattern("VLC-*"), Ok("VLC-*".to_owned()));
    }
}
