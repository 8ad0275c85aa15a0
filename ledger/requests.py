"""What a writer is asked and what it answers: requests, decisions, answers, and what goes wrong.

Words shared by those who ask and by the writer that decides. Nothing here knows of queues,
connections or SQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

import msgspec

from ledger.appending import Capacity, PoolKey, request_id
from ledger.events import Event
from ledger.moulds import EncodedEvent

S = TypeVar("S")


class CommitError(Exception):
    """A request got no answer from the store."""


class QueueFull(CommitError):
    """Too many requests wait already; this one was not taken on and surely has no effect."""


class Closed(QueueFull):
    """The writer is shutting down; this request was not taken on and surely has no effect."""


class KeyReused(CommitError):
    """The idempotency key was used with another request."""


class KeyInFlight(CommitError):
    """The first request with this key is still running."""


class StoreUnavailable(CommitError):
    """The store could not be reached; nothing was committed for this request."""


class OutcomeUnknown(CommitError):
    """The store may or may not have committed; the same key tells later."""


class Fold(Protocol[S]):
    """How a stream's events become a state."""

    def evolve(self, state: S | None, event: Any) -> S:
        """Return the state after `event`: a new one, never the old one changed."""
        ...


class Read(msgspec.Struct, Generic[S], frozen=True, gc=False):
    """A stream that a decision looks at; `keep` holds a hot one's state between batches."""

    stream: UUID
    fold: Fold[S]
    keep: bool = False


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What was decided: a stable code, the reply's bytes, and what it writes (all or nothing).

    `own_record` says that its one event is the record of the request: no reply is kept, and a
    retry is told what `Request.retell` makes of the event.
    """

    code: str
    body: bytes
    events: Sequence[Event | EncodedEvent] = ()
    capacity: Sequence[tuple[PoolKey, Capacity]] = ()
    own_record: bool = False


class View(Protocol):
    """What a decision may look at: the book as it stands at this request's place in the order."""

    @property
    def now(self) -> datetime:
        """The instant at which the request is judged, UTC; never before the book's last event."""
        ...

    def state(self, read: Read[S]) -> S | None:
        """The state of a stream; None when it has no events. Cheapest when named in `reads`."""
        ...

    def version(self, stream: UUID) -> int:
        """The last version of a stream, 0 when it has none: cheaper than its state."""
        ...

    def capacity(self, pool: PoolKey) -> Capacity:
        """The stock and budget of a pool; zeros when new. Cheapest when named in `pools`."""
        ...


class Further(NamedTuple):
    """Streams and pools that a decision needs besides those that its request named."""

    reads: Sequence[Read[Any]] = ()
    pools: Sequence[PoolKey] = ()


Retell = Callable[[Any], tuple[str, bytes] | None]
"""Tells a code and a body from an event, byte for byte as they were told when it was written.

None for an event of another kind, which is the record of another request.
"""


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request for a decision.

    `scope` and `key` name the request's record (none when `key` is None: then the decision must
    be harmless to repeat), and `mark` is `request_id` of them where it is known already. `at`
    replaces the database's clock in simulated time. `further` says what the decision needs beside
    `reads` and `pools`, as soon as these are read, so that a batch reads that at once as well.
    """

    decide: Callable[[View], Verdict]
    reads: tuple[Read[Any], ...] = ()
    pools: tuple[PoolKey, ...] = ()
    scope: str = ""
    key: str | None = None
    fingerprint: bytes = b""
    at: datetime | None = None
    further: Callable[[View], Further] | None = None
    retell: Retell | None = None
    mark: bytes | None = None


class Answer(NamedTuple):
    """A committed reply: code and body, the book's position after it, and whether it was stored."""

    code: str
    body: bytes
    position: int
    replayed: bool = False


class Ticket:
    """A queued request: its answer or its error once it is settled, and who hears of that."""

    __slots__ = (
        "answer",
        "attempts",
        "done",
        "error",
        "followers",
        "follows",
        "loop",
        "mark",
        "request",
    )

    def __init__(
        self,
        request: Request,
        done: Callable[[Ticket], None],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.request = request
        self.done = done
        self.loop = loop
        self.mark: bytes | None = request.mark
        """`request_id` of scope and key; None when there is no key."""
        if self.mark is None and request.key is not None:
            self.mark = request_id(request.scope, request.key)
        self.attempts = 0
        self.follows = False
        """Whether an earlier request with this key was in flight, whose answer is awaited."""
        self.followers: list[Ticket] | None = None
        self.answer: Answer | None = None
        self.error: Exception | None = None

    def result(self) -> Answer:
        """Return the answer, or raise what went wrong."""
        if self.answer is None:
            raise self.error or CommitError("not answered yet")
        return self.answer


class Observer(Protocol):
    """Whoever wants to know of room in pools before anybody can be told of it."""

    def freeing(self, book: str, position: int, pools: Sequence[PoolKey]) -> None:
        """Hear that pools will have more room than at `position`, right before it is committed.

        Called in the writer's thread while it holds the book's head: be quick. What it raises is
        logged, and the commit goes on.
        """
        ...
