//! Enrolment tokens (SPEC 7.4): what a token permits, and what is left after a use. Pure.
//!
//! A token is either for *anyone* within its limits, or for *one* identity in the exact state in which an operator
//! allowed its reissue or restore. Any later change of that identity (void, removal, enrolment) makes such a token
//! worthless, so that no old permission outlives a revocation.

use proto::{PeerId, enrolment::PeerKind, link::v1::Reason};

use crate::error::{Error, refuse};

/// Maximum lifetime of a token, in seconds.
pub(crate) const MAX_LIFETIME_S: u32 = 366 * 24 * 3600;
const DAY_S: u32 = 24 * 3600;
/// The 64 characters of an id, each between two `*`.
const MAX_PATTERN: usize = 129;

/// A token as stored. The caller has checked its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRecord {
    pub(crate) id: String,
    pub(crate) permits: Permits,
    pub(crate) uses_left: u32,
    pub(crate) expires_at_ms: i64,
    pub(crate) created_by: String,
    pub(crate) revoked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Permits {
    /// New identities within limits.
    Anyone {
        /// `None`: charging points and drivers.
        kind: Option<PeerKind>,
        /// `*` matches any run of characters; an empty pattern matches every id.
        pattern: String,
        /// Empty: any city, and also drivers, which have no city.
        city: String,
    },
    /// A new credential for this identity, as long as its revision is still this one.
    One { peer: PeerId, revision: u64 },
}

/// The limits that an operator gives to a new token for anyone.
#[derive(Clone, Debug)]
pub(crate) struct TokenLimits {
    pub(crate) kind: Option<PeerKind>,
    pub(crate) pattern: String,
    pub(crate) city: String,
    /// 0: one use.
    pub(crate) uses: u32,
    /// 0: one day.
    pub(crate) lifetime_s: u32,
}

impl TokenRecord {
    pub(crate) fn for_anyone(id: String, limits: TokenLimits, created_by: String, now_ms: i64) -> Result<Self, Error> {
        let TokenLimits { kind, pattern, city, uses, lifetime_s } = limits;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-*".contains(&b);
        if pattern.len() > MAX_PATTERN || !pattern.bytes().all(allowed) {
            return Err(refuse(Reason::Invalid, format!("{pattern:?} is no id pattern: letters, digits, . _ - and *")));
        }
        if kind == Some(PeerKind::Driver) && !city.is_empty() {
            return Err(refuse(Reason::Invalid, "a driver has no city; leave the city of a token for drivers empty"));
        }
        if lifetime_s > MAX_LIFETIME_S {
            return Err(refuse(
                Reason::Invalid,
                format!("the lifetime of a token is at most {MAX_LIFETIME_S} s, not {lifetime_s}"),
            ));
        }
        let permits = Permits::Anyone { kind, pattern, city };
        Ok(Self::new(id, permits, uses.max(1), lifetime_s, created_by, now_ms))
    }

    /// For a reissue or a restore: one use within one day.
    pub(crate) fn for_one(id: String, peer: PeerId, revision: u64, created_by: String, now_ms: i64) -> Self {
        Self::new(id, Permits::One { peer, revision }, 1, DAY_S, created_by, now_ms)
    }

    fn new(id: String, permits: Permits, uses_left: u32, life_s: u32, created_by: String, now_ms: i64) -> Self {
        let life_s = if life_s == 0 { DAY_S } else { life_s };
        let expires_at_ms = now_ms.saturating_add(i64::from(life_s) * 1000);
        Self { id, permits, uses_left, expires_at_ms, created_by, revoked: false }
    }

    /// Whether the token can be used at all. What it permits is checked separately.
    pub(crate) fn alive(&self, now_ms: i64) -> Result<(), Error> {
        if self.revoked {
            return Err(refuse(Reason::TokenInvalid, format!("token {} was revoked; ask for another", self.id)));
        }
        if self.uses_left == 0 {
            return Err(refuse(Reason::TokenSpent, format!("token {} has no use left; ask for another", self.id)));
        }
        if now_ms >= self.expires_at_ms {
            return Err(refuse(Reason::TokenExpired, format!("token {} has expired; ask for another", self.id)));
        }
        Ok(())
    }

    /// The token after one use.
    pub(crate) fn used(&self) -> Self {
        Self { uses_left: self.uses_left.saturating_sub(1), ..self.clone() }
    }
}

/// Whether a token for anyone permits `peer` in `city`; returns the city that applies.
pub(crate) fn within<'a>(
    (kind, pattern, token_city): (Option<PeerKind>, &str, &'a str),
    peer: &PeerId,
    city: &'a str,
) -> Result<&'a str, Error> {
    let no = |what: String| Err(refuse(Reason::TokenInvalid, what));
    if kind.is_some_and(|kind| kind != PeerKind::of(peer)) {
        return no(format!("this token is not for {}", PeerKind::of(peer).collection()));
    }
    if !pattern.is_empty() && !matches(pattern, peer.as_str()) {
        return no(format!("this token is for ids like {pattern:?}, not {:?}", peer.as_str()));
    }
    match (token_city, PeerKind::of(peer)) {
        ("", _) => Ok(city),
        (_, PeerKind::Driver) => no("this token is for charging points of one city, not for drivers".to_owned()),
        (_, PeerKind::ChargingPoint) if city.is_empty() || city == token_city => Ok(token_city),
        (_, PeerKind::ChargingPoint) => no(format!("this token is for the city {token_city:?}, not {city:?}")),
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters, even an empty one.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        // The earliest match leaves the most text for the remaining parts.
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters_spec_7_4() {
        for (pattern, text, expected) in [
            ("CP-*", "CP-1", true),
            ("CP-*", "CP-", true),
            ("CP-*", "XCP-1", false),
            ("*", "anything", true),
            ("*-a-*", "x-a-", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "axbxbxc", true),
            ("CP", "CP1", false),
            ("", "CP1", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    /// The definition of the pattern, by trying every split.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|n| slow(rest, &text[n..])),
            Some((b, rest)) => text.split_first().is_some_and(|(t, more)| t == b && slow(rest, more)),
        }
    }

    proptest! {
        #[test]
        fn the_pattern_agrees_with_its_definition(pattern in "[ab*]{0,7}", text in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }

    #[test]
    fn limits_that_make_no_sense_are_refused_with_the_value() {
        let limits = TokenLimits { kind: None, pattern: String::new(), city: String::new(), uses: 0, lifetime_s: 0 };
        let make = |limits| TokenRecord::for_anyone("t".into(), limits, "op".into(), 0);
        let token = make(limits.clone()).unwrap();
        assert_eq!((token.uses_left, token.expires_at_ms), (1, 86_400_000));
        for bad in [
            TokenLimits { pattern: "CP 1".into(), ..limits.clone() },
            TokenLimits { kind: Some(PeerKind::Driver), city: "Oslo".into(), ..limits.clone() },
            TokenLimits { lifetime_s: MAX_LIFETIME_S + 1, ..limits },
        ] {
            assert_eq!(make(bad).unwrap_err().reason, Reason::Invalid);
        }
    }
}
