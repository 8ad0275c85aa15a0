-- The daily proofs: one a campaign and day, signed, made once and never changed. daily_head is the
-- lease, the fence and the tracking of whoever makes them, with the sums up to its position.

CREATE TABLE daily_head (
    book text NOT NULL PRIMARY KEY,
    position bigint NOT NULL DEFAULT 0 CHECK (position >= 0),
    until timestamptz, -- the end of the last day that was looked at
    sums bytea NOT NULL DEFAULT '{}',
    epoch bigint NOT NULL DEFAULT 1,
    holder text NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE daily_proof (
    book text NOT NULL,
    campaign uuid NOT NULL,
    day date NOT NULL, -- in the campaign's zone
    position bigint NOT NULL, -- of the last event before the day's end
    until timestamptz NOT NULL, -- the day's end
    sha256 bytea NOT NULL CHECK (length(sha256) = 32), -- of the note's text
    note bytea NOT NULL,
    PRIMARY KEY (book, campaign, day) -- never two proofs of one day
);

CREATE TRIGGER daily_proof_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON daily_proof
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER daily_head_only_grows
    BEFORE UPDATE ON daily_head
    FOR EACH ROW WHEN (NEW.position < OLD.position OR NEW.until < OLD.until)
    EXECUTE FUNCTION refuse_change();

GRANT SELECT, INSERT, UPDATE ON daily_head TO tidebook_app;
GRANT SELECT, INSERT ON daily_proof TO tidebook_app;
