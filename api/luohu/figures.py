"""What was reported of the campaign, and the same at a smaller scale.

The scale divides each figure, money in fen included, and rounds down.
"""

from __future__ import annotations

from typing import Final, NamedTuple

CURRENCY: Final = "CNY"
WORTH_MINOR: Final = 20_000
"""What a winner has: 200 yuan."""

DOUBLED_EACH: Final = 200
"""After so many people somebody registers twice: our own number, none was reported."""


class Figures(NamedTuple):
    """The figures of a campaign of packets that was drawn."""

    registered: int
    winners: int
    claims: int
    payments: int
    spent_minor: int
    merchants: int

    @property
    def funded_minor(self) -> int:
        """What the sponsor put in."""
        return self.winners * WORTH_MINOR

    @property
    def returned_minor(self) -> int:
        """What the sponsor had back."""
        return self.funded_minor - self.spent_minor

    @property
    def doubled(self) -> int:
        """How many registrations are void because person or telephone were in the list."""
        return self.registered // DOUBLED_EACH

    @property
    def same_person(self) -> int:
        """Those of them that are of a person who is in the list: every other one."""
        return (self.doubled + 1) // 2

    @property
    def same_phone(self) -> int:
        """Those of them whose telephone is in the list."""
        return self.doubled // 2


REPORTED: Final = Figures(
    registered=1_913_847,
    winners=50_000,
    claims=47_573,
    payments=62_788,
    spent_minor=876_400_000,
    merchants=3_389,
)
"""Shenzhen Luohu, 12 to 18 October 2020, as it was reported."""


def scaled(scale: int) -> Figures:
    """Return the reported figures divided by the scale, each rounded down."""
    return Figures(*(number // scale for number in REPORTED))
