-- Leases: who may write a read model of a book. The epoch fences: a holder whose lease was taken
-- carries an old epoch and can no longer commit. Read models live in schemas of their own
-- (rm_<name>), owned by the application's role, because a rebuild swaps whole schemas.

CREATE SCHEMA rm_lease;

CREATE TABLE rm_lease.lease (
    name text NOT NULL,
    book text NOT NULL,
    epoch bigint NOT NULL DEFAULT 1 CHECK (epoch > 0),
    holder text NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (name, book)
) WITH (fillfactor = 10); -- renewed with every batch: leave room for heap-only updates

GRANT USAGE ON SCHEMA rm_lease TO tidebook_app;
GRANT SELECT, INSERT, UPDATE ON rm_lease.lease TO tidebook_app;
