"""Entries and leaf hashes of stored events, straight from the database's own bytes.

Whoever follows a book reads every event once, so this is what its log costs: the database joins
the entries of many events, and each is hashed where it lies.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final, NamedTuple

import numpy as np

from ledger.merkle import leaf_hash
from ledger.transparency.leaves import TOPIC_AT, book_prefix, joined_entry
from ledger.transparency.tiles import ENTRY_BYTES_MAX

_TOGETHER: Final = 256
"""Events that the database joins before it sends them: a row of COPY for each costs more."""

_JOINED: Final = (
    "COPY (SELECT x.* FROM generate_series(%(after)s::bigint, %(until)s::bigint - 1, %(step)s) s,"
    " LATERAL (SELECT"
    " string_agg(int4send(%(head)s + octet_length(topic) + octet_length(state)), ''"
    " ORDER BY position),"
    " string_agg(int8send(position) || uuid_send(originator_id) || int4send(originator_version)"
    " || int2send(octet_length(topic)::int2) || convert_to(topic, 'UTF8') || state, ''"
    " ORDER BY position) FROM tidebook.event WHERE book = %(book)s AND position > s"
    " AND position <= least(s + %(step)s, %(until)s)) x) TO STDOUT (FORMAT binary)"
)
"""Lengths of entries but for form and book, and these, as many together as there are."""

_COPY_HEADER_BYTES: Final = 19
_COPY_END_BYTES: Final = 2
_COLUMN_COUNT_BYTES: Final = 2
_COLUMN_LENGTH: Final = struct.Struct(">i")
_POSITION_PLACES: Final = np.arange(8)


class Row(NamedTuple):
    """A position and the entry of the event there."""

    position: int
    entry: bytes


def copy_entries(curs: Any, book: str, after: int, until: int) -> list[Row]:
    """Return the entries of the events stored after a position, up to another one."""
    prefix = book_prefix(book)
    return [
        Row(position, joined_entry(prefix, bytes(joined.rows[start:end])))
        for joined in _joined_rows(_copied(curs, book, after, until))
        for position, start, end in zip(
            joined.positions.tolist(), joined.starts, joined.ends, strict=True
        )
    ]


def copy_leaf_hashes(curs: Any, book: str, after: int, until: int) -> list[bytes]:
    """Return the leaf hashes of the events at the next positions, as far as none is missing."""
    prefix = book_prefix(book)
    hashes: list[bytes] = []
    for joined in _joined_rows(_copied(curs, book, after, until)):
        count = joined.count_behind(after + len(hashes))
        hashes += _leaf_hashes(prefix, joined, count)
        if count < len(joined.positions):
            break
    return hashes


def _leaf_hashes(prefix: bytes, joined: _Joined, count: int) -> list[bytes]:
    """Return the leaf hashes of the first rows, none of them put together before it is hashed."""
    rows, starts, ends = joined.rows, joined.starts[:count], joined.ends[:count]
    if len(prefix) + joined.longest > ENTRY_BYTES_MAX:
        places = zip(starts, ends, strict=True)
        return [leaf_hash(joined_entry(prefix, bytes(rows[at:end]))) for at, end in places]
    begun = sha256(b"\0" + prefix).copy
    hashes: list[bytes] = []
    add = hashes.append
    for start, end in zip(starts, ends, strict=True):
        leaf = begun()
        leaf.update(rows[start:end])
        add(leaf.digest())
    return hashes


def _copied(curs: Any, book: str, after: int, until: int) -> bytes:
    data = io.BytesIO()
    asked = {"book": book, "after": after, "until": until, "step": _TOGETHER, "head": TOPIC_AT}
    curs.copy_expert(curs.mogrify(_JOINED, asked), data, size=1 << 20)
    return data.getvalue()


class _Joined(NamedTuple):
    """Rows of events that were joined, and of each its position, and where it begins and ends."""

    rows: memoryview
    positions: Any
    """An array of integers."""
    starts: list[int]
    ends: list[int]
    longest: int
    """Bytes of the longest row."""

    def count_behind(self, position: int) -> int:
        """Return how many rows are those of the next positions, before the first that is not."""
        is_other = self.positions != np.arange(position + 1, position + 1 + len(self.positions))
        return int(is_other.argmax()) if is_other.any() else len(self.positions)


def _joined_rows(data: bytes) -> Iterator[_Joined]:
    """Yield what was copied."""
    view = memoryview(data)
    at, last = _COPY_HEADER_BYTES, len(data) - _COPY_END_BYTES
    while at < last:
        lengths, at = _column(view, at + _COLUMN_COUNT_BYTES)
        rows, at = _column(view, at)
        if not rows:
            continue
        sizes = np.frombuffer(lengths, ">i4").astype(np.int64)
        ends = sizes.cumsum()
        starts = ends - sizes
        positions = np.frombuffer(rows, np.uint8)[starts[:, None] + _POSITION_PLACES].view(">i8")
        yield _Joined(rows, positions.ravel(), starts.tolist(), ends.tolist(), int(sizes.max()))


def _column(view: memoryview, at: int) -> tuple[memoryview, int]:
    """Return a column of the binary form of COPY, behind its length, and where the next is.

    Where there are no events there is no value, of the length -1.
    """
    start = at + _COLUMN_LENGTH.size
    end = start + max(0, _COLUMN_LENGTH.unpack_from(view, at)[0])
    return view[start:end], end
