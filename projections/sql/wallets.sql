-- name: tables
-- One row per coupon: who holds it, what it is worth, until when, and what became of it.
CREATE TABLE coupon (
    book text COLLATE "C" NOT NULL,
    coupon uuid NOT NULL,
    campaign uuid NOT NULL,
    person text COLLATE "C" NOT NULL,
    n integer NOT NULL,
    state text COLLATE "C" NOT NULL,
    face_minor bigint NOT NULL,
    threshold_minor bigint NOT NULL,
    currency text COLLATE "C" NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz NOT NULL,
    claimed_at timestamptz NOT NULL,
    merchant text,
    order_no text,
    redeemed_at timestamptz,
    position bigint NOT NULL -- of the event that last changed the row
);

-- What decides over the entries of a lottery: the seed and the last winner's rank (none: nobody won).
CREATE TABLE draw (
    book text COLLATE "C" NOT NULL,
    campaign uuid NOT NULL,
    seed bytea,
    threshold bytea,
    PRIMARY KEY (book, campaign)
);

-- name: draw
-- Keep how lotteries were decided; a close after the draw changes nothing.
INSERT INTO draw (book, campaign, seed, threshold)
SELECT %(book)s, campaign, decode(seed, 'hex'), decode(threshold, 'hex')
FROM json_to_recordset(%(rows)s) AS decided (campaign uuid, seed text, threshold text)
ON CONFLICT DO NOTHING;

-- name: staging
-- What a rebuild pours in: claims, the terms that many of them share, and what became of them.
-- Staging may be unlogged: a crash ends the rebuild, and the next one starts over.
CREATE UNLOGGED TABLE terms (
    terms integer NOT NULL,
    book text NOT NULL,
    campaign uuid NOT NULL,
    face_minor bigint NOT NULL,
    threshold_minor bigint NOT NULL,
    currency text NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz NOT NULL
);
CREATE UNLOGGED TABLE claim (
    terms integer NOT NULL,
    coupon uuid NOT NULL,
    person text NOT NULL,
    n integer NOT NULL,
    state text NOT NULL,
    claimed_at timestamptz NOT NULL,
    position bigint NOT NULL
);
CREATE UNLOGGED TABLE change (
    book text COLLATE "C" NOT NULL,
    coupon uuid NOT NULL,
    state text NOT NULL,
    merchant text,
    order_no text,
    redeemed_at timestamptz,
    position bigint NOT NULL
);

-- name: settle
-- Each claim with its terms and the last of its changes is a row; no row is written twice.
-- A change without a claim has no campaign, and the table refuses that.
INSERT INTO coupon (
    book, coupon, campaign, person, n, state, face_minor, threshold_minor, currency,
    valid_from, valid_until, claimed_at, merchant, order_no, redeemed_at, position
)
SELECT
    coalesce(c.book, l.book), coalesce(c.coupon, l.coupon), c.campaign, c.person, c.n,
    coalesce(l.state, c.state), c.face_minor, c.threshold_minor, c.currency,
    c.valid_from, c.valid_until, c.claimed_at,
    l.merchant, l.order_no, l.redeemed_at, coalesce(l.position, c.position)
FROM (SELECT * FROM claim JOIN terms USING (terms)) AS c
FULL JOIN (
    SELECT DISTINCT ON (coupon, book) * FROM change ORDER BY coupon, book, position DESC
) AS l ON l.book = c.book AND l.coupon = c.coupon;

-- name: drop_staging
-- Nothing of a rebuild's staging stays behind.
DROP TABLE terms, claim, change;

-- name: indexes
-- Keys of the three ways a coupon is asked for: by its id, by its holder, by its end.
-- Every claim pays for each of them, so none has more columns than find its rows: the few coupons
-- that a person claimed at one instant are sorted when they are read, and the many that end at one
-- instant share one entry of the last index, which so stays small and grows at its end.
ALTER TABLE coupon ADD CONSTRAINT coupon_key PRIMARY KEY (coupon, book);
CREATE INDEX coupon_of_person ON coupon (person, state, claimed_at);
CREATE INDEX coupon_due ON coupon (book, valid_until) WHERE state = 'held';

-- name: change
-- Apply a batch's changes to rows that are there already.
UPDATE coupon SET
    state = change.state,
    merchant = change.merchant,
    order_no = change.order_no,
    redeemed_at = change.redeemed_at,
    position = change.position
FROM json_to_recordset(%(rows)s) AS change (
    coupon uuid, state text, merchant text, order_no text, redeemed_at timestamptz, position bigint
)
WHERE coupon.book = %(book)s AND coupon.coupon = change.coupon;
