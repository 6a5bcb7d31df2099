//! Registry's database: waited for, watched, and held to its secret.

use std::{sync::Arc, time::Duration};

use mesh::{
    awaited::Awaited,
    health::Component,
    process::{Context, Misuse},
};
use prometheus_client::metrics::{family::Family, histogram::Histogram};
use store::{Abort, Conn, Database, Observer, OpenDatabaseError, TransactionOutcome, registry::claim_secret};
use zeroize::Zeroizing;

use crate::{Behind, Config, credential::Mint, refusal::Refusal, secret};

/// Opens it as soon as it is there and migrated; nothing where the process stops before.
///
/// # Errors
/// Where waiting cannot help.
pub(crate) async fn open(ctx: &Context, url: &str, awaited: &Awaited<Behind>) -> anyhow::Result<Option<Database>> {
    let watch = Arc::new(Watch::new(ctx, ctx.health.component("database")));
    let open = || Database::open_observed(url, store::registry::SCHEMA, watch.clone());
    let passes = |error: &OpenDatabaseError| error.is_transient() || matches!(error, OpenDatabaseError::TooOld { .. });
    Ok(awaited.opened(&ctx.stop, open, passes).await?)
}

/// The secret of the configured file, if it is the one that this database knows.
///
/// # Errors
/// Where it is another: every credential would be refused, and nobody would know why.
pub(crate) async fn mint(database: &Database, config: &Config) -> anyhow::Result<Mint> {
    let path = config.secret_file.clone().unwrap_or_else(|| config.data.join("secret"));
    let text = secret::read_or_make(&path, || Zeroizing::new(hex::encode(crate::authority::random::<32>()) + "\n"))?;
    let mint = Mint::new(&*secret::bytes(&path, &text)?);
    let fingerprint = hex::encode(mint.digest(&[b"fingerprint"]));
    let fresh = fingerprint.clone();
    let claim = move |conn: &mut Conn| Ok::<_, Abort<Refusal>>(claim_secret(conn, &fresh)?);
    let known = database.transaction("secret", claim).await?.unwrap_or_default();
    if known != fingerprint {
        let text = format!(
            "the secret in {} is not the one that the credentials in this database were made with; put that one back",
            path.display()
        );
        return Err(Misuse::new(text).into());
    }
    Ok(mint)
}

/// Turns what the store tells into metrics and health.
struct Watch {
    seconds: Family<[(&'static str, &'static str); 2], Histogram>,
    component: Component,
}

impl Watch {
    fn new(ctx: &Context, component: Component) -> Self {
        let seconds = Family::new_with_constructor(mesh::metrics::seconds as fn() -> Histogram);
        let seconds = ctx.metrics.register("store_transaction_seconds", "Transactions by name and outcome", seconds);
        Self { seconds, component }
    }
}

impl Observer for Watch {
    fn transaction(&self, name: &'static str, outcome: TransactionOutcome, took: Duration) {
        let outcome = match outcome {
            TransactionOutcome::Committed => "committed",
            TransactionOutcome::Refused => "refused",
            TransactionOutcome::Retried => "retried",
            TransactionOutcome::Failed => "failed",
        };
        self.seconds.get_or_create(&[("name", name), ("outcome", outcome)]).observe(took.as_secs_f64());
        if outcome == "failed" {
            self.component.degraded("the database cannot be used now; enrolment and orders are refused");
        } else {
            self.component.ready();
        }
    }

    fn group(&self, _: usize, _: Duration) {}
}
