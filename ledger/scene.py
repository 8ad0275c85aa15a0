"""The book as a batch sees it: read once under the lock, then changed request by request.

A stream is only folded when a decision looks at its state; whoever asks whether it exists pays
for nothing more. Nothing here talks to the database except through the session, and what a
request changed is taken back when it fails half-way.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar, cast
from uuid import UUID

from ledger import appending
from ledger.appending import Capacity, Head, NewEvent, PoolKey, StoredReply
from ledger.events import Event, EventMapper, scope_of
from ledger.moulds import EncodedEvent, EventMould
from ledger.requests import Answer, KeyReused, Read, Request, Ticket, Verdict
from ledger.session import CAPACITY, EVENT, RECORD, REPLY, Key, Row, Session, Wanted, Writes

logger = logging.getLogger(__name__)

S = TypeVar("S")

CHECKED_MOULDS_MAX: Final = 1_000


class Checks:
    """Checks every event before it is written, and of those from one mould the sample, once."""

    def __init__(self, check: Callable[[Event], None]) -> None:
        self._check = check
        self._moulds: set[EventMould] = set()

    def event(self, event: Event | EncodedEvent) -> None:
        """Raise whatever the check raises on a broken rule."""
        if not isinstance(event, EncodedEvent):
            self._check(event)
        elif event.mould not in self._moulds:
            self._check(event.mould.sample)
            if len(self._moulds) >= CHECKED_MOULDS_MAX:
                self._moulds.clear()
            self._moulds.add(event.mould)


class Kept(NamedTuple):
    """A stream's state at a version, as it was committed."""

    version: int
    state: Any


KeptStates = OrderedDict[int, Kept]
"""States of hot streams that a writer keeps between batches, by the stream's number."""


class _Stream:
    """A stream: its last version, a state, and the events that the state does not know yet."""

    __slots__ = ("fresh", "state", "version")

    def __init__(self, kept: Kept | None) -> None:
        self.version = 0 if kept is None else kept.version
        self.state = None if kept is None else kept.state
        self.fresh: list[Event | EncodedEvent | _Stored] = []

    def add(self, event: Event | EncodedEvent | _Stored) -> None:
        if event.originator_version != self.version + 1:
            raise AssertionError(f"{event.TOPIC} skips a version of {event.originator_id}")
        self.version = event.originator_version
        self.fresh.append(event)

    def take_back(self) -> None:
        self.fresh.pop()
        self.version -= 1


class _Stored(NamedTuple):
    """An event as it was read, not decoded yet."""

    originator_id: UUID
    originator_version: int
    state: bytes
    TOPIC: str


class Scene:
    """What decisions may look at (`ledger.requests.View`), and what they have changed so far."""

    def __init__(
        self,
        session: Session,
        book: str,
        mapper: EventMapper,
        kept: KeptStates,
        tickets: Sequence[Ticket],
        *,
        locked: bool = False,
    ) -> None:
        """Look at what the tickets name. The session may hold the book's lock already."""
        self._session = session
        self._book = book
        self._mapper = mapper
        self._kept = kept
        self._streams: dict[int, _Stream] = {}
        self._kept_reads: set[int] = set()
        self._pools: dict[PoolKey, Capacity] = {}
        self._pools_before: dict[PoolKey, Capacity] = {}
        self._records: dict[bytes, Row] = {}
        self._events: list[NewEvent] = []
        self._replies: list[StoredReply] = []
        self._head: Head
        self._look(tickets, locked=locked)
        self._at = self._head.at
        self.now = self._clock = appending.instant(self._head)

    @property
    def position(self) -> int:
        """The book's position before the batch."""
        return self._head.position

    # Reading.

    def _look(self, tickets: Sequence[Ticket], *, locked: bool) -> None:
        reads: dict[int, Read[Any]] = {}
        pools: dict[PoolKey, None] = {}
        keys: list[Key] = []
        for ticket in tickets:
            request = ticket.request
            for read in request.reads:
                reads[read.stream.int] = read
            for pool in request.pools:
                pools[pool] = None
            if ticket.mark is not None and request.key is not None:
                keys.append(Key(request.scope, request.key, ticket.mark))
        wanted = Wanted(keys=keys, pools=list(pools))
        self._want(wanted, reads.values())
        self._head, rows = self._session.begin(self._book, wanted, locked=locked)
        self._take_in(wanted, rows)
        self._look_further(tickets)

    def _look_further(self, tickets: Sequence[Ticket]) -> None:
        """Look at what requests turn out to need now that their streams are known: all at once."""
        reads: dict[int, Read[Any]] = {}
        pools: dict[PoolKey, None] = {}
        for ticket in tickets:
            if ticket.request.further is None or ticket.mark in self._records:
                continue
            try:
                further = ticket.request.further(self)
            except Exception:  # noqa: BLE001, S112 - its decision will meet the same error
                continue
            for read in further.reads:
                if read.stream.int not in self._streams:
                    reads[read.stream.int] = read
            for pool in further.pools:
                if pool not in self._pools:
                    pools[pool] = None
        if reads or pools:
            wanted = Wanted(pools=list(pools))
            self._want(wanted, reads.values())
            self._take_in(wanted, self._session.look(self._book, wanted))

    def _want(self, wanted: Wanted, reads: Iterable[Read[Any]]) -> None:
        """Want streams, from their kept state on where there is one."""
        for read in reads:
            number = read.stream.int
            stream = self._streams[number] = _Stream(self._kept.get(number))
            if read.keep:
                self._kept_reads.add(number)
            wanted.streams.append(read.stream)
            wanted.after.append(stream.version)

    def _take_in(self, wanted: Wanted, rows: Iterable[Row]) -> None:
        found = dict.fromkeys(wanted.pools, Capacity())
        for row in rows:
            kind, which = row[0], row[1] - 1
            if kind == EVENT:
                stream = wanted.streams[which]
                stored = _Stored(stream, row[2], row[7], row[6])
                self._streams[stream.int].add(stored)
            elif kind in (REPLY, RECORD):
                self._records[wanted.keys[which].request] = row
            else:
                assert kind == CAPACITY
                found[wanted.pools[which]] = Capacity(*row[2:6])
        self._pools.update(found)
        self._pools_before.update(found)

    def _stream(self, read: Read[Any]) -> _Stream:
        stream = self._streams.get(read.stream.int)
        if stream is None:
            wanted = Wanted()
            self._want(wanted, [read])
            self._take_in(wanted, self._session.look(self._book, wanted))
            stream = self._streams[read.stream.int]
        return stream

    # What a decision may look at.

    def state(self, read: Read[S]) -> S | None:
        """The state of a stream, read now when the batch did not know that it would be needed."""
        stream = self._stream(read)
        if stream.fresh:
            for event in stream.fresh:
                stream.state = read.fold.evolve(stream.state, self._decoded(event))
            stream.fresh = []
        return cast("S | None", stream.state)

    def version(self, stream: UUID) -> int:
        """The last version of a stream, which is read now when the batch did not know of it."""
        known = self._streams.get(stream.int)
        return (known or self._stream(Read(stream, _NO_FOLD))).version

    def capacity(self, pool: PoolKey) -> Capacity:
        """The capacity of a pool, read now when the batch did not know of it."""
        found = self._pools.get(pool)
        if found is None:
            wanted = Wanted(pools=[pool])
            self._take_in(wanted, self._session.look(self._book, wanted))
            found = self._pools[pool]
        return found

    def _decoded(self, event: Event | EncodedEvent | _Stored) -> Event:
        if isinstance(event, Event):
            return event
        return self._mapper.decode(
            event.TOPIC, bytes(event.state), event.originator_id, event.originator_version
        )

    # Deciding.

    def judge(self, ticket: Ticket, checks: Checks) -> Answer | Exception:
        """Decide one request after all before it; return its answer, or the error that it met."""
        request = ticket.request
        try:
            if ticket.mark is not None and ticket.mark in self._records:
                return self._told(request, self._records[ticket.mark], first=ticket.attempts > 0)
            self.now = self._instant(request.at)
            verdict = request.decide(self)
            self._accept(request, verdict, ticket.mark, checks)
        except Exception as error:
            logger.exception("a decision of %s failed", self._book)
            return error
        position = self._head.position + len(self._events)
        if ticket.mark is not None and not verdict.own_record:
            self._replies.append(_reply(request, verdict, position))
        return Answer(verdict.code, verdict.body, position)

    def _told(self, request: Request, row: Row, *, first: bool) -> Answer | Exception:
        """Tell what was told when the key was first used."""
        if row[0] == REPLY:
            if bytes(row[8]) != request.fingerprint:
                return KeyReused()
            return Answer(row[6], bytes(row[7]), row[2], replayed=not first)
        event = self._mapper.decode(row[6], bytes(row[7]), UUID(bytes=bytes(row[8])), row[3])
        if event.why.key != request.key or scope_of(event) != request.scope:
            raise AssertionError(f"position {row[2]} has the request id of another request")
        if request.retell is None or event.why.fingerprint != request.fingerprint.hex():
            return KeyReused()
        told = request.retell(event)
        return KeyReused() if told is None else Answer(*told, row[2], replayed=not first)

    def _instant(self, proposed: datetime | None) -> datetime:
        """The clock's instant or the simulated one, but never before the event before it."""
        now = self._clock if proposed is None else proposed
        return now if self._at is None or now >= self._at else self._at

    def _accept(
        self, request: Request, verdict: Verdict, mark: bytes | None, checks: Checks
    ) -> None:
        """Take in what a verdict writes, all of it or nothing."""
        own = mark if verdict.own_record else None
        if verdict.own_record and (own is None or not request.retell or len(verdict.events) != 1):
            raise AssertionError("its own record is one event with a key, which can be told again")
        changed: list[_Stream] = []
        new: list[NewEvent] = []
        before: list[tuple[PoolKey, Capacity]] = []
        try:
            for event in verdict.events:
                checks.event(event)
                stream = self._streams[event.originator_id.int]
                stream.add(event)
                changed.append(stream)
                new.append(self._new(event, own))
            for pool, change in verdict.capacity:
                before.append((pool, self._take(pool, change)))
        except Exception:
            for stream in reversed(changed):
                stream.take_back()
            self._pools.update(reversed(before))
            raise
        if new:
            self._events += new
            self._at = self.now

    def _take(self, pool: PoolKey, change: Capacity) -> Capacity:
        """Change a pool; return what it was before."""
        before = self.capacity(pool)
        after = before.plus(change)
        if not after.within_bounds:
            raise AssertionError(f"a decision takes pool {pool} out of bounds: {after}")
        self._pools[pool] = after
        return before

    def _new(self, event: Event | EncodedEvent, request: bytes | None) -> NewEvent:
        stream, version = event.originator_id, event.originator_version
        if isinstance(event, EncodedEvent):
            return NewEvent(stream, version, event.mould.topic, event.state, request)
        return NewEvent(stream, version, event.TOPIC, self._mapper.types.encode(event), request)

    # What is left of it.

    def writes(self) -> Writes:
        """Return what the batch decided."""
        before = self._pools_before
        changed = {pool: now for pool, now in self._pools.items() if now != before[pool]}
        return Writes(self._events, self._replies, changed, self._at)

    def freed(self, writes: Writes) -> list[PoolKey]:
        """Return the pools that the batch leaves with more room than they had before."""
        before = self._pools_before
        return [pool for pool, now in writes.capacity.items() if _has_more(before[pool], now)]

    def states_to_keep(self) -> Iterator[tuple[int, Kept]]:
        """Yield the states that requests asked to keep, where they are folded to the end.

        One that is not stays as it was kept before: the next batch reads on from there.
        """
        for number in self._kept_reads:
            stream = self._streams[number]
            if stream.version and not stream.fresh:
                yield number, Kept(stream.version, stream.state)


class _NoFold:
    """Of a stream whose events nobody has a look at."""

    def evolve(self, state: None, event: Any) -> None:
        raise AssertionError(f"nobody said how {event.TOPIC} folds into {state}")


_NO_FOLD: Final = _NoFold()


def _has_more(before: Capacity, now: Capacity) -> bool:
    return (
        now.issued < before.issued
        or now.quota > before.quota
        or now.granted_minor < before.granted_minor
        or now.budget_minor > before.budget_minor
    )


def _reply(request: Request, verdict: Verdict, position: int) -> StoredReply:
    assert request.key is not None
    return StoredReply(
        request.scope, request.key, request.fingerprint, verdict.code, verdict.body, position
    )
