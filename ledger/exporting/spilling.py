"""A table of numbers by 128-bit keys that lives in temporary files, not in memory.

Rows lie in the order in which their keys came, so that what belongs together in time is together
on the disk; an index of eight bytes a key says which row it has. The keys that came last have an
index in memory, for they are asked for most, and enter the one on the disk many at once. Many keys
are looked up and kept at once, for a handful costs as much as thousands. What was touched is given
back to the system, so that the memory in use does not grow with the table.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

SLOTS_FIRST: Final = 1 << 16
FULL: Final = 0.5
ROWS_FIRST: Final = 1 << 10
STEP: Final = 1 << 16
RECENT: Final = 1 << 18
"""Keys whose index is in memory, 4 MiB of it; so many touch each page of the other one together."""
AT_ONCE: Final = 1 << 14
"""Keys that are touched before memory is given back: for each the system maps pages around it."""

KEYS: Final = np.dtype([("high", "<u8"), ("low", "<u8")])
"""A key in two halves, as its bytes lie."""

_MIXERS: Final = np.frombuffer(os.urandom(32), np.uint64) | np.uint64(1)
"""Of this process only, so that nobody can choose keys that all want the same slot."""


def mixed(keys: Any) -> Any:
    """Return a number for each key, in the order of which a table is gone through fastest."""
    return keys["low"] * _MIXERS[0] + keys["high"] * _MIXERS[1]


# A slot of the index is the number of a row, counted from 1, below a tag of its key.
_NUMBER: Final = np.uint64(2**32 - 1)
_TAG_FROM: Final = np.uint64(32)


class Table:
    """Numbers by their names for each key; a key that was never kept has zeroes.

    Keys are sixteen bytes. A row has the key, the numbers, and where it lies: 0 while it is new.
    """

    def __init__(self, slots: int = SLOTS_FIRST, names: Sequence[str] = ("one", "two")) -> None:
        self.count = 0
        numbers = [(name, "<i8") for name in names]
        self.form = np.dtype([*KEYS.descr, *numbers, ("place", "<i8")])
        self._index = _Mapped(np.dtype("<u8"), slots)
        self._rows = _Mapped(self.form, ROWS_FIRST)
        self._recent: Any = np.zeros(2 * RECENT, np.uint64)
        self._entered = 0
        """How many rows are in the index on the disk."""

    def found(self, keys: Any) -> Any:
        """Return a row of key and numbers for each of an array of keys."""
        rows = np.zeros(len(keys), self.form)
        places = self._places(self._recent, keys)
        self._fill(rows, np.flatnonzero(places), places)
        others = np.flatnonzero(places == 0)
        for part in _in_order(self._index.items, keys[others]) if self._entered else ():
            here = others[part]
            places[here] = self._places(self._index.items, keys[here])
            self._fill(rows, here[places[here] > 0], places)
        rows["high"], rows["low"] = keys["high"], keys["low"]
        return rows

    def keep(self, rows: Any) -> None:
        """Keep rows that `found` gave, with other numbers; no key is named twice."""
        known = rows["place"] > 0
        old, new = rows[known], rows[~known]
        self._rows.items[old["place"] - 1] = old
        for start in range(0, len(new), RECENT):
            self._add(new[start : start + RECENT])
        self._release()

    def load(self, keys: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """Return the first two numbers of each key."""
        found = self.found(split(keys))
        return found["one"].tolist(), found["two"].tolist()

    def store(self, keys: Sequence[bytes], ones: Sequence[int], twos: Sequence[int]) -> None:
        """Keep two numbers of each key; no key is named twice."""
        rows = self.found(split(keys))
        rows["one"], rows["two"] = ones, twos
        self.keep(rows)

    def total(self) -> int:
        """Return the sum of all first numbers."""
        total = 0
        for start in range(0, self.count, STEP):
            stop = min(start + STEP, self.count)
            total += sum(self._rows.items["one"][start:stop].tolist())
            self._release()
        return total

    def close(self) -> None:
        """Let the files go."""
        self._index.close()
        self._rows.close()

    def _release(self) -> None:
        """Give the memory back; what is kept stays in the files."""
        self._index.release()
        self._rows.release()

    def _fill(self, rows: Any, known: Any, places: Any) -> None:
        """Copy rows of which it is known where they lie."""
        rows[known] = self._rows.items[places[known] - 1]
        self._release()

    def _add(self, new: Any) -> None:
        """Add rows behind the others."""
        if self.count - self._entered + len(new) > RECENT:
            self._enter_recent()
        first, self.count = self.count, self.count + len(new)
        new["place"] = np.arange(first + 1, self.count + 1)
        while self.count > len(self._rows.items):
            self._rows.lengthen()
        self._rows.items[first : self.count] = new
        _enter(self._recent, new)

    def _places(self, index: Any, keys: Any) -> Any:
        """Return where the row of each key lies, 0 where an index has none."""
        last = len(index) - 1
        slots, tags = _slots(index, keys)
        found = np.zeros(len(keys), np.int64)
        left = np.arange(len(keys))
        while len(left):
            held = index[slots[left]]
            is_taken = held != 0
            left, held = left[is_taken], held[is_taken]
            places = (held & _NUMBER).astype(np.int64)
            maybe = np.flatnonzero((held & ~_NUMBER) == tags[left])
            rows, wanted = self._rows.items[places[maybe] - 1], keys[left[maybe]]
            is_it = (rows["high"] == wanted["high"]) & (rows["low"] == wanted["low"])
            found[left[maybe[is_it]]] = places[maybe[is_it]]
            is_open = np.ones(len(left), bool)
            is_open[maybe[is_it]] = False
            left = left[is_open]
            slots[left] = (slots[left] + 1) & last
        return found

    def _enter_recent(self) -> None:
        """Enter the rows that came last into the index on the disk, made large enough for all."""
        slots = len(self._index.items)
        while self.count > slots * FULL:
            slots *= 4
        if slots > len(self._index.items):
            self._index.close()
            self._index = _Mapped(np.dtype("<u8"), slots)
            self._entered = 0
        for start in range(self._entered, self.count, RECENT):
            rows = self._rows.items[start : min(start + RECENT, self.count)].copy()
            for part in _in_order(self._index.items, rows):
                _enter(self._index.items, rows[part])
                self._release()
        self._entered = self.count
        self._recent[:] = 0


def _slots(index: Any, keys: Any) -> tuple[Any, Any]:
    """Return the slot that each key wants, and its tag where it belongs in a slot."""
    last = len(index) - 1
    tags = keys["low"] * _MIXERS[2] + keys["high"] * _MIXERS[3]
    return (mixed(keys) >> np.uint64(64 - last.bit_length())).astype(np.int64), tags & ~_NUMBER


def _in_order(index: Any, keys: Any) -> Iterator[Any]:
    """Yield which keys to touch together: those that are near each other in an index."""
    order = _sorted(_slots(index, keys)[0])
    for start in range(0, len(order), AT_ONCE):
        yield order[start : start + AT_ONCE]


def _enter(index: Any, rows: Any) -> None:
    """Put rows that are new into an index; of two that want one slot one goes on."""
    last = len(index) - 1
    slots, tags = _slots(index, rows)
    entries = tags | rows["place"].astype(np.uint64)
    left = _sorted(slots)
    while len(left):
        is_free = index[slots[left]] == 0
        index[slots[left[is_free]]] = entries[left[is_free]]
        left = left[index[slots[left]] != entries[left]]
        slots[left] = (slots[left] + 1) & last


class _Mapped:
    """An array in a temporary file."""

    def __init__(self, form: Any, length: int) -> None:
        self._form = form
        self._file = tempfile.TemporaryFile(prefix="tidebook-")  # noqa: SIM115 - closed by close
        self._map(length)

    def lengthen(self) -> None:
        """Make it twice as long; what is new is zero."""
        length = len(self.items) * 2
        self._unmap()
        self._map(length)

    def release(self) -> None:
        """Give the memory back."""
        self._memory.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let the file go."""
        self._unmap()
        self._file.close()

    def _map(self, length: int) -> None:
        self._file.truncate(length * self._form.itemsize)
        self._memory = mmap.mmap(self._file.fileno(), length * self._form.itemsize)
        self.items: Any = np.frombuffer(self._memory, self._form)

    def _unmap(self) -> None:
        del self.items
        self._memory.close()


def _sorted(slots: Any) -> Any:
    """Return the order of slots; mostly they are in order."""
    if (slots[1:] >= slots[:-1]).all():
        return np.arange(len(slots))
    return np.argsort(slots)


def split(keys: Sequence[bytes]) -> Any:
    """Return keys as an array."""
    return np.frombuffer(b"".join(keys), KEYS)
