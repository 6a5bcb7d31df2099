-- Central's tables, in one text for SQLite and PostgreSQL: TEXT, BIGINT, INTEGER, BOOLEAN. Times are milliseconds
-- since 1970 (UTC), bytes are hexadecimal text, enumerations are the numbers of the protobuf messages.

CREATE TABLE schema_version (
    name TEXT PRIMARY KEY NOT NULL,
    version INTEGER NOT NULL,
    -- The oldest program version that can serve this schema.
    serves_from INTEGER NOT NULL
);
INSERT INTO schema_version (name, version, serves_from) VALUES ('central', 1, 1);

-- Raised by a restore, so that new epochs order after all earlier ones (SPEC 10.5).
CREATE TABLE generation (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    number BIGINT NOT NULL,
    -- Of the backup that was restored last: tickets of supplies that ended later are taken back. 0: there was none.
    backup_at_ms BIGINT NOT NULL,
    -- What shows that this database is older than what Central has signed; empty: nothing does.
    behind TEXT NOT NULL
);
INSERT INTO generation (id, number, backup_at_ms, behind) VALUES (1, 1, 0, '');

-- How long Central has run in all, saved once a minute: the age of keys counts in it, so that no wall clock that jumps
-- rotates or expires them (SPEC 4.6).
CREATE TABLE running_time (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    total_ms BIGINT NOT NULL
);
INSERT INTO running_time (id, total_ms) VALUES (1, 0);

-- The Central that used this database last: no other writes. Until when no other may take it, by the database's clock; 0:
-- given back. No row: nobody yet.
CREATE TABLE lease (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    -- The writer's name of that Central.
    holder TEXT NOT NULL,
    until_ms BIGINT NOT NULL
);

-- One row per committer: the end of its audit chain, and its last group, by which it asks whether a commit arrived.
CREATE TABLE writers (
    writer TEXT PRIMARY KEY NOT NULL,
    last_group TEXT NOT NULL,
    audit_number BIGINT NOT NULL,
    audit_hash TEXT NOT NULL,
    -- Entries up to this number were removed; the first remaining entry continues this hash.
    pruned_number BIGINT NOT NULL,
    pruned_hash TEXT NOT NULL,
    -- Entries up to this one may have lost their address (SPEC 10.9).
    addresses_pruned_number BIGINT NOT NULL,
    outbox_sequence BIGINT NOT NULL
);

CREATE TABLE charging_points (
    cp_id TEXT PRIMARY KEY NOT NULL,
    incarnation BIGINT NOT NULL,
    removed BOOLEAN NOT NULL,
    city TEXT NOT NULL,
    place TEXT NOT NULL,
    price_e4 BIGINT NOT NULL,
    -- 0: not set, so that the network-wide maximum limits its energy (SPEC 3.8a).
    rated_power_w BIGINT NOT NULL,
    owner TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    version BIGINT NOT NULL,
    last_turn TEXT NOT NULL,
    -- The durable causes (SPEC 2.1), each with who caused it; NULL: not in effect.
    stopped_by TEXT,
    stop_reason TEXT NOT NULL,
    maintenance_by TEXT,
    maintenance_reason TEXT NOT NULL,
    weather_blocked BOOLEAN NOT NULL,
    quarantined BOOLEAN NOT NULL,
    key_state INTEGER NOT NULL,
    meter_wh BIGINT NOT NULL,
    unintelligible BIGINT NOT NULL,
    since_ms BIGINT NOT NULL
);
CREATE INDEX charging_points_by_city ON charging_points (city, cp_id);
CREATE INDEX charging_points_by_owner ON charging_points (owner);

CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY NOT NULL,
    cp_id TEXT NOT NULL REFERENCES charging_points (cp_id),
    -- NULL: the charging point's own account.
    driver_id TEXT,
    -- chargemesh.link.v1.SessionState: 1 reserved, 2 supplying, 3 settling, 4 billed, 5 released.
    state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 5),
    request_id TEXT NOT NULL,
    manual BOOLEAN NOT NULL,
    place TEXT NOT NULL,
    price_e4 BIGINT NOT NULL,
    currency TEXT NOT NULL,
    requested_wh BIGINT NOT NULL,
    meter_start_wh BIGINT,
    meter_last_wh BIGINT,
    reserved_at_ms BIGINT NOT NULL,
    started_at_ms BIGINT,
    ended_at_ms BIGINT,
    reason INTEGER NOT NULL,
    -- What is left of the deadline of the state, counted down only while Central runs.
    deadline_left_ms BIGINT,
    disputed_wh BIGINT NOT NULL,
    discrepancy_wh BIGINT NOT NULL,
    changed_at_ms BIGINT NOT NULL
);
-- Rules across charging points (SPEC 3.2): one open session per driver, one per charging point.
CREATE UNIQUE INDEX sessions_one_per_driver ON sessions (driver_id) WHERE state IN (1, 2) AND driver_id IS NOT NULL;
CREATE UNIQUE INDEX sessions_one_per_charging_point ON sessions (cp_id) WHERE state IN (1, 2);
CREATE INDEX sessions_open ON sessions (cp_id) WHERE state IN (1, 2, 3);
CREATE INDEX sessions_by_time ON sessions (reserved_at_ms, session_id);
CREATE INDEX sessions_by_charging_point ON sessions (cp_id, reserved_at_ms);
CREATE INDEX sessions_by_driver ON sessions (driver_id, reserved_at_ms);

-- Exactly one bill per session, whatever crashes, repeats or reorders (SPEC 3.7). The document is the encoded message that
-- the driver gets, in hexadecimal; the other columns repeat what queries filter and sum by. Neither ever changes.
CREATE TABLE tickets (
    session_id TEXT PRIMARY KEY NOT NULL REFERENCES sessions (session_id),
    driver_id TEXT,
    cp_id TEXT NOT NULL,
    currency TEXT NOT NULL,
    energy_wh BIGINT NOT NULL,
    amount_minor BIGINT NOT NULL,
    disputed_wh BIGINT NOT NULL,
    billed_at_ms BIGINT NOT NULL,
    document TEXT NOT NULL,
    -- Central's signature of the document, in hexadecimal, and the id of the key (SPEC 10.5).
    key_id TEXT NOT NULL,
    signature TEXT NOT NULL,
    -- NULL: the driver has not acknowledged it yet.
    acknowledged_at_ms BIGINT
);
CREATE INDEX tickets_due ON tickets (driver_id) WHERE acknowledged_at_ms IS NULL AND driver_id IS NOT NULL;
CREATE INDEX tickets_by_time ON tickets (billed_at_ms, session_id);
CREATE INDEX tickets_by_charging_point ON tickets (cp_id, billed_at_ms);
CREATE INDEX tickets_by_driver ON tickets (driver_id, billed_at_ms);

-- Later entries about a ticket (SPEC 3.8).
CREATE TABLE corrections (
    session_id TEXT NOT NULL REFERENCES tickets (session_id),
    number INTEGER NOT NULL,
    at_ms BIGINT NOT NULL,
    operator TEXT NOT NULL,
    reason TEXT NOT NULL,
    energy_delta_wh BIGINT NOT NULL,
    amount_delta_minor BIGINT NOT NULL,
    -- Disputed energy that this entry settled, whether owed or waived.
    settled_wh BIGINT NOT NULL,
    PRIMARY KEY (session_id, number)
);

-- A final meter value that arrived after billing (SPEC 3.8); only the first one is stored.
CREATE TABLE discrepancies (
    session_id TEXT PRIMARY KEY NOT NULL REFERENCES sessions (session_id),
    cp_id TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    billed_end_wh BIGINT NOT NULL,
    reported_end_wh BIGINT NOT NULL,
    energy_delta_wh BIGINT NOT NULL
);

-- The first answer to every call with a request id (SPEC 3.2, 7.3), written in the transaction of what was done for it.
CREATE TABLE once (
    -- Such as operator/NAME, driver/ID or charging-point/ID.
    caller TEXT NOT NULL,
    request_id TEXT NOT NULL,
    method TEXT NOT NULL,
    -- Of the whole request, to recognise another request under the same id.
    digest TEXT NOT NULL,
    answer TEXT NOT NULL,
    -- What the secret of an answer is derived from; erased after some minutes.
    nonce TEXT,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (caller, request_id)
);
CREATE INDEX once_by_time ON once (at_ms);

-- An order; how far it has come is counted from its items (SPEC 7.3).
CREATE TABLE orders (
    order_id TEXT PRIMARY KEY NOT NULL,
    operator TEXT NOT NULL,
    address TEXT NOT NULL,
    request_id TEXT NOT NULL,
    -- chargemesh.central.v1.Order as it was given: what was ordered, of whom and why.
    content TEXT NOT NULL,
    at_ms BIGINT NOT NULL
);
CREATE INDEX orders_by_time ON orders (at_ms, order_id);

-- What an order did at one charging point, written in the charging point's own turn.
CREATE TABLE order_items (
    order_id TEXT NOT NULL REFERENCES orders (order_id),
    cp_id TEXT NOT NULL,
    -- What the order decides about the charging point; empty where no charging point had this id.
    subject TEXT NOT NULL,
    -- 0 pending, 1 done, 2 unchanged, 3 failed, 4 overtaken, 5 cancelled.
    outcome INTEGER NOT NULL CHECK (outcome BETWEEN 0 AND 5),
    reason INTEGER NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (order_id, cp_id)
);
-- Of two orders with one subject the later one counts.
CREATE UNIQUE INDEX order_items_one_pending ON order_items (cp_id, subject) WHERE outcome = 0;
CREATE INDEX order_items_pending ON order_items (order_id) WHERE outcome = 0;

CREATE TABLE keys (
    holder TEXT NOT NULL,
    key_no BIGINT NOT NULL,
    incarnation BIGINT NOT NULL,
    -- 1 staged, 2 active, 3 retired, 4 revoked, 5 deleted.
    state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 5),
    -- Nonce, ciphertext and tag; erased when the key is revoked or deleted.
    wrapped TEXT,
    kek_id TEXT NOT NULL,
    granted_at_ms BIGINT NOT NULL,
    -- When it will be that old, for people; its age decides.
    expires_at_ms BIGINT NOT NULL,
    -- How long Central had run in all when it was granted.
    granted_running_ms BIGINT NOT NULL,
    changed_at_ms BIGINT NOT NULL,
    PRIMARY KEY (holder, key_no),
    CHECK ((state IN (4, 5)) = (wrapped IS NULL))
);
CREATE UNIQUE INDEX keys_one_active ON keys (holder) WHERE state = 2;
CREATE INDEX keys_by_expiry ON keys (expires_at_ms) WHERE state IN (1, 2);

-- Central's mirror of Registry's identities.
CREATE TABLE identities (
    -- chargemesh.registry.v1.Kind: 1 charging point, 2 driver.
    kind INTEGER NOT NULL,
    id TEXT NOT NULL,
    state INTEGER NOT NULL,
    city TEXT NOT NULL,
    place TEXT NOT NULL,
    price_e4 BIGINT NOT NULL,
    enrolled_at_ms BIGINT NOT NULL,
    incarnation BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE TABLE operators (
    name TEXT PRIMARY KEY NOT NULL,
    role INTEGER NOT NULL,
    removed BOOLEAN NOT NULL,
    revision BIGINT NOT NULL
);
CREATE TABLE mirrors (
    source TEXT PRIMARY KEY NOT NULL,
    revision BIGINT NOT NULL
);

-- Events that wait to be published, in order per charging point by (epoch, sequence).
CREATE TABLE outbox (
    writer TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    -- Empty: the event concerns no charging point.
    cp_id TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    type TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    body TEXT NOT NULL,
    published_at_ms BIGINT,
    PRIMARY KEY (writer, sequence)
);
CREATE INDEX outbox_waiting ON outbox (writer, sequence) WHERE published_at_ms IS NULL;
CREATE INDEX outbox_by_time ON outbox (at_ms);

CREATE TABLE audit (
    writer TEXT NOT NULL,
    number BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    -- Chained as a salted hash, so that address and salt can be pruned before the entry (SPEC 10.9).
    address TEXT,
    address_salt TEXT,
    address_hash TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    parameters TEXT NOT NULL,
    outcome TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (writer, number)
);
CREATE INDEX audit_by_time ON audit (at_ms, writer, number);
CREATE INDEX audit_by_actor ON audit (actor, at_ms);
CREATE INDEX audit_by_action ON audit (action, at_ms);
CREATE INDEX audit_by_object ON audit (object, at_ms);
