//! The tables for diesel; a test uses every column in the migrated database.

diesel::table! {
    revisions (id) {
        id -> Integer,
        revision -> BigInt,
    }
}

diesel::table! {
    identities (kind, id) {
        kind -> Integer,
        id -> Text,
        state -> Integer,
        city -> Text,
        place -> Text,
        price_e4 -> BigInt,
        enrolled_at_ms -> BigInt,
        incarnation -> BigInt,
        revision -> BigInt,
        credential_hash -> Nullable<Text>,
    }
}

diesel::table! {
    tokens (id) {
        id -> Text,
        kind -> Integer,
        id_pattern -> Text,
        city -> Text,
        bound_revision -> Nullable<BigInt>,
        uses_left -> BigInt,
        expires_at_ms -> BigInt,
        created_at_ms -> BigInt,
        created_by -> Text,
        revoked -> Bool,
        secret_hash -> Text,
    }
}

diesel::table! {
    operators (name) {
        name -> Text,
        role -> Integer,
        removed -> Bool,
        changed_at_ms -> BigInt,
        changed_by -> Text,
        revision -> BigInt,
    }
}

diesel::table! {
    pins (position) {
        position -> Integer,
        pin -> Text,
    }
}

diesel::table! {
    forwarding (id) {
        id -> Integer,
        sent -> BigInt,
        acknowledged -> BigInt,
    }
}

diesel::table! {
    secrets (id) {
        id -> Integer,
        fingerprint -> Text,
    }
}
