//! The I/O of an enrollee: its links, its calls to Registry, and the file of its identity.

use std::path::PathBuf;

use tokio::{sync::mpsc, task::JoinHandle};

use super::{EnrolleeCommand, EnrolleeInput, PeerConnections, RegistryCall, RegistryClient, StoredIdentity};
use crate::clock::Clock;

/// For a role whose event loop takes `E`.
#[derive(Debug)]
pub struct EnrolleeIo<E> {
    connections: PeerConnections<E>,
    registry: RegistryClient,
    /// Of the identity.
    path: PathBuf,
    /// Weak: a call to Registry keeps no loop alive.
    events: mpsc::WeakSender<E>,
    /// The write of the identity that is under way.
    pub saving: Option<JoinHandle<E>>,
}

impl<E: From<EnrolleeInput> + Send + 'static> EnrolleeIo<E> {
    /// `path`: of the identity.
    pub fn new(registry: RegistryClient, path: PathBuf, clock: Clock, events: mpsc::Sender<E>) -> Self {
        let weak = events.downgrade();
        let connections = PeerConnections::new(clock, events, |link, event| EnrolleeInput::Link(link, event).into());
        Self { connections, registry, path, events: weak, saving: None }
    }

    pub fn carry_out(&mut self, command: EnrolleeCommand) {
        match command {
            EnrolleeCommand::Link(command) => self.connections.carry_out(command),
            EnrolleeCommand::Save(identity) => self.save(*identity),
            EnrolleeCommand::Registry(call) => self.call(call),
        }
    }

    fn save(&mut self, identity: StoredIdentity) {
        let path = self.path.clone();
        self.saving = Some(tokio::task::spawn_blocking(move || {
            let saved = identity.save(&path).map_err(|error| format!("{}: {error}", path.display()));
            EnrolleeInput::Saved(saved).into()
        }));
    }

    fn call(&self, call: RegistryCall) {
        let (events, registry) = (self.events.clone(), self.registry.clone());
        tokio::spawn(async move {
            let answer = registry.call(call).await;
            if let Some(events) = events.upgrade() {
                // Where the role has ended meanwhile, nobody wants the answer.
                drop(events.send(EnrolleeInput::Registry(answer).into()).await);
            }
        });
    }

    /// Closes the links in order.
    pub async fn close(self) {
        self.connections.close().await;
    }
}
