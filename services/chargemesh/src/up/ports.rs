//! One network of this user at a time chooses its ports and binds them: two that start at the same instant would both
//! find the usual ones free, and each lose one of them to the other.

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh::process::Context;
use nix::fcntl::{Flock, FlockArg, OFlag};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Let go when dropped, or when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct PortsLock(#[expect(dead_code, reason = "holds the lock")] Flock<File>);

impl PortsLock {
    /// Waits for another network's start; not for longer than `patience`, since what hangs there must not keep this
    /// one from trying. Nothing too where the lock cannot be had at all: then ports are chosen as they are found.
    pub(crate) async fn take(ctx: &Context, patience: Duration) -> Option<Self> {
        Self::of(&file(), ctx, patience).await
    }

    async fn of(path: &Path, ctx: &Context, patience: Duration) -> Option<Self> {
        let waiting = async {
            loop {
                let opened = File::options()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    // In a folder that others may write to.
                    .custom_flags(OFlag::O_NOFOLLOW.bits())
                    .open(path);
                match Flock::lock(opened.ok()?, FlockArg::LockExclusiveNonblock) {
                    Ok(lock) => return Some(Self(lock)),
                    Err((_, nix::errno::Errno::EWOULDBLOCK)) => tokio::time::sleep(LOOK_EVERY).await,
                    Err(_) => return None,
                }
            }
        };
        let waiting = ctx.stop.run_until_cancelled(waiting);
        tokio::time::timeout(patience, waiting).await.ok().flatten().flatten()
    }
}

fn file() -> PathBuf {
    std::env::temp_dir().join(format!("chargemesh-{}-ports.lock", nix::unistd::geteuid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_start_waits_until_the_first_listens_and_not_for_ever() {
        let (folder, ctx) = (tempfile::tempdir().unwrap(), Context::detached("up"));
        let path = folder.path().join("ports.lock");
        let first = PortsLock::of(&path, &ctx, Duration::from_secs(20)).await;
        assert!(first.is_some());
        assert!(PortsLock::of(&path, &ctx, Duration::from_millis(100)).await.is_none(), "what hangs is not waited for");
        let (second, ()) = tokio::join!(PortsLock::of(&path, &ctx, Duration::from_secs(20)), async { drop(first) });
        assert!(second.is_some());
        ctx.stop.cancel();
        assert!(PortsLock::of(&path, &ctx, Duration::from_secs(20)).await.is_none(), "nor where the network is to end");
    }
}
