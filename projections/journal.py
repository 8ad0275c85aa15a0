"""The journal: every posting of every event, with the balance of both its accounts after it.

Where an event's money goes is asked of `campaigns.accounting` and known nowhere here. A balance
at any position is the last posting of the account up to it, so it is looked up and never summed.
Rows are only ever added: what was read of a position is true of it for ever.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple

from campaigns.accounting import RULES, Postings
from campaigns.event_types import EVENT_TYPES
from ledger.events import Event
from projections.projection import Batch, Projection, View, read_statements
from projections.rows import change_rows, copy_rows

NAME: Final = "journal"

BLOCK_POSITIONS: Final = 4_096
"""A trial balance adds up the postings of part of one block to the totals of the block before."""

ACCOUNTS_MAX: Final = 500_000
"""A rebuild puts aside, in the database, accounts it has not met since it met so many others."""

_SQL: Final = read_statements(NAME)

# What is read of the events


class Moved(View):
    """An event that may move money, as its rule of accounting looks at it."""

    at: datetime

    @property
    def originator_id(self) -> str:
        """The stream, under the name that it has in an event."""
        return self.stream


_FIELDS: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        **dict.fromkeys(("campaign", "person", "merchant", "sponsor", "into", "currency"), (str,)),
        "to": (str | None,),
        "group": (str | UnsetType, UNSET),
        **dict.fromkeys(("amount_minor", "face_minor", "discount_minor"), (int,)),
        **dict.fromkeys(("budget_change_minor", "to_packet_minor", "reclaimed_minor"), (int,)),
    }
)
"""Field → its type, and its default if it may be absent: all that rules of accounting look at."""


def _view_of(kind: type[Event]) -> type[Moved]:
    """Return what is read of events of a type: those of their fields that rules look at."""
    fields: list[Any] = [
        (name, *_FIELDS[name]) for name in kind.__struct_fields__ if name in _FIELDS
    ]
    name = f"{kind.__name__}Moved"
    view = msgspec.defstruct(name, fields, bases=(Moved,), kw_only=True, gc=False)
    assert issubclass(view, Moved)
    return view


_VIEWS: Final[dict[type[Event], type[Moved]]] = {kind: _view_of(kind) for kind in RULES}

READS: Final[dict[str, type[View] | None]] = {
    **dict.fromkeys(EVENT_TYPES.topics),
    **{kind.TOPIC: view for kind, view in _VIEWS.items()},
}
"""Whatever else this program knows moves no money."""

Moves = list[tuple[Moved, str, Postings]]
"""Events that may move money, each with its topic and the transfers that it makes."""


def moves_of(batch: Batch) -> Moves:
    """Return what the rules of accounting, as they are now, say about a batch."""
    rules = {view: (kind.TOPIC, RULES[kind]) for kind, view in _VIEWS.items() if kind in RULES}
    moves = []
    for event in batch:
        assert isinstance(event, Moved)
        topic, rule = rules[type(event)]
        moves.append((event, topic, rule(event)))
    return moves


# Rows, and how a batch becomes rows


class Total(msgspec.Struct, gc=False):
    """What a kind of account was debited and credited so far, in a currency."""

    kind: str
    currency: str
    debited_minor: int = 0
    credited_minor: int = 0


class BlockTotal(Total, kw_only=True, gc=False):
    block: int


class Standing(msgspec.Struct, gc=False):
    """An account in one currency: its number and its balance so far."""

    no: int
    balance_minor: int
    total: Total


class Name(msgspec.Struct, gc=False):
    account: str
    currency: str


class _Accounts(dict[str, Standing]):
    """The accounts of one book and currency that were met lately, by name.

    One that was not is taken over from those met before, or opened.
    """

    def __init__(self, book: Book, currency: str) -> None:
        super().__init__()
        self.earlier: dict[str, Standing] = {}
        self._book = book
        self._currency = currency
        self._totals: dict[str, Total] = {}

    def __missing__(self, account: str) -> Standing:
        standing = self.earlier.pop(account, None) if self.earlier else None
        if standing is None:
            kind = account[: account.index(":")]
            total = self._totals.get(kind) or self.total(kind)
            no = self._book.open(account, kind, self._currency)
            standing = Standing(no, 0, total)
        self[account] = standing
        return standing

    def total(self, kind: str) -> Total:
        """Return what a kind of account was debited and credited so far."""
        totals, key = self._book.totals, (kind, self._currency)
        found = self._totals[kind] = totals.get(key) or totals.setdefault(key, Total(*key))
        return found


class Book:
    """The accounts of a book so far, and what the events of a batch add to its journal."""

    def __init__(self, book: str, last_no: int = 0, totals: Iterable[Total] = ()) -> None:
        self.book = book
        self.totals = {(total.kind, total.currency): total for total in totals}
        self.accounts: dict[str, _Accounts] = {}
        self.has_aside = False
        self._last_no = last_no
        self._event: Any = None
        self._opened: list[tuple[Any, ...]] = []
        self._blocks: list[BlockTotal] = []

    def post(self, moves: Moves, curs: Any) -> None:
        """Write a batch's postings, the accounts that it opened, and the totals after it."""
        rows = self._fold(moves)
        copy_rows(curs, "account", _ACCOUNT_COLUMNS, self._opened)
        _copy_postings(curs, rows)
        change_rows(curs, _SQL["set_totals"], self.book, self._blocks)
        self._opened.clear()
        self._blocks.clear()

    def _fold(self, moves: Moves) -> list[bytes]:
        """Return the rows of `posting`, as COPY takes them."""
        accounts_in, pack = self.accounts, _ROW.pack
        head = _row_head(self.book)
        rows: list[bytes] = []
        block = moves[0][0].position // BLOCK_POSITIONS if moves else 0
        at, at_us = _PG_EPOCH, 0
        for event, topic, transfers in moves:
            self._event = event
            position = event.position
            if position // BLOCK_POSITIONS != block:
                self._end(block)
                block = position // BLOCK_POSITIONS
            if event.at != at:  # a batch of the writer has one instant
                at = event.at
                at_us = (at - _PG_EPOCH) // _MICROSECOND
            stream, tail = bytes.fromhex(event.stream.replace("-", "")), _TAILS[topic]
            for line, (debit, credit, amount_minor, currency) in enumerate(transfers, 1):
                accounts = accounts_in.get(currency) or self.in_currency(currency)
                debited, credited = accounts[debit], accounts[credit]
                debited.balance_minor += amount_minor
                debited.total.debited_minor += amount_minor
                credited.balance_minor -= amount_minor
                credited.total.credited_minor += amount_minor
                # fmt: off
                row = pack(8, position, 2, line, 4, debited.no, 4, credited.no, 8, amount_minor,
                           8, debited.balance_minor, 8, credited.balance_minor,
                           8, at_us, 16, stream)
                # fmt: on
                rows.append(head + row + tail)
        self._end(block)
        return rows

    def in_currency(self, currency: str) -> _Accounts:
        """Return the accounts in a currency."""
        return self.accounts.setdefault(currency, _Accounts(self, currency))

    def know(self, account: str, currency: str, no: int, balance_minor: int) -> None:
        """Take an account in that was opened before."""
        accounts = self.in_currency(currency)
        total = accounts.total(account[: account.index(":")])
        accounts[account] = Standing(no, balance_minor, total)

    def open(self, account: str, kind: str, currency: str) -> int:
        """Open an account at the event that is being posted; return its number."""
        self._last_no = no = self._last_no + 1
        event = self._event
        self._opened.append((self.book, no, account, kind, currency, event.position, event.at))
        return no

    def _end(self, block: int) -> None:
        self._blocks += [BlockTotal(*astuple(one), block=block) for one in self.totals.values()]


# The binary form of COPY: a header, per row the number of columns and per column its length and
# bytes, then -1. PostgreSQL takes it in a third of the time that it needs to read text.
_COPY: Final = "COPY posting FROM STDIN (FORMAT binary)"
_COPY_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END: Final = b"\xff\xff"
_COLUMNS: Final = 11
_ROW: Final = struct.Struct(">iqihiiiiiqiqiqiqi16s")  # from position to stream
_PG_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">i", len(data)) + data


def _row_head(book: str) -> bytes:
    return struct.pack(">h", _COLUMNS) + _text(book)


_TAILS: Final = {kind.TOPIC: _text(kind.TOPIC) for kind in _VIEWS}


def _copy_postings(curs: Any, rows: list[bytes]) -> None:
    data = io.BytesIO(b"".join((_COPY_HEAD, *rows, _COPY_END)))
    curs.copy_expert(_COPY, data, size=1 << 20)


_ACCOUNT_COLUMNS: Final = ("book", "no", "account", "kind", "currency", "opened", "opened_at")


def apply(curs: Any, book: str, batch: Batch) -> None:
    """Write a batch to the tables in use."""
    if not batch:
        return
    curs.execute(_SQL["last_account"], {"book": book})
    (last_no,) = curs.fetchone()
    curs.execute(_SQL["last_totals"], {"book": book})
    totals = [
        Total(kind, currency, int(debited), int(credited))
        for kind, currency, debited, credited in curs.fetchall()
    ]
    fold = Book(book, last_no, totals)
    moves = moves_of(batch)
    _recall(curs, fold, "standing", _names_in(moves))
    fold.post(moves, curs)


def _names_in(moves: Moves) -> list[Name]:
    """Return the accounts that are posted to."""
    names = set()
    for _, _, transfers in moves:
        for one in transfers:
            names |= {(one.debit, one.currency), (one.credit, one.currency)}
    return [Name(*name) for name in sorted(names)]


def _recall(curs: Any, fold: Book, statement: str, names: list[Name]) -> None:
    rows = msgspec.json.encode(names).decode()
    curs.execute(_SQL[statement], {"book": fold.book, "rows": rows})
    for row in curs.fetchall():
        fold.know(*row)


class JournalLoader:
    """Pours postings in as they come, with the accounts met lately in memory."""

    def __init__(self, accounts_max: int = ACCOUNTS_MAX) -> None:
        self._accounts_max = accounts_max
        self._fold = Book("")

    def load(self, curs: Any, book: str, batch: Batch) -> None:
        """Pour a batch."""
        if self._fold.book != book:
            self._fold = Book(book)
        fold, moves = self._fold, moves_of(batch)
        if fold.has_aside:
            _recall(
                curs, fold, "take_back", [one for one in _names_in(moves) if _absent(fold, one)]
            )
        fold.post(moves, curs)
        for currency, accounts in fold.accounts.items():
            if len(accounts) >= self._accounts_max:
                self._put_aside(curs, fold, currency, accounts)

    def settle(self, curs: Any) -> None:
        """Nothing is left to do: what was poured are the rows."""

    @staticmethod
    def _put_aside(curs: Any, fold: Book, currency: str, accounts: _Accounts) -> None:
        rows = [
            (fold.book, account, currency, one.no, one.balance_minor)
            for account, one in accounts.earlier.items()
        ]
        copy_rows(curs, "aside", _ASIDE_COLUMNS, rows)
        fold.has_aside |= bool(rows)
        accounts.earlier = dict(accounts)
        accounts.clear()


def _absent(fold: Book, name: Name) -> bool:
    accounts = fold.in_currency(name.currency)
    return name.account not in accounts and name.account not in accounts.earlier


_ASIDE_COLUMNS: Final = ("book", "account", "currency", "no", "balance_minor")

JOURNAL: Final = Projection(NAME, READS, _SQL, apply, JournalLoader)
