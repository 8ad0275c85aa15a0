"""From the tables to the requests, in the order of time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from api.demo.faces import faces
from api.demo.holdings import holdings
from api.demo.orders import orders
from api.demo.plan import Kind, Moment, count_steps, plan
from api.demo.year import Year
from tests.demo.small_year import MAKER_A, REDEMPTIONS, small_year


def planned(year: Year) -> list[Moment]:
    """The plan of a year."""
    return plan(year, faces(year), holdings(year), orders(year))


def moments_of(moments: list[Moment], kind: Kind) -> list[Moment]:
    """The moments of one kind."""
    return [moment for moment in moments if moment.kind == kind]


@pytest.fixture(name="moments")
def _moments() -> list[Moment]:
    return planned(small_year())


def test_time_never_runs_backwards(moments: list[Moment]) -> None:
    """Each moment is at or after the one before."""
    assert [moment.at for moment in moments] == sorted(moment.at for moment in moments)


def test_a_campaign_lives_through_its_steps_in_order(moments: list[Moment]) -> None:
    """Prepared by the operators, claimed, redeemed, closed."""
    kinds = [moment.kind for moment in moments if moment.steps[0].offer.mailing == 1]
    assert kinds == [
        "draft", "propose", "approve", "open", "claim", "redeem", "redeem", "close",
    ]  # fmt: skip


def test_a_mailings_days_are_spelled_out_as_instants(moments: list[Moment]) -> None:
    """From the first midnight, through summer time's start, to the midnight after the last day."""
    offer = moments[0].steps[0].offer
    assert offer.opens == datetime(2017, 3, 10, 5, 0, tzinfo=UTC)
    assert offer.ends == datetime(2017, 4, 1, 4, 0, tzinfo=UTC)
    assert moments_of(moments, "draft")[0].at == datetime(2017, 3, 9, 14, 0, tzinfo=UTC)
    assert moments_of(moments, "claim")[0].at == offer.opens
    assert moments_of(moments, "close")[0].at == offer.ends


def test_quota_and_budget_are_just_enough_for_the_holders(moments: list[Moment]) -> None:
    """Two households of 100 cents each."""
    offer = next(s.offer for s in moments[0].steps if s.offer.upc == MAKER_A)
    assert (offer.quota, offer.face_cents, offer.budget_cents) == (2, 100, 200)


def test_redemptions_of_one_second_share_a_moment() -> None:
    """They may be sent at once, because they share their instant."""
    year = small_year(
        products=[(MAKER_A, 11, 1), (MAKER_A, 12, 1), (MAKER_A + 100, 11, 1)],
        redemptions=[*REDEMPTIONS, (100, MAKER_A + 100, 1, "2017-03-12")],
    )
    assert [len(moment.steps) for moment in moments_of(planned(year), "redeem")] == [2, 1]


def test_every_key_is_used_once_and_made_of_the_data(moments: list[Moment]) -> None:
    """The same tables give the same keys, so that a second run is nothing but replays."""
    keys = [step.key for moment in moments for step in moment.steps]
    assert len(set(keys)) == len(keys)
    assert f"claim:1:{MAKER_A}:100" in keys
    assert keys == [step.key for moment in planned(small_year()) for step in moment.steps]


def test_a_repeated_redemption_has_a_key_of_its_own() -> None:
    """It is another request, for the ledger to refuse."""
    year = small_year(redemptions=[*REDEMPTIONS, (200, MAKER_A, 1, "2017-03-31")])
    keys = [s.key for moment in moments_of(planned(year), "redeem") for s in moment.steps]
    assert len(set(keys)) == 3


def test_offers_that_nobody_holds_become_no_campaign() -> None:
    """A sample without recipients of a mailing leaves it out."""
    year = small_year().of_households({200})
    moments = plan(year, faces(small_year()), holdings(year), orders(year))
    assert {step.offer.mailing for moment in moments for step in moment.steps} == {1}


def test_the_steps_of_each_kind_are_counted(moments: list[Moment]) -> None:
    """Three offers with five holders in all, two redemptions."""
    assert count_steps(moments) == {
        "draft": 3, "propose": 3, "approve": 3, "open": 3, "claim": 5, "redeem": 2, "close": 3,
    }  # fmt: skip
