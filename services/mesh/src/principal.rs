//! The authenticated caller of a connection: the SPIFFE identity of its certificate, parsed once per connection.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use proto::{Caller, OperatorName};
use tonic::{Request, Status};

/// An authenticated caller, in the extensions of every request that reaches a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub caller: Caller,
    /// The name of a person; a role has none.
    pub name: Option<OperatorName>,
    pub address: SocketAddr,
}

/// A certificate is signed by our roots but names no known role or person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    #[error("the certificate has {0} URIs; it needs one, spiffe://{1}/<role>")]
    Uris(usize, String),
    #[error("{0:?} is no identity of spiffe://{1}: a role, or operator/<name> or viewer/<name>")]
    Unknown(String, String),
}

impl Principal {
    /// # Errors
    /// `UNAUTHENTICATED` where the request did not come through our server stack.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Status> {
        request.extensions().get().ok_or_else(|| Status::unauthenticated("no certificate was shown"))
    }

    pub(crate) fn from_uris(uris: &[String], domain: &str, address: SocketAddr) -> Result<Self, PrincipalError> {
        let [uri] = uris else { return Err(PrincipalError::Uris(uris.len(), domain.into())) };
        let (caller, name) = parse(uri, domain).ok_or_else(|| PrincipalError::Unknown(uri.clone(), domain.into()))?;
        Ok(Self { caller, name, address })
    }
}

/// The network under which the failures of an unauthenticated address are counted: IPv4 /24, IPv6 /48.
pub fn network_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}::/48")
        }
    }
}

impl fmt::Display for Principal {
    /// Such as `central` or `operator/anna`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}/{name}", role_of(self.caller)),
            None => f.write_str(role_of(self.caller)),
        }
    }
}

/// The path element of `caller` in a SPIFFE identity.
pub fn role_of(caller: Caller) -> &'static str {
    match caller {
        Caller::Viewer => "viewer",
        Caller::Operator => "operator",
        Caller::Central => "central",
        Caller::Registry => "registry",
        Caller::Weather => "weather",
        Caller::Dashboard => "dashboard",
    }
}

fn parse(uri: &str, domain: &str) -> Option<(Caller, Option<OperatorName>)> {
    let path = uri.strip_prefix("spiffe://")?.strip_prefix(domain)?.strip_prefix('/')?;
    match path.split_once('/') {
        Some(("operator", name)) => Some((Caller::Operator, Some(name.parse().ok()?))),
        Some(("viewer", name)) => Some((Caller::Viewer, Some(name.parse().ok()?))),
        Some(_) => None,
        None => Some((role_named(path)?, None)),
    }
}

/// The role with this name; `None` for the kinds of persons.
pub fn role_named(name: &str) -> Option<Caller> {
    [Caller::Central, Caller::Registry, Caller::Weather, Caller::Dashboard].into_iter().find(|c| role_of(*c) == name)
}

/// The first path element of a SPIFFE URI of `domain`: a role, `operator` or `viewer`.
pub(crate) fn whose<'a>(uri: &'a str, domain: &str) -> &'a str {
    match parse(uri, domain) {
        Some((caller, _)) => role_of(caller),
        None => uri,
    }
}

/// The trust domain of a SPIFFE URI.
pub(crate) fn domain_of(uri: &str) -> Option<&str> {
    uri.strip_prefix("spiffe://")?.split('/').next().filter(|domain| !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(uri: &str) -> Result<Principal, PrincipalError> {
        Principal::from_uris(&[uri.into()], "mesh.test", "127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn roles_and_persons_of_our_domain_are_known_and_nobody_else() {
        assert_eq!(principal("spiffe://mesh.test/central").unwrap().to_string(), "central");
        assert_eq!(principal("spiffe://mesh.test/operator/anna").unwrap().to_string(), "operator/anna");
        assert_eq!(principal("spiffe://mesh.test/viewer/v.1").unwrap().caller, Caller::Viewer);
        for stranger in [
            "spiffe://other.test/central",
            "spiffe://mesh.testing/central",
            "spiffe://mesh.test/operator",
            "spiffe://mesh.test/operator/",
            "spiffe://mesh.test/operator/a/b",
            "spiffe://mesh.test/central/x",
            "spiffe://mesh.test/root",
            "spiffe://mesh.test/",
            "https://mesh.test/central",
        ] {
            assert!(principal(stranger).is_err(), "{stranger}");
        }
    }

    #[test]
    fn a_certificate_with_two_identities_is_nobody() {
        let uris = ["spiffe://mesh.test/central".to_owned(), "spiffe://mesh.test/operator/anna".to_owned()];
        assert!(Principal::from_uris(&uris, "mesh.test", "127.0.0.1:1".parse().unwrap()).is_err());
        assert!(Principal::from_uris(&[], "mesh.test", "127.0.0.1:1".parse().unwrap()).is_err());
    }
}
