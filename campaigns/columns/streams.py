"""What is kept of streams on the disk: the version of each, and what its coupon has become.

One row for each stream, read and written as columns by whoever judges many events at once, and as
the numbers of the audit by whoever judges them one by one. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from campaigns.columns.texts import Array
from campaigns.judging import KeptParts, kept_of, kept_parts
from ledger.exporting.spilling import SLOTS_FIRST, Table, split

STEP_BITS: Final = 8
STEP_MASK: Final = (1 << STEP_BITS) - 1
HAS_COUPON: Final = 1 << STEP_BITS
VERSION_BITS_FROM: Final = STEP_BITS + 1

SLOTS_BITS_MAX: Final = 24
"""Room that is made beforehand takes 128 MiB of a sparse file at most, whatever a manifest says."""

_NAMES: Final = ("step", "mark", "micros", "taken", "owner")
"""Version, whether there is a coupon, its state and ordinal; mark, instant and version of its
redemption; whose it is, 0 where nobody has told."""


class Known(NamedTuple):
    """What is kept of a stream, as the audit has it."""

    version: int
    coupon: int | None
    """None where it is no coupon."""
    owner: int
    """Whose it is, 0 where nobody has told."""


class Streams:
    """The version of each stream, and what is kept of the coupon that it may be."""

    def __init__(self, expected: int = 0) -> None:
        """`expected`: how many streams there may be, for which there is room from the beginning."""
        slots = 1 << min(max(expected, 1).bit_length(), SLOTS_BITS_MAX)
        self._table = Table(max(slots, SLOTS_FIRST), names=_NAMES)

    def found(self, keys: Array) -> Array:
        """Return the rows of streams, of zeroes for one that is not known."""
        rows: Array = self._table.found(keys)
        return rows

    def keep(self, rows: Array) -> None:
        """Keep rows."""
        self._table.keep(rows)

    def load(self, streams: Sequence[bytes]) -> list[Known]:
        """Return what is known of each."""
        rows = self._table.found(split(streams))
        parts = zip(*(rows[name].tolist() for name in _NAMES), strict=True)
        return [
            Known(
                one >> VERSION_BITS_FROM,
                kept_of(KeptParts(one & STEP_MASK, mark, micros, taken))
                if one & HAS_COUPON
                else None,
                owner,
            )
            for one, mark, micros, taken, owner in parts
        ]

    def store(self, streams: Sequence[bytes], known: Sequence[Known]) -> None:
        """Keep what is known of each."""
        rows = self._table.found(split(streams))
        for name in _NAMES:
            rows[name] = 0
        rows["owner"] = [one.owner for one in known]
        rows["step"] = [
            one.version << VERSION_BITS_FROM
            | (0 if one.coupon is None else HAS_COUPON | one.coupon & STEP_MASK)
            for one in known
        ]
        for place, (_, coupon, _) in enumerate(known):
            if coupon is not None and coupon > STEP_MASK:
                parts = kept_parts(coupon)
                row = rows[place]
                row["mark"], row["micros"], row["taken"] = parts.mark, parts.micros, parts.version
        self._table.keep(rows)

    def close(self) -> None:
        """Let the file go."""
        self._table.close()
