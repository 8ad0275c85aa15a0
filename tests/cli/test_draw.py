"""`tidebook draw`, and the sweeper that draws by itself; what `replay` and `verify` say of it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from campaigns.campaign import Intake
from campaigns.commands import DraftCampaign, campaign_id
from campaigns.coupon import coupon_id
from ledger.books import Book, PublicId
from ledger.datastore import Datastore
from tests.cli.conftest import Tidebook
from tests.cli.test_projecting_and_sweeping import process, simulate_time
from tests.conftest import wait_until
from tests.support.desk import ALICE, DRAW_KEY, NOON, SPONSOR, Desk, person, terms_of

EVENING = NOON + timedelta(hours=1)


@pytest.fixture
def campaign(desk: Desk, datastore: Datastore, monkeypatch: pytest.MonkeyPatch) -> UUID:
    """A lottery of two coupons for five entrants, in a ledger of simulated time."""
    monkeypatch.setenv("TIDEBOOK_DRAW_KEY", DRAW_KEY.hex())
    simulate_time(datastore)
    terms = terms_of(claim_from=NOON, intake=Intake(kind="lottery", seconds=30))
    campaign = desk.opened(2, terms)
    for n in range(5):
        assert desk.claim(campaign, person(n)).code == "entered"
    return campaign


def test_a_draw_is_held_once(tidebook: Tidebook, campaign: UUID) -> None:
    """The campaigns on which something was done, with the coupons given; then nothing is left."""
    name = f"cmp_main_{campaign.hex}"
    assert tidebook("draw").out == "nothing to draw\n"
    drawn = tidebook("draw", "--at", EVENING.isoformat(), "--json")
    assert drawn.document == [{"campaign": name, "given": 2}]
    assert tidebook("draw", "--at", EVENING.isoformat()).out == "nothing to draw\n"
    assert tidebook("verify").status == 0


def test_a_draw_is_told_in_words(tidebook: Tidebook, campaign: UUID) -> None:
    """One line for each campaign."""
    said = tidebook("draw", "--at", EVENING.isoformat())
    assert said.out == f"cmp_main_{campaign.hex}: 2 coupons given\n"


def test_another_key_draws_nothing(
    tidebook: Tidebook, campaign: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says which key is missing."""
    monkeypatch.setenv("TIDEBOOK_DRAW_KEY", "ab" * 32)
    said = tidebook("draw", "--at", EVENING.isoformat())
    assert said.status == 2
    assert f"cmp_main_{campaign.hex}" in said.err
    assert "TIDEBOOK_DRAW_KEY" in said.err


def test_an_instant_needs_simulated_time(tidebook: Tidebook, desk: Desk) -> None:
    """Nobody can move the clock of an ordinary ledger."""
    desk.opened()
    assert tidebook("draw", "--at", EVENING.isoformat()).status == 2


def test_replay_tells_who_was_drawn(tidebook: Tidebook, campaign: UUID) -> None:
    """Entered, and later held or not drawn; at an earlier position as it was then."""
    coupons = [
        str(PublicId("cpn", Book("main"), coupon_id(campaign, person(n), 1))) for n in range(5)
    ]

    def states(*until: object) -> Counter[str]:
        return Counter(
            tidebook("replay", "--coupon", one, *until, "--json").document["state"]["state"]
            for one in coupons
        )

    assert states() == {"entered": 5}
    tidebook("draw", "--at", EVENING.isoformat())
    assert states() == {"held": 2, "not_drawn": 3}
    assert states("--until", 9) == {"entered": 5}
    counted = tidebook("replay", "--json").document["coupons"]
    assert (counted["entered"], counted["drawn"], counted["held"]) == (5, 2, 2)
    [own] = tidebook("replay", "--person", person(0), "--json").document["coupons"]
    assert own["state"] in {"held", "not_drawn"}


def test_the_sweeper_draws_by_itself(
    home: Path, database_url: str, desk: Desk, campaign: UUID
) -> None:
    """A running system needs nobody to hold its draws."""
    with process(home, database_url, "sweep"):
        later = DraftCampaign(
            desk.book, campaign_id(desk.book, ALICE, "later"), "Later", SPONSOR, terms_of()
        )
        assert desk.send(later, ALICE, at=EVENING).code == "drafted"
        wait_until(lambda: desk.capacity(campaign)[0] == 2)
