//! The audit tables, equal in both services; a test compares them with the migrated database.

diesel::table! {
    writers (writer) {
        writer -> Text,
        last_group -> Text,
        audit_number -> BigInt,
        audit_hash -> Text,
        pruned_number -> BigInt,
        pruned_hash -> Text,
        addresses_pruned_number -> BigInt,
        outbox_sequence -> BigInt,
    }
}

diesel::table! {
    audit (writer, number) {
        writer -> Text,
        number -> BigInt,
        at_ms -> BigInt,
        actor -> Text,
        address -> Nullable<Text>,
        address_salt -> Nullable<Text>,
        address_hash -> Text,
        action -> Text,
        object -> Text,
        parameters -> Text,
        outcome -> Text,
        hash -> Text,
    }
}
