//! The contracts of chargemesh: protobuf messages, who may call which method, and the few types that protobuf cannot
//! express (ids that are valid by construction, energy, price and money).
//!
//! * [`link::v1`] travels encrypted between charging points, drivers and Central; `wire` specifies how it becomes
//!   bytes.
//! * [`central::v1`], [`registry::v1`], [`weather::v1`] are gRPC services on mTLS, with messages of their own: the public API.
//! * [`POLICIES`] lists the policy option of every method; the build fails for a method without one.
//!
//! Architecture invariant: depends on no other crate of the workspace, and on tonic only with the feature `services`.

pub mod enrolment;
mod id;
#[cfg(feature = "json")]
mod json;
mod public;
mod quantity;
mod reason;
mod ticket;

pub use id::{ChargingPointId, DriverId, IdError, OperatorName, PeerId};
#[cfg(feature = "json")]
pub use json::{ApiMessage, api_json};
/// The well-known types that the public packages use.
pub use prost_types::{Duration, Struct, Timestamp};
pub use public::{json_of, millis, struct_of, timestamp};
pub use quantity::{Currency, CurrencyError, Energy, Money, Price, PriceError};
pub use reason::Retry;

/// Messages of the link and of the pairing between engine and monitor, and the one list of reasons.
pub mod link {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/chargemesh.link.v1.rs"));
    }
}

/// Central's services for operators and the dashboard.
pub mod central {
    #[expect(clippy::large_enum_variant, reason = "generated; a change is nearly always the large variant")]
    #[cfg_attr(feature = "services", expect(clippy::allow_attributes_without_reason, reason = "generated"))]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/chargemesh.central.v1.rs"));
    }
}

/// Data of what is published on Kafka.
pub mod events {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/chargemesh.events.v1.rs"));
    }
}

/// Registry's services: identities, enrolment tokens and operators.
pub mod registry {
    #[cfg_attr(feature = "services", expect(clippy::allow_attributes_without_reason, reason = "generated"))]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/chargemesh.registry.v1.rs"));
    }
}

/// Weather's service: cities, their temperatures and what frost does.
pub mod weather {
    #[cfg_attr(feature = "services", expect(clippy::allow_attributes_without_reason, reason = "generated"))]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/chargemesh.weather.v1.rs"));
    }
}

/// Encoded `FileDescriptorSet` of every contract with its imports and options, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The role of a caller, from the path of its SPIFFE identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A person who may read.
    Viewer,
    /// A person who may give orders.
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
    /// Only these roles may call the method. Never empty.
    pub callers: &'static [Caller],
    /// A client may repeat the call by itself.
    pub idempotent: bool,
    /// The request must have a `request_id`.
    pub request_id: bool,
}

include!(concat!(env!("OUT_DIR"), "/policy.rs"));
