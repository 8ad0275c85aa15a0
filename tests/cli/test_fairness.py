"""`tidebook fairness`."""

from __future__ import annotations

from uuid import UUID

import pytest

from api.traffic import CampaignTraffic, store
from campaigns.replies import CAMPAIGN_PREFIX
from ledger.books import Book, PublicId
from ledger.datastore import Datastore
from tests.cli.conftest import Tidebook
from tests.support.story import Story


@pytest.fixture
def campaign(story: Story, datastore: Datastore, tidebook: Tidebook) -> str:
    """A campaign with traffic, shown in the figures; returns its id."""
    assert tidebook("project", "--rebuild").status == 0
    with datastore.transaction() as cursor:
        cursor.execute("SELECT campaign FROM rm_campaign_figures.campaign LIMIT 1")
        uuid = UUID(str(cursor.fetchone()[0]))
        counts = CampaignTraffic()
        for started, code in ((0.0, "claimed"), (0.5, "claimed"), (0.6, "sold_out")):
            counts.note(uuid, started, 0.004, code)
        store(cursor, counts.take())
    return str(PublicId(CAMPAIGN_PREFIX, Book("main"), uuid))


def test_people_see_a_picture(campaign: str, tidebook: Tidebook) -> None:
    """Totals in words, then a bar for each span of arrival."""
    said = tidebook("fairness", campaign)
    assert said.status == 0, said.err
    assert "3 calls: 2 granted; refused: 1 sold_out" in said.out
    assert "█" in said.out
    assert "overtaking while the stock ran out: at most 0 ms" in said.out


def test_programs_see_the_document(campaign: str, tidebook: Tidebook) -> None:
    """It is the report of the HTTP API."""
    document = tidebook("fairness", campaign, "--json").document
    assert document["campaign"] == campaign
    assert (document["calls"], document["granted"]) == (3, 2)


@pytest.mark.parametrize("name", ["nonsense", f"cmp_main_{'0' * 32}"])
def test_a_campaign_that_is_not_there_is_named(tidebook: Tidebook, name: str) -> None:
    """Exit status 2 and one line that says what was wrong."""
    said = tidebook("fairness", name)
    assert said.status == 2
    assert name in said.err
    assert said.out == ""
