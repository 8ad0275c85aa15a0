"""From the source's tables to face values, holdings and orders."""

from __future__ import annotations

import pandas as pd
import pytest

from api.demo.faces import faces, value_codes
from api.demo.holdings import POOLED_SHARE, chosen_households, holdings
from api.demo.orders import orders
from tests.demo.small_year import (
    LINES,
    MAILINGS,
    MAKER_A,
    MAKER_B,
    OWN,
    RECIPIENTS,
    REDEMPTIONS,
    small_year,
)

Line = tuple[int, int, int, int, float, float, float, str]

POOL = [(51000000000 + n, 40 + n, 8) for n in range(20)]


def face_of(table: pd.DataFrame, mailing: int, upc: int) -> tuple[int, str]:
    """The face value and its source of one offer."""
    row = table[(table["mailing"] == mailing) & (table["upc"] == upc)].iloc[0]
    return int(row["face_cents"]), row["source"]


def sold(
    household: int,
    basket: int,
    coupon: float,
    at: str,
    *,
    product: int = 11,
    sales: float = 5.00,
) -> Line:
    """A line of the source's transactions."""
    return (household, 7, basket, product, sales, coupon, 0.00, at)


# --- the year ---------------------------------------------------------------------------------


def test_a_sale_after_midnight_utc_belongs_to_the_evening_before() -> None:
    """The source's clock is UTC and its days are US/Eastern days, summer time included."""
    lines = small_year().lines
    assert [str(day.date()) for day in lines["day"]] == ["2017-03-12", "2017-03-12", "2017-03-31"]


def test_amounts_are_whole_cents_and_the_retailers_match_is_added_back() -> None:
    """What the till asks before coupons is the sales value and the matched part of the coupon."""
    assert small_year().lines["net_cents"].tolist() == [400, 600, 325]


def test_a_repeated_pair_of_coupon_and_product_counts_once() -> None:
    """The source lists some pairs several times."""
    doubled = small_year(products=[(MAKER_A, 11, 1), (MAKER_A, 11, 1)])
    assert len(doubled.products) == 1


# --- face values ------------------------------------------------------------------------------


def test_few_sightings_of_a_coupon_are_overruled_by_its_value_code() -> None:
    """One line may carry a second coupon; the code is seen on many."""
    lines = [
        sold(100, 901, 1.00, "2017-03-12 17:00:00"),
        sold(100, 903, 1.00, "2017-03-12 18:00:00"),
        sold(200, 902, 1.00, "2017-03-31 17:00:00"),
        sold(100, 904, 4.00, "2017-05-09 17:00:00", product=31),
    ]
    year = small_year(lines=lines, redemptions=[*REDEMPTIONS, (100, MAKER_B, 8, "2017-05-09")])
    assert face_of(faces(year), 1, MAKER_A) == (100, "till")
    assert face_of(faces(year), 8, MAKER_B) == (100, "value code")


def test_few_sightings_are_better_than_none() -> None:
    """Two lines are too few for a rule, but the only thing known of the coupon."""
    table = faces(small_year())
    assert face_of(table, 1, MAKER_A) == (100, "few sightings")


def test_a_coupon_nobody_used_is_worth_what_most_of_its_mailing_are() -> None:
    """The retailer's own coupons carry no value code."""
    assert face_of(faces(small_year()), 1, OWN) == (100, "mailing")


def test_a_mailing_without_any_sighting_takes_the_years_most_frequent_value() -> None:
    """The last resort."""
    year = small_year(products=[(MAKER_A, 11, 1), (MAKER_A, 12, 1), (OWN, 21, 8)])
    assert face_of(faces(year), 8, OWN) == (100, "year")


def test_among_equally_frequent_values_the_smallest_is_taken() -> None:
    """The choice must not depend on the order of rows."""
    lines = [
        sold(100, 901, 2.00, "2017-03-12 17:00:00"),
        sold(200, 902, 1.50, "2017-03-31 17:00:00"),
    ]
    assert face_of(faces(small_year(lines=lines)), 1, MAKER_A)[0] == 150


def test_without_any_sighting_there_is_no_face_value_to_invent() -> None:
    """A made-up amount would reconcile with itself."""
    with pytest.raises(ValueError, match="no till saw any coupon"):
        faces(small_year(redemptions=[]))


def test_only_a_manufacturers_coupon_has_a_value_code() -> None:
    """It is the last two of eleven digits, and the first one is 5."""
    upcs = small_year(products=[(MAKER_A, 1, 1), (OWN, 1, 1), (5123, 1, 1)]).offers()["upc"]
    codes = dict(zip(upcs, value_codes(upcs).fillna("none"), strict=True))
    assert codes == {5123: "none", OWN: "none", MAKER_A: "76"}


# --- holdings ---------------------------------------------------------------------------------


def test_every_recipient_of_a_mailing_of_type_b_holds_every_coupon_of_it() -> None:
    """Two recipients and two coupons make four."""
    held = holdings(small_year())
    assert len(held[held["mailing"] == 1]) == 4


def test_a_recipient_of_a_pool_holds_sixteen_coupons_with_the_redeemed_ones_among_them() -> None:
    """What was redeemed was surely sent."""
    redeemed = [(100, upc, 8, "2017-05-09") for upc, _, _ in POOL[:15]]
    year = small_year(products=POOL, recipients=[(8, 100)], redemptions=redeemed)
    held = set(holdings(year)["upc"])
    assert len(held) == POOLED_SHARE
    assert held > {upc for upc, _, _ in POOL[:15]}


def test_the_lot_is_the_same_on_every_run_and_in_every_sample() -> None:
    """A sample of households holds what these households hold in the whole."""
    recipients = [(8, household) for household in range(100, 110)]
    year = small_year(products=POOL, recipients=recipients, redemptions=[])
    whole = holdings(year)
    sample = holdings(year.of_households({103, 107}))
    expected = whole[whole["household"].isin({103, 107})].reset_index(drop=True)
    assert sample.equals(expected)
    assert len(set(whole.groupby("household")["upc"].agg(tuple))) > 1


def test_a_sample_shows_a_repeated_redemption_a_single_one_and_none() -> None:
    """Whatever its size, a small sample takes the kinds of household in turn."""
    year = small_year(
        recipients=[(1, household) for household in (100, 200, 300, 400)],
        redemptions=[*REDEMPTIONS, (200, MAKER_A, 1, "2017-03-12")],
    )
    chosen = chosen_households(year, 3)
    assert chosen[:2] == [200, 100]
    assert chosen[2] in {300, 400}
    assert len(chosen_households(year, 99)) == 4


# --- orders -----------------------------------------------------------------------------------


def test_an_order_has_the_second_the_store_and_the_total_of_its_basket() -> None:
    """Total: the whole basket, not only the coupon's product."""
    first = orders(small_year()).iloc[0]
    assert str(first["at"]) == "2017-03-12 17:00:00+00:00"
    assert (first["store"], first["basket"], first["total_cents"]) == (7, 901, 1000)


@pytest.mark.parametrize(
    ("lines", "basket", "match"),
    [
        (
            [
                sold(100, 1, 0.00, "2017-03-12 15:00:00"),
                sold(100, 2, 1.00, "2017-03-12 16:00:00"),
            ],
            2,
            "discounted product",
        ),
        (
            [
                sold(100, 1, 1.00, "2017-03-12 15:00:00", product=99),
                sold(100, 2, 0.00, "2017-03-12 16:00:00"),
            ],
            2,
            "product",
        ),
        (
            [
                sold(100, 1, 0.00, "2017-03-12 15:00:00", product=99),
                sold(100, 2, 1.00, "2017-03-12 16:00:00", product=99),
            ],
            2,
            "discount",
        ),
        (
            [
                sold(100, 1, 0.00, "2017-03-12 15:00:00", product=99),
                sold(100, 2, 0.00, "2017-03-12 16:00:00", product=99),
            ],
            1,
            "first basket",
        ),
        (
            [
                sold(100, 1, 0.00, "2017-03-12 15:00:00", product=99, sales=0.00),
                sold(100, 2, 0.00, "2017-03-12 16:00:00", product=99),
            ],
            2,
            "first basket",
        ),
    ],
    ids=["discounted-product", "product", "discount", "first-basket", "empty-basket-last"],
)
def test_the_basket_that_most_surely_saw_the_coupon_is_taken(
    lines: list[Line], basket: int, match: str
) -> None:
    """A discount on a product of the coupon beats a product, a discount, and an early hour."""
    found = orders(small_year(lines=lines, redemptions=REDEMPTIONS[:1])).iloc[0]
    assert (found["basket"], found["match"]) == (basket, match)


def test_a_redemption_without_a_basket_stops_the_demo() -> None:
    """Its second and its store would be inventions."""
    with pytest.raises(ValueError, match="1 redemptions have no basket"):
        orders(small_year(lines=LINES[:2]))


def test_orders_come_in_the_order_of_time() -> None:
    """The book's time never runs backwards."""
    year = small_year(
        mailings=MAILINGS, recipients=RECIPIENTS, redemptions=list(reversed(REDEMPTIONS))
    )
    assert orders(year)["household"].tolist() == [100, 200]
