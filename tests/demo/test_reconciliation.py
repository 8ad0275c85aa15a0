"""The figures counted from the tables, and their comparison with the ledger's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from api.demo.expectations import expected, outcomes
from api.demo.faces import faces
from api.demo.holdings import holdings
from api.demo.orders import orders
from api.demo.reconciliation import (
    Books,
    Figures,
    StoreFigures,
    differences,
    offer_subject,
    reconcile,
)
from api.demo.year import Year
from tests.demo.small_year import LINES, MAKER_A, REDEMPTIONS, small_year

A, B = (1, MAKER_A), (8, 59876500076)
OFFER = Figures(
    issued=4,
    redeemed=2,
    expired=2,
    funded_cents=400,
    redeemed_cents=200,
    returned_cents=200,
    refused={"already_redeemed": 1},
)
BOOKS = Books(
    offers={A: OFFER, B: Figures(issued=1, expired=1, funded_cents=100, returned_cents=100)},
    stores={7: StoreFigures(1, 100), 8: StoreFigures(1, 100)},
)


def with_offer(**changes: Any) -> Books:
    """The books with another figure for the first offer."""
    return replace(BOOKS, offers={**BOOKS.offers, A: replace(OFFER, **changes)})


def counted(year: Year) -> Books:
    """What follows from a year's tables."""
    return expected(faces(small_year()), holdings(year), orders(year))


# --- counting ---------------------------------------------------------------------------------


def test_the_tables_say_what_was_issued_redeemed_and_left_to_expire() -> None:
    """Two households hold the first coupon and use it; nobody uses the others."""
    books = counted(small_year())
    used = Figures(issued=2, redeemed=2, funded_cents=200, redeemed_cents=200)
    assert books.offers[A] == used
    assert books.offers[B] == BOOKS.offers[B]
    assert books.stores == BOOKS.stores


def test_a_second_use_of_a_coupon_is_refused() -> None:
    """It is no second redemption and no second payment."""
    again = (*LINES[2][:2], 903, *LINES[2][3:-1], "2017-03-20 12:00:00")
    year = small_year(
        lines=[*LINES, again], redemptions=[*REDEMPTIONS, (200, MAKER_A, 1, "2017-03-20")]
    )
    assert counted(year).offers[A] == replace(
        counted(small_year()).offers[A], refused={"already_redeemed": 1}
    )


@pytest.mark.parametrize(
    ("sales", "outcome"), [(0.00, "invalid_body"), (0.74, "below_threshold"), (0.75, "redeemed")]
)
def test_an_order_must_be_worth_the_coupon(sales: float, outcome: str) -> None:
    """An order of nothing is no order; a smaller one than the face value is below it."""
    small = (*LINES[2][:4], sales, 1.00, 0.25 if sales else 0.00, LINES[2][-1])
    year = small_year(lines=[*LINES[:2], small])
    asked = outcomes(faces(small_year()), orders(year))
    assert asked["outcome"].tolist() == ["redeemed", outcome]


def test_a_refused_use_leaves_the_coupon_for_the_next() -> None:
    """Only a use that succeeded makes later ones repeated."""
    early = (200, 8, 903, 12, 0.00, 0.00, 0.00, "2017-03-20 12:00:00")
    year = small_year(
        lines=[*LINES, early], redemptions=[*REDEMPTIONS, (200, MAKER_A, 1, "2017-03-20")]
    )
    asked = outcomes(faces(small_year()), orders(year))
    assert asked["outcome"].tolist() == ["redeemed", "invalid_body", "redeemed"]


# --- comparing --------------------------------------------------------------------------------


def test_equal_figures_have_no_differences() -> None:
    """Every row matches, the sums too."""
    rows = reconcile(BOOKS, BOOKS)
    assert differences(rows) == []
    assert {row.subject for row in rows} == {
        offer_subject(A), offer_subject(B), "mailing 1", "mailing 8", "store 7", "store 8",
        "all mailings", "all stores", "all money",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["issued", "redeemed", "expired", "held", "funded_cents", "redeemed_cents", "returned_cents",
     "left_cents"],
)  # fmt: skip
@pytest.mark.parametrize("error", [-1, 1])
def test_a_single_coupon_or_cent_too_many_or_too_few_is_found(name: str, error: int) -> None:
    """In the coupon's row, in its mailing's and in the total."""
    found = differences(reconcile(BOOKS, with_offer(**{name: getattr(OFFER, name) + error})))
    assert {row.subject for row in found} >= {offer_subject(A), "mailing 1", "all mailings"}
    assert all(row.ledger != row.tables for row in found)


def test_a_cent_moved_from_one_store_to_another_is_found_although_the_total_is_right() -> None:
    """Totals hide errors that cancel out; rows do not."""
    stores = {7: StoreFigures(1, 101), 8: StoreFigures(1, 99)}
    found = differences(reconcile(BOOKS, replace(BOOKS, stores=stores)))
    assert [(row.subject, row.tables, row.ledger) for row in found] == [
        ("store 7", 100, 101),
        ("store 8", 100, 99),
    ]


def test_a_refusal_for_another_reason_is_found() -> None:
    """The same number of refusals is not the same refusals."""
    found = differences(reconcile(BOOKS, with_offer(refused={"coupon_expired": 1})))
    assert {
        (row.measure, row.tables, row.ledger) for row in found if row.subject == offer_subject(A)
    } == {("refused: already_redeemed", 1, 0), ("refused: coupon_expired", 0, 1)}


@pytest.mark.parametrize("empty", [Figures(), replace(OFFER, refused={})])
def test_a_campaign_that_one_side_lacks_is_found(empty: Figures) -> None:
    """Missing is a difference, even where everything would be zero."""
    books = Books(offers={A: empty}, stores={})
    nothing = Books(offers={}, stores={})
    for found in (differences(reconcile(books, nothing)), differences(reconcile(nothing, books))):
        assert {row.subject for row in found} >= {offer_subject(A)}


def test_a_store_that_one_side_lacks_is_found() -> None:
    """In its row and in the total."""
    found = differences(reconcile(BOOKS, replace(BOOKS, stores={7: BOOKS.stores[7]})))
    assert {row.subject for row in found} == {"store 8", "all stores", "all money"}


def test_money_that_is_nowhere_is_found_even_when_both_sides_agree() -> None:
    """What was funded is with stores, left or returned."""
    lost = with_offer(returned_cents=150)
    assert {row.measure for row in differences(reconcile(lost, lost))} == {
        "funded and found by the tables",
        "funded and found by the ledger",
    }
