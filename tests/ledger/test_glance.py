"""A glance sees what is stored, by keys alone, and waits for nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from campaigns.campaign import POOL
from campaigns.coupon import coupon_id
from ledger.appending import Capacity, lock_head, request_id
from ledger.datastore import Datastore
from ledger.glance import Asked, connect, glance
from tests.support.desk import Desk, person


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A writer of the book."""
    found = Desk(datastore)
    yield found
    found.close()


@pytest.fixture
def connection(datastore: Datastore) -> Iterator[Any]:
    """A connection for glances."""
    found = connect(datastore)
    yield found
    found.close()


def asked(scope: str, key: str, stream: Any = None) -> Asked:
    """Ask for a request, and for a stream."""
    return Asked(request_id(scope, key), scope, key, (stream or uuid4()).hex)


def test_a_glance_sees_what_was_answered_and_what_exists(desk: Desk, connection: Any) -> None:
    """Claims, which are their own record, kept refusals, coupons, capacity and versions."""
    campaign = desk.opened(quota=1)
    assert desk.claim(campaign, person(1), "one").code == "claimed"
    assert desk.claim(campaign, person(2), "two").code == "sold_out"
    scopes = [f"tourist:{person(n)}" for n in (1, 2)]
    seen = glance(
        connection,
        "main",
        [(campaign, POOL), (uuid4(), POOL)],
        [
            asked(scopes[0], "one", coupon_id(campaign, person(1), 1)),
            asked(scopes[0], "other", coupon_id(campaign, person(1), 2)),
            asked(scopes[1], "two"),
            asked(scopes[1], "one", coupon_id(campaign, person(1), 1)),
        ],
    )
    assert seen.answered == [True, False, True, False]
    assert seen.existing == [True, False, False, True]
    assert [sight.capacity.issued for sight in seen.pools] == [1, 0]
    assert seen.pools[0].version > 0
    assert seen.pools[1] == (Capacity(), 0)
    assert seen.at is not None
    assert seen.instant >= seen.at


def test_a_glance_at_an_empty_book_sees_nothing(connection: Any) -> None:
    """Also when it asks for nothing."""
    seen = glance(connection, "other", [], [])
    assert (seen.position, seen.pools, seen.answered) == (0, [], [])
    assert seen.instant == seen.now


def test_a_glance_does_not_wait_for_the_heads_lock(
    desk: Desk, datastore: Datastore, connection: Any
) -> None:
    """While a writer holds it, what was committed before is seen."""
    campaign = desk.opened(quota=3)
    with datastore.transaction() as cursor:
        lock_head(cursor, "main")
        assert glance(connection, "main", [(campaign, POOL)]).pools[0].capacity.quota == 3


def test_a_glance_reads_by_index_only(connection: Any) -> None:
    """Whatever the tables hold: it looks at nothing that it was not asked for."""
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN EXECUTE glance ('main', '', '', '', '', '', '')")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "Seq Scan" not in plan
    assert "event_request" in plan
