//! An operator's orders to Central and Registry, one after another, whatever is killed meanwhile: each is asked for with
//! its request id until it is answered, and what was answered is remembered.

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
    operator::{Operator, fresh_id, select},
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Between two orders, so that they do not crowd out the load.
const PAUSE: Duration = Duration::from_millis(15);
/// Uses of the one token with which all are enrolled.
const USES: u32 = 100_000;

/// What can be seen from outside of a service's commits: each of these orders is one.
#[derive(Debug, Default)]
pub(crate) struct OrderProgress {
    over: AtomicBool,
    answered: AtomicUsize,
    /// Sent since the last answer, and not answered.
    outstanding: AtomicBool,
    /// Why nothing is ordered any more.
    failed: OnceLock<String>,
}

impl OrderProgress {
    /// Until it has answered once more, so that it lives, and an order is outstanding at it.
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

    /// What was ordered, once there is no more.
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

    /// Asks again and again until an answer comes. A refusal is one where it is not about the present moment.
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

/// Of a service that is being killed.
fn passes(status: &tonic::Status) -> bool {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown};
    matches!(
        status.code(),
        Aborted | Cancelled | DeadlineExceeded | Internal | ResourceExhausted | Unavailable | Unknown
    )
}

/// PriceOrders, which change nothing that runs, set at Central.
pub(crate) struct PriceOrders {
    pub(crate) seen: Arc<OrderProgress>,
    task: JoinHandle<anyhow::Result<Vec<u32>>>,
}

impl PriceOrders {
    pub(crate) fn start(operator: &Operator, id: &'static str) -> Self {
        let (seen, operator) = (Arc::new(OrderProgress::default()), operator.clone());
        let going = Arc::clone(&seen);
        let orders = async move {
            let mut set = Vec::new();
            for price_e4 in 4_000.. {
                if going.is_over() {
                    break;
                }
                let selector = Some(select(&[id]));
                let request = SetPriceRequest { request_id: fresh_id(), selector, price_e4, ..Default::default() };
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

    /// Each that was answered is in the audit, once; none is that was not asked for.
    pub(crate) async fn check(self, operator: &Operator, id: &str) -> anyhow::Result<usize> {
        let set = self.task.await??;
        let shown = operator.charging_point(id).await?.view.context("no view")?.price_e4;
        ensure!(Some(&shown) == set.last(), "the price is {shown}, last set to {:?}", set.last());
        let mut audited: Vec<u32> = Vec::new();
        for entry in super::all_audited(operator, "PRICE_SET").await? {
            let parameters: serde_json::Value = serde_json::from_str(&entry.parameters)?;
            let price: Price = parameters["price"].as_str().context("no price")?.parse()?;
            audited.push(price.e4());
        }
        audited.sort_unstable();
        ensure!(audited == set, "set {set:?}, audited {audited:?}");
        Ok(set.len())
    }
}

/// Drivers enrolled at Registry with one token, every other one removed again.
pub(crate) struct EnrolmentOrders {
    pub(crate) seen: Arc<OrderProgress>,
    token_id: String,
    task: JoinHandle<anyhow::Result<Vec<(String, IdentityState)>>>,
}

impl EnrolmentOrders {
    pub(crate) async fn start(operator: &Operator) -> anyhow::Result<Self> {
        let request = CreateTokenRequest {
            request_id: fresh_id(),
            kind: Kind::Driver.into(),
            uses: USES,
            id_pattern: "extra-*".into(),
            ..Default::default()
        };
        let token = operator.identities.clone().create_token(request).await?.into_inner();
        let (seen, operator, secret) = (Arc::new(OrderProgress::default()), operator.clone(), token.token);
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

    /// What was answered is there, once: each id in its state, each enrolment one use of the token and one entry.
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
        let tokens = operator.identities.clone().list_tokens(ListTokensRequest {}).await?.into_inner().tokens;
        let token = tokens.iter().find(|token| token.token_id == self.token_id).context("the token is gone")?;
        let used = usize::try_from(USES - token.uses_left)?;
        ensure!(used == wanted.len(), "{used} uses of the token, {} enrolled", wanted.len());
        Ok(wanted.len())
    }
}

async fn one(
    seen: &OrderProgress,
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
