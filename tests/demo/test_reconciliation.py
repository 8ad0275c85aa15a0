"""The figures counted from the tables, and their comparison with the ledger's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from api.demo.expectations import expected, outcomes
from api.demo.faces import faces
from api.demo.holdings import holdings
from api.demo.orders import orders
from api.demo.reconciliation import Books, MailingFigures, StoreFigures, differences, reconcile
from api.demo.year import Year
from tests.demo.small_year import LINES, MAKER_A, REDEMPTIONS, small_year

MAILING = MailingFigures(
    issued=4,
    redeemed=2,
    expired=2,
    held=0,
    funded_cents=400,
    redeemed_cents=200,
    returned_cents=200,
    held_cents=0,
    refused={"already_redeemed": 1},
)
BOOKS = Books(
    mailings={1: MAILING},
    stores={7: StoreFigures(redeemed=1, redeemed_cents=100), 8: StoreFigures(1, 100)},
)


def counted(year: Year) -> Books:
    """What follows from a year's tables."""
    return expected(faces(small_year()), holdings(year), orders(year))


# --- counting ---------------------------------------------------------------------------------


def test_the_tables_say_what_was_issued_redeemed_and_left_to_expire() -> None:
    """Four coupons at 100 cents, two used, two given back."""
    books = counted(small_year())
    assert books.mailings[1] == replace(MAILING, refused={})
    assert books.stores == BOOKS.stores
    assert books.mailings[8].expired == books.mailings[8].issued == 1


def test_a_second_use_of_a_coupon_is_refused() -> None:
    """It is no second redemption and no second payment."""
    again = (*LINES[2][:2], 903, *LINES[2][3:-1], "2017-03-20 12:00:00")
    year = small_year(
        lines=[*LINES, again], redemptions=[*REDEMPTIONS, (200, MAKER_A, 1, "2017-03-20")]
    )
    assert counted(year).mailings[1] == MAILING


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
    """Every row matches, the totals too."""
    rows = reconcile(BOOKS, BOOKS)
    assert differences(rows) == []
    assert {row.subject for row in rows} == {
        "mailing 1", "store 7", "store 8", "all mailings", "all stores", "all money",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["issued", "redeemed", "expired", "held", "funded_cents", "redeemed_cents", "returned_cents",
     "held_cents"],
)  # fmt: skip
@pytest.mark.parametrize("error", [-1, 1])
def test_a_single_coupon_or_cent_too_many_or_too_few_is_found(name: str, error: int) -> None:
    """In the mailing's row and in the total."""
    wrong = replace(MAILING, **{name: getattr(MAILING, name) + error})
    found = differences(reconcile(BOOKS, replace(BOOKS, mailings={1: wrong})))
    assert {row.subject for row in found} >= {"mailing 1", "all mailings"}
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
    wrong = replace(MAILING, refused={"coupon_expired": 1})
    found = differences(reconcile(BOOKS, replace(BOOKS, mailings={1: wrong})))
    assert {(row.measure, row.tables, row.ledger) for row in found} == {
        ("refused: already_redeemed", 1, 0),
        ("refused: coupon_expired", 0, 1),
    }


def test_a_mailing_or_store_that_one_side_lacks_is_found() -> None:
    """Missing is a difference, never zero."""
    found = differences(reconcile(BOOKS, Books(mailings={}, stores={})))
    assert {row.subject for row in found} >= {"mailing 1", "store 7", "store 8"}
    assert all(row.ledger is None for row in found if row.subject == "mailing 1")
    nothing = Books(mailings={1: replace(MAILING, refused={})}, stores={})
    zero = MailingFigures(0, 0, 0, 0, 0, 0, 0, 0)
    assert differences(reconcile(nothing, Books(mailings={1: zero}, stores={})))


def test_money_that_is_nowhere_is_found_even_when_both_sides_agree() -> None:
    """What was funded is with stores, with holders or back."""
    lost = replace(BOOKS, mailings={1: replace(MAILING, returned_cents=150)})
    found = differences(reconcile(lost, lost))
    assert {row.measure for row in found} == {"funded = found (tables)", "funded = found (ledger)"}
