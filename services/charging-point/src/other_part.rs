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

/// The other part, whose event loop takes `E`.
#[derive(Debug)]
pub(crate) enum OtherPart<E> {
    Pairing(Option<SendQueue>),
    InProcess(mpsc::WeakSender<E>),
}

impl<E> OtherPart<E> {
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
    pub(crate) fn tell<M: Message>(&self, message: Box<M>, wrap: impl FnOnce(FromOther<M>) -> E) {
        match self {
            Self::Pairing(Some(outbox)) => pairing::tell(outbox, &*message),
            Self::Pairing(None) => {}
            Self::InProcess(events) => {
                if let Some(events) = events.upgrade() {
                    drop(events.try_send(wrap(FromOther::Message(message))));
                }
            }
        }
    }
}
