//! An operator's orders to Central and Registry while processes are killed: each is repeated with its request id until it
//! is answered, and the answers are compared with the final state.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use proto::{
    Price,
    central::v1::SetPriceRequest,
    registry::v1::{
        CreateTokenRequest, EnrolRequest, IdentityState, Kind, ListIdentitiesRequest, ListTokensRequest, RemoveRequest,
    },
};
use testbed::{
    network::PATIENCE,
    operator::{Operator, any_token, fresh_id, parameters, select},
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

/// The pause between two orders, so that they do not displace the load.
const PAUSE: Duration = Duration::from_millis(15);
/// Uses of the token with which all drivers are enrolled.
const USES: u32 = 100_000;

/// The progress of orders at one service; each order is one commit of the service.
#[derive(Debug, Default)]
pub(crate) struct OutstandingOrders {
    over: AtomicBool,
    answered: AtomicUsize,
    /// Whether an order has been sent and not been answered.
    outstanding: AtomicBool,
    /// Why no further order is sent.
    failed: OnceLock<String>,
}

impl OutstandingOrders {
    /// Waits until the service has answered once more, so that it is alive, and the next order is outstanding.
    pub(crate) async fn until_outstanding(&self) -> anyhow::Result<()> {
        let answered = self.answered.load(SeqCst);
        let soon = async {
            while self.answered.load(SeqCst) == answered || !self.is_outstanding() {
                ensure!(self.failed.get().is_none(), "{:?}", self.failed);
                sleep(Duration::from_micros(200)).await;
            }
            Ok(())
        };
        timeout(PATIENCE, soon).await.context("no order was answered any more")?
    }

    pub(crate) fn is_outstanding(&self) -> bool {
        self.outstanding.load(SeqCst)
    }

    pub(crate) fn end(&self) {
        self.over.store(true, SeqCst);
    }

    /// Runs the orders and keeps why they failed.
    async fn noting<T>(self: Arc<Self>, orders: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let ordered = orders.await;
        if let Err(error) = &ordered {
            let _first = self.failed.set(format!("{error:#}"));
        }
        ordered
    }

    fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Repeats the call until it is answered. A refusal counts as an answer unless it may pass by itself.
    async fn ask<T, F>(&self, order: impl Fn() -> F) -> Result<T, tonic::Status>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        loop {
            self.outstanding.store(true, SeqCst);
            let answer = order().await;
            self.outstanding.store(false, SeqCst);
            match answer {
                Ok(answer) => {
                    self.answered.fetch_add(1, SeqCst);
                    return Ok(answer.into_inner());
                }
                Err(status) if passes(&status) => sleep(PAUSE).await,
                Err(status) => return Err(status),
            }
        }
    }
}

/// Errors of a service that is being killed.
fn passes(status: &tonic::Status) -> bool {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown};
    matches!(
        status.code(),
        Aborted | Cancelled | DeadlineExceeded | Internal | ResourceExhausted | Unavailable | Unknown
    )
}

/// Sets prices at Central, which do not change running supplies.
pub(crate) struct PriceOrders {
    pub(crate) seen: Arc<OutstandingOrders>,
    task: JoinHandle<anyhow::Result<Vec<u32>>>,
}

impl PriceOrders {
    pub(crate) fn start(operator: &Operator, id: &'static str) -> Self {
        let (seen, operator) = (Arc::new(OutstandingOrders::default()), operator.clone());
        let going = Arc::clone(&seen);
        let orders = async move {
            let mut set = Vec::new();
            for price_e4 in 4_000.. {
                if going.is_over() {
                    break;
                }
                let selector = Some(select(&[id]));
                let request = SetPriceRequest {
                    request_id: fresh_id(),
                    selector,
                    price_e4: Some(price_e4),
                    ..Default::default()
                };
                let order = || {
                    let (mut client, request) = (operator.charging_points.clone(), request.clone());
                    async move { client.set_price(request).await }
                };
                let done = going.ask(order).await.with_context(|| format!("price {price_e4}"))?;
                ensure!(done.done + done.unchanged == 1, "{done:?}");
                set.push(price_e4);
                sleep(PAUSE).await;
            }
            anyhow::Ok(set)
        };
        let task = tokio::spawn(Arc::clone(&seen).noting(orders));
        Self { seen, task }
    }

    /// Checks that each answered order is in the audit once, and no other.
    pub(crate) async fn check(self, operator: &Operator, id: &str) -> anyhow::Result<usize> {
        let set = self.task.await??;
        let shown = operator.charging_point(id).await?.price_e4;
        ensure!(Some(&shown) == set.last(), "the price is {shown}, last set to {:?}", set.last());
        let mut audited: Vec<u32> = Vec::new();
        for entry in super::all_audited(operator, "PRICE_SET").await? {
            let parameters: serde_json::Value = parameters(&entry);
            let price: Price = parameters["price"].as_str().context("no price")?.parse()?;
            audited.push(price.e4());
        }
        audited.sort_unstable();
        ensure!(audited == set, "set {set:?}, audited {audited:?}");
        Ok(set.len())
    }
}

/// Enrols drivers at Registry with one token, and removes every other one.
pub(crate) struct EnrolmentOrders {
    pub(crate) seen: Arc<OutstandingOrders>,
    token_id: String,
    task: JoinHandle<anyhow::Result<Vec<(String, IdentityState)>>>,
}

impl EnrolmentOrders {
    pub(crate) async fn start(operator: &Operator) -> anyhow::Result<Self> {
        let request = CreateTokenRequest {
            kinds: vec![Kind::Driver.into()],
            uses: Some(USES),
            id_pattern: "extra-*".into(),
            ..any_token()
        };
        let token = operator.identities.clone().create_token(request).await?.into_inner();
        let (seen, operator, secret) = (Arc::new(OutstandingOrders::default()), operator.clone(), token.token);
        let going = Arc::clone(&seen);
        let orders = async move {
            let mut all = Vec::new();
            for number in 0.. {
                if going.is_over() {
                    break;
                }
                let id = format!("extra-{number}");
                all.push((id.clone(), one(&going, &operator, &secret, &id, number % 2 == 1).await?));
                sleep(PAUSE).await;
            }
            anyhow::Ok(all)
        };
        let task = tokio::spawn(Arc::clone(&seen).noting(orders));
        Ok(Self { seen, token_id: token.token_id, task })
    }

    /// Checks that each id is in the answered state, and that the token was used once for each enrolment.
    pub(crate) async fn check(self, operator: &Operator) -> anyhow::Result<usize> {
        let mut wanted = self.task.await??;
        wanted.sort_unstable();
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListIdentitiesRequest { kind: Kind::Driver.into(), page_size: 1000, page_token };
            let page = operator.identities.clone().list(request).await?.into_inner();
            for identity in page.identities.iter().filter(|identity| identity.id.starts_with("extra-")) {
                ensure!(identity.incarnation == 1, "enrolled more than once: {identity:?}");
                found.push((identity.id.clone(), identity.state()));
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        found.sort_unstable();
        ensure!(found == wanted, "answered {wanted:?}, found {found:?}");
        let tokens = operator.identities.clone().list_tokens(ListTokensRequest::default()).await?.into_inner().tokens;
        let token = tokens.iter().find(|token| token.token_id == self.token_id).context("the token is gone")?;
        let used = usize::try_from(USES - token.uses_left)?;
        ensure!(used == wanted.len(), "{used} uses of the token, {} enrolled", wanted.len());
        Ok(wanted.len())
    }
}

async fn one(
    seen: &OutstandingOrders,
    operator: &Operator,
    token: &str,
    id: &str,
    removed: bool,
) -> anyhow::Result<IdentityState> {
    let (request_id, token, kind) = (fresh_id(), token.to_owned(), Kind::Driver.into());
    let request = EnrolRequest { request_id, token, kind, id: id.to_owned(), ..Default::default() };
    let order = || {
        let (mut client, request) = (operator.identities.clone(), request.clone());
        async move { client.enrol(request).await }
    };
    let enrolled = seen.ask(order).await.with_context(|| format!("enrol {id}"))?;
    ensure!(enrolled.credential.starts_with("cmc1."), "no credential: {enrolled:?}");
    if !removed {
        return Ok(IdentityState::Enrolled);
    }
    let request = RemoveRequest { request_id: fresh_id(), kind, id: id.to_owned() };
    let order = || {
        let (mut client, request) = (operator.identities.clone(), request.clone());
        async move { client.remove(request).await }
    };
    let gone = seen.ask(order).await.with_context(|| format!("remove {id}"))?;
    ensure!(gone.changed, "the first answer again, though it was asked for again: {id}");
    Ok(IdentityState::Removed)
}
