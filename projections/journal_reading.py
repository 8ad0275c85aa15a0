"""Reading the journal: trial balances, balances and statements, at any position or instant.

Nothing here is longer than a page or older than it says: whoever asks names a position that the
journal shows, and what is read of it stays true. Balances are looked up, never summed from the
beginning.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from campaigns.replay import ACCOUNT_KINDS
from projections.journal import BLOCK_POSITIONS, JOURNAL
from projections.tracking import position

KINDS: Final = ACCOUNT_KINDS
"""Every kind of account, from where money comes from to where it is spent."""

ENDLESS: Final = 2**62


class PositionAhead(Exception):
    """A position was asked for that the journal does not show yet."""

    def __init__(self, book: str, wanted: int, shown: int) -> None:
        super().__init__(f"the journal of book {book} shows position {shown}, not yet {wanted}")
        self.shown = shown


class KindTotal(NamedTuple):
    """What all accounts of a kind were debited and credited up to a position, in a currency."""

    kind: str
    currency: str
    debited_minor: int
    credited_minor: int

    @property
    def balance_minor(self) -> int:
        """Debits minus credits."""
        return self.debited_minor - self.credited_minor


class Account(NamedTuple):
    """An account in one currency and its balance at a position: debits minus credits."""

    book: str
    no: int
    account: str
    currency: str
    opened: int
    opened_at: datetime
    balance_minor: int


class AccountCursor(NamedTuple):
    """The place after an account in the list of a book's accounts as of a position."""

    book: str
    no: int
    position: int


class Line(NamedTuple):
    """A line of an account: what an event put into it (below zero: took from it), and since.

    `other` is the account on the other side of the same posting.
    """

    book: str
    position: int
    line: int
    at: datetime
    amount_minor: int
    currency: str
    balance_minor: int
    other: str
    stream: UUID
    topic: str


class LineCursor(NamedTuple):
    """The place after a line in a statement as of a position. None of it ever changes."""

    book: str
    position: int
    line: int
    currency: str
    until: int


class Posting(NamedTuple):
    """A posting: an amount that leaves the credited account for the debited one."""

    book: str
    position: int
    line: int
    at: datetime
    debit: str
    credit: str
    amount_minor: int
    currency: str
    debit_balance_minor: int
    credit_balance_minor: int
    stream: UUID
    topic: str


# From instants to positions


def shown_position(curs: Any, book: str, wanted: int | None = None) -> int:
    """Return the position asked for, or the last that the journal shows; raise `PositionAhead`."""
    shown = position(curs, JOURNAL, book)
    if wanted is not None and wanted > shown:
        raise PositionAhead(book, wanted, shown)
    return shown if wanted is None else wanted


def position_at(curs: Any, book: str, instant: datetime) -> int:
    """Return the last position shown whose event's instant is not after `instant`; 0 for none.

    Instants never decrease in a book, so a few reads by position find it.
    """
    positions = range(1, shown_position(curs, book) + 1)
    return bisect_right(positions, instant, key=lambda one: instant_of(curs, book, one))


class _Stamped(msgspec.Struct):
    at: datetime


_INSTANT: Final = "SELECT state FROM tidebook.event WHERE book = %s AND position = %s"
_stamped: Final = msgspec.json.Decoder(_Stamped)


def instant_of(curs: Any, book: str, at_position: int) -> datetime:
    """Return the instant of the event at a position."""
    curs.execute(_INSTANT, (book, at_position))
    (state,) = curs.fetchone()
    return _stamped.decode(bytes(state)).at.astimezone(UTC)


# The trial balance

_TRIAL: Final = """
WITH sides AS (
    SELECT debit AS no, amount_minor AS debited_minor, 0 AS credited_minor
    FROM rm_journal.posting
    WHERE book = %(book)s AND position BETWEEN %(start)s AND %(position)s
    UNION ALL
    SELECT credit, 0, amount_minor
    FROM rm_journal.posting
    WHERE book = %(book)s AND position BETWEEN %(start)s AND %(position)s
)
SELECT kind, currency, sum(debited_minor)::numeric, sum(credited_minor)::numeric
FROM (
    SELECT kind, currency, debited_minor, credited_minor FROM rm_journal.total
    WHERE book = %(book)s AND block = (
        SELECT max(block) FROM rm_journal.total WHERE book = %(book)s AND block < %(block)s
    )
    UNION ALL
    SELECT account.kind, account.currency, sides.debited_minor, sides.credited_minor
    FROM sides JOIN rm_journal.account ON account.book = %(book)s AND account.no = sides.no
) AS moved
GROUP BY kind, currency
"""


def trial_balance(curs: Any, book: str, at_position: int) -> list[KindTotal]:
    """Return what each kind of account was debited and credited up to a position.

    It adds the postings of one block at most to the totals of the block before.
    """
    block = at_position // BLOCK_POSITIONS
    start = block * BLOCK_POSITIONS
    curs.execute(_TRIAL, {"book": book, "block": block, "start": start, "position": at_position})
    totals = [KindTotal(kind, unit, int(d), int(c)) for kind, unit, d, c in curs.fetchall()]
    return sorted(totals, key=lambda one: (one.currency, KINDS.index(one.kind)))


# Accounts and their balances

_BALANCE: Final = """
    (
        SELECT position, line, debit_balance_minor AS balance_minor FROM rm_journal.posting
        WHERE book = a.book AND debit = a.no AND position <= %(position)s
        ORDER BY position DESC, line DESC LIMIT 1
    )
    UNION ALL
    (
        SELECT position, line, credit_balance_minor FROM rm_journal.posting
        WHERE book = a.book AND credit = a.no AND position <= %(position)s
        ORDER BY position DESC, line DESC LIMIT 1
    )
    ORDER BY position DESC, line DESC LIMIT 1
"""
_COLUMNS: Final = """
SELECT a.book, a.no, a.account, a.currency, a.opened, a.opened_at, last.balance_minor
"""
_ACCOUNTS: Final = f"""{_COLUMNS}
FROM (
    SELECT * FROM rm_journal.account
    WHERE book = %(book)s AND no > %(after)s AND opened <= %(position)s
    ORDER BY no LIMIT %(limit)s
) AS a
CROSS JOIN LATERAL ({_BALANCE}) AS last
ORDER BY a.no
"""  # noqa: S608 - constants of this module
_OF_KIND: Final = _ACCOUNTS.replace("ORDER BY no LIMIT", "AND kind = %(kind)s ORDER BY no LIMIT")
_ONE: Final = f"""{_COLUMNS}
FROM rm_journal.account AS a
CROSS JOIN LATERAL ({_BALANCE}) AS last
WHERE a.book = %(book)s AND a.account = %(account)s
ORDER BY a.currency
"""


def accounts(
    curs: Any, book: str, at_position: int, *, kind: str | None = None, after: int = 0, limit: int
) -> list[Account]:
    """Return accounts with their balances at a position, in the order in which they were opened."""
    values = {"book": book, "position": at_position, "kind": kind, "after": after, "limit": limit}
    curs.execute(_ACCOUNTS if kind is None else _OF_KIND, values)
    return [Account._make(row) for row in curs.fetchall()]


def balances(curs: Any, book: str, account: str, at_position: int) -> list[Account]:
    """Return the balance of one account at a position in each of its currencies."""
    curs.execute(_ONE, {"book": book, "account": account, "position": at_position})
    return [Account._make(row) for row in curs.fetchall()]


# Statements

_SIDE: Final = """
    (
        SELECT p.book, p.position, p.line, p.at, {sign}p.amount_minor AS amount_minor, a.currency,
            p.{own}_balance_minor AS balance_minor, p.{other} AS other, p.stream, p.topic
        FROM rm_journal.posting AS p
        WHERE p.book = a.book AND p.{own} = a.no
            AND p.position BETWEEN %(after)s AND %(until)s
            AND (p.position, p.line) > (%(after)s, %(line)s)
        ORDER BY p.position, p.line LIMIT %(limit)s
    )
"""
_LINES: Final = f"""
SELECT s.book, s.position, s.line, s.at, s.amount_minor, s.currency, s.balance_minor,
    other.account, s.stream, s.topic
FROM rm_journal.account AS a
CROSS JOIN LATERAL (
    {_SIDE.format(sign="", own="debit", other="credit")}
    UNION ALL
    {_SIDE.format(sign="-", own="credit", other="debit")}
    ORDER BY position, line LIMIT %(limit)s
) AS s
JOIN rm_journal.account AS other ON other.book = s.book AND other.no = s.other
WHERE a.book = %(book)s AND a.account = %(account)s AND a.currency = %(currency)s
ORDER BY s.position, s.line
"""  # noqa: S608 - constants of this module


def statement(
    curs: Any,
    book: str,
    account: str,
    currency: str,
    *,
    after: tuple[int, int],
    until: int,
    limit: int,
) -> list[Line]:
    """Return an account's lines after a position and line up to a position, the oldest first."""
    values = {
        "book": book,
        "account": account,
        "currency": currency,
        "after": after[0],
        "line": after[1],
        "until": until,
        "limit": limit,
    }
    curs.execute(_LINES, values)
    return [Line._make(row) for row in curs.fetchall()]


# The whole journal

_POSTINGS: Final = """
SELECT p.book, p.position, p.line, p.at, d.account, c.account, p.amount_minor, d.currency,
    p.debit_balance_minor, p.credit_balance_minor, p.stream, p.topic
FROM (
    SELECT * FROM rm_journal.posting
    WHERE book = %(book)s AND (position, line) > (%(after)s, %(line)s) AND position <= %(until)s
    ORDER BY position, line LIMIT %(limit)s
) AS p
JOIN rm_journal.account AS d ON d.book = p.book AND d.no = p.debit
JOIN rm_journal.account AS c ON c.book = p.book AND c.no = p.credit
ORDER BY p.position, p.line
"""


def postings(
    curs: Any, book: str, *, after: tuple[int, int], until: int, limit: int
) -> list[Posting]:
    """Return postings after a position and line up to a position, in the book's order."""
    place = {"after": after[0], "line": after[1], "until": until, "limit": limit}
    curs.execute(_POSTINGS, {"book": book, **place})
    return [Posting._make(row) for row in curs.fetchall()]


PAGE: Final = 5_000
"""Rows read at once by those who read all of them."""


def all_accounts(
    datastore: Any, book: str, at_position: int, kind: str | None = None
) -> Iterator[Account]:
    """Yield every account with its balance at a position; no transaction is held meanwhile."""
    after = 0
    while True:
        with datastore.transaction() as curs:
            page = accounts(curs, book, at_position, kind=kind, after=after, limit=PAGE)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].no


def all_postings(datastore: Any, book: str, until: int) -> Iterator[Posting]:
    """Yield every posting up to a position; no transaction is held meanwhile."""
    after = 0, 0
    while True:
        with datastore.transaction() as curs:
            page = postings(curs, book, after=after, until=until, limit=PAGE)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].position, page[-1].line


def all_lines(
    datastore: Any, book: str, account: str, currency: str, after: int, until: int
) -> Iterator[Line]:
    """Yield every line of an account after a position, up to one."""
    place = after, ENDLESS
    while True:
        with datastore.transaction() as curs:
            page = statement(curs, book, account, currency, after=place, until=until, limit=PAGE)
        yield from page
        if len(page) < PAGE:
            return
        place = page[-1].position, page[-1].line
