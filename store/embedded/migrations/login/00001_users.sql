-- +goose Up
CREATE TABLE users (
	id            TEXT    NOT NULL PRIMARY KEY,
	email         TEXT    NOT NULL UNIQUE,
	name          TEXT    NOT NULL,
	password_hash TEXT    NOT NULL,
	admin         INTEGER NOT NULL,
	disabled      INTEGER NOT NULL,
	created_at    INTEGER,        -- microseconds since 1970; NULL: not known
	updated_at    INTEGER
) STRICT;
