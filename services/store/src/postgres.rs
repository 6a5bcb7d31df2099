//! PostgreSQL without libpq: tokio-postgres under diesel_async, used as a synchronous connection.
//!
//! Each connection owns a small runtime that runs on the thread that uses the connection. So a statement needs no hop
//! between threads, and the same diesel code serves both back ends.

use std::{cell::RefCell, future::Future, path::Path, sync::Arc};

use diesel::connection::SimpleConnection as _;
use diesel_async::{
    AsyncPgConnection,
    async_connection_wrapper::{AsyncConnectionWrapper, BlockOn},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

use crate::{
    OpenDatabaseError, StoreError,
    address::{Address, PostgresAddress, chain},
};

pub(crate) type PgConnection = AsyncConnectionWrapper<AsyncPgConnection, OwnRuntime>;

/// The runtime on which one connection lives.
pub(crate) struct OwnRuntime(Option<Runtime>);

thread_local! {
    // The wrapper asks its `BlockOn` type for a runtime without passing one, but a connection's socket is bound to the
    // runtime it was opened on. `connect` leaves that runtime here for the next line, which wraps the connection.
    static OPENED_ON: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

impl BlockOn for OwnRuntime {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.as_ref().expect("it is taken when the connection is dropped, and never before").block_on(future)
    }

    fn get_runtime() -> Self {
        Self(OPENED_ON.with_borrow_mut(Option::take))
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        // Dropping a runtime waits for its tasks, which panics on an async worker.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn connect(address: &PostgresAddress) -> Result<PgConnection, StoreError> {
    let unavailable = |error: &dyn std::error::Error| StoreError::Unavailable(chain(error));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| unavailable(&error))?;
    let inner = runtime.block_on(async {
        match &address.roots {
            Some(roots) => {
                let tls = client_config(roots, address.identity.as_ref())?;
                let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls);
                let (client, conn) = address.config.connect(tls).await.map_err(|error| unavailable(&error))?;
                AsyncPgConnection::try_from_client_and_connection(client, conn).await.map_err(|e| unavailable(&e))
            }
            None => {
                let (client, conn) = address.config.connect(NoTls).await.map_err(|error| unavailable(&error))?;
                AsyncPgConnection::try_from_client_and_connection(client, conn).await.map_err(|e| unavailable(&e))
            }
        }
    })?;
    OPENED_ON.set(Some(runtime));
    let mut conn = PgConnection::from(inner);
    // A commit must be flushed whatever the server's default is, and nothing may wait for a lock or a query for ever.
    conn.batch_execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
         SET lock_timeout = '5s'; SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '60s'",
    )?;
    Ok(conn)
}

/// Checks the TLS files that the address names before the first connection: a missing file on this host is an error, not
/// a reason to wait for the server.
pub(crate) fn check_files(address: &Address) -> Result<(), OpenDatabaseError> {
    let Address::Postgres(address) = address else { return Ok(()) };
    let Some(roots) = &address.roots else { return Ok(()) };
    client_config(roots, address.identity.as_ref()).map(drop).map_err(|error| match error {
        StoreError::Unavailable(why) | StoreError::Contended(why) | StoreError::Rejected(why) => {
            OpenDatabaseError::File(why)
        }
    })
}

fn client_config(
    roots: &Path,
    identity: Option<&(std::path::PathBuf, std::path::PathBuf)>,
) -> Result<ClientConfig, StoreError> {
    let bad = |file: &Path, why: String| StoreError::Unavailable(format!("cannot use {}: {why}", file.display()));
    let mut store = RootCertStore::empty();
    for certificate in certificates(roots)? {
        store.add(certificate).map_err(|error| bad(roots, error.to_string()))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Rejected(error.to_string()))?
        .with_root_certificates(store);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error.to_string()))?;
            builder.with_client_auth_cert(certificates(cert)?, private).map_err(|error| bad(cert, error.to_string()))
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let bad = |why: String| StoreError::Unavailable(format!("cannot use {}: {why}", file.display()));
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad(error.to_string()))?;
    if found.is_empty() { Err(bad("it holds no certificate".into())) } else { Ok(found) }
}
