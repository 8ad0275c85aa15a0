-- name: tables
-- One row per person and book: when the erasure was asked for, and when it was done.
CREATE TABLE person (
    book text COLLATE "C" NOT NULL,
    person text COLLATE "C" NOT NULL,
    requested_at timestamptz,
    requested_position bigint,
    erased_at timestamptz,
    erased_position bigint,
    PRIMARY KEY (book, person)
);
CREATE INDEX person_pending ON person (requested_at, book, person) WHERE erased_at IS NULL;
CREATE INDEX person_by_name ON person (person);

-- name: change
INSERT INTO person (book, person, requested_at, requested_position, erased_at, erased_position)
SELECT %(book)s, person, requested_at, requested_position, erased_at, erased_position
FROM json_to_recordset(%(rows)s::json) AS c (
    person text, requested_at timestamptz, requested_position bigint, erased_at timestamptz,
    erased_position bigint
)
ON CONFLICT (book, person) DO UPDATE SET
    requested_at = coalesce(excluded.requested_at, person.requested_at),
    requested_position = coalesce(excluded.requested_position, person.requested_position),
    erased_at = coalesce(excluded.erased_at, person.erased_at),
    erased_position = coalesce(excluded.erased_position, person.erased_position)
