//! Faults that a test injects at moments that no real fault can hit.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use super::group::{Answers, Failure};
use crate::{Conn, StoreError};

#[derive(Default)]
pub(crate) struct InjectedFaults {
    /// Maximum size of a SQLite file in pages, as on a full disk; 0: no limit.
    pub(crate) page_limit: AtomicU32,
    /// The next commit arrives, but its answer is lost.
    pub(crate) lose_answer: AtomicBool,
}

impl InjectedFaults {
    pub(crate) fn limit_pages(&self, conn: &mut Conn) -> Result<(), StoreError> {
        match self.page_limit.load(SeqCst) {
            0 => Ok(()),
            pages => conn.execute(&format!("PRAGMA max_page_count={pages}")),
        }
    }

    pub(super) fn at_commit(&self, result: Result<Answers, Failure>) -> Result<Answers, Failure> {
        match result {
            Ok(answers) if self.lose_answer.swap(false, SeqCst) => {
                Err(Failure::Unknown(StoreError::Unavailable("the line was cut".into()), answers))
            }
            other => other,
        }
    }
}
