-- Registry's tables (SPEC 1.2). Bytes are stored as hexadecimal text, so that one script serves both back ends.

CREATE TABLE schema_version (
  name TEXT NOT NULL PRIMARY KEY,
  version INTEGER NOT NULL,
  serves_from INTEGER NOT NULL
);
INSERT INTO schema_version (name, version, serves_from) VALUES ('registry', 1, 1);

-- One row: the number of the last change. Every change raises it first, so it is also the lock under which a change
-- reads, decides and writes, and revisions become visible in order.
CREATE TABLE revisions (
  id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
  revision BIGINT NOT NULL
);
INSERT INTO revisions (id, revision) VALUES (1, 0);

CREATE TABLE identities (
  kind INTEGER NOT NULL,
  id TEXT NOT NULL,
  -- 1 enrolled, 2 void, 3 removed, 4 readmitted.
  state INTEGER NOT NULL,
  city TEXT NOT NULL,
  place TEXT NOT NULL,
  price_e4 BIGINT NOT NULL,
  enrolled_at_ms BIGINT NOT NULL,
  incarnation BIGINT NOT NULL,
  revision BIGINT NOT NULL UNIQUE,
  -- Argon2id in PHC form; NULL after a removal.
  credential_hash TEXT,
  PRIMARY KEY (kind, id)
);

CREATE TABLE tokens (
  id TEXT NOT NULL PRIMARY KEY,
  -- 0: either kind.
  kind INTEGER NOT NULL,
  id_pattern TEXT NOT NULL,
  city TEXT NOT NULL,
  -- Set for a token for one identity (kind, id_pattern): the revision at which it is valid.
  bound_revision BIGINT,
  uses_left BIGINT NOT NULL,
  expires_at_ms BIGINT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  created_by TEXT NOT NULL,
  revoked BOOLEAN NOT NULL,
  secret_hash TEXT NOT NULL
);

CREATE TABLE operators (
  name TEXT NOT NULL PRIMARY KEY,
  role INTEGER NOT NULL,
  removed BOOLEAN NOT NULL,
  changed_at_ms BIGINT NOT NULL,
  changed_by TEXT NOT NULL,
  revision BIGINT NOT NULL UNIQUE
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

-- Central's static public keys as it last reported them.
CREATE TABLE pins (
  position INTEGER NOT NULL PRIMARY KEY,
  pin TEXT NOT NULL
);

-- How far the audit was forwarded to Central, as numbers of this Registry's chain.
CREATE TABLE forwarding (
  id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
  sent BIGINT NOT NULL,
  acknowledged BIGINT NOT NULL
);
INSERT INTO forwarding (id, sent, acknowledged) VALUES (1, 0, 0);

-- The fingerprint of the secret from which every credential was derived.
CREATE TABLE secrets (
  id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
  fingerprint TEXT NOT NULL
);

-- The audit: the same two tables as Central's, so that the same code chains and verifies them.
CREATE TABLE writers (
  writer TEXT PRIMARY KEY NOT NULL,
  last_group TEXT NOT NULL,
  audit_number BIGINT NOT NULL,
  audit_hash TEXT NOT NULL,
  pruned_number BIGINT NOT NULL,
  pruned_hash TEXT NOT NULL,
  addresses_pruned_number BIGINT NOT NULL,
  outbox_sequence BIGINT NOT NULL
);

CREATE TABLE audit (
  writer TEXT NOT NULL,
  number BIGINT NOT NULL,
  at_ms BIGINT NOT NULL,
  actor TEXT NOT NULL,
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
