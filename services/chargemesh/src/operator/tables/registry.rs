//! What Registry keeps: identities, tokens and operators.

use proto::{
    Price,
    registry::v1::{Identity, Kind, Operator, Token},
};

use crate::{
    operator::api_message::{ApiMessage, at, name},
    output::{Columns, escaped},
};

fn kind_name(kind: Kind) -> String {
    name(kind.as_str_name(), "KIND_")
}

impl Columns for ApiMessage<Identity> {
    /// Central rules over place and price afterwards, so here they are as they were said to Registry.
    const HEADERS: &'static [&'static str] =
        &["kind", "id", "state", "enrolled city", "enrolled place", "enrolled price", "enrolled at"];
    fn cells(&self) -> Vec<String> {
        let i = &self.0;
        let state = name(i.state().as_str_name(), "IDENTITY_STATE_");
        vec![
            kind_name(i.kind()),
            i.id.clone(),
            if i.may_enrol { format!("{state}, may enrol") } else { state },
            escaped(&i.city),
            escaped(&i.place),
            i.price_e4.map(|price| Price::from_e4(price).to_string()).unwrap_or_default(),
            at(i.enrol_time.as_ref()),
        ]
    }
}

impl Columns for ApiMessage<Token> {
    const HEADERS: &'static [&'static str] =
        &["token", "kind", "ids", "city", "uses left", "expires", "made by", "revoked"];
    fn cells(&self) -> Vec<String> {
        let t = &self.0;
        vec![
            t.token_id.clone(),
            t.kinds().map(kind_name).collect::<Vec<_>>().join(", "),
            t.id_pattern.clone(),
            escaped(&t.city),
            t.uses_left.to_string(),
            at(t.expire_time.as_ref()),
            escaped(&t.created_by),
            if t.revoked { "revoked".into() } else { String::new() },
        ]
    }
}

impl Columns for ApiMessage<Operator> {
    const HEADERS: &'static [&'static str] = &["name", "role", "removed"];
    fn cells(&self) -> Vec<String> {
        let o = &self.0;
        let role = name(o.role().as_str_name(), "OPERATOR_ROLE_");
        vec![o.name.clone(), role, if o.removed { "removed".into() } else { String::new() }]
    }
}

#[cfg(test)]
mod tests {
    use proto::registry::v1::IdentityState;

    use super::*;

    #[test]
    fn a_removed_identity_that_may_enrol_again_says_so_and_place_and_price_are_as_enrolled_spec_7_4() {
        let mut identity = Identity { id: "CP-1".into(), price_e4: Some(4_000), ..Identity::default() };
        identity.set_state(IdentityState::Removed);
        assert_eq!(ApiMessage(identity.clone()).cells()[2], "removed");
        let cells = ApiMessage(Identity { may_enrol: true, ..identity }).cells();
        assert_eq!(cells[2], "removed, may enrol");
        assert_eq!((ApiMessage::<Identity>::HEADERS[5], cells[5].as_str()), ("enrolled price", "0.4000"));
    }

    #[test]
    fn a_token_names_the_kinds_that_it_is_for_spec_7_4() {
        let kinds = vec![Kind::ChargingPoint.into(), Kind::Driver.into()];
        assert_eq!(ApiMessage(Token { kinds, ..Token::default() }).cells()[1], "charging-point, driver");
    }
}
