//! Connections for one purpose, of which so many are used at a time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::{Conn, connection::Use};

pub(crate) struct ConnectionPool {
    pub(crate) purpose: Use,
    /// How long a statement may take.
    pub(crate) within: Duration,
    pub(crate) permits: Arc<Semaphore>,
    idle: Mutex<Vec<Conn>>,
}

impl ConnectionPool {
    pub(crate) fn new(purpose: Use, width: usize, within: Duration) -> Self {
        Self { purpose, within, permits: Arc::new(Semaphore::new(width)), idle: Mutex::default() }
    }

    pub(crate) fn take(&self) -> Option<Conn> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(crate) fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Keeps a connection whose transaction is over, unless it was closed by its deadline: its last statement may have been
    /// answered in the same moment.
    pub(crate) fn give(&self, conn: Conn) {
        if conn.is_expired() {
            return;
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
    }
}
