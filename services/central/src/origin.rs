//! Where something comes from: who is behind it, and on which link it came. Used by every core, so it leans on none.

use std::sync::Arc;

pub use mesh::link::LinkNo;

/// Who is behind an input, from which address, and why (SPEC 8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub actor: Arc<str>,
    pub address: Arc<str>,
    /// In the words of whoever ordered it; empty: nothing was said. In every entry of his.
    pub reason: Arc<str>,
    /// The order over several charging points that it belongs to; empty: none. In every entry that it leads to, so that
    /// who looks at one charging point finds it.
    pub order: Arc<str>,
    /// The gRPC method of that order; empty: none.
    pub method: &'static str,
}

impl Origin {
    pub fn new(actor: impl Into<Arc<str>>, address: impl Into<Arc<str>>) -> Self {
        Self { actor: actor.into(), address: address.into(), reason: "".into(), order: "".into(), method: "" }
    }

    pub fn under(self, order: impl Into<Arc<str>>, method: &'static str) -> Self {
        Self { order: order.into(), method, ..self }
    }

    pub fn because(self, reason: impl Into<Arc<str>>) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// Central itself: a deadline, a missed sign of life.
    pub fn central() -> Self {
        Self::new("central", "")
    }
}
