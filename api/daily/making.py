"""Making daily proofs: behind the writers, one maker at a time, each day once.

A day is proved when it has ended for good: an event of a later time is in the book, or the clock is
past it and no commit is under way; and when the head of the log that is served reaches so far. A
day that was missed is made up later and is the same to the byte, because nothing but the events is
in it. The maker reads what is committed and holds up nobody.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Final

from eventsourcing.persistence import InterfaceError, OperationalError

from api.daily import store
from api.daily.figures import (
    DailyProof,
    DayEnd,
    Fold,
    decode_sums,
    encode_sums,
    next_end,
)
from api.daily.store import Head, Held, Lost, Stored
from campaigns.event_types import EVENT_TYPES, MAPPER
from ledger.datastore import Datastore
from ledger.history import History
from ledger.merkle import root_at
from ledger.transparency import store as log_store
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.notes import Signer
from ledger.transparency.statements import signed_statement
from ledger.transparency.tiles import reader_of
from projections.campaign_figures import READS
from projections.reading import BookReader

PAGE_EVENTS: Final = 5_000
POLL_S: Final = 30.0
"""How often it is asked whether a day has ended: each asks for a few rows."""
_MICROSECOND: Final = timedelta(microseconds=1)

SignerOf = Callable[[str], Signer]
"""Returns the key of a log's statements, by the log's origin."""

_log = logging.getLogger("tidebook.daily")


class Days:
    """Walks through a book day by day, with the sums at the end of each."""

    def __init__(self, datastore: Datastore, book: str, *, simulated: bool) -> None:
        self.book = book
        self._datastore = datastore
        self._simulated = simulated
        self._history = History(datastore, book, MAPPER)
        self._reader = BookReader(book, READS, EVENT_TYPES)

    def first(self) -> datetime | None:
        """Return the instant before the first event; None for an empty book."""
        return self._history.instant_of(1) - _MICROSECOND if self._history.head() else None

    def next_end(self, since: datetime) -> datetime | None:
        """Return the next end of a day, in the zones of the book's campaigns."""
        with self._datastore.transaction() as curs:
            return next_end(since, store.zones(curs, self.book))

    def ended(self, since: datetime | None) -> tuple[datetime, int] | None:
        """Return the next day's end and the last position before it; None until it has ended.

        A campaign of another zone may have come meanwhile, whose day ends earlier.
        """
        since = since or self.first()
        until = None if since is None else self.next_end(since)
        while since is not None and until is not None:
            position = self.position_at(until)
            now_known = self.next_end(since)
            if now_known == until:
                return None if position is None else (until, position)
            until = now_known
        return None

    def position_at(self, until: datetime) -> int | None:
        """Return the last position before an instant, once no event can come before it."""
        with self._datastore.transaction() as curs:
            end = store.book_end(curs, self.book)
            if end is not None and self._may_be_over(end, until):
                end = store.book_end(curs, self.book, settled=True)
        if end is None:
            return None
        if end.at is not None and end.at >= until:
            return self._history.position_at(until - _MICROSECOND)
        if self._simulated or end.now < until:
            return None
        return end.position

    def feed(self, fold: Fold, after: int, until: int) -> None:
        """Feed the events behind a position, up to another one."""
        while after < until:
            with self._datastore.transaction() as curs:
                page = self._reader.page(curs, after, PAGE_EVENTS, until)
            fold.feed(page.events)
            after = page.last

    def rest(self, position: int, since: datetime) -> datetime:
        """Return since when to look on, where no day has a proof before the next event."""
        if position >= self._history.head():
            return since
        return max(since, self._history.instant_of(position + 1) - _MICROSECOND)

    def _may_be_over(self, end: store.BookEnd, until: datetime) -> bool:
        """Whether only a commit that is under way could still be of the day."""
        is_late = end.at is not None and end.at >= until
        return not self._simulated and not is_late and end.now >= until


class Maker:
    """Makes the daily proofs of one book. `holder` names this maker among all that may exist."""

    def __init__(
        self,
        datastore: Datastore,
        book: str,
        holder: str,
        signer_of: SignerOf,
        *,
        simulated: bool = False,
        ttl_s: float = store.LEASE_TTL_S,
    ) -> None:
        self.book = book
        self._datastore = datastore
        self._holder = holder
        self._signer_of = signer_of
        self._days = Days(datastore, book, simulated=simulated)
        self._ttl_s = ttl_s

    def make(self) -> Iterator[DailyProof]:
        """Make every proof that is due, and yield each when it is kept.

        Raises `Held` while somebody else makes them, `Lost` when somebody took over.
        """
        with self._datastore.transaction() as curs:
            head: Head | None = store.acquire(curs, self.book, self._holder, self._ttl_s)
        while head is not None:
            held = head
            head, made = self._next(held)
            yield from made
            if head is None:
                with self._datastore.transaction() as curs:
                    store.release(curs, self.book, held)

    def run(self, stop: threading.Event, poll_s: float = POLL_S) -> None:
        """Make what is due until `stop` is set; wait out other makers and lost connections."""
        while not stop.is_set():
            try:
                for proof in self.make():
                    _log.info("the day %s of campaign %s is proved", proof.day, proof.campaign)
            except (Held, Lost) as other:
                _log.debug("%s", other)
            except (OperationalError, InterfaceError) as error:
                _log.warning("the daily proofs of book %s: %s", self.book, error)
            stop.wait(poll_s)

    def _next(self, head: Head) -> tuple[Head | None, list[DailyProof]]:
        """Make the proofs of the next day that ends; None for the head when none has ended."""
        ended = self._days.ended(head.until)
        tree = None if ended is None else self._tree(ended[1])
        if ended is None or tree is None:
            return None, []
        (until, position), (root, signer) = ended, tree
        fold = Fold(self.book, decode_sums(head.sums))
        self._days.feed(fold, head.position, position)
        made = list(fold.proofs(DayEnd(until, position, root)))
        looked = self._days.rest(position, until) if fold.is_idle else until
        moved = Head(position, looked, encode_sums(fold.campaigns), head.epoch)
        kept = [
            (
                Stored(one.campaign, one.day, position, until, one.digest, b""),
                signed_statement(one.statement, signer),
            )
            for one in made
        ]
        with self._datastore.transaction() as curs:
            store.advance(curs, self.book, head, moved, self._ttl_s)
            store.insert(curs, self.book, kept)
        return moved, made

    def _tree(self, size: int) -> tuple[bytes, Signer] | None:
        """Return the log's root at a size and who signs; None until a served head reaches it."""
        with self._datastore.transaction() as curs:
            note = log_store.published(curs, self.book)
            if note is None:
                return None
            served = Checkpoint.parse(note.text)
            if served.size < size:
                return None
            root = root_at(size, reader_of(log_store.tile_reader(curs, self.book)))
        return root, self._signer_of(served.origin)
