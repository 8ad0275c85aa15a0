"""A table of numbers by 128-bit keys that lives in a temporary file, not in memory.

Many keys are looked up and kept at once, for a handful costs as much as thousands. What was
touched is given back to the system, so that the memory in use does not grow with the table.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

SLOTS_FIRST: Final = 1 << 16
FULL: Final = 0.6
STEP: Final = 1 << 16
AT_ONCE: Final = 1 << 11
"""Keys that are touched before memory is given back: for each the system maps pages around it."""

KEYS: Final = np.dtype([("high", "<u8"), ("low", "<u8")])
"""A key in two halves, as its bytes lie."""

_MIXERS: Final = np.frombuffer(os.urandom(16), np.uint64) | np.uint64(1)
"""Of this process only, so that nobody can choose keys that all want the same slot."""


class Table:
    """Numbers by their names for each key; a key that was never kept has zeroes.

    Keys are sixteen bytes; the one of zeroes only is none.
    """

    def __init__(self, slots: int = SLOTS_FIRST, names: Sequence[str] = ("one", "two")) -> None:
        self.count = 0
        self.slot = np.dtype([*KEYS.descr, *((name, "<i8") for name in names)])
        self._open(slots)

    def found(self, keys: Any) -> Any:
        """Return a row of key and numbers for each of an array of keys."""
        rows = np.zeros(len(keys), self.slot)
        for part in self._in_order(keys):
            rows[part] = self._slots[self._places(keys[part])]
            self._release()
        rows["high"], rows["low"] = keys["high"], keys["low"]
        return rows

    def keep(self, rows: Any) -> None:
        """Keep rows as `found` gives them; no key is named twice."""
        while self.count + len(rows) > len(self._slots) * FULL:
            self._grow()
        for part in self._in_order(rows):
            self._put(rows[part])
            self._release()

    def load(self, keys: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """Return both numbers of each key."""
        if not keys:
            return [], []
        found = self.found(split(keys))
        return found["one"].tolist(), found["two"].tolist()

    def store(self, keys: Sequence[bytes], ones: Sequence[int], twos: Sequence[int]) -> None:
        """Keep both numbers of each key; no key is named twice."""
        if not keys:
            return
        rows = np.empty(len(keys), self.slot)
        wanted = split(keys)
        rows["high"], rows["low"] = wanted["high"], wanted["low"]
        rows["one"], rows["two"] = ones, twos
        self.keep(rows)

    def total(self) -> int:
        """Return the sum of all first numbers."""
        total = 0
        for start in range(0, len(self._slots), STEP):
            total += sum(self._slots["one"][start : start + STEP].tolist())
            self._release()
        return total

    def _release(self) -> None:
        """Give the memory back; what is kept stays in the file."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let the file go."""
        del self._slots
        self._map.close()
        self._file.close()

    def _open(self, slots: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="tidebook-")  # noqa: SIM115 - closed by close
        self._file.truncate(slots * self.slot.itemsize)
        self._map = mmap.mmap(self._file.fileno(), slots * self.slot.itemsize)
        self._slots: Any = np.frombuffer(self._map, self.slot)

    def _in_order(self, wanted: Any) -> Iterator[Any]:
        """Yield which keys to touch together: those that are near each other in the file."""
        order = np.argsort(self._first_places(wanted))
        for start in range(0, len(order), AT_ONCE):
            yield order[start : start + AT_ONCE]

    def _first_places(self, wanted: Any) -> Any:
        last = len(self._slots) - 1
        mixed = wanted["low"] * _MIXERS[0] + wanted["high"] * _MIXERS[1]
        return (mixed >> np.uint64(64 - last.bit_length())).astype(np.int64)

    def _places(self, wanted: Any) -> Any:
        """Return where each key is, or the free slot where it may be put."""
        last = len(self._slots) - 1
        places = self._first_places(wanted)
        open_ones = np.arange(len(wanted))
        while len(open_ones):
            found = self._slots[places[open_ones]]
            keys = wanted[open_ones]
            is_free = (found["high"] == 0) & (found["low"] == 0)
            is_it = (found["high"] == keys["high"]) & (found["low"] == keys["low"])
            open_ones = open_ones[~(is_free | is_it)]
            places[open_ones] = (places[open_ones] + 1) & last
        return places

    def _put(self, rows: Any) -> None:
        """Put rows in; of two that want one free slot the second looks further."""
        left = rows
        while len(left):
            places = self._places(left)
            found = self._slots[places]
            is_new = (found["high"] == 0) & (found["low"] == 0)
            _, firsts = np.unique(places, return_index=True)
            self._slots[places[firsts]] = left[firsts]
            self.count += int(is_new[firsts].sum())
            keep = np.ones(len(left), bool)
            keep[firsts] = False
            left = left[keep]

    def _grow(self) -> None:
        old, file, memory = self._slots, self._file, self._map
        self.count = 0
        self._open(len(old) * 2)
        for start in range(0, len(old), STEP):
            rows = np.array(old[start : start + STEP])
            self._put(rows[(rows["high"] != 0) | (rows["low"] != 0)])
            memory.madvise(mmap.MADV_DONTNEED)
            self._release()
        del old
        memory.close()
        file.close()


def split(keys: Sequence[bytes]) -> Any:
    """Return keys as an array."""
    return np.frombuffer(b"".join(keys), KEYS)
