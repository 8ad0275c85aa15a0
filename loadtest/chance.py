"""Whether two things that must have nothing to do with each other have: a test by chi-square.

People are put in order of arrival and cut into equal parts, and their luck is cut into as many. If
luck is blind, each part of the people has its share of each part of the luck. How far it is from
that is compared with a bound that blind luck passes once in a million times, so that a run is
not called unfair by accident.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS_MAX: Final = 4
EXPECTED_LEAST: Final = 5
"""People in each cell, or the distribution of chi-square says nothing about so few."""
BOUNDS: Final = {1: 23.93, 2: 27.63, 3: 30.66, 4: 33.38, 6: 38.26, 9: 44.81}
"""What chi-square exceeds once in a million times, by degrees of freedom."""


def unevenness(luck: Sequence[float]) -> tuple[float, float] | None:
    """How uneven luck is over the order in which it is given, and the bound of what may be.

    None for too few people. Equal luck is told apart by nothing: only its parts by rank count, or
    its values where there are two of them.
    """
    values = sorted(set(luck))
    if len(values) == 2:  # won or lost
        share = sum(one == values[0] for one in luck) / len(luck)
        parts = min(PARTS_MAX, int(len(luck) * min(share, 1 - share) / EXPECTED_LEAST))
        marks, kinds = [int(one == values[1]) for one in luck], 2
    else:
        parts = kinds = min(PARTS_MAX, math.isqrt(len(luck) // EXPECTED_LEAST))
        ranks = {number: rank for rank, number in enumerate(_order(luck))}
        marks = [ranks[number] * kinds // len(luck) for number in range(len(luck))]
    if parts < 2 or len(values) < 2:
        return None
    rows = [number * parts // len(luck) for number in range(len(luck))]
    return chi_square(rows, marks), BOUNDS[(parts - 1) * (kinds - 1)]


def chi_square(rows: Sequence[int], columns: Sequence[int]) -> float:
    """The statistic of a table of contingency, given the row and the column of each case."""
    cells, of_row, of_column = (
        Counter(zip(rows, columns, strict=True)),
        Counter(rows),
        Counter(columns),
    )
    total = 0.0
    for row, in_row in of_row.items():
        for column, in_column in of_column.items():
            expected = in_row * in_column / len(rows)
            total += (cells[row, column] - expected) ** 2 / expected
    return total


def _order(luck: Sequence[float]) -> list[int]:
    return sorted(range(len(luck)), key=lambda number: luck[number])
