"""The pass over an export: what can be confirmed in columns is, and the rest is given back.

In order of position, and nothing is left out: an event is either confirmed or handed to the audit
before the one behind it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from campaigns.columns.judging import Judge
from campaigns.columns.reading import NONE, Columns, Shared, read, runs_of
from campaigns.columns.rows import Rows, rows_of
from campaigns.columns.texts import Array
from campaigns.export_window import Window
from campaigns.verification import Audit
from ledger.exporting.reading import ExportFile, Unreadable

GROUPS_AT_ONCE: Final = 8
"""Row groups that are judged together: memory grows with them, the time of an event falls."""

BYTES_AT_ONCE: Final = 1 << 26
"""Bytes of events that are judged together, unless one row group alone has more."""

RUN_MIN: Final = 64
"""Shortest run that is judged in columns: for fewer events the columns cost more than the audit."""

LEFT_FIRST: Final = 32
"""Events that are given back where a run is not confirmed; twice as many when the next is not."""


class Piece(NamedTuple):
    """Events of one row group, which is one of those that are judged together."""

    group: int
    start: int
    end: int


def batches(file: ExportFile) -> Iterator[list[Rows]]:
    """Yield the row groups that are judged together; raise `Unreadable` at the first that is not.

    Those before it are yielded first.
    """
    groups: list[Rows] = []
    size = 0
    for number in range(file.groups):
        try:
            rows = rows_of(file, number)
        except Unreadable:
            if groups:
                yield groups
            raise
        if groups and (len(groups) == GROUPS_AT_ONCE or size + len(rows.data) > BYTES_AT_ONCE):
            yield groups
            groups, size = [], 0
        groups.append(rows)
        size += len(rows.data)
    if groups:
        yield groups


class Passing:
    """Judges row groups in columns as far as that goes."""

    def __init__(self, audit: Audit, window: Window) -> None:
        self._audit = audit
        self._judge = Judge(audit, window)

    @property
    def confirmed(self) -> int:
        """How many events were confirmed in columns."""
        return self._judge.confirmed

    def left(self, groups: Sequence[Rows]) -> Iterator[Piece]:
        """Yield what must be judged by the audit, which is done before the next is asked for."""
        bounds = np.cumsum([0, *map(len, groups)])
        for start, end in self._left(groups, int(bounds[-1])):
            for number, (begin, stop) in enumerate(pairwise(bounds.tolist())):
                first, last = max(start, begin), min(end, stop)
                if first < last:
                    yield Piece(number, first - begin, last - begin)

    def _left(self, groups: Sequence[Rows], count: int) -> Iterator[tuple[int, int]]:
        place = 0
        if self._judge.is_able:
            shared = Shared()
            parts = [read(rows, shared) for rows in groups]
            columns = Columns(*map(np.concatenate, zip(*parts, strict=True)))
            columns.kind[~self._in_place(groups)] = NONE
            for start, end in runs_of(columns.kind):
                if end - start >= RUN_MIN:
                    if place < start:
                        yield place, start
                    yield from self._left_of_run(columns, shared, start, end)
                    place = end
        if place < count:
            yield place, count

    def _in_place(self, groups: Sequence[Rows]) -> Array:
        """Return which positions are those behind the ones before."""
        positions = np.concatenate([rows.positions for rows in groups])
        before = np.concatenate(([self._audit.book.position], positions[:-1]))
        found: Array = positions == before + 1
        return found

    def _left_of_run(
        self, columns: Columns, shared: Shared, start: int, end: int
    ) -> Iterator[tuple[int, int]]:
        size, more = end - start, LEFT_FIRST
        while start < end:
            confirmed, stop = 0, min(end, start + size)
            if end - start >= RUN_MIN and self._judge.is_able:
                confirmed = self._judge.confirm(columns.part(start, stop), shared)
            start += confirmed
            if start == stop:
                size *= 2
            else:
                size = max(size // 4, RUN_MIN)
                more = LEFT_FIRST if confirmed >= RUN_MIN else more * 2
                stop = min(end, start + more)
                yield start, stop
                start = stop
