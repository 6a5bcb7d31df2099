//! How many file descriptors this process has, and which part of them each kind of connection may take, so that the
//! database, files and operators find some however many others come (SPEC 9).

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The descriptors of a process are divided into so many parts. Connections of all kinds together never take all of
/// them: what is left is for the database, files and what this process opens itself.
const PARTS: u64 = 32;

/// A kind of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// Charging points and drivers.
    Links,
    /// Peers that are told to come later.
    TurnedAway,
    /// All sockets that a listener for links holds: those two kinds, and some that are about to be closed.
    AcceptedLinks,
    /// Callers of one listener of ours.
    Callers,
    /// Unfinished handshakes of one listener.
    Handshakes,
}

impl ConnectionKind {
    fn parts(self) -> u64 {
        match self {
            Self::Links => 20,
            Self::TurnedAway => 1,
            Self::AcceptedLinks => 22,
            Self::Callers | Self::Handshakes => 2,
        }
    }

    /// How many connections of this kind there may be where `wanted` are configured, so that others find descriptors.
    pub fn capped(self, wanted: usize) -> usize {
        capped(self.parts(), wanted, limit())
    }
}

fn capped(parts: u64, wanted: usize, limit: u64) -> usize {
    let share = usize::try_from(limit / PARTS * parts).unwrap_or(usize::MAX);
    wanted.min(share.max(1))
}

/// How many descriptors this process may have now.
fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// Takes as many descriptors as this user may have, which is often a thousand times more than a process is given.
pub(crate) fn raise() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => tracing::debug!(descriptors = hard, before = soft, "limit of open files"),
        Err(error) => tracing::warn!(descriptors = soft, %error, "the limit of open files could not be raised"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_few_descriptors_there_are_some_are_left_for_database_files_and_operators_spec_9() {
        for limit in [64, 256, 1024, 65_536, 1_048_576] {
            let taken = |kind: ConnectionKind| capped(kind.parts(), usize::MAX, limit) as u64;
            // Central has one such listener; Registry has two, and no links.
            let central =
                [ConnectionKind::AcceptedLinks, ConnectionKind::Callers, ConnectionKind::Handshakes].map(taken);
            let left = limit - central.iter().sum::<u64>();
            assert!(left >= limit / 6, "of {limit}: {central:?}");
            let [links, away] = [ConnectionKind::Links, ConnectionKind::TurnedAway].map(taken);
            assert!(links + away < central[0], "of {limit}, one more can always be accepted and turned away");
        }
        assert_eq!(capped(ConnectionKind::Links.parts(), 100, 1_048_576), 100, "what is configured is never exceeded");
        assert_eq!(capped(ConnectionKind::Links.parts(), 100_000, u64::MAX), 100_000);
    }

    #[test]
    fn a_process_takes_the_descriptors_that_its_user_may_have() {
        raise();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
