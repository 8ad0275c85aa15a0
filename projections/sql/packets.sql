-- name: tables
-- One row per packet: who holds it, what it held at first and holds now, and until when.
CREATE TABLE packet (
    book text COLLATE "C" NOT NULL,
    packet uuid NOT NULL,
    campaign uuid NOT NULL,
    person text COLLATE "C" NOT NULL,
    n integer NOT NULL,
    state text COLLATE "C" NOT NULL,
    amount_minor bigint NOT NULL,
    balance_minor bigint NOT NULL,
    currency text COLLATE "C" NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz NOT NULL,
    claimed_at timestamptz NOT NULL,
    payments bigint NOT NULL DEFAULT 0,
    position bigint NOT NULL, -- of the event that last changed the row
    shown text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        CASE WHEN state = 'held' AND balance_minor = 0 THEN 'spent' ELSE state END
    ) STORED,
    CONSTRAINT packet_balance CHECK (balance_minor BETWEEN 0 AND amount_minor),
    CONSTRAINT packet_ended CHECK (state = 'held' OR balance_minor = 0)
) WITH (fillfactor = 70);

-- One row per event of a packet, of which statements are made. Amounts are what came into the packet
-- (less than zero: what left it), and what the payer added of their own (less than zero: got back).
CREATE TABLE movement (
    book text COLLATE "C" NOT NULL,
    packet uuid NOT NULL,
    version integer NOT NULL,
    kind text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    merchant text COLLATE "C",
    shop text,
    order_no text,
    payment uuid,
    refund uuid,
    packet_minor bigint NOT NULL,
    own_minor bigint NOT NULL DEFAULT 0,
    reclaimed_minor bigint NOT NULL DEFAULT 0, -- of a refund: what went back instead of into it
    currency text COLLATE "C" NOT NULL,
    position bigint NOT NULL
);

-- name: staging
-- What a rebuild pours in: packets as they were claimed, and what became of them.
-- Staging may be unlogged: a crash ends the rebuild, and the next one starts over.
CREATE UNLOGGED TABLE claim (
    book text COLLATE "C" NOT NULL,
    packet uuid NOT NULL,
    campaign uuid NOT NULL,
    person text NOT NULL,
    n integer NOT NULL,
    state text NOT NULL,
    amount_minor bigint NOT NULL,
    balance_minor bigint NOT NULL,
    currency text NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz NOT NULL,
    claimed_at timestamptz NOT NULL,
    payments bigint NOT NULL,
    position bigint NOT NULL
);
CREATE UNLOGGED TABLE change (
    book text COLLATE "C" NOT NULL,
    packet uuid NOT NULL,
    state text,
    moved_minor bigint NOT NULL,
    payments bigint NOT NULL,
    position bigint NOT NULL
);

-- name: settle
-- Each packet with the sum of its changes is a row; no row is written twice.
-- A change without a claim has no campaign, and the table refuses that.
INSERT INTO packet (
    book, packet, campaign, person, n, state, amount_minor, balance_minor, currency,
    valid_from, valid_until, claimed_at, payments, position
)
SELECT
    coalesce(c.book, l.book), coalesce(c.packet, l.packet), c.campaign, c.person, c.n,
    coalesce(l.state, c.state), c.amount_minor, c.balance_minor + coalesce(l.moved_minor, 0),
    c.currency, c.valid_from, c.valid_until, c.claimed_at,
    c.payments + coalesce(l.payments, 0), coalesce(l.position, c.position)
FROM claim AS c
FULL JOIN (
    SELECT book, packet, max(state) AS state, sum(moved_minor) AS moved_minor,
        sum(payments) AS payments, max(position) AS position
    FROM change GROUP BY book, packet
) AS l ON l.book = c.book AND l.packet = c.packet;

-- name: drop_staging
-- Nothing of a rebuild's staging stays behind.
DROP TABLE claim, change;

-- name: indexes
-- Keys of the ways packets are asked for: by id, by holder, by end; and payments by merchant.
ALTER TABLE packet ADD CONSTRAINT packet_key PRIMARY KEY (packet, book);
CREATE INDEX packet_of_person ON packet (person, shown, claimed_at);
CREATE INDEX packet_due ON packet (book, valid_until) WHERE state = 'held' AND balance_minor > 0;
ALTER TABLE movement ADD CONSTRAINT movement_key PRIMARY KEY (packet, version, book);
CREATE INDEX movement_of_merchant ON movement (merchant, at, book, packet, version)
    WHERE merchant IS NOT NULL;

-- name: change
-- Apply a batch's changes to rows that are there already: a packet ends once.
UPDATE packet SET
    state = coalesce(change.state, packet.state),
    balance_minor = packet.balance_minor + change.moved_minor,
    payments = packet.payments + change.payments,
    position = change.position
FROM json_to_recordset(%(rows)s) AS change (
    packet uuid, state text, moved_minor bigint, payments bigint, position bigint
)
WHERE packet.book = %(book)s AND packet.packet = change.packet;
