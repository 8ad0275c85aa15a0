"""The report: what a run found, as tables for people and as one JSON document for programs.

Every number that is printed is the ledger's; where the tables of the source say something else,
both are printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.demo.reconciliation import Row, Unit, differences

SHOWN_DIFFERENCES_MAX: Final = 20

_COUNTS: Final = ("issued", "redeemed", "expired")
_AMOUNTS: Final = ("money funded", "money redeemed", "money returned")
"""What the table shows: it has to fit into 80 columns. All else is compared just the same, and a
difference in it marks the row and is listed below."""

_REFUSED: Final = "refused: "


class Verification(NamedTuple):
    """What `tidebook verify` said: its exit status, and its report where that was asked for."""

    status: int
    report: Any = None


@dataclass(frozen=True)
class Outcome:
    """Everything that a run found."""

    households: int
    requests: int
    replayed: int
    unheard: int
    """Refused before the book, so never a replay."""

    head_before: int
    head_after: int
    seconds: float
    rows: Sequence[Row]
    verification: Verification | None = None

    @property
    def matches(self) -> bool:
        """Whether every row matches."""
        return not differences(self.rows)

    @property
    def nothing_new(self) -> bool:
        """Whether the home had seen all of this before, and the run changed nothing."""
        return (
            self.requests > 0
            and self.replayed + self.unheard == self.requests
            and self.head_before == self.head_after
        )

    @property
    def exit_status(self) -> int:
        """0 when all is well."""
        verified = self.verification is None or self.verification.status == 0
        return 0 if self.matches and verified else 1


def document(outcome: Outcome) -> dict[str, Any]:
    """The JSON document: sums by mailing and in total, and every row that differs."""
    return {
        "households": outcome.households,
        "requests": {
            "sent": outcome.requests,
            "replayed": outcome.replayed,
            "refused_before_the_book": outcome.unheard,
        },
        "book": {"position_before": outcome.head_before, "position_after": outcome.head_after},
        "nothing_new": outcome.nothing_new,
        "seconds": round(outcome.seconds, 1),
        "reconciliation": {
            "rows": len(outcome.rows),
            "matches": outcome.matches,
            "differences": [_row(row) for row in differences(outcome.rows)],
            "sums": [_row(row) for row in outcome.rows if _is_sum(row)],
        },
        "verification": None
        if outcome.verification is None
        else {"status": outcome.verification.status, "report": outcome.verification.report},
        "exit_status": outcome.exit_status,
    }


def reconciliation_report(outcome: Outcome) -> RenderableType:
    """The comparison for people: mailings, refusals, differences, and the sentence that counts."""
    wrong = differences(outcome.rows)
    parts: list[RenderableType] = [
        _mailings(outcome.rows),
        *_refusals(outcome.rows),
        _stores(outcome.rows),
    ]
    if wrong:
        parts.append(_differences(wrong))
        verdict = Text(f"{len(wrong):,} of {len(outcome.rows):,} rows differ.", "bold red")
    else:
        verdict = Text(f"All {len(outcome.rows):,} rows match to the cent.", "bold green")
    return Group(*parts, verdict)


def replay_report(outcome: Outcome) -> Text:
    """What was new in this run."""
    if outcome.nothing_new:
        before_the_book = (
            f" ({outcome.unheard} of them refused again before the book)" if outcome.unheard else ""
        )
        return Text(
            f"Nothing changed: all {outcome.requests:,} requests had been answered before"
            f"{before_the_book}, and the book still ends at position {outcome.head_after:,}.",
            "bold green",
        )
    return Text(
        f"{outcome.requests:,} requests, {outcome.replayed:,} of them replays; the book went from "
        f"position {outcome.head_before:,} to {outcome.head_after:,}."
    )


def amount(value: int, unit: Unit) -> str:
    """A figure as people write it."""
    if unit == "count":
        return f"{value:,}"
    sign, cents = ("-" if value < 0 else ""), abs(value)
    return f"{sign}{cents // 100:,}.{cents % 100:02}"


def _mailings(rows: Iterable[Row]) -> Table:
    table = Table(
        title="What the ledger says, by mailing",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("")
    for column in (*_COUNTS, "refused"):
        table.add_column(column, justify="right")
    for column in _AMOUNTS:
        table.add_column(column.replace("money", "$"), justify="right")
    table.add_column("")
    by_subject: dict[str, list[Row]] = {}
    for row in rows:
        if _is_sum(row):
            by_subject.setdefault(row.subject, []).append(row)
    for subject, figures in sorted(by_subject.items(), key=lambda item: _order(item[0])):
        if subject == "all mailings" or subject.startswith("mailing "):
            table.add_row(*_cells(subject, figures))
    return table


def _cells(subject: str, rows: list[Row]) -> list[str | Text]:
    found = {row.measure: row for row in rows}
    refusals = [row for row in rows if row.measure.startswith(_REFUSED)]
    refused = Row(
        subject,
        "refused",
        "count",
        sum(row.tables or 0 for row in refusals),
        sum(row.ledger or 0 for row in refusals),
    )
    cells: list[str | Text] = [subject.removeprefix("mailing ").removesuffix(" mailings")]
    cells += [_cell(found[column]) for column in _COUNTS]
    cells.append(_cell(refused))
    cells += [_cell(found[column]) for column in _AMOUNTS]
    right = all(row.matches for row in rows)
    cells.append(Text("✓", "green") if right else Text("✗", "bold red"))
    return cells


def _cell(row: Row) -> Text:
    said = "nothing" if row.ledger is None else amount(row.ledger, row.unit)
    if row.matches:
        return Text(said)
    wanted = "nothing" if row.tables is None else amount(row.tables, row.unit)
    return Text(f"{said} ≠ {wanted}", "bold red")


def _refusals(rows: Iterable[Row]) -> list[RenderableType]:
    found = [
        row for row in rows if row.subject == "all mailings" and row.measure.startswith(_REFUSED)
    ]
    if not found:
        return []
    reasons = Text("Refused redemptions: ")
    for number, row in enumerate(found):
        reasons += Text(", " if number else "") + _cell(row)
        reasons += Text(f" {row.measure.removeprefix(_REFUSED)}")
    return [reasons]


def _stores(rows: Iterable[Row]) -> Text:
    rows = list(rows)
    stores = len({row.subject for row in rows if row.subject.startswith("store ")})
    owed = next((row for row in rows if row[:2] == ("all stores", "money redeemed")), None)
    if owed is None:
        return Text("Nothing is owed to any store.")
    return Text(f"Owed to {stores:,} stores: $ ") + _cell(owed)


def _differences(wrong: Sequence[Row]) -> Table:
    table = Table(title="Differences", title_justify="left", style="red")
    for column in ("subject", "measure", "tables", "ledger"):
        table.add_column(column, justify="right" if column in ("tables", "ledger") else "left")
    for row in wrong[:SHOWN_DIFFERENCES_MAX]:
        table.add_row(
            row.subject,
            row.measure,
            "nothing" if row.tables is None else amount(row.tables, row.unit),
            "nothing" if row.ledger is None else amount(row.ledger, row.unit),
        )
    if len(wrong) > SHOWN_DIFFERENCES_MAX:
        table.add_row(f"and {len(wrong) - SHOWN_DIFFERENCES_MAX:,} more (--json shows all)")
    return table


def _is_sum(row: Row) -> bool:
    return row.subject.startswith("all ") or (
        row.subject.startswith("mailing ") and "," not in row.subject
    )


def _order(subject: str) -> tuple[int, int]:
    """Mailings by number, totals last."""
    number = subject.removeprefix("mailing ")
    return (0, int(number)) if number.isdigit() else (1, 0)


def _row(row: Row) -> dict[str, Any]:
    return {
        "subject": row.subject,
        "measure": row.measure,
        "unit": row.unit,
        "tables": row.tables,
        "ledger": row.ledger,
        "matches": row.matches,
    }
