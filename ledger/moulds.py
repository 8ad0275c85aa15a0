"""Moulds: the bytes of things of which thousands differ in a few fields only.

A mould is made from one thing by the plain encoder, field by field, and then casts others by
putting what varies between the bytes that stay. It never encodes anything in a way of its own: what
it casts for its sample is compared with the plain encoder's bytes before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET
from msgspec.structs import asdict

from ledger.events import Event, canonical

_encode = msgspec.json.Encoder().encode


class Mould:
    """The form of a JSON object: its fields in order, of which those named in `varying` vary."""

    __slots__ = ("_form",)

    def __init__(self, sample: Mapping[str, Any], varying: Sequence[str]) -> None:
        assert [name for name in sample if name in varying] == list(varying), "fields in order"
        fields = (
            _literal(name) + b":" + (b"%b" if name in varying else _literal(value))
            for name, value in sample.items()
        )
        self._form = b"{" + b",".join(fields) + b"}"
        assert self.cast(*(sample[name] for name in varying)) == _encode(sample)

    def cast(self, *values: Any) -> bytes:
        """Return the bytes of the object with these values of what varies, in order."""
        return self._form % tuple(map(_encode, values))


class EventMould:
    """A mould of events: they have the `sample`'s topic and its fields, but for what varies."""

    __slots__ = ("_mould", "sample", "topic")

    def __init__(self, sample: Event, varying: Sequence[str]) -> None:
        fields = {name: value for name, value in asdict(sample).items() if value is not UNSET}
        del fields["originator_id"], fields["originator_version"]
        self.sample = sample
        self.topic = sample.TOPIC
        self._mould = Mould(fields, varying)
        assert self._mould.cast(*(fields[name] for name in varying)) == canonical(sample)

    def cast(self, stream: UUID, version: int, *values: Any) -> EncodedEvent:
        """Return the event that is `version` of `stream`, with these values of what varies."""
        return EncodedEvent(stream, version, self._mould.cast(*values), self)


class EncodedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that has its bytes already. Its mould's sample stands for it in all checks."""

    originator_id: UUID
    originator_version: int
    state: bytes
    mould: EventMould

    @property
    def TOPIC(self) -> str:  # noqa: N802 - as an event has it
        """The topic of its event type."""
        return self.mould.topic


def _literal(value: Any) -> bytes:
    return _encode(value).replace(b"%", b"%%")
