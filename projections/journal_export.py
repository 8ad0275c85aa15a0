"""Exports of the journal: for beancount, for hledger, and as Parquet.

Text is made line by line, so that a journal of any length needs the memory of a page. Account
names are mapped to what each tool allows, and back. Nothing is rounded and nothing is summed here:
the balances at the end are the journal's own, for the tool to compare with what it adds up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote

from ledger.datastore import Datastore
from ledger.money import in_major_units
from projections import journal_reading as reading
from projections.journal_reading import Account, Posting

ASSERTIONS_MAX: Final = 500
"""Balances that one transaction of hledger asserts: a longer one is hard to read for anybody."""

# Names of accounts

ROOTS: Final = MappingProxyType(
    {kind: "Equity" if kind == "sponsor" else "Assets" for kind in reading.KINDS}
)
"""Kind → the type of account: sponsors are where money comes from, all others where it is."""

_MARK: Final = "Id-"
_NOT_BEANCOUNT: Final = re.compile(rb"[^A-Za-z0-9]")
_ESCAPE: Final = re.compile(rb"-(-|[0-9a-f]{2})")


def beancount_name(account: str) -> str:
    """Return an account's name in beancount: `Assets:Merchant:Id-tea--house`.

    A hyphen is doubled; any other byte but ASCII letters and digits is a hyphen and its hex.
    """
    kind, _, name = account.partition(":")
    text = _NOT_BEANCOUNT.sub(
        lambda match: b"--" if match[0] == b"-" else b"-%02x" % match[0][0], name.encode()
    )
    return f"{ROOTS[kind]}:{kind.capitalize()}:{_MARK}{text.decode()}"


def from_beancount_name(name: str) -> str:
    """Return the account that a name in beancount stands for."""
    _, kind, text = name.split(":")
    raw = _ESCAPE.sub(
        lambda match: b"-" if match[1] == b"-" else bytes.fromhex(match[1].decode()),
        text.removeprefix(_MARK).encode(),
    )
    return f"{kind.lower()}:{raw.decode()}"


def hledger_name(account: str) -> str:
    """Return an account's name in hledger: `assets:merchant:tea-house`, escaped as in a URL."""
    kind, _, name = account.partition(":")
    return f"{ROOTS[kind].lower()}:{kind}:{quote(name, safe='')}"


def from_hledger_name(name: str) -> str:
    """Return the account that a name in hledger stands for."""
    _, kind, text = name.split(":")
    return f"{kind}:{unquote(text)}"


# What is exported


class Extent(NamedTuple):
    """A book's journal up to a position, with the instants of its first and last posting."""

    book: str
    position: int
    first_at: datetime
    last_at: datetime
    currencies: list[str]


_EXTENT: Final = """
SELECT min(at), max(at) FROM (
    (SELECT at FROM rm_journal.posting WHERE book = %(book)s AND position <= %(position)s
     ORDER BY position, line LIMIT 1)
    UNION ALL
    (SELECT at FROM rm_journal.posting WHERE book = %(book)s AND position <= %(position)s
     ORDER BY position DESC, line DESC LIMIT 1)
) AS ends
"""
_OPENED: Final = """
SELECT a.no, a.account, a.opened_at FROM rm_journal.account AS a
WHERE a.book = %(book)s AND a.no > %(after)s AND a.opened <= %(position)s
ORDER BY a.no LIMIT %(limit)s
"""
_OPENED_BEFORE: Final = """
SELECT a.no FROM rm_journal.account AS a
JOIN rm_journal.account AS earlier
    ON earlier.book = a.book AND earlier.account = a.account AND earlier.no < a.no
WHERE a.book = %(book)s AND a.no = ANY (%(page)s)
"""


def extent_of(datastore: Datastore, book: str, position: int) -> Extent | None:
    """Return what there is of a journal up to a position, None when there is nothing."""
    with datastore.transaction() as curs:
        curs.execute(_EXTENT, {"book": book, "position": position})
        first_at, last_at = curs.fetchone()
        totals = reading.trial_balance(curs, book, position)
    if first_at is None:
        return None
    return Extent(book, position, first_at, last_at, sorted({one.currency for one in totals}))


def _opened(datastore: Datastore, extent: Extent) -> Iterator[tuple[str, datetime]]:
    """Yield every account once, whatever its currencies, with the instant of its first posting."""
    after = 0
    while True:
        where = {"book": extent.book, "position": extent.position, "after": after}
        with datastore.transaction() as curs:
            curs.execute(_OPENED, {**where, "limit": reading.PAGE})
            page = curs.fetchall()
            curs.execute(_OPENED_BEFORE, {**where, "page": [no for no, _, _ in page]})
            again = {no for (no,) in curs.fetchall()}
        yield from ((account, at) for no, account, at in page if no not in again)
        if len(page) < reading.PAGE:
            return
        after = page[-1][0]


OnEvents = Callable[[int], None]
"""Told at which position an export is."""


def _transactions(
    datastore: Datastore, extent: Extent, on_position: OnEvents
) -> Iterator[list[Posting]]:
    """Yield the postings of each event."""
    every = reading.all_postings(datastore, extent.book, extent.position)
    for position, of_event in groupby(every, key=lambda one: one.position):
        yield list(of_event)
        on_position(position)


def _day(at: datetime) -> date:
    return at.astimezone(UTC).date()


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


# beancount


def beancount(
    datastore: Datastore, extent: Extent, on_position: OnEvents = lambda _: None
) -> Iterator[str]:
    """Yield the lines of a file for beancount."""
    yield f'option "title" "Tidebook: book {extent.book} up to position {extent.position}"'
    for currency in extent.currencies:
        yield f'option "operating_currency" "{currency}"'
    yield ""
    for currency in extent.currencies:
        yield f"{_day(extent.first_at)} commodity {currency}"
    yield ""
    for account, at in _opened(datastore, extent):
        yield f"{_day(at)} open {beancount_name(account)}"
    for postings in _transactions(datastore, extent, on_position):
        yield from _in_beancount(postings)
    yield ""
    after = _day(extent.last_at) + timedelta(days=1)
    for one in _balances(datastore, extent):
        amount = in_major_units(one.balance_minor, one.currency)
        # Without its own tolerance a balance may be off by one minor unit.
        yield f"{after} balance {beancount_name(one.account)}  {amount} ~ 0 {one.currency}"


def _in_beancount(postings: list[Posting]) -> Iterator[str]:
    first = postings[0]
    yield ""
    yield f'{_day(first.at)} * "{first.topic}"'
    yield f"  position: {first.position}"
    yield f'  at: "{_instant(first.at)}"'
    yield f'  stream: "{first.stream}"'
    yield f'  topic: "{first.topic}"'
    yield from _sides(postings, beancount_name)


def _sides(postings: Iterable[Posting], name: Callable[[str], str]) -> Iterator[str]:
    for one in postings:
        amount = in_major_units(one.amount_minor, one.currency)
        yield f"  {name(one.debit)}  {amount} {one.currency}"
        yield f"  {name(one.credit)}  -{amount} {one.currency}"


def _balances(datastore: Datastore, extent: Extent) -> Iterator[Account]:
    return reading.all_accounts(datastore, extent.book, extent.position)


# hledger


def hledger(
    datastore: Datastore, extent: Extent, on_position: OnEvents = lambda _: None
) -> Iterator[str]:
    """Yield the lines of a file for hledger."""
    yield f"; Tidebook: book {extent.book} up to position {extent.position}"
    for currency in extent.currencies:
        sample = in_major_units(0, currency)
        yield f"commodity {sample if '.' in sample else sample + '.'} {currency}"
    yield ""
    for account, _ in _opened(datastore, extent):
        yield f"account {hledger_name(account)}"
    for postings in _transactions(datastore, extent, on_position):
        first = postings[0]
        yield ""
        yield f"{_day(first.at)} * {first.topic}  ; position: {first.position}"
        yield f"  ; topic: {first.topic}, stream: {first.stream}, at: {_instant(first.at)}"
        yield from _sides(postings, hledger_name)
    for number, one in enumerate(_balances(datastore, extent)):
        if number % ASSERTIONS_MAX == 0:
            yield ""
            yield f"{_day(extent.last_at)} * balances at position {extent.position}"
        zero, amount = (in_major_units(minor, one.currency) for minor in (0, one.balance_minor))
        yield f"  {hledger_name(one.account)}  {zero} {one.currency} = {amount} {one.currency}"


FORMATS: Final = MappingProxyType({"beancount": beancount, "hledger": hledger})
"""Format of a text → what yields its lines."""

# Parquet

ROW_GROUP: Final = 50_000
"""Postings of a row group: some megabytes, so that a reader can skip what it does not need."""


def write_parquet(
    datastore: Datastore, extent: Extent, path: Path, on_position: OnEvents = lambda _: None
) -> int:
    """Write the lines of a journal to a Parquet file, two for each posting; return how many."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            pa.field("book", pa.string(), nullable=False),
            pa.field("position", pa.int64(), nullable=False),
            pa.field("line", pa.int16(), nullable=False),
            pa.field("side", pa.string(), nullable=False),
            pa.field("account", pa.string(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("currency", pa.string(), nullable=False),
            pa.field("amount_minor", pa.int64(), nullable=False),
            pa.field("balance_minor", pa.int64(), nullable=False),
            pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field("stream", pa.string(), nullable=False),
            pa.field("topic", pa.string(), nullable=False),
        ]
    )
    lines = 0
    rows: list[tuple[Any, ...]] = []
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            nonlocal lines
            columns = zip(*rows, strict=True)
            arrays = [
                pa.array(column, one.type) for column, one in zip(columns, schema, strict=True)
            ]
            writer.write_table(pa.table(arrays, schema=schema))
            lines += len(rows)
            rows.clear()

        for postings in _transactions(datastore, extent, on_position):
            for one in postings:
                rows.extend(_lines(one))
            if len(rows) >= 2 * ROW_GROUP:
                flush()
        if rows:
            flush()
    return lines


def _lines(one: Posting) -> Iterator[tuple[Any, ...]]:
    place = one.book, one.position, one.line
    event = one.at, str(one.stream), one.topic
    for side, account, sign, balance_minor in (
        ("debit", one.debit, 1, one.debit_balance_minor),
        ("credit", one.credit, -1, one.credit_balance_minor),
    ):
        whose = side, account, account.partition(":")[0], one.currency
        yield (*place, *whose, sign * one.amount_minor, balance_minor, *event)
