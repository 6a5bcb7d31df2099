DROP TABLE forwarding;
DROP TABLE pins;
DROP TABLE requests;
DROP TABLE operators;
DROP TABLE tokens;
DROP TABLE identities;
DROP TABLE revisions;
DROP TABLE schema_version;
