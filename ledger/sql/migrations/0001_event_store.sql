-- The event store: books, events, idempotency, capacity. Every unique key starts with the book,
-- so the tables can be distributed by book; nothing here needs a sequence or a cross-book key.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tidebook_app') THEN
        CREATE ROLE tidebook_app NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of this server created the role at the same moment
END
$$;

CREATE TABLE book_head (
    book text NOT NULL PRIMARY KEY,
    position bigint NOT NULL DEFAULT 0 CHECK (position >= 0),
    at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 10); -- updated once a commit: leave room for heap-only updates

CREATE TABLE event (
    book text NOT NULL,
    position bigint NOT NULL CHECK (position > 0),
    originator_id uuid NOT NULL,
    originator_version integer NOT NULL CHECK (originator_version >= 0),
    topic text NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (book, originator_id, originator_version),
    UNIQUE (book, position)
);

CREATE TABLE idempotency (
    book text NOT NULL,
    scope text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    code text NOT NULL,
    body bytea NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (book, scope, key)
);

CREATE TABLE capacity (
    book text NOT NULL,
    campaign uuid NOT NULL,
    pool text NOT NULL,
    issued bigint NOT NULL DEFAULT 0,
    quota bigint NOT NULL DEFAULT 0,
    granted_minor bigint NOT NULL DEFAULT 0,
    budget_minor bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (book, campaign, pool),
    CONSTRAINT capacity_issued CHECK (issued BETWEEN 0 AND quota),
    CONSTRAINT capacity_granted CHECK (granted_minor BETWEEN 0 AND budget_minor)
) WITH (fillfactor = 50);

CREATE TABLE snapshot (
    book text NOT NULL,
    originator_id uuid NOT NULL,
    originator_version integer NOT NULL,
    topic text NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (book, originator_id, originator_version)
);

CREATE TABLE tracking (
    book text NOT NULL,
    application_name text NOT NULL,
    notification_id bigint NOT NULL,
    PRIMARY KEY (book, application_name)
);

CREATE TABLE installation (
    name text NOT NULL PRIMARY KEY,
    value text NOT NULL
);

-- Append only: the application's role has no right to change an event or a reply, and the trigger
-- stops everybody else, the owner included.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'append only: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER event_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON event
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER idempotency_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON idempotency
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

GRANT USAGE ON SCHEMA tidebook TO tidebook_app;
GRANT SELECT, INSERT ON event, idempotency, snapshot, book_head, capacity, tracking, installation
    TO tidebook_app;
GRANT UPDATE ON book_head, capacity, tracking TO tidebook_app;
GRANT SELECT ON schema_migration TO tidebook_app;
