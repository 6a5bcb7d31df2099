//! Opens Registry's database, observes it, and checks that it belongs to the configured secret.

use std::{sync::Arc, time::Duration};

use mesh::{
    awaited::Awaited,
    health::Component,
    process::{Context, Misuse},
};
use prometheus_client::metrics::{family::Family, histogram::Histogram};
use store::{Abort, Conn, Database, Observer, OpenDatabaseError, TransactionOutcome, registry::claim_secret};
use zeroize::Zeroizing;

use crate::{Config, RegistryServices, credential::SecretIssuer, error::Error, secret};

const CANNOT_BE_USED: &str = "the database cannot be used now; enrolments and orders are refused";

/// Waits until the database is reachable and migrated; `None` if the process stops first.
///
/// # Errors
/// If waiting cannot help.
pub(crate) async fn open(
    ctx: &Context,
    config: &Config,
    awaited: &Awaited<RegistryServices>,
) -> anyhow::Result<Option<Database>> {
    let watch = Arc::new(DatabaseObserver::new(ctx, ctx.health.component("database")));
    let open = async || {
        let database = Database::open_observed(&config.database_url(), store::registry::SCHEMA, watch.clone()).await?;
        if !config.allow_fsync_off {
            database.require_fsync().await?;
        }
        Ok(database)
    };
    let passes = |error: &OpenDatabaseError| error.is_transient() || matches!(error, OpenDatabaseError::TooOld { .. });
    Ok(awaited.opened(&ctx.stop, open, passes).await?)
}

/// Asks the database again and again, so that one that hangs is noticed while nobody uses it (SPEC 9.0). That it answers
/// again is noticed by its observer.
pub(crate) fn watch(ctx: &Context, database: Database) {
    let (component, stop) = (ctx.health.component("database"), ctx.stop.clone());
    ctx.spawn("database", async move {
        while stop.run_until_cancelled(tokio::time::sleep(store::PROBE_EVERY)).await.is_some() {
            if database.probe().await.is_err() {
                component.degraded(CANNOT_BE_USED);
            }
        }
        Ok(())
    });
}

/// Reads or creates the secret file and checks it against the fingerprint in this database.
///
/// # Errors
/// If the database belongs to another secret: every credential would be refused without a visible reason.
pub(crate) async fn secret_issuer(database: &Database, config: &Config) -> anyhow::Result<SecretIssuer> {
    let path = config.secret_file.clone().unwrap_or_else(|| config.data.join("secret"));
    let text =
        secret::read_or_make(&path, || Zeroizing::new(hex::encode(crate::identity_service::random::<32>()) + "\n"))?;
    let secret_issuer = SecretIssuer::new(&*secret::bytes(&path, &text)?);
    let fingerprint = hex::encode(secret_issuer.digest(&[b"fingerprint"]));
    let fresh = fingerprint.clone();
    let claim = move |conn: &mut Conn| Ok::<_, Abort<Error>>(claim_secret(conn, &fresh)?);
    let known = database.transaction("secret", claim).await?.unwrap_or_default();
    if known != fingerprint {
        let text = format!(
            "the secret in {} is not the one from which the credentials in this database were derived; put that one back",
            path.display()
        );
        return Err(Misuse::new(text).into());
    }
    Ok(secret_issuer)
}

/// Turns what the store reports into metrics and health.
struct DatabaseObserver {
    seconds: Family<[(&'static str, &'static str); 2], Histogram>,
    component: Component,
}

impl DatabaseObserver {
    fn new(ctx: &Context, component: Component) -> Self {
        let seconds = Family::new_with_constructor(mesh::metrics::seconds as fn() -> Histogram);
        let seconds = ctx.metrics.register("store_transaction_seconds", "Transactions by name and outcome", seconds);
        Self { seconds, component }
    }
}

impl Observer for DatabaseObserver {
    fn transaction(&self, name: &'static str, outcome: TransactionOutcome, took: Duration) {
        let outcome = match outcome {
            TransactionOutcome::Committed => "committed",
            TransactionOutcome::Refused => "refused",
            TransactionOutcome::Retried => "retried",
            TransactionOutcome::Failed => "failed",
        };
        self.seconds.get_or_create(&[("name", name), ("outcome", outcome)]).observe(took.as_secs_f64());
        if outcome == "failed" {
            self.component.degraded(CANNOT_BE_USED);
        } else {
            self.component.ready();
        }
    }

    fn group(&self, _: usize, _: Duration) {}
}
