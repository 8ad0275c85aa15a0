"""The real year: what docs/demo.md says about it is counted here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from api.demo.expectations import expected, outcomes
from api.demo.faces import faces
from api.demo.holdings import POOLED_SHARE, holdings
from api.demo.orders import orders
from api.demo.plan import count_steps, plan
from api.demo.year import Year, load

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

DOCUMENT = Path(__file__).parents[2] / "docs" / "demo.md"


@pytest.fixture(name="year", scope="module")
def _year() -> Year:
    return load()


@pytest.fixture(name="faces_of_year", scope="module")
def _faces(year: Year) -> pd.DataFrame:
    return faces(year)


@pytest.fixture(name="held", scope="module")
def _held(year: Year) -> pd.DataFrame:
    return holdings(year)


@pytest.fixture(name="ordered", scope="module")
def _ordered(year: Year) -> pd.DataFrame:
    return orders(year)


def require_documented(figures: Mapping[str, int]) -> None:
    """Each figure stands in the document, in a line of the table that starts with its name."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    missing = [
        f"{name}: {count:,}"
        for name, count in figures.items()
        if not any(line.startswith(f"| {name} ") and f" {count:,} " in line for line in lines)
    ]
    assert missing == []


def test_the_document_says_what_the_source_holds(year: Year) -> None:
    """Mailings, recipients, offers, redemptions, baskets."""
    require_documented(
        {
            "mailings": len(year.mailings),
            "recipients of a mailing": len(year.recipients),
            "households": year.recipients["household"].nunique(),
            "coupons of a mailing": len(year.offers()),
            "redemptions": len(year.redemptions),
            "baskets": year.lines["basket"].nunique(),
        }
    )


def test_the_document_says_where_face_values_come_from(faces_of_year: pd.DataFrame) -> None:
    """One line for each source."""
    require_documented(faces_of_year["source"].value_counts().to_dict())


def test_the_document_says_how_surely_baskets_were_found(ordered: pd.DataFrame) -> None:
    """One line for each way; none had to be invented."""
    assert len(ordered) == 2_102
    require_documented(ordered["match"].value_counts().to_dict())


def test_the_document_says_how_redemptions_end(
    faces_of_year: pd.DataFrame, ordered: pd.DataFrame
) -> None:
    """Redeemed or refused, and why."""
    ended = outcomes(faces_of_year, ordered)["outcome"].value_counts().to_dict()
    assert ended["already_redeemed"] == 27
    require_documented(ended)


def test_no_household_of_a_pool_holds_more_or_less_than_its_share(
    year: Year, held: pd.DataFrame
) -> None:
    """Sixteen, and every redemption is of a coupon that its household holds."""
    pooled = held.merge(year.mailings, on="mailing").query("kind == 'Type A'")
    assert set(pooled.groupby(["mailing", "household"]).size()) == {POOLED_SHARE}
    redeemed = year.redemptions.merge(held, on=["mailing", "upc", "household"])
    assert len(redeemed) == len(year.redemptions)


def test_the_document_says_how_many_requests_and_how_much_money_there_are(
    year: Year, faces_of_year: pd.DataFrame, held: pd.DataFrame, ordered: pd.DataFrame
) -> None:
    """One line for each kind of request, and the totals in cents."""
    moments = plan(year, faces_of_year, held, ordered)
    require_documented({f"`{kind}`": count for kind, count in count_steps(moments).items()})
    books = expected(faces_of_year, held, ordered).offers.values()
    require_documented(
        {
            "funded, cents": sum(one.funded_cents for one in books),
            "redeemed, cents": sum(one.redeemed_cents for one in books),
            "returned, cents": sum(one.returned_cents for one in books),
        }
    )
