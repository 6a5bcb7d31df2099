//! The tables for diesel; a test compares them with the migrated database.

diesel::table! {
    running_time (id) {
        id -> Integer,
        total_ms -> BigInt,
    }
}

diesel::table! {
    generation (id) {
        id -> Integer,
        number -> BigInt,
        backup_at_ms -> BigInt,
        behind -> Text,
    }
}

diesel::table! {
    lease (id) {
        id -> Integer,
        holder -> Text,
        until_ms -> BigInt,
    }
}

diesel::table! {
    charging_points (cp_id) {
        cp_id -> Text,
        incarnation -> BigInt,
        removed -> Bool,
        city -> Text,
        place -> Text,
        price_e4 -> BigInt,
        rated_power_w -> BigInt,
        owner -> Text,
        epoch -> BigInt,
        version -> BigInt,
        last_turn -> Text,
        stopped_by -> Nullable<Text>,
        stop_reason -> Text,
        maintenance_by -> Nullable<Text>,
        maintenance_reason -> Text,
        weather_blocked -> Bool,
        quarantined -> Bool,
        key_state -> Integer,
        meter_wh -> BigInt,
        unintelligible -> BigInt,
        since_ms -> BigInt,
    }
}

diesel::table! {
    sessions (session_id) {
        session_id -> Text,
        cp_id -> Text,
        driver_id -> Nullable<Text>,
        state -> Integer,
        request_id -> Text,
        manual -> Bool,
        place -> Text,
        price_e4 -> BigInt,
        currency -> Text,
        requested_wh -> BigInt,
        meter_start_wh -> Nullable<BigInt>,
        meter_last_wh -> Nullable<BigInt>,
        reserved_at_ms -> BigInt,
        started_at_ms -> Nullable<BigInt>,
        ended_at_ms -> Nullable<BigInt>,
        reason -> Integer,
        deadline_left_ms -> Nullable<BigInt>,
        disputed_wh -> BigInt,
        discrepancy_wh -> BigInt,
        changed_at_ms -> BigInt,
    }
}

diesel::table! {
    tickets (session_id) {
        session_id -> Text,
        driver_id -> Nullable<Text>,
        cp_id -> Text,
        currency -> Text,
        energy_wh -> BigInt,
        amount_minor -> BigInt,
        disputed_wh -> BigInt,
        billed_at_ms -> BigInt,
        document -> Text,
        key_id -> Text,
        signature -> Text,
        acknowledged_at_ms -> Nullable<BigInt>,
    }
}

diesel::table! {
    corrections (session_id, number) {
        session_id -> Text,
        number -> Integer,
        at_ms -> BigInt,
        operator -> Text,
        reason -> Text,
        energy_delta_wh -> BigInt,
        amount_delta_minor -> BigInt,
        settled_wh -> BigInt,
    }
}

diesel::table! {
    discrepancies (session_id) {
        session_id -> Text,
        cp_id -> Text,
        at_ms -> BigInt,
        billed_end_wh -> BigInt,
        reported_end_wh -> BigInt,
        energy_delta_wh -> BigInt,
    }
}

diesel::table! {
    orders (order_id) {
        order_id -> Text,
        operator -> Text,
        address -> Text,
        request_id -> Text,
        content -> Text,
        at_ms -> BigInt,
    }
}

diesel::table! {
    order_items (order_id, cp_id) {
        order_id -> Text,
        cp_id -> Text,
        subject -> Text,
        outcome -> Integer,
        reason -> Integer,
        detail -> Text,
    }
}

diesel::table! {
    keys (holder, key_no) {
        holder -> Text,
        key_no -> BigInt,
        incarnation -> BigInt,
        state -> Integer,
        wrapped -> Nullable<Text>,
        kek_id -> Text,
        granted_at_ms -> BigInt,
        expires_at_ms -> BigInt,
        granted_running_ms -> BigInt,
        changed_at_ms -> BigInt,
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
    }
}

diesel::table! {
    operators (name) {
        name -> Text,
        role -> Integer,
        removed -> Bool,
        revision -> BigInt,
    }
}

diesel::table! {
    mirrors (source) {
        source -> Text,
        revision -> BigInt,
    }
}

diesel::table! {
    outbox (writer, sequence) {
        writer -> Text,
        sequence -> BigInt,
        event_id -> Text,
        cp_id -> Text,
        epoch -> BigInt,
        #[sql_name = "type"]
        kind -> Text,
        at_ms -> BigInt,
        body -> Text,
        published_at_ms -> Nullable<BigInt>,
    }
}

diesel::joinable!(corrections -> tickets (session_id));
diesel::allow_tables_to_appear_in_same_query!(charging_points, corrections, discrepancies, sessions, tickets);
diesel::allow_tables_to_appear_in_same_query!(order_items, orders);
diesel::allow_tables_to_appear_in_same_query!(charging_points, outbox);
