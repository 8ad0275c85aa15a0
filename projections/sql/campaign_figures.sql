-- name: tables
-- What a campaign is and how it stands, one row per campaign.
-- Coupons: every one claimed is held, redeemed, expired, voided or reclaimed now.
-- Money: all that the sponsor ever funded is in the pot, with holders, with merchants or reclaimed.
CREATE TABLE campaign (
    book text COLLATE "C" NOT NULL,
    campaign uuid NOT NULL,
    name text NOT NULL,
    sponsor text NOT NULL,
    state text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    terms jsonb NOT NULL,
    currency text NOT NULL,
    drafted_at timestamptz NOT NULL,
    quota bigint NOT NULL DEFAULT 0,
    budget_minor bigint NOT NULL GENERATED ALWAYS AS (funded_minor - reclaimed_minor) STORED,
    proposed_quota bigint,
    proposed_budget_minor bigint,
    proposed_from_quota bigint,
    proposed_from_budget_minor bigint,
    proposed_by text,
    claimed bigint NOT NULL DEFAULT 0,    -- ever
    held bigint NOT NULL DEFAULT 0,       -- now
    redeemed bigint NOT NULL DEFAULT 0,   -- now
    refunded bigint NOT NULL DEFAULT 0,   -- ever
    expired bigint NOT NULL DEFAULT 0,
    voided bigint NOT NULL DEFAULT 0,
    reclaimed bigint NOT NULL DEFAULT 0,  -- refunded after their validity
    entered bigint NOT NULL DEFAULT 0,    -- in its lottery, ever
    drawn bigint NOT NULL DEFAULT 0,      -- of the claimed ones, those that the lottery gave
    draw jsonb,                           -- what the lottery committed to, and its outcome
    claimed_minor bigint NOT NULL DEFAULT 0,
    refunded_minor bigint NOT NULL DEFAULT 0,
    expired_minor bigint NOT NULL DEFAULT 0,
    voided_minor bigint NOT NULL DEFAULT 0,
    funded_minor bigint NOT NULL DEFAULT 0,    -- what the sponsor put in, ever
    pot_minor bigint NOT NULL DEFAULT 0,       -- free to be claimed
    held_minor bigint NOT NULL DEFAULT 0,      -- with holders
    spent_minor bigint NOT NULL DEFAULT 0,     -- with merchants
    reclaimed_minor bigint NOT NULL DEFAULT 0, -- what the sponsor got back, ever
    position bigint NOT NULL, -- of the event that last changed the row
    PRIMARY KEY (book, campaign),
    CONSTRAINT campaign_coupons CHECK (claimed = held + redeemed + expired + voided + reclaimed),
    CONSTRAINT campaign_money CHECK (
        funded_minor = pot_minor + held_minor + spent_minor + reclaimed_minor
    ),
    CONSTRAINT campaign_nothing_negative CHECK (
        least(quota, held, redeemed, pot_minor, held_minor, spent_minor, reclaimed_minor) >= 0
    )
) WITH (fillfactor = 50);
CREATE INDEX campaign_by_state ON campaign (state, drafted_at, book, campaign);

-- name: draft
-- Open a row for each campaign drafted in a batch; its figures follow with the changes.
INSERT INTO campaign
    (book, campaign, name, sponsor, state, version, terms, currency, drafted_at, position)
SELECT %(book)s, campaign, name, sponsor, 'draft', 1, terms, currency, drafted_at, position
FROM json_to_recordset(%(rows)s) AS drafted (
    campaign uuid, name text, sponsor text, terms jsonb, currency text, drafted_at timestamptz,
    position bigint
);

-- name: change
-- Apply a batch's changes: what a campaign became is set, its figures are added to.
UPDATE campaign SET
    state = coalesce(
        change.state,
        CASE WHEN change.got_funded AND campaign.state = 'draft' THEN 'funded' END,
        campaign.state
    ),
    version = coalesce(change.version, campaign.version),
    quota = coalesce(change.quota, campaign.quota),
    proposed_quota = CASE WHEN change.proposes
        THEN change.proposed_quota ELSE campaign.proposed_quota END,
    proposed_budget_minor = CASE WHEN change.proposes
        THEN change.proposed_budget_minor ELSE campaign.proposed_budget_minor END,
    proposed_from_quota = CASE WHEN change.proposes
        THEN change.proposed_from_quota ELSE campaign.proposed_from_quota END,
    proposed_from_budget_minor = CASE WHEN change.proposes
        THEN change.proposed_from_budget_minor ELSE campaign.proposed_from_budget_minor END,
    proposed_by = CASE WHEN change.proposes THEN change.proposed_by ELSE campaign.proposed_by END,
    claimed = campaign.claimed + change.claimed,
    held = campaign.held + change.held,
    redeemed = campaign.redeemed + change.redeemed,
    refunded = campaign.refunded + change.refunded,
    expired = campaign.expired + change.expired,
    voided = campaign.voided + change.voided,
    reclaimed = campaign.reclaimed + change.reclaimed,
    entered = campaign.entered + change.entered,
    drawn = campaign.drawn + change.drawn,
    draw = CASE WHEN change.draw IS NULL
        THEN campaign.draw ELSE coalesce(campaign.draw, '{}') || change.draw END,
    claimed_minor = campaign.claimed_minor + change.claimed_minor,
    refunded_minor = campaign.refunded_minor + change.refunded_minor,
    expired_minor = campaign.expired_minor + change.expired_minor,
    voided_minor = campaign.voided_minor + change.voided_minor,
    funded_minor = campaign.funded_minor + change.funded_minor,
    pot_minor = campaign.pot_minor + change.pot_minor,
    held_minor = campaign.held_minor + change.held_minor,
    spent_minor = campaign.spent_minor + change.spent_minor,
    reclaimed_minor = campaign.reclaimed_minor + change.reclaimed_minor,
    position = change.position
FROM json_to_recordset(%(rows)s) AS change (
    campaign uuid, state text, got_funded boolean, version integer, quota bigint,
    proposes boolean, proposed_quota bigint, proposed_budget_minor bigint,
    proposed_from_quota bigint, proposed_from_budget_minor bigint, proposed_by text,
    claimed bigint, held bigint, redeemed bigint, refunded bigint, expired bigint, voided bigint,
    reclaimed bigint, entered bigint, drawn bigint, draw jsonb, claimed_minor bigint,
    refunded_minor bigint, expired_minor bigint, voided_minor bigint, funded_minor bigint,
    pot_minor bigint, held_minor bigint, spent_minor bigint, reclaimed_minor bigint, position bigint
)
WHERE campaign.book = %(book)s AND campaign.campaign = change.campaign;
