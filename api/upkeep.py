"""Upkeep: how a book is looked after from beside its servers, whatever it is that is due.

Sweeper, returner, finisher, drawer and holder of draws look again and again, ask the book's writer
for what seems to be due, and wait while the store is away. What they have in common is here; what
is due each of them finds, and only the writer decides.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from eventsourcing.persistence import PersistenceError

from campaigns.commands import Call, Command
from campaigns.event_types import MAPPER
from ledger.books import Book
from ledger.commit import Answer, CommitError, GroupCommit, QueueFull
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.history import History, Standing

POLL_S: Final = 1.0
"""Pause between two looks when nothing is due: what is due need not be recorded at once."""

PAUSE_S: Final = (0.1, 5.0)
"""First and longest pause before a store that cannot be reached is tried again."""


class Troubled(Exception):
    """Something that cannot go on until somebody looks at it."""


class Upkeep:
    """One book and a writer of it, asked in the name of the system."""

    def __init__(
        self,
        datastore: Datastore,
        writer: GroupCommit,
        actor: Actor,
        errand: str,
        *,
        by_the_book: bool = False,
        new_id: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        """`errand` begins the ids of requests; `by_the_book`: time is that of the last event."""
        self.book = Book(writer.book)
        self.history = History(datastore, writer.book, MAPPER)
        self._datastore = datastore
        self._writer = writer
        self._actor = actor
        self._errand = errand
        self._by_the_book = by_the_book
        self._new_id = new_id

    def instant(self, at: datetime | None, standing: Standing) -> datetime | None:
        """Return the instant in simulated time, None where the database's clock counts.

        It is `at`, or that of the book's last event; a book without events has none either.
        """
        return standing.at if self._by_the_book and at is None else at

    def now(self, at: datetime | None) -> datetime:
        """Return `at`, or what the database's clock says."""
        if at is not None:
            return at
        with self._datastore.transaction() as cursor:
            return instant_in(cursor, at)

    def ask(self, commands: Iterable[Command], at: datetime | None) -> list[Answer]:
        """Ask for all of these, no more at once than the writer's queue takes.

        Returns the answers in order. Raises what the writer raises.
        """
        call = Call(self._actor, f"{self._errand}-{self._new_id()}", render=lambda _: b"", at=at)
        return list(self._asked(commands, call))

    def _asked(self, commands: Iterable[Command], call: Call) -> Iterator[Answer]:
        sent: deque[Future[Answer]] = deque()
        for command in commands:
            request = command.request(call)
            while True:
                try:
                    sent.append(self._writer.submit(request))
                    break
                except QueueFull:
                    if not sent:
                        raise
                    yield sent.popleft().result()
        for future in sent:
            yield future.result()


def instant_in(cursor: Any, at: datetime | None) -> datetime:
    """Return `at`, or what the database's clock says, within a transaction."""
    if at is None:
        cursor.execute("SELECT clock_timestamp()")
        (at,) = cursor.fetchone()
    assert at is not None, "the clock has an instant"
    return at


def again_and_again(
    look: Callable[[], object],
    stop: threading.Event,
    poll_s: float,
    put_off: str,
    log: logging.Logger,
) -> None:
    """Look until `stop` is set; while the store is away, wait longer and longer.

    `put_off` is what the log is told meanwhile. Whoever is in trouble has the longest pause.
    """
    pause_s, longest_s = PAUSE_S
    while not stop.is_set():
        try:
            look()
        except (PersistenceError, CommitError) as error:
            log.warning("%s: %s", put_off, type(error).__name__)
            stop.wait(pause_s)
            pause_s = min(pause_s * 2, longest_s)
            continue
        except Troubled as error:
            log.error("%s", error)  # noqa: TRY400 - its words say what to do, its place nothing
            stop.wait(longest_s)
        pause_s = PAUSE_S[0]
        stop.wait(poll_s)
