"""A table of numbers by 128-bit keys that lives in a temporary file, not in memory.

Many keys are looked up and kept at once, for a handful costs as much as thousands. What was
touched is given back to the system, so that the memory in use does not grow with the table.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

SLOTS_FIRST: Final = 1 << 16
FULL: Final = 0.6
STEP: Final = 1 << 16

_SLOT: Final = np.dtype([("high", "<u8"), ("low", "<u8"), ("one", "<i8"), ("two", "<i8")])
_KEYS: Final = np.dtype([("high", "<u8"), ("low", "<u8")])

_MIXERS: Final = np.frombuffer(os.urandom(16), np.uint64) | np.uint64(1)
"""Of this process only, so that nobody can choose keys that all want the same slot."""


class Table:
    """Two numbers for each key; a key that was never kept has zeroes.

    Keys are sixteen bytes; the one of zeroes only is none.
    """

    def __init__(self, slots: int = SLOTS_FIRST) -> None:
        self.count = 0
        self._open(slots)

    def load(self, keys: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """Return both numbers of each key."""
        if not keys:
            return [], []
        wanted = _split(keys)
        places = self._places(wanted)
        found = self._slots[places]
        return found["one"].tolist(), found["two"].tolist()

    def store(self, keys: Sequence[bytes], ones: Sequence[int], twos: Sequence[int]) -> None:
        """Keep both numbers of each key; no key is named twice."""
        if not keys:
            return
        while self.count + len(keys) > len(self._slots) * FULL:
            self._grow()
        rows = np.empty(len(keys), _SLOT)
        wanted = _split(keys)
        rows["high"], rows["low"] = wanted["high"], wanted["low"]
        rows["one"], rows["two"] = ones, twos
        self._put(rows)

    def total(self) -> int:
        """Return the sum of all first numbers."""
        total = 0
        for start in range(0, len(self._slots), STEP):
            total += sum(self._slots["one"][start : start + STEP].tolist())
            self.release()
        return total

    def release(self) -> None:
        """Give the memory back; what is kept stays in the file."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let the file go."""
        del self._slots
        self._map.close()
        self._file.close()

    def _open(self, slots: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="tidebook-")  # noqa: SIM115 - closed by close
        self._file.truncate(slots * _SLOT.itemsize)
        self._map = mmap.mmap(self._file.fileno(), slots * _SLOT.itemsize)
        self._slots: Any = np.frombuffer(self._map, _SLOT)

    def _places(self, wanted: Any) -> Any:
        """Return where each key is, or the free slot where it may be put."""
        last = len(self._slots) - 1
        mixed = wanted["low"] * _MIXERS[0] + wanted["high"] * _MIXERS[1]
        places = (mixed >> np.uint64(64 - last.bit_length())).astype(np.int64)
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
            rows = old[start : start + STEP]
            self._put(rows[(rows["high"] != 0) | (rows["low"] != 0)])
            del rows
            memory.madvise(mmap.MADV_DONTNEED)
            self.release()
        del old
        memory.close()
        file.close()


def _split(keys: Sequence[bytes]) -> Any:
    return np.frombuffer(b"".join(keys), _KEYS)
