"""The writer: takes batches of requests through transactions, whatever happens to them.

A batch is decided and committed as one. When the transaction is lost it is tried again, and the
keys tell what became of it; when something refuses the whole batch, the culprit is found one by
one. Nobody is given an answer that is not committed.

A writer that has the book to itself takes the lock and looks in one round trip. Where somebody else
has written since, it takes the lock first, and then whoever has come while it waited.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import psycopg2
from eventsourcing import persistence as es

from ledger.appending import PoolKey
from ledger.datastore import Datastore
from ledger.events import Event, EventMapper
from ledger.requests import Answer, Observer, OutcomeUnknown, StoreUnavailable, Ticket
from ledger.scene import Checks, KeptStates, Scene
from ledger.session import SETTINGS, Session

logger = logging.getLogger(__name__)

_ROLLED_BACK: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock timeout: surely rolled back, whenever it is said."""

_RETRIED: Final = _ROLLED_BACK | {"57014"}
"""A statement timeout as well; the connection is good after any of these."""

_HALTED: Final = "55H01"
"""The book is halted, because it no longer extends what was signed of it: nothing to wait for."""

_SURELY_NOT: Final = _ROLLED_BACK | {_HALTED}
"""After these nothing was committed, whenever they are said."""

_LOST: Final = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    psycopg2.InternalError,
    es.OperationalError,
    es.InterfaceError,
)
"""The transaction is gone; whether it was committed depends on how far it had come."""


More = Callable[[int], list[Ticket]]
"""Gives up to so many tickets that have come meanwhile."""


def _nobody(_: int) -> list[Ticket]:
    return []


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one writer, each with its reason."""

    queue_max: int = 10_000  # about a second of the writer's work; more would only wait in vain
    batch_max: int = 500  # beyond this the insert no longer gets cheaper per event
    linger_s: float = 0.005  # since the last batch: what a batch costs by itself is 20 claims' work
    linger_until: int = 100  # requests that make a batch worth while at once
    linger_fully_every: int = 8  # batches; between them, as many as the last one had are awaited
    retry_for_s: float = 3.0  # a restarting PostgreSQL is back by then; callers wait a little more
    retry_pause_s: float = 0.05  # and twice as long the next time: who recovers has work to do
    retry_pause_max_s: float = 0.2
    kept_states_max: int = 10_000  # campaigns whose state is kept between batches

    def pauses_s(self) -> Iterator[float]:
        """How long to wait before each new try."""
        pause_s = self.retry_pause_s
        while True:
            yield pause_s
            pause_s = min(2 * pause_s, self.retry_pause_max_s)


class Writer:
    """Takes batches through transactions on a connection of its own. One thread only."""

    def __init__(
        self,
        datastore: Datastore,
        book: str,
        mapper: EventMapper,
        limits: Limits,
        check: Callable[[Event], None],
        observer: Observer | None = None,
    ) -> None:
        self._datastore = datastore.with_session(SETTINGS)
        self._book = book
        self._mapper = mapper
        self._limits = limits
        self._checks = Checks(check)
        self._observer = observer
        self._kept: KeptStates = OrderedDict()
        self._session: Session | None = None
        self._left_at = 0
        """Where the book stood when we left it."""
        self._shared = False
        """Whether somebody else had written when we last came: then we shall wait for the lock."""

    def close(self) -> None:
        """Close the writer's connection."""
        self._disconnect()

    def commit(self, batch: list[Ticket], more: More = _nobody) -> None:
        """Give every ticket of the batch an answer or an error; `more` may be added to it.

        What was lost on the way is tried again with the same keys: the transaction that was cut
        off at COMMIT either shows its replies then, or surely never happened, because the retry
        waits for the book's lock first.
        """
        deadline = time.monotonic() + self._limits.retry_for_s
        pauses_s = self._limits.pauses_s()
        may_be_committed = False
        while True:
            progress = _Progress()
            try:
                self._transact(batch, more, progress)
            except _LOST as error:
                may_be_committed |= progress.committing and _code(error) not in _SURELY_NOT
                self._recover(error)
                if time.monotonic() < deadline and _code(error) != _HALTED:
                    for ticket in batch:
                        ticket.attempts += progress.committing
                    time.sleep(next(pauses_s))
                    continue
                self._give_up(batch, may_be_committed)
            except Exception as error:  # noqa: BLE001 - the culprit is found one by one
                self._rollback()
                self._one_by_one(batch, error)
            return

    def _transact(self, batch: list[Ticket], more: More, progress: _Progress) -> None:
        scene = self._look(batch, more)
        outcomes = [scene.judge(ticket, self._checks) for ticket in batch]
        writes = scene.writes()
        if self._observer is not None and (freed := scene.freed(writes)):
            self._tell(self._observer, scene.position, freed)
        progress.committing = True
        assert self._session is not None, "the scene was looked at"
        self._session.commit(self._book, scene.position, writes)
        self._left_at = scene.position + len(writes.events)
        for ticket, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Answer):
                ticket.answer = outcome
            else:
                ticket.error = outcome
        self._keep(scene)

    def _look(self, batch: list[Ticket], more: More) -> Scene:
        """Lock the book and look at it for the batch, which grows while the lock is waited for."""
        if self._session is None:
            self._session = Session(self._datastore)
        locked = self._shared
        if locked:
            self._session.lock(self._book)
            batch += more(self._limits.batch_max - len(batch))
        scene = Scene(self._session, self._book, self._mapper, self._kept, batch, locked=locked)
        self._shared = scene.position != self._left_at
        return scene

    def _tell(self, observer: Observer, position: int, freed: list[PoolKey]) -> None:
        try:
            observer.freeing(self._book, position, freed)
        except Exception:
            logger.exception("the observer of %s failed; the commit goes on", self._book)

    def _keep(self, scene: Scene) -> None:
        """Remember the states worth keeping, as committed."""
        for number, kept in scene.states_to_keep():
            self._kept[number] = kept
            self._kept.move_to_end(number)
        while len(self._kept) > self._limits.kept_states_max:
            self._kept.popitem(last=False)

    def _one_by_one(self, batch: list[Ticket], error: Exception) -> None:
        """Something refused the whole batch: find the culprit, serve its neighbours."""
        self._kept.clear()
        if len(batch) == 1:
            logger.error("a request of %s cannot be served", self._book, exc_info=error)
            batch[0].error = error
            return
        for ticket in batch:
            self.commit([ticket])

    def _recover(self, error: Exception) -> None:
        logger.warning("the writer of %s lost its transaction: %s", self._book, _kind(error))
        self._kept.clear()
        if _code(error) in _RETRIED:
            self._rollback()
        else:
            self._disconnect()

    def _rollback(self) -> None:
        if self._session is None:
            return
        try:
            self._session.rollback()
        except psycopg2.Error:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    @staticmethod
    def _give_up(batch: list[Ticket], may_be_committed: bool) -> None:
        for ticket in batch:
            ticket.error = OutcomeUnknown() if may_be_committed else StoreUnavailable()


@dataclass(slots=True)
class _Progress:
    """How far a transaction came before it was lost."""

    committing: bool = False


def _code(error: Exception) -> str | None:
    """The SQLSTATE of an error, when the server gave one."""
    code: str | None = getattr(error, "pgcode", None) or getattr(error.__cause__, "pgcode", None)
    return code


def _kind(error: Exception) -> str:
    """Name an error for the log: its type and SQLSTATE, never its text, which may quote values."""
    return f"{type(error).__name__} {_code(error) or ''}".strip()
