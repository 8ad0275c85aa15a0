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

import io
import struct
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

from ledger.books import parse_book
from ledger.transparency.texts import Malformed
from ledger.transparency.tiles import ENTRY_BYTES_MAX

WHOLE: Final = 1
DIGEST: Final = 2

_FIXED: Final = struct.Struct(">Q16sI")
_TOPIC_LENGTH: Final = struct.Struct(">H")
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


def leaf_hashes_of(
    book: str,
    positions: Sequence[int],
    streams: Sequence[bytes],
    versions: Sequence[int],
    topics: Sequence[str],
    states: Sequence[bytes],
) -> list[bytes]:
    """Return the leaf hashes of many events: those of their entries, made without a detour."""
    prefix = b"\0" + book_prefix(book)
    pack, room = _FIXED.pack, ENTRY_BYTES_MAX + 1 - len(prefix) - _FIXED.size
    named = {topic: _TOPIC_LENGTH.pack(len(topic.encode())) + topic.encode() for topic in topics}
    tails = [named[topic] for topic in topics]
    if max(map(len, states), default=0) + max(map(len, tails), default=0) > room:
        rows = zip(positions, map(_uuid_of, streams), versions, topics, states, strict=True)
        return [sha256(b"\0" + encode_entry(book, *row)).digest() for row in rows]
    return [
        sha256(prefix + pack(position, stream, version) + tail + state).digest()
        for position, stream, version, tail, state in zip(
            positions, streams, versions, tails, states, strict=True
        )
    ]


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


def _uuid_of(stream: bytes) -> UUID:
    return UUID(bytes=stream)


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


# --- straight from the database ---------------------------------------------------------------

ENTRIES: Final = (
    "COPY (SELECT position, originator_id, originator_version, topic, state FROM tidebook.event"
    " WHERE book = %s AND position > %s AND position <= %s ORDER BY position)"
    " TO STDOUT (FORMAT binary)"
)
_COPY_HEADER_BYTES: Final = 19
_ROW: Final = struct.Struct(">6x8s4x16s4x4s2xH")
_LENGTH: Final = struct.Struct(">i")
_END: Final = b"\xff\xff"


class Row(NamedTuple):
    """A position and the entry of the event there."""

    position: int
    entry: bytes


def rows_in(book: str, data: bytes) -> Iterator[Row]:
    """Yield the entries of what `ENTRIES` copied.

    The binary form of COPY is a header, then per row the number of columns and per column its
    length and bytes. The columns' bytes are those of the entry, so that nothing is decoded.
    """
    prefix = book_prefix(book)
    unpack, length_of = _ROW.unpack_from, _LENGTH.unpack_from
    row_bytes, topic_length = _ROW.size, _TOPIC_LENGTH.pack
    at = _COPY_HEADER_BYTES
    while data[at : at + 2] != _END:
        position, stream, version, topic_bytes = unpack(data, at)
        at += row_bytes
        topic = data[at : at + topic_bytes]
        at += topic_bytes
        start = at + 4
        at = start + length_of(data, at)[0]
        head = b"%b%b%b%b%b%b" % (
            prefix,
            position,
            stream,
            version,
            topic_length(topic_bytes),
            topic,
        )
        yield Row(int.from_bytes(position), entry_of(head, data[start:at]))


def copy_entries(curs: Any, book: str, after: int, until: int) -> list[Row]:
    """Return the entries of the events stored after a position, up to another one."""
    data = io.BytesIO()
    curs.copy_expert(curs.mogrify(ENTRIES, (book, after, until)), data, size=1 << 20)
    return list(rows_in(book, data.getvalue()))
