-- name: tables
-- What a campaign is and how it stands, one row per campaign.
-- Every coupon that was claimed is held, redeemed, expired, voided or reclaimed now; every packet is
-- held, expired or closed with its wallet.
-- Money: all that ever funded the campaign is in the pot, in purses, with holders, with merchants,
-- reclaimed or in the next round.
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
    budget_minor bigint NOT NULL GENERATED ALWAYS AS (
        funded_minor - reclaimed_minor - rolled_minor
    ) STORED,
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
    paid bigint NOT NULL DEFAULT 0,           -- payments from packets, ever
    wallets_closed bigint NOT NULL DEFAULT 0, -- packets that ended with their wallets
    split jsonb,                          -- what tiers or a split sum committed to, and the seed
    draw jsonb,                           -- what the lottery committed to, and its outcome
    registered bigint NOT NULL DEFAULT 0,     -- in its public draw, ever
    withdrawn bigint NOT NULL DEFAULT 0,      -- of these, entries that were taken back
    found_void bigint NOT NULL DEFAULT 0,     -- of these, entries that an operator voided
    winners bigint NOT NULL DEFAULT 0,        -- whom the public draw itself gives a seat
    moved_up bigint NOT NULL DEFAULT 0,       -- seats that went to runners-up, ever
    seats bigint NOT NULL DEFAULT 0,          -- seats that were given, ever
    void_reasons jsonb,                       -- reason → entries that were voided for it
    claimed_minor bigint NOT NULL DEFAULT 0,
    refunded_minor bigint NOT NULL DEFAULT 0,
    expired_minor bigint NOT NULL DEFAULT 0,
    voided_minor bigint NOT NULL DEFAULT 0,
    paid_minor bigint NOT NULL DEFAULT 0,      -- by packets, ever
    funded_minor bigint NOT NULL DEFAULT 0,    -- what the sponsor or the round before put in, ever
    rolled_in_minor bigint NOT NULL DEFAULT 0, -- of that, what the round before put in
    pot_minor bigint NOT NULL DEFAULT 0,       -- free to be claimed
    purses_minor bigint NOT NULL DEFAULT 0,    -- in purses, or sent from them and not taken
    held_minor bigint NOT NULL DEFAULT 0,      -- with holders
    spent_minor bigint NOT NULL DEFAULT 0,     -- with merchants
    reclaimed_minor bigint NOT NULL DEFAULT 0, -- what the sponsor got back, ever
    rolled_minor bigint NOT NULL DEFAULT 0,    -- what went into the next round, ever
    position bigint NOT NULL, -- of the event that last changed the row
    PRIMARY KEY (book, campaign),
    CONSTRAINT campaign_coupons CHECK (
        claimed = held + redeemed + expired + voided + reclaimed + wallets_closed
    ),
    CONSTRAINT campaign_money CHECK (
        funded_minor
        = pot_minor + purses_minor + held_minor + spent_minor + reclaimed_minor + rolled_minor
    ),
    CONSTRAINT campaign_public_draw CHECK (
        withdrawn + found_void <= registered AND seats <= winners + moved_up
    ),
    CONSTRAINT campaign_nothing_negative CHECK (
        least(
            quota, held, redeemed, pot_minor, purses_minor, held_minor, spent_minor,
            reclaimed_minor, rolled_minor
        ) >= 0
    )
) WITH (fillfactor = 50);
CREATE INDEX campaign_by_state ON campaign (state, drafted_at, book, campaign);
CREATE INDEX campaign_with_draw ON campaign (drafted_at, book, campaign)
    WHERE terms ? 'public_draw' AND state IN ('open', 'paused', 'closed');

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
    paid = campaign.paid + change.paid,
    wallets_closed = campaign.wallets_closed + change.wallets_closed,
    split = CASE WHEN change.split IS NULL
        THEN campaign.split ELSE coalesce(campaign.split, '{}') || change.split END,
    draw = CASE WHEN change.draw IS NULL
        THEN campaign.draw ELSE coalesce(campaign.draw, '{}') || change.draw END,
    registered = campaign.registered + change.registered,
    withdrawn = campaign.withdrawn + change.withdrawn,
    found_void = campaign.found_void + change.found_void,
    winners = campaign.winners + change.winners,
    moved_up = campaign.moved_up + change.moved_up,
    seats = campaign.seats + change.seats,
    void_reasons = CASE WHEN change.void_reasons IS NULL THEN campaign.void_reasons ELSE (
        SELECT jsonb_object_agg(reason, number) FROM (
            SELECT reason, sum(number::bigint) AS number FROM (
                SELECT * FROM jsonb_each_text(coalesce(campaign.void_reasons, '{}'))
                UNION ALL SELECT * FROM jsonb_each_text(change.void_reasons)
            ) AS told (reason, number) GROUP BY reason
        ) AS summed
    ) END,
    claimed_minor = campaign.claimed_minor + change.claimed_minor,
    refunded_minor = campaign.refunded_minor + change.refunded_minor,
    expired_minor = campaign.expired_minor + change.expired_minor,
    voided_minor = campaign.voided_minor + change.voided_minor,
    funded_minor = campaign.funded_minor + change.funded_minor,
    paid_minor = campaign.paid_minor + change.paid_minor,
    rolled_in_minor = campaign.rolled_in_minor + change.rolled_in_minor,
    pot_minor = campaign.pot_minor + change.pot_minor,
    purses_minor = campaign.purses_minor + change.purses_minor,
    held_minor = campaign.held_minor + change.held_minor,
    spent_minor = campaign.spent_minor + change.spent_minor,
    reclaimed_minor = campaign.reclaimed_minor + change.reclaimed_minor,
    rolled_minor = campaign.rolled_minor + change.rolled_minor,
    position = change.position
FROM json_to_recordset(%(rows)s) AS change (
    campaign uuid, state text, got_funded boolean, version integer, quota bigint,
    proposes boolean, proposed_quota bigint, proposed_budget_minor bigint,
    proposed_from_quota bigint, proposed_from_budget_minor bigint, proposed_by text,
    claimed bigint, held bigint, redeemed bigint, refunded bigint, expired bigint, voided bigint,
    reclaimed bigint, entered bigint, drawn bigint, paid bigint, wallets_closed bigint,
    draw jsonb, split jsonb, registered bigint, withdrawn bigint, found_void bigint,
    winners bigint, moved_up bigint, seats bigint, void_reasons jsonb, claimed_minor bigint, refunded_minor bigint, expired_minor bigint,
    voided_minor bigint, paid_minor bigint, funded_minor bigint, rolled_in_minor bigint,
    pot_minor bigint, purses_minor bigint, held_minor bigint, spent_minor bigint,
    reclaimed_minor bigint, rolled_minor bigint, position bigint
)
WHERE campaign.book = %(book)s AND campaign.campaign = change.campaign;
