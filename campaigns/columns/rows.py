"""Rows of an export as the file has them: arrays, and objects only of those that are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

import numpy as np
import pyarrow as pa

from campaigns.columns.texts import Array
from ledger.exporting.reading import ExportFile
from ledger.exporting.spilling import KEYS
from ledger.history import Entry

NEVER: Final = -(1 << 63)
"""The instant of an event whose instant was not recorded."""

_COLUMNS: Final = ("position", "stream", "version", "topic", "recorded_at", "state")


@dataclass(frozen=True, slots=True)
class Rows:
    """A row group of events, column by column; instants are microseconds since 1970."""

    positions: Array
    streams: Array
    versions: Array
    topics: list[str]
    topic: Array
    """Which of the topics."""
    instants: Array
    data: Array
    """The states, behind each other."""
    offsets: Array

    def __len__(self) -> int:
        return len(self.positions)

    def stream(self, row: int) -> UUID:
        """Return the stream of an event."""
        return UUID(bytes=self.streams[row].tobytes())

    @property
    def first(self) -> int:
        """The first position."""
        return int(self.positions[0])

    @property
    def last(self) -> int:
        """The last position."""
        return int(self.positions[-1])

    def entries(self, start: int, end: int) -> list[Entry]:
        """Return a stretch of the events as they are stored."""
        here = slice(start, end)
        bounds = self.offsets[start : end + 1].tolist()
        text = self.data[bounds[0] : bounds[-1]].tobytes()
        cuts = [bound - bounds[0] for bound in bounds]
        rows = zip(
            self.positions[here].tolist(),
            [UUID(bytes=stream.tobytes()) for stream in self.streams[here]],
            self.versions[here].tolist(),
            [self.topics[number] for number in self.topic[here].tolist()],
            [text[begin:stop] for begin, stop in pairwise(cuts)],
            strict=True,
        )
        return [Entry(*row) for row in rows]


def rows_of(file: ExportFile, number: int) -> Rows:
    """Return a row group; raise `Unreadable` when it is not one."""
    positions, streams, versions, topics, instants, states = file.arrays(number, _COLUMNS)
    return Rows(
        _values(positions, np.int64),
        _values(streams.storage, KEYS),
        _values(versions, np.int32).astype(np.int64),
        topics.dictionary.to_pylist(),
        _values(topics.indices, np.int32),
        _values(instants.cast(pa.int64()).fill_null(NEVER), np.int64),
        *_texts(states),
    )


def _values(column: Any, form: Any) -> Array:
    """Return values of one size, none of which is missing, where they lie."""
    size = np.dtype(form).itemsize
    return np.frombuffer(column.buffers()[1], form, len(column), column.offset * size)


def _texts(column: Any) -> tuple[Array, Array]:
    """Return the bytes of all values, and where each begins and the last ends."""
    _, places, data = column.buffers()
    offsets = np.frombuffer(places, np.int32, len(column) + 1, column.offset * 4).astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    if first == last:
        return np.zeros(0, np.uint8), offsets - first
    return np.frombuffer(data, np.uint8, last - first, first), offsets - first
