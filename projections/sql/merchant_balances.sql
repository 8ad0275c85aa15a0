-- name: tables
-- What each merchant is owed, and every redemption behind it, one row per redemption.
CREATE TABLE merchant (
    book text COLLATE "C" NOT NULL,
    merchant text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    redeemed_count bigint NOT NULL DEFAULT 0,
    redeemed_minor bigint NOT NULL DEFAULT 0,
    refunded_count bigint NOT NULL DEFAULT 0,
    refunded_minor bigint NOT NULL DEFAULT 0,
    paid_count bigint NOT NULL DEFAULT 0,      -- payments from packets
    paid_minor bigint NOT NULL DEFAULT 0,      -- by packets; what payers added is not ours to owe
    paid_back_count bigint NOT NULL DEFAULT 0, -- refunds of such payments, each whole or in part
    paid_back_minor bigint NOT NULL DEFAULT 0,
    balance_minor bigint NOT NULL GENERATED ALWAYS AS (
        redeemed_minor - refunded_minor + paid_minor - paid_back_minor
    ) STORED,
    PRIMARY KEY (book, merchant, currency),
    CONSTRAINT merchant_refunds CHECK (refunded_count <= redeemed_count),
    CONSTRAINT merchant_balance CHECK (balance_minor >= 0)
) WITH (fillfactor = 50);
CREATE INDEX merchant_anywhere ON merchant (merchant);

CREATE TABLE redemption (
    book text COLLATE "C" NOT NULL,
    coupon uuid NOT NULL,
    version integer NOT NULL, -- of the coupon: it can be redeemed again after a refund
    merchant text COLLATE "C" NOT NULL,
    shop text,
    order_no text NOT NULL,
    discount_minor bigint NOT NULL,
    currency text COLLATE "C" NOT NULL,
    redeemed_at timestamptz NOT NULL,
    refunded_at timestamptz,
    position bigint NOT NULL -- of the event that last changed the row
);

-- name: staging
-- What a rebuild pours in: redemptions and the refunds that take some of them back.
-- Staging may be unlogged: a crash ends the rebuild, and the next one starts over.
CREATE UNLOGGED TABLE redeemed (
    book text COLLATE "C" NOT NULL,
    coupon uuid NOT NULL,
    version integer NOT NULL,
    merchant text NOT NULL,
    shop text,
    order_no text NOT NULL,
    discount_minor bigint NOT NULL,
    currency text NOT NULL,
    redeemed_at timestamptz NOT NULL,
    position bigint NOT NULL
);
CREATE UNLOGGED TABLE refunded (
    book text COLLATE "C" NOT NULL,
    coupon uuid NOT NULL,
    version integer NOT NULL, -- of the redemption that is taken back
    refunded_at timestamptz NOT NULL,
    position bigint NOT NULL
);

-- name: settle
-- Each redemption with its refund, if any, is a row; no row is written twice.
-- A refund without a redemption has no merchant, and the table refuses that.
INSERT INTO redemption (
    book, coupon, version, merchant, shop, order_no, discount_minor, currency,
    redeemed_at, refunded_at, position
)
SELECT
    coalesce(r.book, f.book), coalesce(r.coupon, f.coupon), coalesce(r.version, f.version),
    r.merchant, r.shop, r.order_no, r.discount_minor, r.currency,
    r.redeemed_at, f.refunded_at, coalesce(f.position, r.position)
FROM redeemed AS r
FULL JOIN refunded AS f
    ON f.book = r.book AND f.coupon = r.coupon AND f.version = r.version;

-- name: drop_staging
-- Nothing of a rebuild's staging stays behind.
DROP TABLE redeemed, refunded;

-- name: indexes
-- Keys of a redemption: by its coupon, and by its merchant from the newest.
ALTER TABLE redemption ADD CONSTRAINT redemption_key PRIMARY KEY (coupon, version, book);
CREATE INDEX redemption_of_merchant ON redemption (merchant, redeemed_at, book, coupon, version);

-- name: refund
-- Mark a batch's refunds on redemptions that are there already.
UPDATE redemption SET
    refunded_at = refund.refunded_at,
    position = refund.position
FROM json_to_recordset(%(rows)s) AS refund (
    coupon uuid, version integer, refunded_at timestamptz, position bigint
)
WHERE redemption.book = %(book)s
    AND redemption.coupon = refund.coupon
    AND redemption.version = refund.version;

-- name: open_accounts
-- Open a balance for each merchant that has none yet.
INSERT INTO merchant (book, merchant, currency)
SELECT %(book)s, merchant, currency
FROM json_to_recordset(%(rows)s) AS sums (merchant text, currency text)
ON CONFLICT (book, merchant, currency) DO NOTHING;

-- name: add_to_balances
-- Add a batch's sums to the merchants' balances.
UPDATE merchant SET
    redeemed_count = merchant.redeemed_count + sums.redeemed_count,
    redeemed_minor = merchant.redeemed_minor + sums.redeemed_minor,
    refunded_count = merchant.refunded_count + sums.refunded_count,
    refunded_minor = merchant.refunded_minor + sums.refunded_minor,
    paid_count = merchant.paid_count + sums.paid_count,
    paid_minor = merchant.paid_minor + sums.paid_minor,
    paid_back_count = merchant.paid_back_count + sums.paid_back_count,
    paid_back_minor = merchant.paid_back_minor + sums.paid_back_minor
FROM json_to_recordset(%(rows)s) AS sums (
    merchant text, currency text,
    redeemed_count bigint, redeemed_minor bigint, refunded_count bigint, refunded_minor bigint,
    paid_count bigint, paid_minor bigint, paid_back_count bigint, paid_back_minor bigint
)
WHERE merchant.book = %(book)s
    AND merchant.merchant = sums.merchant
    AND merchant.currency = sums.currency;
