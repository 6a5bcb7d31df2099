//! The named tasks of a process. A task that fails or panics stops the process with its error; at a hard stop the tasks
//! that have not ended are listed by name.

use std::{
    collections::BTreeMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, anyhow};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::task::AbortHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[derive(Clone, Default)]
pub(crate) struct Tasks(Arc<TaskTable>);

#[derive(Default)]
struct TaskTable {
    tracker: TaskTracker,
    running: Mutex<BTreeMap<u64, (String, Option<AbortHandle>)>>,
    numbers: AtomicU64,
    /// Work to run after all tasks have ended, the last registered first.
    last: Mutex<Vec<Last>>,
    failure: Mutex<Option<anyhow::Error>>,
}

struct Last {
    name: String,
    stop: CancellationToken,
    work: BoxFuture<'static, anyhow::Result<()>>,
}

impl Tasks {
    pub(crate) fn finally<F>(&self, name: String, stop: CancellationToken, work: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.last().push(Last { name, stop, work: work.boxed() });
    }

    pub(crate) fn spawn<F>(&self, name: String, stop: CancellationToken, work: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let number = self.0.numbers.fetch_add(1, Ordering::Relaxed);
        self.running().insert(number, (name.clone(), None));
        let tasks = self.clone();
        let handle = self.0.tracker.spawn(async move {
            let result = AssertUnwindSafe(work).catch_unwind().await;
            tasks.running().remove(&number);
            let result = result.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", text_of(&*panic))));
            if let Err(error) = result.with_context(|| format!("{name} failed")) {
                tasks.fail(error);
                stop.cancel();
            }
        });
        if let Some(entry) = self.running().get_mut(&number) {
            entry.1 = Some(handle.abort_handle());
        }
    }

    /// Keeps the first failure as the cause; later ones are only logged.
    pub(crate) fn fail(&self, error: anyhow::Error) {
        let mut failure = self.0.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match &*failure {
            None => *failure = Some(error),
            Some(_) => tracing::warn!(error = format!("{error:#}"), "failed as well"),
        }
    }

    pub(crate) fn take_failure(&self) -> Option<anyhow::Error> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until every task has ended, then runs the final work piece by piece.
    pub(crate) async fn ended(&self) {
        loop {
            self.0.tracker.close();
            self.0.tracker.wait().await;
            self.0.tracker.reopen();
            let Some(Last { name, stop, work }) = self.last().pop() else { return };
            self.spawn(name, stop, work);
        }
    }

    /// Aborts the running tasks; returns their names and those of the final work that will not run.
    pub(crate) fn abort(&self) -> Vec<String> {
        let running = std::mem::take(&mut *self.running());
        let ended = running.into_values().map(|(name, handle)| {
            handle.iter().for_each(AbortHandle::abort);
            name
        });
        // The final work stays registered, with what it owns, to the end of the process.
        ended.chain(self.last().iter().rev().map(|last| last.name.clone())).collect()
    }

    fn last(&self) -> MutexGuard<'_, Vec<Last>> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, (String, Option<AbortHandle>)>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}
