//! What Registry keeps, as operators see it.

use proto::{
    Price,
    registry::v1::{Identity, IdentityState, Kind, Operator, OperatorRole, Token},
};
use serde::Serialize;

use super::{at, name};
use crate::output::{Columns, escaped};

#[derive(Debug, Serialize)]
pub(crate) struct IdentityView {
    kind: String,
    id: String,
    state: String,
    city: String,
    place: String,
    price_e4: u32,
    enrolled_at_ms: i64,
    incarnation: u64,
    may_enrol: bool,
}

impl From<Identity> for IdentityView {
    fn from(i: Identity) -> Self {
        Self {
            kind: name(Kind::as_str_name(&i.kind()), "KIND_"),
            state: name(IdentityState::as_str_name(&i.state()), "IDENTITY_STATE_"),
            id: i.id,
            city: i.city,
            place: i.place,
            price_e4: i.price_e4,
            enrolled_at_ms: i.enrolled_at_ms,
            incarnation: i.incarnation,
            may_enrol: i.may_enrol,
        }
    }
}

impl Columns for IdentityView {
    /// Central rules over place and price afterwards, so here they are as they were said to Registry.
    const HEADERS: &'static [&'static str] =
        &["kind", "id", "state", "enrolled city", "enrolled place", "enrolled price", "enrolled at"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.kind.clone(),
            self.id.clone(),
            if self.may_enrol { format!("{}, may enrol", self.state) } else { self.state.clone() },
            escaped(&self.city),
            escaped(&self.place),
            if self.price_e4 == 0 { String::new() } else { Price::from_e4(self.price_e4).to_string() },
            at(self.enrolled_at_ms),
        ]
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct TokenView {
    token_id: String,
    kind: String,
    id_pattern: String,
    city: String,
    uses_left: u32,
    expires_at_ms: i64,
    created_by: String,
    revoked: bool,
}

impl From<Token> for TokenView {
    fn from(t: Token) -> Self {
        let kind = if t.kind() == Kind::Unspecified { "any".into() } else { name(t.kind().as_str_name(), "KIND_") };
        Self {
            kind,
            token_id: t.token_id,
            id_pattern: t.id_pattern,
            city: t.city,
            uses_left: t.uses_left,
            expires_at_ms: t.expires_at_ms,
            created_by: t.created_by,
            revoked: t.revoked,
        }
    }
}

impl Columns for TokenView {
    const HEADERS: &'static [&'static str] =
        &["token", "kind", "ids", "city", "uses left", "expires", "made by", "revoked"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.token_id.clone(),
            self.kind.clone(),
            if self.id_pattern.is_empty() { "*".into() } else { self.id_pattern.clone() },
            escaped(&self.city),
            self.uses_left.to_string(),
            at(self.expires_at_ms),
            escaped(&self.created_by),
            if self.revoked { "revoked".into() } else { String::new() },
        ]
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct OperatorView {
    name: String,
    role: String,
    removed: bool,
}

impl From<Operator> for OperatorView {
    fn from(o: Operator) -> Self {
        let role = name(OperatorRole::as_str_name(&o.role()), "OPERATOR_ROLE_");
        Self { role, name: o.name, removed: o.removed }
    }
}

impl Columns for OperatorView {
    const HEADERS: &'static [&'static str] = &["name", "role", "removed"];
    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.role.clone(), if self.removed { "removed".into() } else { String::new() }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_identity_that_may_enrol_again_says_so_and_place_and_price_are_as_enrolled_spec_7_4() {
        let mut identity = Identity { id: "CP-1".into(), price_e4: 4_000, ..Identity::default() };
        identity.set_state(IdentityState::Removed);
        assert_eq!(IdentityView::from(identity.clone()).cells()[2], "removed");
        let view = IdentityView::from(Identity { may_enrol: true, ..identity });
        assert_eq!(view.cells()[2], "removed, may enrol");
        assert_eq!((IdentityView::HEADERS[5], view.cells()[5].as_str()), ("enrolled price", "0.4000"));
    }
}
