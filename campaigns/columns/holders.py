"""The accounts of holders on the disk: what moved is written down, and added up when it is asked.

Whoever judges many events at once only needs their sum. The accounts of single people are looked
up by an audit that judges an event by itself; until one does, nothing is sorted and nothing is
searched for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Final

import numpy as np

from campaigns.columns.names import keys_of
from campaigns.columns.texts import Array
from ledger.exporting.spilling import KEYS, Table

AT_ONCE: Final = 1 << 17
"""Movements that are added up together."""

_MOVED: Final = np.dtype([*KEYS.descr, ("minor", "<i8")])


class Holders:
    """The accounts of the holders of one currency, by name."""

    def __init__(self) -> None:
        self._table: Table | None = None
        self._moved = tempfile.TemporaryFile(prefix="tidebook-")  # noqa: SIM115 - closed by close
        self._moves = 0
        self._total = 0

    @property
    def total(self) -> int:
        """What all accounts have together."""
        return self._total

    def move(self, keys: Array, minors: Array) -> None:
        """Add to accounts, each as often as it is named; the sum is within 64 bits."""
        self._write(keys, minors)
        self._total += int(minors.sum())

    def move_names(self, names: Sequence[str], minors: Sequence[int]) -> None:
        """Add to the accounts of people; no account gets beyond 64 bits."""
        self._write(keys_of(names), np.array(minors, np.int64))
        self._total += sum(minors)

    def load(self, names: Sequence[str]) -> list[int]:
        """Return what is in the accounts of people."""
        if names:
            self._add_up()
        if self._table is None or not names:
            return [0] * len(names)
        minors: list[int] = self._table.found(keys_of(names))["one"].tolist()
        return minors

    def close(self) -> None:
        """Let the files go."""
        self._moved.close()
        if self._table is not None:
            self._table.close()

    def _write(self, keys: Array, minors: Array) -> None:
        rows = np.empty(len(keys), _MOVED)
        rows["high"], rows["low"], rows["minor"] = keys["high"], keys["low"], minors
        self._moved.write(rows.tobytes())
        self._moves += len(rows)

    def _add_up(self) -> None:
        """Put what moved into the accounts."""
        if not self._moves:
            return
        if self._table is None:
            self._table = Table()
        self._moved.seek(0)
        while data := self._moved.read(AT_ONCE * _MOVED.itemsize):
            rows = np.frombuffer(data, _MOVED)
            rows = rows[np.lexsort((rows["high"], rows["low"]))]
            is_first = np.ones(len(rows), bool)
            is_first[1:] = (rows["low"][1:] != rows["low"][:-1]) | (
                rows["high"][1:] != rows["high"][:-1]
            )
            firsts = np.flatnonzero(is_first)
            sums = np.add.reduceat(rows["minor"], firsts)
            known = self._table.found(rows[firsts])
            known["one"] += sums
            self._table.keep(known)
        self._moved.seek(0)
        self._moved.truncate()
        self._moves = 0
