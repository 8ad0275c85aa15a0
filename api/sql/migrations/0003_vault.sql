-- The vault: keys of persons, each wrapped by an epoch key that is outside the database. A row that
-- is gone was destroyed, and its person is on the list of the erased beside the epoch keys; a row
-- that a backup brings back is not believed.

CREATE TABLE person_key (
    person text COLLATE "C" NOT NULL PRIMARY KEY, -- the pseudonym, as in the events
    epoch integer NOT NULL, -- of the key that wraps the row
    sealed bytea NOT NULL -- the person's key and tag
);

CREATE TABLE person_link (
    tag bytea NOT NULL PRIMARY KEY, -- keyed hash of the verified identity
    epoch integer NOT NULL,
    sealed bytea NOT NULL -- the pseudonym
);

-- Who was erased and may not come back as somebody new before the campaigns of that time are over.
CREATE TABLE person_suppression (
    tag bytea NOT NULL PRIMARY KEY,
    until timestamptz NOT NULL -- the row is removed then
);

-- A ledger that was begun before there was a choice keeps the pseudonyms that it has.
INSERT INTO installation (name, value)
SELECT 'persons', 'keyed' FROM installation WHERE name = 'pseudonym_key'
ON CONFLICT DO NOTHING;

GRANT SELECT, INSERT, UPDATE, DELETE ON person_key, person_link, person_suppression TO tidebook_app;
