-- The transparency log of each book: its tiles, the heads that were signed, and who cosigned them.
-- One follower writes it, behind the writers; the row of log_head is its lease and its tracking.

CREATE TABLE log_head (
    book text NOT NULL PRIMARY KEY,
    size bigint NOT NULL DEFAULT 0 CHECK (size >= 0),
    epoch bigint NOT NULL DEFAULT 0,
    holder text NOT NULL DEFAULT '',
    expires_at timestamptz NOT NULL DEFAULT '-infinity',
    published_size bigint,
    published bytea
) WITH (fillfactor = 10);

CREATE TABLE log_tile (
    book text NOT NULL,
    level integer NOT NULL CHECK (level BETWEEN 0 AND 63),
    number bigint NOT NULL CHECK (number >= 0),
    hashes bytea NOT NULL CHECK (length(hashes) BETWEEN 32 AND 8192 AND length(hashes) % 32 = 0),
    PRIMARY KEY (book, level, number)
) WITH (fillfactor = 50);
ALTER TABLE log_tile ALTER COLUMN hashes SET STORAGE EXTERNAL; -- hashes cannot be compressed

CREATE TABLE log_checkpoint (
    book text NOT NULL,
    size bigint NOT NULL CHECK (size >= 0),
    root bytea NOT NULL CHECK (length(root) = 32),
    note bytea NOT NULL,
    signed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (book, size) -- never two roots for one size
);

CREATE TABLE log_cosignature (
    book text NOT NULL,
    size bigint NOT NULL,
    name text NOT NULL,
    key_id bytea NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (book, size, name, key_id)
);

CREATE TABLE log_key (
    book text NOT NULL,
    verifier text NOT NULL,
    since_size bigint NOT NULL,
    PRIMARY KEY (book, verifier)
);

CREATE TRIGGER log_checkpoint_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON log_checkpoint
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER log_cosignature_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON log_cosignature
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER log_key_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON log_key
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER log_tile_is_kept
    BEFORE DELETE OR TRUNCATE ON log_tile
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER log_tile_only_grows
    BEFORE UPDATE ON log_tile
    FOR EACH ROW
    WHEN (length(NEW.hashes) < length(OLD.hashes)
        OR substr(NEW.hashes, 1, length(OLD.hashes)) <> OLD.hashes)
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER log_head_only_grows
    BEFORE UPDATE ON log_head
    FOR EACH ROW WHEN (NEW.size < OLD.size)
    EXECUTE FUNCTION refuse_change();

-- A book that does not extend what was signed of it takes no further event, from nobody.
ALTER TABLE book_head ADD COLUMN halted text;

CREATE FUNCTION refuse_halted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'book % is halted: %', OLD.book, OLD.halted USING ERRCODE = '55H01';
END
$$;

CREATE TRIGGER book_head_may_be_halted
    BEFORE UPDATE ON book_head
    FOR EACH ROW WHEN (OLD.halted IS NOT NULL AND NEW.position <> OLD.position)
    EXECUTE FUNCTION refuse_halted();

GRANT SELECT, INSERT, UPDATE ON log_head, log_tile TO tidebook_app;
GRANT SELECT, INSERT ON log_checkpoint, log_cosignature, log_key TO tidebook_app;
