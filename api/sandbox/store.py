"""The sandbox operator's store: wallets, instructions and the statement, in one SQLite file.

The first answer to a number is kept and is the answer for ever, a refusal included; the same
number with other content is refused and changes nothing. Balance, statement and answer are one
transaction, on disk before anybody is answered. A balance is never negative: the table refuses it.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

AMOUNT_MAX: Final = 10**12
BATCH_MAX: Final = 256
"""Calls that share one commit to disk."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS wallet (
    wallet TEXT PRIMARY KEY,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed')),
    balance_minor INTEGER NOT NULL DEFAULT 0 CHECK (balance_minor >= 0),
    currency TEXT NOT NULL,
    CHECK (state = 'open' OR balance_minor = 0)
) STRICT;
CREATE TABLE IF NOT EXISTS instruction (
    number TEXT PRIMARY KEY,
    content BLOB NOT NULL,
    status INTEGER NOT NULL,
    answer BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entry (
    entry INTEGER PRIMARY KEY AUTOINCREMENT,
    number TEXT,
    wallet TEXT NOT NULL REFERENCES wallet,
    kind TEXT NOT NULL CHECK (kind IN ('credit', 'debit', 'closing')),
    amount_minor INTEGER NOT NULL CHECK (amount_minor >= 0),
    balance_minor INTEGER NOT NULL CHECK (balance_minor >= 0),
    currency TEXT NOT NULL,
    at TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS entry_once ON entry (number) WHERE number IS NOT NULL;
CREATE INDEX IF NOT EXISTS entry_by_wallet ON entry (wallet, entry);
"""

_LINES: Final = """
SELECT entry, number, wallet, kind, amount_minor, balance_minor, currency, at
FROM entry WHERE entry > :after ORDER BY entry LIMIT :limit
"""
_LINES_OF_WALLET: Final = """
SELECT entry, number, wallet, kind, amount_minor, balance_minor, currency, at
FROM entry WHERE wallet = :wallet AND entry > :after ORDER BY entry LIMIT :limit
"""

T = TypeVar("T")
_log = logging.getLogger("tidebook.sandbox")


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a caller asks for under a number; in declared order these are its canonical bytes."""

    wallet: str
    kind: str
    amount_minor: int
    currency: str


class Reply(NamedTuple):
    """A status and a body, as they are sent."""

    status: int
    body: bytes


def problem(status: int, code: str) -> Reply:
    """Return a refusal."""
    return Reply(status, msgspec.json.encode({"code": code}))


class Store:
    """Calls one after the other in a thread of its own, many of them in one commit."""

    def __init__(
        self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._path = path
        self._clock = clock
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="sandbox-store", daemon=True)
        self._opened: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Open the file, making it the first time; raises what SQLite raises."""
        self._thread.start()
        failed = self._opened.get()
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Do what has queued, and close the file."""
        self._queue.put(None)
        self._thread.join()

    async def ask(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do a call within a transaction; return what it returned once that is on disk."""
        call = _Call(work, asyncio.get_running_loop())
        self._queue.put(call)
        result: T = await call.done
        return result

    # Calls. Each is one decision on what the file says now.

    def open(self, db: sqlite3.Connection, wallet: str, currency: str) -> Reply:
        """Open a wallet; an open one stays as it is, and a closed one stays closed."""
        db.execute(
            "INSERT INTO wallet (wallet, currency) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (wallet, currency),
        )
        return self.wallet(db, wallet)

    def wallet(self, db: sqlite3.Connection, wallet: str) -> Reply:
        """Tell how a wallet stands."""
        row = _wallet(db, wallet)
        if row is None:
            return problem(404, "wallet_unknown")
        return _json(200, _wallet_document(wallet, *row))

    def instruct(self, db: sqlite3.Connection, number: str, order: Order) -> Reply:
        """Carry out an order under its number, or say again what became of it."""
        content = msgspec.json.encode(order)
        kept = self._kept(db, number)
        if kept is not None:
            before, reply = kept
            return reply if before == content else problem(422, "number_reused")
        reply = self._carry_out(db, number, order)
        db.execute(
            "INSERT INTO instruction VALUES (?, ?, ?, ?)",
            (number, content, reply.status, reply.body),
        )
        return reply

    def look_up(self, db: sqlite3.Connection, number: str) -> Reply:
        """Say again what became of the order of a number."""
        kept = self._kept(db, number)
        if kept is None:
            return problem(404, "number_unknown")
        return kept[1]

    def shut(self, db: sqlite3.Connection, wallet: str) -> Reply:
        """Close a wallet for good, and take out what is in it."""
        row = _wallet(db, wallet)
        if row is None:
            return problem(404, "wallet_unknown")
        state, balance, currency = row
        if state == "open":
            db.execute(
                "UPDATE wallet SET state = 'closed', balance_minor = 0 WHERE wallet = ?", (wallet,)
            )
            self._note(db, None, Order(wallet, "closing", balance, currency), 0)
        return self.wallet(db, wallet)

    def statement(
        self, db: sqlite3.Connection, after: int, limit: int, wallet: str | None
    ) -> Reply:
        """Return lines after a cursor, in order."""
        query = _LINES if wallet is None else _LINES_OF_WALLET
        rows = db.execute(query, {"after": after, "wallet": wallet, "limit": limit + 1}).fetchall()
        items = [dict(zip(_ENTRY, row, strict=True)) for row in rows[:limit]]
        following = rows[limit - 1][0] if len(rows) > limit else None
        return _json(200, {"items": items, "next": following})

    def wallets(self, db: sqlite3.Connection, after: str, limit: int) -> Reply:
        """Return wallets after a cursor, in order of their names."""
        rows = db.execute(
            "SELECT wallet, state, balance_minor, currency FROM wallet WHERE wallet > ?"
            " ORDER BY wallet LIMIT ?",
            (after, limit + 1),
        ).fetchall()
        items = [_wallet_document(*row) for row in rows[:limit]]
        return _json(
            200, {"items": items, "next": rows[limit - 1][0] if len(rows) > limit else None}
        )

    def _kept(self, db: sqlite3.Connection, number: str) -> tuple[bytes, Reply] | None:
        row = db.execute(
            "SELECT content, status, answer FROM instruction WHERE number = ?", (number,)
        ).fetchone()
        return (row[0], Reply(row[1], row[2])) if row is not None else None

    def _carry_out(self, db: sqlite3.Connection, number: str, order: Order) -> Reply:
        row = _wallet(db, order.wallet)
        code = _refusal(row, order)
        if code is not None:
            return _json(409, _instruction_document(number, order, code, None))
        assert row is not None, "an unknown wallet is refused"
        balance = row[1] + (order.amount_minor if order.kind == "credit" else -order.amount_minor)
        db.execute("UPDATE wallet SET balance_minor = ? WHERE wallet = ?", (balance, order.wallet))
        entry = self._note(db, number, order, balance)
        return _json(201, _instruction_document(number, order, None, entry))

    def _note(self, db: sqlite3.Connection, number: str | None, order: Order, balance: int) -> int:
        """Write a line of the statement; return its place there."""
        cursor = db.execute(
            "INSERT INTO entry (number, wallet, kind, amount_minor, balance_minor, currency, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(number, order.wallet, order.kind, order.amount_minor, balance, order.currency),
                self._clock().isoformat(),
            ),
        )
        return cursor.lastrowid or 0

    # The thread.

    def _work(self) -> None:
        try:
            db = _opened(self._path)
        except (OSError, sqlite3.Error) as error:
            self._opened.put(error)
            return
        self._opened.put(None)
        while (first := self._queue.get()) is not None:
            calls, last = self._with_company(first)
            _settle(db, calls)
            if last:
                break
        db.close()

    def _with_company(self, first: _Call) -> tuple[list[_Call], bool]:
        """Return the calls that have queued by now, and whether no more will come."""
        calls = [first]
        while len(calls) < BATCH_MAX:
            try:
                call = self._queue.get_nowait()
            except queue.Empty:
                break
            if call is None:
                return calls, True
            calls.append(call)
        return calls, False


_ENTRY: Final = (
    *("entry", "number", "wallet", "kind", "amount_minor", "balance_minor", "currency", "at"),
)


class _Call:
    """One call, and whoever waits for it in an event loop."""

    def __init__(
        self, work: Callable[[sqlite3.Connection], Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.work = work
        self.loop = loop
        self.done: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: Exception | None = None

    def tell(self) -> None:
        """Called in the loop."""
        if self.done.done():
            return
        if self.error is not None:
            self.done.set_exception(self.error)
        else:
            self.done.set_result(self.result)


def _settle(db: sqlite3.Connection, calls: list[_Call]) -> None:
    """Do calls in one transaction, each on its own; tell everybody when it is on disk."""
    try:
        db.execute("BEGIN IMMEDIATE")
        for call in calls:
            _do(db, call)
        db.execute("COMMIT")
    except sqlite3.Error as error:
        _log.error("the store failed: %s", type(error).__name__)
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        for call in calls:
            call.error = error
    for call in calls:
        with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            call.loop.call_soon_threadsafe(call.tell)


def _do(db: sqlite3.Connection, call: _Call) -> None:
    db.execute("SAVEPOINT one")
    try:
        call.result = call.work(db)
    except Exception as error:  # noqa: BLE001 - whoever waits is told
        call.error = error
        db.execute("ROLLBACK TO one")
    db.execute("RELEASE one")


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    db.executescript(_TABLES)
    return db


def _wallet(db: sqlite3.Connection, wallet: str) -> tuple[str, int, str] | None:
    row: tuple[str, int, str] | None = db.execute(
        "SELECT state, balance_minor, currency FROM wallet WHERE wallet = ?", (wallet,)
    ).fetchone()
    return row


def _refusal(row: tuple[str, int, str] | None, order: Order) -> str | None:
    """Return why an order is refused, the first that applies."""
    if row is None:
        return "wallet_unknown"
    state, balance, currency = row
    if state == "closed":
        return "wallet_closed"
    if currency != order.currency:
        return "currency_mismatch"
    if order.kind == "debit" and balance < order.amount_minor:
        return "insufficient_funds"
    if order.kind == "credit" and balance + order.amount_minor > AMOUNT_MAX:
        return "over_limit"
    return None


def _instruction_document(
    number: str, order: Order, code: str | None, entry: int | None
) -> dict[str, Any]:
    return {
        "number": number,
        "wallet": order.wallet,
        "kind": order.kind,
        "amount_minor": order.amount_minor,
        "currency": order.currency,
        "outcome": "done" if code is None else "refused",
        "code": code,
        "entry": entry,
    }


def _wallet_document(wallet: str, state: str, balance_minor: int, currency: str) -> dict[str, Any]:
    return {
        "wallet": wallet,
        "state": state,
        "balance_minor": balance_minor,
        "currency": currency,
    }


def _json(status: int, document: dict[str, Any]) -> Reply:
    return Reply(status, msgspec.json.encode(document))
