//! Ids of SPEC 2.5, valid by construction.

use std::{fmt, str::FromStr, sync::Arc};

/// An id that is not `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit")]
pub struct IdError(String);

fn check(text: &str) -> Result<Arc<str>, IdError> {
    let bytes = text.as_bytes();
    let valid = matches!(bytes.first(), Some(b) if b.is_ascii_alphanumeric())
        && bytes.len() <= 64
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
    // A hostile peer chooses the length, so the error quotes only the beginning.
    valid.then(|| Arc::from(text)).ok_or_else(|| IdError(text.chars().take(80).collect()))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        /// Cheap to clone.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// A charging point.
    ChargingPointId
);
id!(
    /// A driver.
    DriverId
);
id!(
    /// An operator or a viewer.
    OperatorName
);

/// The owner of a link key: a charging point (its monitor and its engine share one key) or a driver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerId {
    ChargingPoint(ChargingPointId),
    Driver(DriverId),
}

impl PeerId {
    /// The id without its kind; a charging point and a driver may have the same id.
    pub fn as_str(&self) -> &str {
        match self {
            Self::ChargingPoint(id) => id.as_str(),
            Self::Driver(id) => id.as_str(),
        }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChargingPoint(id) => write!(f, "charging-point/{id}"),
            Self::Driver(id) => write!(f, "driver/{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_1_to_64_characters_of_the_allowed_set_spec_2_5() {
        for good in ["A", "7", "CP-01", "a.b_c-d", &"x".repeat(64)] {
            assert_eq!(good.parse::<ChargingPointId>().map(String::from).as_deref(), Ok(good));
        }
        for bad in ["", "-a", ".a", "_a", "a b", "a/b", "ä", "a\0", "<b>", &"x".repeat(65)] {
            assert!(bad.parse::<ChargingPointId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_error_shows_at_most_eighty_characters_of_what_was_sent() {
        let error = "z".repeat(10_000).parse::<DriverId>().unwrap_err();
        assert!(error.to_string().len() < 250);
    }
}
