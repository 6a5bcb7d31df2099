//! The contracts of chargemesh: protobuf messages, who may call which method, and the few values that protobuf's
//! types cannot say (ids that are valid by construction, energy, price and money).
//!
//! * [`link::v1`] travels sealed between charging points, drivers and Central; how it becomes bytes is told in `wire`.
//! * [`central::v1`], [`registry::v1`] are gRPC services on mTLS.
//! * [`POLICIES`] holds the policy option of every method; a method without one does not build.
//!
//! Architecture invariant: depends on nothing else of ours, and on tonic only with the feature `services`.

pub mod enrolment;
mod id;
mod quantity;
mod reason;

pub use id::{ChargingPointId, DriverId, IdError, OperatorName, PeerId};
pub use quantity::{Currency, CurrencyError, Energy, Money, Price, PriceError};

/// Messages of the link, of the pairing between engine and monitor, and the nouns all services share.
pub mod link {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/chargemesh.link.v1.rs"));
    }
}

/// What operators and the dashboard ask of Central.
pub mod central {
    #[expect(clippy::large_enum_variant, reason = "generated; a change is nearly always the large variant")]
    #[cfg_attr(feature = "services", expect(clippy::allow_attributes_without_reason, reason = "generated"))]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/chargemesh.central.v1.rs"));
    }
}

/// The identity authority.
pub mod registry {
    #[cfg_attr(feature = "services", expect(clippy::allow_attributes_without_reason, reason = "generated"))]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/chargemesh.registry.v1.rs"));
    }
}

/// Encoded `FileDescriptorSet` of every contract with its imports and options, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Who may call a method, from the last-but-one path element of his SPIFFE identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A person who may look.
    Viewer,
    /// A person who may order.
    Operator,
    Central,
    Registry,
    Weather,
    Dashboard,
}

/// The policy option of one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// Nobody else may call. Never empty.
    pub callers: &'static [Caller],
    /// The call may be repeated without asking anybody.
    pub idempotent: bool,
    /// The request must carry a `request_id`.
    pub request_id: bool,
}

include!(concat!(env!("OUT_DIR"), "/policy.rs"));
