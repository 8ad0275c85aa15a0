"""Events: what every stored fact carries, and how it becomes bytes and comes back.

The bytes of an event are final: they are the leaf of the book's log. Topics are stable strings,
never module paths. An old form is upcast on reading; an unknown topic stops the reader, because
a skipped event is a wrong balance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent

Upcast = Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]
"""Turns the decoded state of an old topic into a newer topic and its state."""


class UnknownEventType(Exception):
    """An event's topic is not known to this version of the program; the reader must stop."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"unknown event type {topic!r}: this program is older than the store")
        self.topic = topic


class UnreadableEvent(Exception):
    """An event's bytes do not decode as its topic says."""


class Actor(msgspec.Struct, frozen=True):
    """Who acted: a role and a pseudonym (never a name, phone or document number)."""

    role: str
    id: str


class Why(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an event exists: request id, idempotency key and fingerprint (hex), causing position."""

    request: str
    key: str | None = None
    fingerprint: str | None = None
    cause: int | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stored fact. `at` is an instant in UTC that never decreases within a book.

    `originator_id` and `originator_version` name the stream and the place in it; they are
    columns of the store, so they are empty in the state bytes. A field that is `UNSET` is absent
    from them: so a later version may add one, and older events keep their bytes.
    """

    TOPIC: ClassVar[str]

    originator_id: UUID
    originator_version: int
    at: datetime
    by: Actor
    why: Why


def scope_of(event: Event) -> str:
    """The space of the idempotency keys of whoever caused an event."""
    return f"{event.by.role}:{event.by.id}"


_AFTER_HEADER: Final = b',"at":'
_encode: Final = msgspec.json.Encoder().encode


class EventTypes:
    """The set of topics that a program knows, with the upcasts from older ones."""

    def __init__(
        self, types: Iterable[type[Event]], upcasts: Mapping[str, Upcast] | None = None
    ) -> None:
        self._codecs = {cls.TOPIC: _Codec(cls) for cls in types}
        self._upcasts = dict(upcasts or {})

    @property
    def topics(self) -> frozenset[str]:
        """Every topic that can be read, old forms included."""
        return frozenset(self._codecs) | frozenset(self._upcasts)

    def encode(self, event: Event) -> bytes:
        """Return the canonical bytes of an event's state: JSON, fields in declared order."""
        if event.TOPIC not in self._codecs:
            raise UnknownEventType(event.TOPIC)
        return canonical(event)

    def decode(
        self, topic: str, state: bytes, originator_id: UUID, originator_version: int
    ) -> Event:
        """Return the event that `state` says, upcast when its topic is an old one.

        Raises `UnknownEventType` on a topic that nobody taught this program and
        `UnreadableEvent` on bytes that do not fit the topic.
        """
        codec = self._codecs.get(topic)
        try:
            if codec is not None:
                return codec.decode(state, originator_id, originator_version)
            return self._decode_old(topic, state, originator_id, originator_version)
        except (msgspec.DecodeError, TypeError) as error:
            raise UnreadableEvent(
                f"{topic} version {originator_version} of {originator_id}: {error}"
            ) from error

    def _decode_old(self, topic: str, state: bytes, stream: UUID, version: int) -> Event:
        if topic not in self._upcasts:
            raise UnknownEventType(topic)
        fields: dict[str, Any] = msgspec.json.decode(state)
        while topic in self._upcasts:
            topic, fields = self._upcasts[topic](fields)
        if topic not in self._codecs:
            raise UnknownEventType(topic)
        return self.decode(topic, msgspec.json.encode(fields), stream, version)


def canonical(event: Event) -> bytes:
    """Return the canonical bytes of an event's state.

    The event is encoded at once and its header cut off, whose values hold no text like the end.
    """
    whole = _encode(event)
    return b"{" + whole[whole.index(_AFTER_HEADER) + 1 :]


class _Codec:
    """Decoder of one event class, compiled once.

    The state on disk has no header fields; they are put in front of it again and all is decoded
    as one. A state that has some of its own is not believed.
    """

    def __init__(self, cls: type[Event]) -> None:
        self._decode = msgspec.json.Decoder(cls).decode

    def decode(self, state: bytes, originator_id: UUID, originator_version: int) -> Event:
        if not state.startswith(b"{"):
            raise msgspec.DecodeError("the state is no object")
        header = b'{"originator_id":"%b","originator_version":%d,'
        event: Event = self._decode(
            header % (originator_id.hex.encode(), originator_version) + state[1:]
        )
        stream = event.originator_id.int
        if stream != originator_id.int or event.originator_version != originator_version:
            raise msgspec.DecodeError("the state names another stream or version")
        return event


class EventMapper(Mapper[UUID]):
    """The eventsourcing library's mapper over `EventTypes`: domain event ↔ stored event."""

    def __init__(self, types: EventTypes) -> None:
        super().__init__(transcoder=JSONTranscoder())
        self.types = types
        self.decode = types.decode

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """Return the stored form: stream, version, topic and canonical bytes."""
        return StoredEvent(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=domain_event.TOPIC,
            state=self.types.encode(domain_event),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        """Return the event of a stored form; an unknown topic raises `UnknownEventType`."""
        stream = stored_event.originator_id
        assert isinstance(stream, UUID), "streams are UUIDs"
        return self.types.decode(
            stored_event.topic, stored_event.state, stream, stored_event.originator_version
        )
