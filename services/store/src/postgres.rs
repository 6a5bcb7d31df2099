//! PostgreSQL without libpq: tokio-postgres under diesel_async, used as a synchronous connection.
//!
//! Each connection owns a small runtime that runs on the thread that uses the connection. So a statement needs no hop
//! between threads, and the same diesel code serves both back ends.
//!
//! Every statement has a deadline at the client (SPEC 9.0): a server that is stopped, or a network device that forgot the
//! connection, sends nothing that could end the wait. The connection is then closed, and the statement fails.

use std::{
    cell::RefCell,
    future::Future,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use diesel::connection::SimpleConnection as _;
use diesel_async::{
    AsyncPgConnection,
    async_connection_wrapper::{AsyncConnectionWrapper, BlockOn},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{runtime::Runtime, task::AbortHandle};
use tokio_postgres::NoTls;

use crate::{
    OpenDatabaseError, StoreError,
    address::{Address, PostgresAddress, chain},
};

pub(crate) type PgConnection = AsyncConnectionWrapper<AsyncPgConnection, OwnRuntime>;

/// The runtime on which one connection lives, and the deadline of its statements.
pub(crate) struct OwnRuntime {
    runtime: Option<Runtime>,
    /// The task that owns the socket: when it is aborted, the socket is closed and every waiting statement fails.
    socket: AbortHandle,
    deadline: Arc<StatementDeadline>,
}

/// How long the server may take for one statement, and whether it took longer once.
#[derive(Debug)]
pub(crate) struct StatementDeadline {
    within: Duration,
    expired: AtomicBool,
}

impl StatementDeadline {
    /// Why the connection was closed; `None` if it was not closed by the deadline.
    pub(crate) fn passed(&self) -> Option<String> {
        self.expired.load(Ordering::Relaxed).then(|| no_answer(self.within))
    }
}

fn no_answer(within: Duration) -> String {
    format!("it has not answered within {within:?}")
}

thread_local! {
    // The wrapper asks its `BlockOn` type for a runtime without passing one, but a connection's socket is bound to the
    // runtime it was opened on. `connect` leaves that runtime here for the next line, which wraps the connection.
    static OPENED_ON: RefCell<Option<OwnRuntime>> = const { RefCell::new(None) };
}

impl BlockOn for OwnRuntime {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        let runtime = self.runtime.as_ref().expect("it is taken when the connection is dropped, and never before");
        runtime.block_on(async {
            let mut future = pin!(future);
            tokio::select! {
                biased;
                output = &mut future => return output,
                () = tokio::time::sleep(self.deadline.within) => {}
            }
            self.deadline.expired.store(true, Ordering::Relaxed);
            self.socket.abort();
            future.await
        })
    }

    fn get_runtime() -> Self {
        OPENED_ON.with_borrow_mut(Option::take).expect("`connect` left it on this thread in the line before")
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        // Dropping a runtime waits for its tasks, which panics on an async worker.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Connects, and fails if that or a later statement takes longer than `within`.
pub(crate) fn connect(
    address: &PostgresAddress,
    within: Duration,
) -> Result<(PgConnection, Arc<StatementDeadline>), StoreError> {
    let unavailable = |error: &dyn std::error::Error| StoreError::Unavailable(chain(error));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| unavailable(&error))?;
    let opened = runtime.block_on(async {
        let opening = tokio::time::timeout(within, open(address));
        opening.await.unwrap_or_else(|_| Err(StoreError::Unavailable(no_answer(within))))
    });
    let (inner, socket) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // A name that is still being resolved on a thread of the runtime is not waited for.
            runtime.shutdown_background();
            return Err(error);
        }
    };
    let deadline = Arc::new(StatementDeadline { within, expired: AtomicBool::new(false) });
    OPENED_ON.set(Some(OwnRuntime { runtime: Some(runtime), socket, deadline: Arc::clone(&deadline) }));
    let mut conn = PgConnection::from(inner);
    // A commit must be flushed whatever the server's default is. A row that another transaction holds is waited for so
    // briefly that it stalls nobody else; the turn is then run again. A transaction of a connection that was lost ends
    // soon, so that what comes after it need not wait for the locks.
    conn.batch_execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
         SET lock_timeout = '200ms'; SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '10s';
         SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3",
    )?;
    Ok((conn, deadline))
}

/// Opens a connection whose socket belongs to a task of its own on this runtime.
async fn open(address: &PostgresAddress) -> Result<(AsyncPgConnection, AbortHandle), StoreError> {
    let unavailable = |error: &dyn std::error::Error| StoreError::Unavailable(chain(error));
    let (client, socket) = match &address.roots {
        Some(roots) => {
            let tls = client_config(roots, address.identity.as_ref())?;
            let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls);
            let (client, conn) = address.config.connect(tls).await.map_err(|error| unavailable(&error))?;
            (client, tokio::spawn(conn).abort_handle())
        }
        None => {
            let (client, conn) = address.config.connect(NoTls).await.map_err(|error| unavailable(&error))?;
            (client, tokio::spawn(conn).abort_handle())
        }
    };
    let conn = AsyncPgConnection::try_from(client).await.map_err(|error| unavailable(&error))?;
    Ok((conn, socket))
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
