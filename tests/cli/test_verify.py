"""`tidebook verify`: 0 for clean, 1 for findings, 2 when it could not look."""

from __future__ import annotations

import pytest

from ledger.datastore import Datastore
from projections.registry import PROJECTIONS
from tests.cli.conftest import Tidebook
from tests.support.damage import damaged
from tests.support.desk import Desk
from tests.support.story import tell


@pytest.mark.usefixtures("story")
def test_a_sound_store_is_clean(tidebook: Tidebook) -> None:
    """Every book is read to its end, and every projection is compared."""
    tidebook("project", "--once")
    said = tidebook("verify", "--json")
    assert said.status == 0
    document = said.document
    assert document["clean"] is True
    assert document["findings"] == []
    [book] = document["books"]
    assert (book["book"], book["position"]) == ("main", 32)
    assert book["replies"] > 15
    assert document["projections"] == [one.name for one in PROJECTIONS]
    assert "Clean" in tidebook("verify").out


def test_an_empty_store_is_clean(tidebook: Tidebook) -> None:
    """No book, no finding."""
    assert tidebook("verify", "--json").document["books"] == []


@pytest.mark.usefixtures("story")
def test_findings_are_listed_and_counted(tidebook: Tidebook, database_url: str) -> None:
    """Exit status 1, each finding with code, place, what must be and what is."""
    with damaged(database_url) as damage:
        damage.run("UPDATE capacity SET quota = quota + 1")
        damage.rewrite(damage.position("coupon.voided"), reason="found", amount_minor=499)
        damage.run("DELETE FROM idempotency WHERE code = 'voided'")
    said = tidebook("verify", "--no-projections", "--json")
    assert said.status == 1
    document = said.document
    assert document["clean"] is False
    assert document["counts"] == {
        "other_amount": 1,
        "capacity_differs": 2,
        "event_without_reply": 1,
    }
    assert document["findings"][0] == {
        "code": "other_amount",
        "where": "main:22",
        "expected": "500 CNY",
        "found": "499 CNY",
    }
    text = tidebook("verify", "--no-projections")
    assert text.status == 1
    assert "4 findings: " in text.out
    assert "main:22" in text.out


@pytest.mark.usefixtures("story")
def test_a_projection_that_differs_is_a_finding(tidebook: Tidebook, datastore: Datastore) -> None:
    """Rows that are not what the events say are found; rebuilding them cures it."""
    tidebook("project", "--once")
    with datastore.transaction() as cursor:
        cursor.execute("UPDATE rm_wallets.coupon SET state = 'held' WHERE state = 'voided'")
    said = tidebook("verify", "--json")
    assert said.status == 1
    assert said.document["counts"] == {"row_differs": 1}
    assert tidebook("verify", "--no-projections").status == 0
    assert tidebook("project", "--rebuild", "wallets").status == 0
    assert tidebook("verify").status == 0


@pytest.mark.usefixtures("story")
def test_one_book_of_several(tidebook: Tidebook, datastore: Datastore, database_url: str) -> None:
    """Damage in one book is not the other's; without `--book` all are read."""
    other = Desk(datastore, "other")
    tell(other)
    other.close()
    with damaged(database_url, "other") as damage:
        damage.run("UPDATE book_head SET position = position + 1 WHERE book = {book}")
    assert tidebook("verify", "--book", "main").status == 0
    assert tidebook("verify", "--book", "other", "--no-projections").status == 1
    everything = tidebook("verify", "--no-projections", "--json").document
    assert [one["book"] for one in everything["books"]] == ["main", "other"]
    assert everything["counts"] == {"head_position": 1}


@pytest.mark.usefixtures("story")
def test_only_so_many_findings_are_listed(
    tidebook: Tidebook, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wholly broken book does not fill the memory; the counts stay exact."""
    monkeypatch.setattr("api.cli.verifying.LISTED", 5)
    with damaged(database_url) as damage:
        damage.run("UPDATE event SET topic = 'x' || topic WHERE book = {book}")
    document = tidebook("verify", "--no-projections", "--json").document
    assert len(document["findings"]) == 5
    assert document["counts"]["unknown_event_type"] == 32
