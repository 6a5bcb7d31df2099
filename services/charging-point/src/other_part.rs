//! How one part of a charging point reaches the other: over the pairing, or directly within a fleet's process.

use mesh::link::SendQueue;
use prost::Message;
use tokio::sync::mpsc;

use crate::pairing::{self, PairingEvent};

/// What comes from the other part.
#[derive(Debug)]
pub(crate) enum FromOther<M> {
    Paired,
    Message(Box<M>),
    Gone(String),
}

/// The other part, to which `T` is told.
pub(crate) enum OtherPart<T> {
    Pairing(Option<SendQueue>),
    InProcess(Box<dyn Fn(Box<T>) + Send + Sync>),
}

impl<T: Message> OtherPart<T> {
    /// One in the same process, whose event loop takes `E`. That it ends is no reason to keep its channel.
    pub(crate) fn in_process<E: Send + 'static>(events: &mpsc::Sender<E>, wrap: fn(FromOther<T>) -> E) -> Self
    where
        T: 'static,
    {
        let events = events.downgrade();
        Self::InProcess(Box::new(move |message| {
            if let Some(events) = events.upgrade() {
                drop(events.try_send(wrap(FromOther::Message(message))));
            }
        }))
    }

    /// What the pairing means for the part. A second pairing takes the place of the first, and the late end of one that
    /// was replaced says nothing of the present one.
    pub(crate) fn paired<M>(&mut self, heard: PairingEvent<M>) -> Option<FromOther<M>> {
        match heard {
            PairingEvent::Paired(outbox) => {
                if let Self::Pairing(Some(old)) = std::mem::replace(self, Self::Pairing(Some(outbox))) {
                    old.close();
                }
                Some(FromOther::Paired)
            }
            PairingEvent::Message(message) => Some(FromOther::Message(message)),
            PairingEvent::Ended(which, why) => {
                if let (Self::Pairing(Some(present)), Some(gone)) = (&*self, &which)
                    && !present.same_link(gone)
                {
                    return None;
                }
                *self = Self::Pairing(None);
                Some(FromOther::Gone(why))
            }
        }
    }

    /// What is not taken is said again at the next change, or has a deadline.
    pub(crate) fn tell(&self, message: Box<T>) {
        match self {
            Self::Pairing(Some(queue)) => pairing::tell(queue, &*message),
            Self::Pairing(None) => {}
            Self::InProcess(tell) => tell(message),
        }
    }
}
