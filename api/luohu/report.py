"""The final table: what was reported, and what the read models of the book say.

A row whose two sides differ is a failure. Whatever is printed of the book comes from its read
models, its events or the programs that verified it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from api.luohu.figures import Figures
from api.luohu.usage import Usage
from projections.campaign_figures import CampaignFigures
from projections.merchant_balances import Totals

MIB: Final = 1 << 20


class Row(msgspec.Struct, frozen=True):
    """A figure on both sides; money in minor units."""

    name: str
    expected: int
    found: int
    is_money: bool = False

    @property
    def matches(self) -> bool:
        """Whether both sides say the same."""
        return self.expected == self.found


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a replay found, in the form in which it is printed as JSON."""

    scale: int
    seed: int
    campaign: str
    position: int
    announcement: str
    rows: Sequence[Row]
    refunds: int
    bundle: str
    bundle_verified: bool
    """Whether the stand-alone verifier, as a process of its own, said OK."""

    bundle_said: str
    verified: bool
    """Whether `tidebook verify` found nothing."""

    verification: Any
    seconds: dict[str, float]
    """How long each step took."""

    usage: dict[str, float]

    @property
    def exit_status(self) -> int:
        """0 when every row matches and both verifications found nothing."""
        matches = all(row.matches for row in self.rows)
        return 0 if matches and self.bundle_verified and self.verified else 1


class Sides(NamedTuple):
    """The book's side of the table."""

    figures: CampaignFigures
    totals: Totals
    listed: int
    """Entries of the frozen list."""

    void: dict[str, int]


def rows_of(planned: Figures, book: Sides) -> list[Row]:
    """Return the table."""
    row, totals = book.figures, book.totals
    return [
        Row("registrations", planned.registered, row.registered),
        Row("entries of the frozen list", planned.registered, book.listed),
        Row("void: person registered already", planned.same_person, book.void["same_person"]),
        Row("void: telephone registered already", planned.same_phone, book.void["same_phone"]),
        Row("winners", planned.winners, row.winners),
        Row("seats given", planned.winners, row.seats),
        Row("claims", planned.claims, row.claimed),
        Row("payments", planned.payments, row.paid),
        Row("payments at merchants", planned.payments, totals.paid_count),
        Row("merchants that were paid", planned.merchants, totals.merchants),
        Row("funded", planned.funded_minor, row.funded_minor, is_money=True),
        Row("paid from packets", planned.spent_minor, row.paid_minor, is_money=True),
        Row("owed to merchants", planned.spent_minor, totals.balance_minor, is_money=True),
        Row("returned to the sponsor", planned.returned_minor, row.reclaimed_minor, is_money=True),
        Row(
            "paid + returned",
            planned.funded_minor,
            row.spent_minor + row.reclaimed_minor,
            is_money=True,
        ),
        Row("outstanding in packets", 0, row.held_minor, is_money=True),
        Row("left in the pot", 0, row.pot_minor, is_money=True),
    ]


def usage_of(usage: Usage) -> dict[str, float]:
    """Return what a replay cost, in the units of the report."""
    return {
        "wall_s": round(usage.seconds, 1),
        "cpu_s": round(usage.cpu_s, 1),
        "postgres_cpu_s": round(usage.postgres_cpu_s, 1),
        "peak_mib": round(usage.peak_bytes / MIB, 1),
        "postgres_peak_mib": round(usage.postgres_peak_bytes / MIB, 1),
        "load_5_min": round(usage.load, 2),
    }


def shown(number: int, *, is_money: bool) -> str:
    """Return a figure for people: money in yuan, to the fen."""
    return f"{number // 100:,}.{number % 100:02}" if is_money else f"{number:,}"
