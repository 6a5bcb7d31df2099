//! Lets one network of this user at a time choose its ports and bind them: two that start at the same instant would both
//! find the usual ports free, and each fail to bind one of them.

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh::process::Context;
use nix::fcntl::{Flock, FlockArg, OFlag};

const POLL_EVERY: Duration = Duration::from_millis(50);

/// Released when dropped, or when the process ends, even by SIGKILL.
#[derive(Debug)]
pub(crate) struct PortsLock(#[expect(dead_code, reason = "holds the lock")] Flock<File>);

impl PortsLock {
    /// Waits until no other network is starting, at most for `limit`, so that one that hangs cannot block this one. `None`
    /// after that time, or where the lock file cannot be used: ports are then chosen without the lock.
    pub(crate) async fn take(ctx: &Context, limit: Duration) -> Option<Self> {
        Self::of(&file(), ctx, limit).await
    }

    async fn of(path: &Path, ctx: &Context, limit: Duration) -> Option<Self> {
        let waiting = async {
            loop {
                let opened = File::options()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    // Others may write to the folder of temporary files.
                    .custom_flags(OFlag::O_NOFOLLOW.bits())
                    .open(path);
                match Flock::lock(opened.ok()?, FlockArg::LockExclusiveNonblock) {
                    Ok(lock) => return Some(Self(lock)),
                    Err((_, nix::errno::Errno::EWOULDBLOCK)) => tokio::time::sleep(POLL_EVERY).await,
                    Err(_) => return None,
                }
            }
        };
        let waiting = ctx.stop.run_until_cancelled(waiting);
        tokio::time::timeout(limit, waiting).await.ok().flatten().flatten()
    }
}

fn file() -> PathBuf {
    std::env::temp_dir().join(format!("chargemesh-{}-ports.lock", nix::unistd::geteuid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_start_waits_for_the_first_up_to_a_limit() {
        let (folder, ctx) = (tempfile::tempdir().unwrap(), Context::detached("up"));
        let path = folder.path().join("ports.lock");
        let first = PortsLock::of(&path, &ctx, Duration::from_secs(20)).await;
        assert!(first.is_some());
        assert!(
            PortsLock::of(&path, &ctx, Duration::from_millis(100)).await.is_none(),
            "a start that hangs is not waited for"
        );
        let (second, ()) = tokio::join!(PortsLock::of(&path, &ctx, Duration::from_secs(20)), async { drop(first) });
        assert!(second.is_some());
        ctx.stop.cancel();
        assert!(
            PortsLock::of(&path, &ctx, Duration::from_secs(20)).await.is_none(),
            "nor is any when the network is stopping"
        );
    }
}
