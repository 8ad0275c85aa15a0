"""A lottery over HTTP: drafted, entered, drawn and looked at, as each role sees it.

Goal: what people are told is what was decided, and an auditor can recompute the draw.
Method: a service in simulated time, so that the end of the intake is an instant that we choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from api.drawer import Drawer
from ledger.commit import GroupCommit
from tests.api.conftest import MakeApp
from tests.api.harness import App
from tests.docs.pages import page

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
LOTTERY = {"kind": "lottery", "seconds": 30}


@pytest.fixture(params=[True, False], ids=["lane", "ordinary"])
def app(make_app: MakeApp, request: pytest.FixtureRequest) -> App:
    """A service whose time is noon of one day, reached by either way."""
    app = make_app(fast=request.param, clock="request")
    app.time = NOON.isoformat()
    return app


def window(**changes: timedelta) -> dict[str, str]:
    """From noon for an hour."""
    until = changes.get("until", timedelta(hours=1))
    return {"from": NOON.isoformat(), "until": (NOON + until).isoformat()}


def terms(**changes: Any) -> dict[str, Any]:
    """A lottery of the first half minute after noon."""
    day = window(until=timedelta(days=1))
    return {"claim_window": window(), "validity_window": day, "intake": LOTTERY, **changes}


def draw(app: App) -> None:
    """Draw what is due, in the evening."""
    writer: GroupCommit = app.service.writers[app.settings.books[0]]
    app.time = (NOON + timedelta(minutes=30)).isoformat()
    drawer = Drawer(app.datastore, writer, app.settings.draw_secret)
    for _ in drawer.steps(NOON + timedelta(minutes=30)):
        pass


def test_people_enter_and_are_drawn(app: App) -> None:
    """202 for an entry, 409 while the draw is to come, and in the end a coupon or none."""
    campaign = app.open_campaign(quota=2, **terms())
    first = app.claim(campaign, "one", key="mine")
    assert first.status_code == 202, first.text
    assert first.json() == {
        "coupon": first.json()["coupon"],
        "campaign": campaign,
        "state": "entered",
        "entered_at": "2026-05-01T12:00:00Z",
        "draws_at": "2026-05-01T12:00:30Z",
    }
    assert app.claim(campaign, "one", key="mine").content == first.content
    again = app.claim(campaign, "one")
    assert (again.status_code, again.json()["code"]) == (409, "already_entered")
    assert again.json()["coupon"] == first.json()["coupon"]
    for who in ("two", "three", "four"):
        assert app.claim(campaign, who).status_code == 202
    app.time = (NOON + timedelta(seconds=30)).isoformat()
    late = app.claim(campaign, "five")
    assert (late.status_code, late.json()["code"]) == (409, "draw_pending")
    assert late.headers["retry-after"] == "5"
    draw(app)
    app.project()
    states = [wallet(app, who)[0]["state"] for who in ("one", "two", "three", "four")]
    assert sorted(states) == ["held", "held", "not_drawn", "not_drawn"]
    assert app.claim(campaign, "five").json()["code"] == "sold_out"
    assert app.claim(campaign, "one", key="mine").content == first.content


def wallet(app: App, who: str, **query: str) -> list[dict[str, Any]]:
    """Somebody's coupons."""
    reply = app.get("/v1/wallet", token=app.token("tourist", who), params=query)
    items: list[dict[str, Any]] = reply.json()["items"]
    return items


def test_a_wallet_shows_entries_by_their_state(app: App) -> None:
    """Before the draw `entered`; afterwards each filter finds its own."""
    campaign = app.open_campaign(quota=1, **terms())
    people = ("one", "two", "three")
    for who in people:
        assert app.claim(campaign, who).status_code == 202
    app.project()
    assert [len(wallet(app, who, state="entered")) for who in people] == [1, 1, 1]
    assert [len(wallet(app, who, state="not_drawn")) for who in people] == [0, 0, 0]
    draw(app)
    app.project()
    assert [len(wallet(app, who, state="entered")) for who in people] == [0, 0, 0]
    assert sum(len(wallet(app, who, state="not_drawn")) for who in people) == 2
    assert sum(len(wallet(app, who, state="held")) for who in people) == 1


def test_a_closed_lottery_has_drawn_nobody(app: App) -> None:
    """Closed before its draw: all entries are over."""
    campaign = app.open_campaign(quota=1, **terms())
    assert app.claim(campaign, "one").status_code == 202
    closed = app.post(
        f"/v1/campaigns/{campaign}/close", {"reason": "x"}, token=app.token("operator")
    )
    assert closed.status_code == 200
    app.project()
    assert [one["state"] for one in wallet(app, "one")] == ["not_drawn"]


def test_a_campaign_shows_its_draw_to_anybody(app: App) -> None:
    """The commitment from the opening on, the seed and the threshold after the draw."""
    campaign = app.open_campaign(quota=2, **terms())
    app.project()
    tourist = app.token("tourist")
    before = app.get(f"/v1/campaigns/{campaign}", token=tourist).json()
    assert before["intake"] == LOTTERY
    assert list(before["draw"]) == ["seed_commitment"]
    for who in ("one", "two", "three"):
        app.claim(campaign, who)
    draw(app)
    app.project()
    after = app.get(f"/v1/campaigns/{campaign}", token=tourist).json()["draw"]
    assert after["seed_commitment"] == before["draw"]["seed_commitment"]
    assert (after["entrants"], after["places"], after["winners"]) == (3, 2, 2)
    figures = app.get(f"/v1/campaigns/{campaign}/figures", token=app.token("operator")).json()
    coupons = figures["coupons"]
    assert (coupons["entered"], coupons["drawn"], coupons["claimed"]) == (3, 2, 2)


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"per_person_limit": 2}, [("per_person_limit", "lottery_one_each")]),
        (
            {"intake": {"kind": "lottery", "seconds": 3601}},
            [("intake.seconds", "after_claim_window")],
        ),
        ({"intake": {"kind": "lottery"}}, [("intake", "intake_incomplete")]),
        ({"intake": {"kind": "lottery", "seconds": 0}}, [("intake.seconds", "out_of_range")]),
        ({"intake": {"kind": "waiting_room", "seconds": 5}}, [("intake", "intake_without_use")]),
        ({"intake": {"kind": "waiting_room"}}, [("intake", "intake_incomplete")]),
        ({"intake": {"kind": "dice"}}, [("intake.kind", "not_a_choice")]),
        ({"intake": {"kind": "first_come", "rate_per_s": 5}}, [("intake", "intake_without_use")]),
    ],
)
def test_an_intake_that_cannot_be_kept_is_refused(
    make_app: MakeApp, changes: dict[str, Any], broken: list[tuple[str, str]]
) -> None:
    """The field and the rule that it breaks."""
    app = make_app(clock="request")
    app.time = NOON.isoformat()
    body = {
        "name": "Lottery",
        "sponsor": "province",
        "coupon": {"kind": "fixed", "face": {"amount_minor": 500, "currency": "CNY"}},
        "zone": "Asia/Shanghai",
        **terms(**changes),
    }
    reply = app.post("/v1/campaigns", body, token=app.token("operator"))
    assert reply.status_code == 422, reply.text
    assert [(one["field"], one["rule"]) for one in reply.json()["errors"]] == broken


@pytest.mark.parametrize(
    "intake", [None, {"kind": "first_come"}, {"kind": "waiting_room", "rate_per_s": 500}, LOTTERY]
)
def test_an_intake_is_shown_as_it_was_drafted(make_app: MakeApp, intake: Any) -> None:
    """First come is what a campaign without an intake does, and says nothing."""
    app = make_app(clock="request")
    app.time = NOON.isoformat()
    campaign = app.draft(**terms(intake=intake))
    app.project()
    shown = app.get(f"/v1/campaigns/{campaign}", token=app.token("operator")).json()
    assert shown.get("intake") == (None if intake == {"kind": "first_come"} else intake)


def test_an_auditor_recomputes_the_draw_by_the_page(app: App) -> None:
    """The code of docs/lottery.md, over events read by HTTP; forged ones it refuses."""
    other, campaign = app.open_campaign(**terms()), app.open_campaign(quota=3, **terms())
    for who in ("one", "two", "three", "four", "five"):
        app.claim(other, who)
        app.claim(campaign, who)
    draw(app)
    events: list[dict[str, Any]] = []
    following: int | None = 0
    while following is not None:
        page_of_events = app.get(
            "/v1/books/main/events",
            token=app.token("auditor"),
            params={"after": following, "limit": 7},
        ).json()
        events += page_of_events["items"]
        following = page_of_events["next"]
    own = campaign.rpartition("_")[2]
    winners = checker()(events, own)
    assert len(winners) == 3
    for forged in forgeries(events, own):
        with pytest.raises(AssertionError):
            checker()(forged, own)


def checker() -> Any:
    """The function that the page shows."""
    names: dict[str, Any] = {}
    exec(compile(page("docs/lottery.md").snippets[1].text, "lottery.md", "exec"), names)
    return names["check_draw"]


def forgeries(events: list[dict[str, Any]], campaign: str) -> Iterator[list[dict[str, Any]]]:
    """The same events with one entry gone, one seed changed, one coupon given to somebody else."""
    dashed = str(UUID(campaign))
    of_entry = [
        place
        for place, event in enumerate(events)
        if event["topic"] == "coupon.entered" and event["state"]["campaign"] == dashed
    ]
    yield events[: of_entry[0]] + events[of_entry[0] + 1 :]
    for place, event in enumerate(events):
        if event["topic"] == "campaign.drawn" and event["stream"] == campaign:
            state = {**event["state"], "seed": "00" * 32}
            yield [*events[:place], {**event, "state": state}, *events[place + 1 :]]
        if event["topic"] == "coupon.claimed" and event["state"]["campaign"] == dashed:
            yield [*events[:place], {**event, "stream": "ab" * 16}, *events[place + 1 :]]
