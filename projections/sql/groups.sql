-- name: tables
-- Campaigns of packets, and where the money is that their purses ever got.
CREATE TABLE campaign (
    book text COLLATE "C" NOT NULL,
    campaign uuid NOT NULL,
    currency text COLLATE "C" NOT NULL,
    sends_until timestamptz NOT NULL, -- the end of the claim window, or the instant of the close
    groups bigint NOT NULL DEFAULT 0,
    filled_minor bigint NOT NULL DEFAULT 0,      -- into purses, ever
    emptied_minor bigint NOT NULL DEFAULT 0,     -- out of purses, back to pot or sponsor, ever
    purses_minor bigint NOT NULL DEFAULT 0,      -- in purses now
    sent_minor bigint NOT NULL DEFAULT 0,        -- to groups, ever
    returned_minor bigint NOT NULL DEFAULT 0,    -- from groups, ever
    taken_minor bigint NOT NULL DEFAULT 0,       -- as shares, ever
    outstanding_minor bigint NOT NULL DEFAULT 0, -- in groups now
    position bigint NOT NULL, -- of the event that last changed the row
    PRIMARY KEY (book, campaign),
    CONSTRAINT campaign_purses CHECK (
        filled_minor = emptied_minor + purses_minor + taken_minor + outstanding_minor
    ),
    CONSTRAINT campaign_groups CHECK (
        sent_minor = returned_minor + taken_minor + outstanding_minor
    ),
    CONSTRAINT campaign_nothing_negative CHECK (least(purses_minor, outstanding_minor) >= 0)
) WITH (fillfactor = 50);

-- One row per purse: what is in it, and what waits for approval.
CREATE TABLE purse (
    book text COLLATE "C" NOT NULL,
    purse uuid NOT NULL,
    campaign uuid NOT NULL,
    person text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    begun_at timestamptz NOT NULL,
    balance_minor bigint NOT NULL DEFAULT 0,
    filled_minor bigint NOT NULL DEFAULT 0,
    emptied_minor bigint NOT NULL DEFAULT 0,
    sent_minor bigint NOT NULL DEFAULT 0,
    returned_minor bigint NOT NULL DEFAULT 0,
    filling_minor bigint,
    filling_by text,
    seed_commitment text,
    position bigint NOT NULL,
    PRIMARY KEY (book, purse),
    CONSTRAINT purse_money CHECK (
        filled_minor + returned_minor = balance_minor + sent_minor + emptied_minor
    ),
    CONSTRAINT purse_not_negative CHECK (balance_minor >= 0)
) WITH (fillfactor = 70);
CREATE INDEX purse_of_person ON purse (person, begun_at, book, purse);
CREATE INDEX purse_of_campaign ON purse (book, campaign) WHERE balance_minor > 0;

-- One row per group packet.
CREATE TABLE group_packet (
    book text COLLATE "C" NOT NULL,
    group_id uuid NOT NULL,
    campaign uuid NOT NULL,
    purse uuid NOT NULL,
    person text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    shares integer NOT NULL,
    total_minor bigint NOT NULL,
    currency text COLLATE "C" NOT NULL,
    salt text NOT NULL,
    seed_commitment text NOT NULL,
    committed_by integer NOT NULL,
    sender_may_take boolean NOT NULL,
    members jsonb,
    funded_at timestamptz NOT NULL,
    until timestamptz NOT NULL,
    taken integer NOT NULL DEFAULT 0,
    taken_minor bigint NOT NULL DEFAULT 0,
    returned integer NOT NULL DEFAULT 0,
    returned_minor bigint NOT NULL DEFAULT 0,
    outstanding_minor bigint NOT NULL,
    seed text,
    closed_at timestamptz,
    position bigint NOT NULL,
    PRIMARY KEY (book, group_id),
    CONSTRAINT group_money CHECK (total_minor = taken_minor + returned_minor + outstanding_minor),
    CONSTRAINT group_not_negative CHECK (
        least(outstanding_minor, taken_minor, returned_minor, shares - taken - returned) >= 0
    )
) WITH (fillfactor = 50);
CREATE INDEX group_of_person ON group_packet (person, funded_at, book, group_id);
CREATE INDEX group_due ON group_packet (book, until) WHERE state = 'open';

-- One row per share that somebody took; `nth` is its place in the order of taking.
CREATE TABLE share (
    book text COLLATE "C" NOT NULL,
    group_id uuid NOT NULL,
    nth integer NOT NULL,
    number integer NOT NULL,
    share uuid NOT NULL,
    person text COLLATE "C" NOT NULL,
    amount_minor bigint NOT NULL,
    taken_at timestamptz NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (book, group_id, nth)
);

-- name: begin_purses
-- Open a row for each purse that a batch begins.
INSERT INTO purse (book, purse, campaign, person, currency, version, begun_at, position)
SELECT %(book)s, purse, campaign, person, currency, 1, begun_at, position
FROM json_to_recordset(%(rows)s) AS begun (
    purse uuid, campaign uuid, person text, currency text, begun_at timestamptz, position bigint
);

-- name: change_purses
-- Apply what a batch does to purses.
UPDATE purse SET
    version = change.version,
    balance_minor = purse.balance_minor + change.balance_minor,
    filled_minor = purse.filled_minor + change.filled_minor,
    emptied_minor = purse.emptied_minor + change.emptied_minor,
    sent_minor = purse.sent_minor + change.sent_minor,
    returned_minor = purse.returned_minor + change.returned_minor,
    filling_minor = CASE WHEN change.proposes
        THEN change.filling_minor ELSE purse.filling_minor END,
    filling_by = CASE WHEN change.proposes THEN change.filling_by ELSE purse.filling_by END,
    seed_commitment = coalesce(change.seed_commitment, purse.seed_commitment),
    position = change.position
FROM json_to_recordset(%(rows)s) AS change (
    purse uuid, version integer, balance_minor bigint, filled_minor bigint, emptied_minor bigint,
    sent_minor bigint, returned_minor bigint, proposes boolean, filling_minor bigint,
    filling_by text, seed_commitment text, position bigint
)
WHERE purse.book = %(book)s AND purse.purse = change.purse;

-- name: begin_campaigns
-- Open a row for each campaign of packets that a batch drafts.
INSERT INTO campaign (book, campaign, currency, sends_until, position)
SELECT %(book)s, campaign, currency, sends_until, position
FROM json_to_recordset(%(rows)s) AS drafted (
    campaign uuid, currency text, sends_until timestamptz, position bigint
);

-- name: close_campaigns
-- From a close on nobody sends from a campaign's purses; other campaigns have no row.
UPDATE campaign SET sends_until = least(campaign.sends_until, closed.at)
FROM json_to_recordset(%(rows)s) AS closed (campaign uuid, at timestamptz)
WHERE campaign.book = %(book)s AND campaign.campaign = closed.campaign;

-- name: change_campaigns
-- Add what a batch moved.
UPDATE campaign SET
    groups = campaign.groups + change.groups,
    filled_minor = campaign.filled_minor + change.filled_minor,
    emptied_minor = campaign.emptied_minor + change.emptied_minor,
    purses_minor = campaign.purses_minor + change.purses_minor,
    sent_minor = campaign.sent_minor + change.sent_minor,
    returned_minor = campaign.returned_minor + change.returned_minor,
    taken_minor = campaign.taken_minor + change.taken_minor,
    outstanding_minor = campaign.outstanding_minor + change.outstanding_minor,
    position = change.position
FROM json_to_recordset(%(rows)s) AS change (
    campaign uuid, groups bigint, filled_minor bigint, emptied_minor bigint, purses_minor bigint,
    sent_minor bigint, returned_minor bigint, taken_minor bigint, outstanding_minor bigint,
    position bigint
)
WHERE campaign.book = %(book)s AND campaign.campaign = change.campaign;

-- name: change_groups
-- Apply what a batch does to groups.
UPDATE group_packet SET
    state = coalesce(change.state, group_packet.state),
    taken = group_packet.taken + change.taken,
    taken_minor = group_packet.taken_minor + change.taken_minor,
    returned = group_packet.returned + change.returned,
    returned_minor = group_packet.returned_minor + change.returned_minor,
    outstanding_minor = group_packet.outstanding_minor - change.taken_minor - change.returned_minor,
    seed = coalesce(change.seed, group_packet.seed),
    closed_at = coalesce(change.closed_at, group_packet.closed_at),
    position = change.position
FROM json_to_recordset(%(rows)s) AS change (
    group_id uuid, state text, taken integer, taken_minor bigint, returned integer,
    returned_minor bigint, seed text, closed_at timestamptz, position bigint
)
WHERE group_packet.book = %(book)s AND group_packet.group_id = change.group_id;

-- name: begin_groups
-- Open a row for each group that a batch funds.
INSERT INTO group_packet (
    book, group_id, campaign, purse, person, state, kind, shares, total_minor, currency, salt,
    seed_commitment, committed_by, sender_may_take, members, funded_at, until, outstanding_minor,
    position
)
SELECT
    %(book)s, group_id, campaign, purse, person, 'open', kind, shares, total_minor, currency, salt,
    seed_commitment, committed_by, sender_may_take, members, funded_at, until, total_minor, position
FROM json_to_recordset(%(rows)s) AS funded (
    group_id uuid, campaign uuid, purse uuid, person text, kind text, shares integer,
    total_minor bigint, currency text, salt text, seed_commitment text, committed_by integer,
    sender_may_take boolean, members jsonb, funded_at timestamptz, until timestamptz,
    position bigint
);
