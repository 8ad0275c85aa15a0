"""What became of the calls for a campaign's coupons is counted by arrival, and adds up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import traffic
from api.fairness import Counted, Edges, counted, report
from api.traffic import CampaignTraffic, Held, store
from ledger.datastore import Datastore
from tests.api.harness import App

CAMPAIGN = UUID(int=7)
TEN = datetime(2026, 5, 1, 2, 0, tzinfo=UTC)
CODES = ("claimed", "already_claimed", "sold_out", "rate_limited", "not_open")

CALLS = st.lists(
    st.tuples(
        st.sampled_from([CAMPAIGN, UUID(int=8)]),
        st.floats(0, 2 * traffic.FINE_S),
        st.floats(0, 10),
        st.sampled_from(CODES),
    ),
    max_size=60,
)


def at_ten(reading: float) -> float:
    """The performance counter began at ten o'clock."""
    return TEN.timestamp() + reading


def totals(held: Held) -> dict[tuple[int, str], int]:
    """Calls by campaign and code."""
    found: dict[tuple[int, str], int] = {}
    for (campaign, _, _, code), count in held.counts.items():
        found[campaign, code] = found.get((campaign, code), 0) + count.calls
        assert sum(count.latency) == count.calls
    return found


@given(calls=CALLS, cut=st.integers(0, 60))
def test_what_could_not_be_written_is_counted_with_what_came_since(
    calls: list[tuple[UUID, float, float, str]], cut: int
) -> None:
    """Handing counts back at any moment changes no total, no span and no edge."""
    calls.sort(key=lambda call: call[1])
    whole, broken = CampaignTraffic(at_ten), CampaignTraffic(at_ten)
    for call in calls:
        whole.note(*call)
    for call in calls[:cut]:
        broken.note(*call)
    held = broken.take()
    for call in calls[cut:]:
        broken.note(*call)
    broken.give_back(held)
    one, other = whole.take(), broken.take()
    assert totals(one) == totals(other)
    assert one.counts.keys() == other.counts.keys()
    for campaign, edge in one.edges.items():
        found = other.edges[campaign]
        assert (edge.first_call, edge.last_granted, edge.first_sold_out) == (
            found.first_call,
            found.last_granted,
            found.first_sold_out,
        )


CROWDED: Final = st.lists(
    st.one_of(
        st.none(),
        st.tuples(
            st.sampled_from([CAMPAIGN, UUID(int=8)]),
            st.sampled_from([0.25, 0.75, 1.0, traffic.FINE_S + 0.2, traffic.FINE_S + 0.3]),
            st.sampled_from([0.001, 3.0]),
            st.sampled_from(CODES[:3]),
        ),
    ),
    max_size=60,
)
"""Calls of few seconds, some of them where counting by the second ends; None: counts are taken."""


@given(calls=CROWDED)
def test_where_the_latest_call_was_counted_changes_no_count(
    calls: list[tuple[UUID, float, float, str] | None],
) -> None:
    """The next one of its kind is counted there without a look-up; all others are looked up."""
    told = []
    for forgets in (False, True):
        counts, held = CampaignTraffic(at_ten), []
        for call in (*calls, None):
            if forgets:
                counts._latest = None
            if call is None:
                held.append(counts.take())
            else:
                counts.note(*call)
        told.append(
            [
                (
                    {key: (c.calls, c.seconds, c.latency) for key, c in one.counts.items()},
                    {
                        n: (e.first_call, e.last_granted, e.first_sold_out)
                        for n, e in one.edges.items()
                    },
                )
                for one in held
            ]
        )
    assert told[0] == told[1]


def test_calls_are_counted_by_the_second_first_and_by_the_minute_later() -> None:
    """Ten minutes after a campaign's first call a second no longer matters."""
    counts = CampaignTraffic(at_ten)
    counts.note(CAMPAIGN, 0.2, 0.001, "claimed")
    counts.note(CAMPAIGN, traffic.FINE_S + 61.0, 0.001, "claimed")
    spans = [(at - int(TEN.timestamp()), span_s) for _, at, span_s, _ in counts.take().counts]
    assert spans == [(0, 1), (traffic.FINE_S + 60, 60)]


def test_two_servers_make_one_report(datastore: Datastore) -> None:
    """What two servers counted of one second is one row, and the report adds it up."""
    for server in (0.0, 0.001):
        counts = CampaignTraffic(at_ten)
        for caller in range(3):
            counts.note(CAMPAIGN, 0.1 * caller + server, 0.004, "claimed")
        counts.note(CAMPAIGN, -0.5, 0.001, "not_open")
        counts.note(CAMPAIGN, 0.15 + server, 0.150, "sold_out")
        counts.note(CAMPAIGN, 1.5, 7.0, "sold_out")
        with datastore.transaction() as cursor:
            store(cursor, counts.take())
    with datastore.transaction() as cursor:
        told = report("cmp_main_07", "all", TEN, *counted(cursor, CAMPAIGN))
    assert (told.calls, told.granted, told.early) == (12, 6, 2)
    assert told.refused == {"sold_out": 4, "not_open": 2}
    assert (told.first_second_calls, told.first_second_granted) == (8, 6)
    assert told.first_second_share == 1.0
    assert told.order.overtaking_ms == pytest.approx(51.0, abs=0.1)
    assert [(span.calls, span.granted, span.chance) for span in told.spans] == [
        (2, 0, 0.0),
        (8, 6, 0.75),
        (2, 0, 0.0),
    ]
    assert (told.latency.p50_ms, told.latency.p99_ms) == (5, None)
    assert (told.latency_granted.p50_ms, told.latency_granted.p99_ms) == (5, 5)


def test_nobody_was_overtaken_when_the_last_winner_came_before_the_first_loser() -> None:
    """Order is kept when everybody who got a coupon came before everybody who got none."""
    counts = [Counted(TEN, 1, "claimed", 1, [0] * 13), Counted(TEN, 1, "sold_out", 1, [0] * 13)]
    edges = Edges(TEN, TEN, TEN + timedelta(milliseconds=3))
    assert report("c", "all", TEN, counts, edges).order.overtaking_ms == 0.0


def test_a_campaign_that_nobody_called_has_an_empty_report() -> None:
    """Nothing is divided by nothing."""
    told = report("c", "all", TEN, [], None)
    assert (told.calls, told.first_second_share, told.spans) == (0, 0.0, [])


def test_every_claim_is_in_the_report(app: App) -> None:
    """Granted, refused, again and too early: each answer is counted once, where it belongs."""
    campaign = app.open_campaign(quota=2)
    for who in ("a", "b", "c"):
        app.claim(campaign, who)
    app.claim(campaign, "a")
    app.project()

    def told() -> dict[str, object]:
        reply = app.get(f"/v1/campaigns/{campaign}/fairness", token=app.token("auditor"))
        assert reply.status_code == 200, reply.text
        document: dict[str, object] = reply.json()
        return document

    app.wait_until(lambda: told()["calls"] == 4)
    document = told()
    assert document["granted"] == 2
    assert document["refused"] == {"already_claimed": 1, "sold_out": 1}


def test_the_report_is_for_staff(app: App) -> None:
    """A tourist is told that it is for others; a campaign that is not there is not found."""
    campaign = app.open_campaign()
    app.project()
    address = f"/v1/campaigns/{campaign}/fairness"
    assert app.get(address, token=app.token("tourist")).json()["code"] == "role_forbidden"
    missing = f"/v1/campaigns/cmp_main_{'0' * 32}/fairness"
    assert app.get(missing, token=app.token("auditor")).json()["code"] == "not_found"
