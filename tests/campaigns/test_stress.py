"""Claims straight into the writer are whole claims, in a book that nobody else uses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg2
import pytest

from campaigns import stress

if TYPE_CHECKING:
    from ledger.datastore import Datastore


@pytest.mark.parametrize(("how", "count"), [("--threads", "3"), ("--in-flight", "16")])
def test_what_is_claimed_is_stored_and_counted(
    how: str,
    count: str,
    database_url: str,
    datastore: Datastore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line of JSON says as many claims as there are events, all in the book of its own."""
    assert stress.main(["--database-url", database_url, "--seconds", "0.1", how, count]) == 0
    said = json.loads(capsys.readouterr().out)
    with datastore.transaction() as cursor:
        cursor.execute("SELECT book, count(*) FROM event WHERE topic LIKE 'coupon%' GROUP BY book")
        assert cursor.fetchall() == [("stress", said["claims"])]
    assert said["claims"] >= int(count)
    assert 0 < said["p50_ms"] <= said["p99_ms"]
    assert said["per_s"] > 0
    assert said["cpu_us"] > 0


def test_a_claim_that_is_not_stored_is_no_figure(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted: a campaign of five coupons answers «sold out», and the run fails."""
    monkeypatch.setattr(stress, "QUOTA", 5)
    with pytest.raises(stress.ClaimLost):
        stress.main(["--database-url", database_url, "--seconds", "5", "--in-flight", "9"])
    with psycopg2.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT issued FROM capacity WHERE book = 'stress'")
        assert cursor.fetchall() == [(5,)]
