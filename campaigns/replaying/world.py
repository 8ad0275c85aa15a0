"""A book as it stood at one place in its order: what a decision that is made again may look at.

Streams are read by key where somebody looks at them, or all at once beforehand, and are forgotten
when the work goes on, but for the few that many decisions look at. Nothing here decides or writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from campaigns.replaying.pools import pool_changes
from ledger.appending import Capacity, PoolKey
from ledger.commit import Read
from ledger.events import Event
from ledger.history import Positioned
from ledger.verification import UNREADABLE

S = TypeVar("S")

Load = Callable[[list[UUID], int], dict[UUID, list[Positioned]]]
"""Reads the events of streams up to a position; streams that have none are left out."""

KEPT_MAX: Final = 10_000
"""Campaigns, draws and groups whose state is kept from one page to the next."""


class Unreadable(Exception):
    """A stream has an event that cannot be read, so that nobody knows its state."""

    def __init__(self, stream: UUID) -> None:
        super().__init__(stream.hex)
        self.stream = stream


def nothing_before(_streams: list[UUID], _until: int) -> dict[UUID, list[Positioned]]:
    """Say that no stream has events but those that are applied here."""
    return {}


class _Stream:
    """A stream: its last version, a state, and the events that the state does not know yet."""

    __slots__ = ("fresh", "state", "version")

    def __init__(self, events: Iterable[Positioned] = ()) -> None:
        self.fresh: list[Event] = [event for _, event in events]
        self.version = self.fresh[-1].originator_version if self.fresh else 0
        self.state: Any = None

    def add(self, event: Event) -> None:
        self.version = event.originator_version
        self.fresh.append(event)


class World:
    """Streams and pools after the events applied so far: a `ledger.commit.View`.

    Pools follow from the events alone. `now` is set by whoever decides.
    """

    def __init__(self, load: Load = nothing_before) -> None:
        self.now = datetime.min.replace(tzinfo=UTC)
        self.position = 0
        self._load = load
        self._streams: dict[int, _Stream] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._broken: set[int] = set()
        self._pools: dict[PoolKey, Capacity] = {}

    # What a decision may look at

    def state(self, read: Read[S]) -> S | None:
        """Return the state of a stream; raise `Unreadable`."""
        stream = self._stream(read.stream)
        if read.keep:
            self._keep(read.stream.int)
        for event in stream.fresh:
            stream.state = read.fold.evolve(stream.state, event)
        stream.fresh = []
        return cast("S | None", stream.state)

    def version(self, stream: UUID) -> int:
        """Return the last version of a stream; raise `Unreadable`."""
        return self._stream(stream).version

    def capacity(self, pool: PoolKey) -> Capacity:
        """Return the capacity of a pool."""
        return self._pools.get(pool, Capacity())

    # How it goes on

    def look_ahead(self, streams: Iterable[UUID], new: Iterable[UUID]) -> None:
        """Read streams at once that will be looked at; the `new` ones have no events yet."""
        for stream in new:
            self._streams.setdefault(stream.int, _Stream())
        wanted = {one for one in streams if one.int not in self._streams}
        if not wanted:
            return
        try:
            found = self._load(list(wanted), self.position)
        except UNREADABLE:
            return  # which one it is shows when it is looked at by itself
        for stream in wanted:
            self._streams[stream.int] = _Stream(found.get(stream, ()))

    def apply(self, position: int, events: Sequence[Event]) -> dict[PoolKey, Capacity]:
        """Take in what was decided, up to `position`; return what it changed of which pool."""
        changed: dict[PoolKey, Capacity] = {}
        for event in events:
            for pool, change in self._changes(event):
                self._pools[pool] = self.capacity(pool).plus(change)
                changed[pool] = changed.get(pool, Capacity()).plus(change)
            number = event.originator_id.int
            if event.originator_version == 1 and number not in self._streams:
                self._streams[number] = _Stream()
            if number in self._streams:
                self._streams[number].add(event)
        self.position = position
        return changed

    def break_off(self, position: int, stream: UUID) -> None:
        """Pass over an event that cannot be read: its stream has no known state any more."""
        self.position = position
        self._broken.add(stream.int)
        self._streams.pop(stream.int, None)

    def forget(self) -> None:
        """Let go of the streams that few decisions look at; they can be read again."""
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        self._streams = {number: self._streams[number] for number in self._kept}

    def _stream(self, stream: UUID) -> _Stream:
        if stream.int in self._broken:
            raise Unreadable(stream)
        known = self._streams.get(stream.int)
        if known is None:
            try:
                found = self._load([stream], self.position)
            except UNREADABLE:
                self._broken.add(stream.int)
                raise Unreadable(stream) from None
            known = self._streams[stream.int] = _Stream(found.get(stream, ()))
        return known

    def _changes(self, event: Event) -> list[tuple[PoolKey, Capacity]]:
        """Return what an event changed; nothing where the record is too broken to tell."""
        try:
            return list(pool_changes(event, self))
        except (AssertionError, Unreadable):
            return []

    def _keep(self, number: int) -> None:
        self._kept[number] = None
        self._kept.move_to_end(number)
