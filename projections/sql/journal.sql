-- name: tables
-- Accounts in the order in which they were first posted to, each in one currency.
CREATE TABLE account (
    book text COLLATE "C" NOT NULL,
    no integer NOT NULL, -- from 1, without a gap
    account text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    opened bigint NOT NULL, -- position of the first posting
    opened_at timestamptz NOT NULL
);

-- Every posting of every event, with the balance of both its accounts after it. Rows never change.
CREATE TABLE posting (
    book text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    line smallint NOT NULL, -- from 1 in each event
    debit integer NOT NULL, -- number of the account that has more afterwards
    credit integer NOT NULL, -- number of the account that has less afterwards
    amount_minor bigint NOT NULL,
    debit_balance_minor bigint NOT NULL,
    credit_balance_minor bigint NOT NULL,
    at timestamptz NOT NULL,
    stream uuid NOT NULL,
    topic text COLLATE "C" NOT NULL,
    CONSTRAINT posting_moves CHECK (amount_minor > 0 AND debit <> credit)
);

-- What every kind of account was debited and credited from position 1 to the end of a block of 4,096
-- positions, or to the last event in it. A block in which no money could move has no rows.
CREATE TABLE total (
    book text COLLATE "C" NOT NULL,
    block bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    debited_minor numeric NOT NULL,
    credited_minor numeric NOT NULL,
    PRIMARY KEY (book, block, kind, currency)
);

-- The journal as accountants write it: two lines for a posting, debits above zero.
CREATE VIEW line AS
SELECT
    p.book, p.position, p.line, side.name AS side, a.account, a.kind, a.currency,
    side.sign * p.amount_minor AS amount_minor,
    CASE side.sign WHEN 1 THEN p.debit_balance_minor ELSE p.credit_balance_minor END
        AS balance_minor,
    p.at, p.stream, p.topic
FROM posting AS p
CROSS JOIN (VALUES ('debit', 1), ('credit', -1)) AS side (name, sign)
JOIN account AS a
    ON a.book = p.book AND a.no = CASE side.sign WHEN 1 THEN p.debit ELSE p.credit END;

-- name: staging
-- Accounts that a rebuild knows and has not met for long; there are none in most books.
CREATE UNLOGGED TABLE aside (
    book text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    no integer NOT NULL,
    balance_minor bigint NOT NULL,
    PRIMARY KEY (book, account, currency)
);

-- name: drop_staging
-- Nothing of a rebuild's staging stays behind.
DROP TABLE aside;

-- name: indexes
-- Postings by position, and by each of their accounts in order of position. Those of accounts begin
-- with what tells them apart: a book's name in front, alike in all rows, doubles the time of sorting.
ALTER TABLE account ADD CONSTRAINT account_key PRIMARY KEY (book, no);
CREATE UNIQUE INDEX account_by_name ON account (account, currency, book);
CREATE INDEX account_of_kind ON account (kind, no, book);
ALTER TABLE posting ADD CONSTRAINT posting_key PRIMARY KEY (book, position, line);
CREATE INDEX posting_debits ON posting (debit, book, position);
CREATE INDEX posting_credits ON posting (credit, book, position);

-- name: take_back
-- Take back those of the accounts that were put aside.
DELETE FROM aside
USING json_to_recordset(%(rows)s) AS w (account text, currency text)
WHERE aside.book = %(book)s AND aside.account = w.account AND aside.currency = w.currency
RETURNING aside.account, aside.currency, aside.no, aside.balance_minor;

-- name: standing
-- Number and last balance of those of the accounts that are open.
SELECT a.account, a.currency, a.no, last.balance_minor
FROM json_to_recordset(%(rows)s) AS w (account text, currency text)
JOIN account AS a ON a.book = %(book)s AND a.account = w.account AND a.currency = w.currency
CROSS JOIN LATERAL (
    (
        SELECT position, line, debit_balance_minor AS balance_minor FROM posting
        WHERE book = a.book AND debit = a.no
        ORDER BY position DESC, line DESC LIMIT 1
    )
    UNION ALL
    (
        SELECT position, line, credit_balance_minor FROM posting
        WHERE book = a.book AND credit = a.no
        ORDER BY position DESC, line DESC LIMIT 1
    )
    ORDER BY position DESC, line DESC LIMIT 1
) AS last;

-- name: last_account
-- How many accounts the book has.
SELECT coalesce(max(no), 0) FROM account WHERE book = %(book)s;

-- name: last_totals
-- What every kind of account was debited and credited so far.
SELECT kind, currency, debited_minor, credited_minor FROM total
WHERE book = %(book)s AND block = (SELECT max(block) FROM total WHERE book = %(book)s);

-- name: set_totals
-- Write the totals of blocks; the first of them may be there already.
INSERT INTO total (book, block, kind, currency, debited_minor, credited_minor)
SELECT %(book)s, block, kind, currency, debited_minor, credited_minor
FROM json_to_recordset(%(rows)s) AS totals (
    block bigint, kind text, currency text, debited_minor numeric, credited_minor numeric
)
ON CONFLICT (book, block, kind, currency) DO UPDATE SET
    debited_minor = excluded.debited_minor, credited_minor = excluded.credited_minor;
