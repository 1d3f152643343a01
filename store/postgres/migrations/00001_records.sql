-- +goose Up
CREATE TABLE gatehouse_records (
	kind       text        COLLATE "C" NOT NULL,
	key        text        COLLATE "C" NOT NULL,
	client     text        COLLATE "C" NOT NULL,
	subject    text        COLLATE "C" NOT NULL,
	session    text        COLLATE "C" NOT NULL,
	family     text        COLLATE "C" NOT NULL,
	generation bigint      NOT NULL,
	spent      boolean     NOT NULL DEFAULT false,
	expires    timestamptz,          -- NULL: never
	data       bytea       NOT NULL,
	PRIMARY KEY (kind, key)
);
CREATE INDEX gatehouse_records_client  ON gatehouse_records (client, kind, key)  WHERE client  <> '';
CREATE INDEX gatehouse_records_subject ON gatehouse_records (subject, kind, key) WHERE subject <> '';
CREATE INDEX gatehouse_records_session ON gatehouse_records (session, kind, key) WHERE session <> '';
CREATE INDEX gatehouse_records_family  ON gatehouse_records (family, kind, key)  WHERE family  <> '';
CREATE INDEX gatehouse_records_expires ON gatehouse_records (expires) WHERE expires IS NOT NULL;

CREATE TABLE gatehouse_revoked_families (
	family text        COLLATE "C" NOT NULL PRIMARY KEY,
	until  timestamptz               -- NULL: for good
);
CREATE INDEX gatehouse_revoked_families_until ON gatehouse_revoked_families (until) WHERE until IS NOT NULL;

-- Whoever writes into a family enters it first, whoever revokes one closes it
-- first. The lock lasts until the end of the transaction, and what follows in
-- the transaction sees all that was committed before it was had: a write
-- either comes before the revocation, which deletes it, or is refused. (Each
-- statement of a volatile function has a snapshot of its own.) The first
-- number tells these locks from those of other programs.
-- +goose StatementBegin
CREATE FUNCTION gatehouse_enter_family(f text, at_time timestamptz) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	PERFORM pg_advisory_xact_lock_shared(26465, hashtext(f));
	IF EXISTS (SELECT FROM gatehouse_revoked_families r WHERE r.family = f AND (r.until IS NULL OR r.until > at_time)) THEN
		RAISE EXCEPTION 'the family is revoked' USING ERRCODE = 'GH001';
	END IF;
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION gatehouse_close_family(f text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(26465, hashtext(f));
END
$$;
-- +goose StatementEnd

-- Kinds somebody watches. Writes of others send no notification: PostgreSQL
-- lets only one notifying transaction commit at a time.
CREATE TABLE gatehouse_watched_kinds (
	kind text COLLATE "C" NOT NULL PRIMARY KEY
);

-- +goose StatementBegin
CREATE FUNCTION gatehouse_notify() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	k text := CASE WHEN TG_OP = 'DELETE' THEN OLD.kind ELSE NEW.kind END;
	v text := CASE WHEN TG_OP = 'DELETE' THEN OLD.key ELSE NEW.key END;
BEGIN
	IF EXISTS (SELECT FROM gatehouse_watched_kinds w WHERE w.kind = k) THEN
		PERFORM pg_notify('gatehouse_records', k || ' ' || v);
	END IF;
	RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER gatehouse_records_notify AFTER INSERT OR UPDATE OR DELETE ON gatehouse_records
	FOR EACH ROW EXECUTE FUNCTION gatehouse_notify();

CREATE TABLE gatehouse_users (
	id            text        COLLATE "C" NOT NULL PRIMARY KEY,
	email         text        COLLATE "C" NOT NULL UNIQUE,
	name          text        NOT NULL,
	password_hash text        NOT NULL,
	admin         boolean     NOT NULL,
	disabled      boolean     NOT NULL,
	created_at    timestamptz,
	updated_at    timestamptz
);
