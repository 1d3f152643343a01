-- +goose Up
CREATE TABLE objects (
	kind            TEXT    NOT NULL,
	id              TEXT    NOT NULL,
	create_revision INTEGER NOT NULL,
	revision        INTEGER NOT NULL,
	expires         INTEGER,          -- microseconds since 1970; NULL: never
	json            BLOB    NOT NULL,
	PRIMARY KEY (kind, id)
) STRICT;
CREATE INDEX objects_expires ON objects (expires) WHERE expires IS NOT NULL;

-- The newest changes, for those who watch.
CREATE TABLE changes (
	seq             INTEGER PRIMARY KEY AUTOINCREMENT,
	revision        INTEGER NOT NULL,
	create_revision INTEGER NOT NULL,
	kind            TEXT    NOT NULL,
	id              TEXT    NOT NULL,
	expires         INTEGER,
	json            BLOB              -- NULL: deleted
) STRICT;
CREATE INDEX changes_revision ON changes (revision);

-- One row. Changes up to pruned_seq, the last of them of pruned_revision, are forgotten.
CREATE TABLE state (
	one             INTEGER PRIMARY KEY CHECK (one = 1),
	revision        INTEGER NOT NULL,
	pruned_revision INTEGER NOT NULL,
	pruned_seq      INTEGER NOT NULL
) STRICT;
INSERT INTO state VALUES (1, 0, 0, 0);
