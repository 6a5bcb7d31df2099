//! Argon2id with a bounded number of hashes (DESIGN 4): some run at once on blocking threads, some more may wait, and
//! further ones are refused as overload. A hash that has begun keeps its permits until it ends, even if its caller
//! hangs up, so that hanging up cannot be used to start more.

use std::{num::NonZeroUsize, sync::Arc};

use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use proto::{enrolment::Secret, link::v1::Reason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, refuse};

/// The cost of a hash, and how many hashes may run and wait.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Credentials")]
pub struct HashConfig {
    /// Memory for one credential hash (Argon2id), in KiB; existing hashes keep the memory they were made with
    #[arg(long, env = "CHARGEMESH_REGISTRY_HASH_MEMORY", value_name = "KIB", default_value_t = 19 * 1024,
          value_parser = clap::value_parser!(u32).range(8..=4 * 1024 * 1024))]
    pub hash_memory: u32,
    /// Number of passes over that memory, for new hashes
    #[arg(long, env = "CHARGEMESH_REGISTRY_HASH_PASSES", value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub hash_passes: u32,
    /// Maximum number of hashes computed at the same time; default: half of the processors, at least one
    #[arg(long, env = "CHARGEMESH_REGISTRY_HASHES_AT_ONCE", value_name = "N")]
    pub hashes_at_once: Option<NonZeroUsize>,
    /// Maximum number of hashes that wait; further requests are answered with OVERLOADED
    #[arg(long, env = "CHARGEMESH_REGISTRY_HASHES_WAITING", value_name = "N", default_value_t = 64)]
    pub hashes_waiting: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Hashing {
    argon2: Argon2<'static>,
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// A hash could not be computed for a reason on our side.
#[derive(Debug, thiserror::Error)]
#[error("cannot hash a credential: {0}")]
pub(crate) struct HashError(String);

/// The permits that a hash holds: one to wait or run, one to run.
type Places = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Hashing {
    /// # Errors
    /// If Argon2 refuses the costs.
    pub(crate) fn new(config: &HashConfig) -> Result<Self, HashError> {
        let params = Params::new(config.hash_memory, config.hash_passes, 1, None).map_err(failed)?;
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let at_once = config.hashes_at_once.map_or((processors / 2).max(1), NonZeroUsize::get);
        Ok(Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            admitted: Arc::new(Semaphore::new(at_once + config.hashes_waiting)),
            running: Arc::new(Semaphore::new(at_once)),
        })
    }

    /// The hash in PHC form, with a fresh salt.
    pub(crate) async fn hash(&self, secret: Secret) -> Result<String, Error> {
        let argon2 = self.argon2.clone();
        self.run(move || Ok(argon2.hash_password(secret.as_bytes()).map_err(failed)?.to_string())).await
    }

    /// Whether the secret is the one that was hashed.
    pub(crate) async fn matches(&self, secret: Secret, hash: String) -> Result<bool, Error> {
        let argon2 = self.argon2.clone();
        self.run(move || match argon2.verify_password(secret.as_bytes(), hash.as_str()) {
            Ok(()) => Ok(true),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(failed(error)),
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, Error> {
        let places = self.places().await?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(places);
            result
        });
        let broken = |error: String| {
            tracing::error!(error, "a credential could not be hashed");
            refuse(Reason::Unavailable, "a credential could not be hashed; see Registry's log")
        };
        match done.await {
            Ok(result) => result.map_err(|error| broken(error.to_string())),
            Err(error) => Err(broken(error.to_string())),
        }
    }

    async fn places(&self) -> Result<Places, Error> {
        let overloaded = || refuse(Reason::Overloaded, "too many credentials are being checked; try again in a moment");
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| overloaded())?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| overloaded())?;
        Ok((admitted, running))
    }
}

fn failed(error: impl std::fmt::Display) -> HashError {
    HashError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashing(at_once: usize, waiting: usize) -> Hashing {
        let hashes_at_once = NonZeroUsize::new(at_once);
        Hashing::new(&HashConfig { hash_memory: 8, hash_passes: 1, hashes_at_once, hashes_waiting: waiting }).unwrap()
    }

    #[tokio::test]
    async fn a_hash_is_argon2id_and_matches_its_secret_alone_spec_1_2() {
        let hashing = hashing(1, 0);
        let hash = hashing.hash(Secret::from_bytes([1; 32])).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
        assert!(hashing.matches(Secret::from_bytes([1; 32]), hash.clone()).await.unwrap());
        assert!(!hashing.matches(Secret::from_bytes([2; 32]), hash).await.unwrap());
    }

    #[tokio::test]
    async fn beyond_what_may_wait_the_answer_is_overloaded_at_once() {
        let hashing = hashing(1, 1);
        let first = hashing.places().await.unwrap();
        let waits = tokio::spawn({
            let hashing = hashing.clone();
            async move { hashing.places().await.map(drop) }
        });
        // The second hash is queued as soon as a third one gets no permit.
        while hashing.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = hashing.hash(Secret::from_bytes([1; 32])).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Overloaded);
        drop(first);
        waits.await.unwrap().unwrap();
        assert!(hashing.hash(Secret::from_bytes([1; 32])).await.is_ok(), "and it recovers");
    }
}
