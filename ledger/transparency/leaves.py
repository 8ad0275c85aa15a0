"""Leaves: the one encoding of a stored event that is hashed into its book's log.

An entry names the book, the position, the stream, the version and the topic, and holds the state
as it is stored, byte for byte. It never changes: what was signed is what it hashes to. The leaf at
position p has the number p - 1.

    form        1 byte     1, or 2 where the state is too long for a bundle of entries
    book        1 byte, then so many bytes of ASCII
    position    8 bytes, big-endian
    stream      16 bytes, the UUID
    version     4 bytes, big-endian
    topic       2 bytes, big-endian, then so many bytes of UTF-8
    state       the rest; in form 2 the SHA-256 of the state
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np

from ledger.books import parse_book
from ledger.transparency.texts import Malformed
from ledger.transparency.tiles import ENTRY_BYTES_MAX

WHOLE: Final = 1
DIGEST: Final = 2

_FIXED: Final = struct.Struct(">Q16sI")
_TOPIC_LENGTH: Final = struct.Struct(">H")
TOPIC_AT: Final = _FIXED.size + _TOPIC_LENGTH.size
"""Where the topic begins, behind form and book."""
_DIGEST_BYTES: Final = 32


class Leaf(NamedTuple):
    """What an entry says. In form `DIGEST`, `state` is the hash of the event's state."""

    form: int
    book: str
    position: int
    stream: UUID
    version: int
    topic: str
    state: bytes

    def stands_for(self, state: bytes) -> bool:
        """Whether this is the leaf of an event with this state."""
        return self.state == (state if self.form == WHOLE else sha256(state).digest())


def encode_entry(
    book: str, position: int, stream: UUID, version: int, topic: str, state: bytes
) -> bytes:
    """Return the entry of a stored event."""
    topic_bytes = topic.encode()
    fixed = _FIXED.pack(position, stream.bytes, version)
    head = b"%b%b%b%b" % (
        book_prefix(book),
        fixed,
        _TOPIC_LENGTH.pack(len(topic_bytes)),
        topic_bytes,
    )
    return entry_of(head, state)


class Columns(NamedTuple):
    """Many events, column by column: what their leaves are made of."""

    positions: Any
    """An array of integers."""
    streams: bytes
    """Sixteen bytes an event."""
    versions: Any
    """An array of integers."""
    topics: Sequence[str]
    """Every topic of them, and perhaps others; which one an event has is its kind."""
    kinds: Any
    """An array of places in `topics`."""
    states: Sequence[bytes]
    longest: int
    """Bytes of the longest state."""

    @classmethod
    def of(
        cls,
        positions: Sequence[int],
        streams: Sequence[bytes],
        versions: Sequence[int],
        topics: Sequence[str],
        states: Sequence[bytes],
    ) -> Columns:
        """Return the columns of events whose values are at hand one by one."""
        places = {topic: place for place, topic in enumerate(dict.fromkeys(topics))}
        return cls(
            np.array(positions, np.int64),
            b"".join(streams),
            np.array(versions, np.int64),
            tuple(places),
            np.array([places[topic] for topic in topics], np.int64),
            states,
            max(map(len, states), default=0),
        )


def leaf_hashes_of(book: str, columns: Columns) -> list[bytes]:
    """Return the leaf hashes of many events: those of their entries, made without a detour."""
    heads, longest = _heads(book, columns)
    if longest + columns.longest > ENTRY_BYTES_MAX + 1:
        rows = zip(heads, columns.states, strict=True)
        return [sha256(b"\0" + entry_of(head[1:], state)).digest() for head, state in rows]
    return [
        sha256(head + state).digest() for head, state in zip(heads, columns.states, strict=True)
    ]


def _heads(book: str, columns: Columns) -> tuple[list[bytes], int]:
    """Return what is hashed before each state, made topic by topic, and the longest length."""
    prefix, longest = b"\0" + book_prefix(book), 0
    heads = np.empty(len(columns.states), object)
    streams = np.frombuffer(columns.streams, "V16")
    for kind, topic in enumerate(columns.topics):
        rows = np.flatnonzero(columns.kinds == kind)
        if not len(rows):
            continue  # a file may name topics that none of its events has
        tail = _TOPIC_LENGTH.pack(len(topic.encode())) + topic.encode()
        table = np.empty(
            len(rows),
            [
                ("prefix", f"V{len(prefix)}"),
                ("position", ">u8"),
                ("stream", "V16"),
                ("version", ">u4"),
                ("tail", f"V{len(tail)}"),
            ],
        )
        table["prefix"], table["tail"] = np.void(prefix), np.void(tail)
        table["position"], table["version"] = columns.positions[rows], columns.versions[rows]
        table["stream"] = streams[rows]
        heads[rows] = table.view(f"V{table.itemsize}").tolist()
        longest = max(longest, table.itemsize)
    return heads.tolist(), longest


def decode_entry(entry: bytes) -> Leaf:
    """Return what an entry says; raise `Malformed` unless it is exactly one."""
    try:
        return _decode(entry)
    except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise Malformed(f"not an entry of a book's log: {error}") from error


def book_prefix(book: str) -> bytes:
    """Return how the whole entries of a book begin."""
    name = book.encode("ascii")
    return bytes([WHOLE, len(name)]) + name


def entry_of(head: bytes, state: bytes) -> bytes:
    """Return the entry that begins with `head`, written for form `WHOLE`, and has this state."""
    if len(head) + len(state) <= ENTRY_BYTES_MAX:
        return head + state
    return bytes([DIGEST]) + head[1:] + sha256(state).digest()


def joined_entry(prefix: bytes, rest: bytes) -> bytes:
    """Return the entry that begins with the prefix of its book, written for form `WHOLE`."""
    state_at = TOPIC_AT + _TOPIC_LENGTH.unpack_from(rest, _FIXED.size)[0]
    return entry_of(prefix + rest[:state_at], rest[state_at:])


def _decode(entry: bytes) -> Leaf:
    form, name_end = entry[0], 2 + entry[1]
    book = parse_book(entry[2:name_end].decode("ascii"))
    position, stream, version = _FIXED.unpack_from(entry, name_end)
    at = name_end + _FIXED.size
    topic_end = at + _TOPIC_LENGTH.size + _TOPIC_LENGTH.unpack_from(entry, at)[0]
    topic = entry[at + _TOPIC_LENGTH.size : topic_end].decode()
    state = entry[topic_end:]
    if topic_end > len(entry) or len(entry) > ENTRY_BYTES_MAX or form not in {WHOLE, DIGEST}:
        raise Malformed("not an entry of a book's log")
    if form == DIGEST and len(state) != _DIGEST_BYTES:
        raise Malformed("an entry without its state has the state's hash")
    return Leaf(form, book, position, UUID(bytes=stream), version, topic, state)
