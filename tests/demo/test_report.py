"""The report, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from api.demo.reconciliation import Books, Figures, StoreFigures, reconcile
from api.demo.report import (
    Outcome,
    Verification,
    amount,
    document,
    reconciliation_report,
    replay_report,
)

BOOKS = Books(
    offers={
        (1, 51234500076): Figures(
            issued=4,
            redeemed=2,
            expired=2,
            funded_cents=400_000,
            redeemed_cents=200_000,
            returned_cents=200_000,
            refused={"already_redeemed": 1, "invalid_body": 2},
        )
    },
    stores={7: StoreFigures(2, 200_000)},
)
WRONG = replace(BOOKS, stores={7: StoreFigures(2, 200_001)})
OUTCOME = Outcome(
    households=2,
    requests=12,
    replayed=0,
    unheard=2,
    head_before=0,
    head_after=20,
    seconds=1.23,
    rows=reconcile(BOOKS, BOOKS),
    verification=Verification(0, []),
)


def printed(part: RenderableType) -> str:
    """A report as a wide terminal shows it."""
    console = Console(file=StringIO(), width=200)
    console.print(part)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_right_ledger_is_reported_in_one_sentence_and_a_table() -> None:
    """Amounts in dollars, counts as they are, refusals with their reasons."""
    text = printed(reconciliation_report(OUTCOME))
    assert "rows match to the cent" in text
    assert "4,000.00" in text
    assert "1 already_redeemed, 2 invalid_body" in text
    assert "✗" not in text


def test_a_wrong_figure_is_shown_with_both_numbers() -> None:
    """And the sentence says how many rows differ."""
    text = printed(reconciliation_report(replace(OUTCOME, rows=reconcile(BOOKS, WRONG))))
    assert "3 of" in text
    assert "rows differ" in text
    assert "2,000.01" in text


def test_a_wrong_mailing_is_marked_in_the_table() -> None:
    """The cell has both numbers."""
    offers = {key: replace(one, issued=5) for key, one in BOOKS.offers.items()}
    rows = reconcile(BOOKS, replace(BOOKS, offers=offers))
    text = printed(reconciliation_report(replace(OUTCOME, rows=rows)))
    assert "5 ≠ 4" in text
    assert "✗" in text


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0),
        ({"verification": Verification(1)}, 1),
        ({"rows": reconcile(BOOKS, WRONG)}, 1),
    ],
    ids=["right", "verification-found-something", "figures-differ"],
)
def test_the_exit_status_says_whether_all_is_well(changes: dict[str, Any], status: int) -> None:
    """Figures and verification both count."""
    assert replace(OUTCOME, **changes).exit_status == status


def test_a_second_run_says_that_nothing_changed() -> None:
    """Only when every request that reached the book was a replay and the book did not move."""
    again = replace(OUTCOME, replayed=10, head_before=20)
    assert "Nothing changed: all 12 requests" in printed(replay_report(again))
    assert "Nothing changed" not in printed(replay_report(OUTCOME))
    assert "Nothing changed" not in printed(replay_report(replace(again, replayed=9)))
    assert "Nothing changed" not in printed(replay_report(replace(again, head_after=21)))


def test_the_document_is_json_and_has_every_difference() -> None:
    """Sums by mailing and in total, and the rows that differ in full."""
    found = json.loads(json.dumps(document(replace(OUTCOME, rows=reconcile(BOOKS, WRONG)))))
    assert found["exit_status"] == 1
    assert not found["reconciliation"]["matches"]
    assert [
        (row["subject"], row["tables"], row["ledger"])
        for row in found["reconciliation"]["differences"]
    ] == [
        ("store 7", 200_000, 200_001),
        ("all stores", 200_000, 200_001),
        ("all money", 400_000, 400_001),
    ]
    subjects = {row["subject"] for row in found["reconciliation"]["sums"]}
    assert subjects == {"mailing 1", "all mailings", "all stores", "all money"}


def test_amounts_are_written_without_rounding() -> None:
    """Cents are always two digits."""
    assert amount(1_234_505, "cents") == "12,345.05"
    assert amount(-5, "cents") == "-0.05"
    assert amount(1_234, "count") == "1,234"
