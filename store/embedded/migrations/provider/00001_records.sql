-- +goose Up
CREATE TABLE records (
	kind       TEXT    NOT NULL,
	key        TEXT    NOT NULL,
	client     TEXT    NOT NULL,
	subject    TEXT    NOT NULL,
	session    TEXT    NOT NULL,
	family     TEXT    NOT NULL,
	generation INTEGER NOT NULL,
	spent      INTEGER NOT NULL,
	expires    INTEGER,          -- microseconds since 1970; NULL: never
	data       BLOB    NOT NULL,
	PRIMARY KEY (kind, key)
) STRICT;
CREATE INDEX records_client  ON records (client, kind, key)  WHERE client  <> '';
CREATE INDEX records_subject ON records (subject, kind, key) WHERE subject <> '';
CREATE INDEX records_session ON records (session, kind, key) WHERE session <> '';
CREATE INDEX records_family  ON records (family, kind, key)  WHERE family  <> '';
CREATE INDEX records_expires ON records (expires) WHERE expires IS NOT NULL;

CREATE TABLE revoked_families (
	family TEXT NOT NULL PRIMARY KEY,
	until  INTEGER                -- microseconds since 1970; NULL: for good
) STRICT, WITHOUT ROWID;
CREATE INDEX revoked_families_until ON revoked_families (until) WHERE until IS NOT NULL;
