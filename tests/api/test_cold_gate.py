"""A rush at a campaign that the gate does not know yet.

Goal: whoever presses in the first moment waits for the gate instead of hearing 503, and what they
hear then is what the store says. Method: the requests' bytes are offered to the server's lane all
in one turn, while the keeper is not let to the store and the head of the book is locked, so that
the whole rush finds the gate cold however fast anything is.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from api import gatekeeper
from api.callers import Caller
from api.gatekeeper import Gatekeeper
from api.plain import plain_call
from campaigns.campaign import POOL
from campaigns.gate import Verdict, tag_of
from ledger.books import PublicId
from ledger.datastore import Datastore
from ledger.warming import warm
from tests.api.conftest import MakeApp
from tests.api.harness import App, draft_body
from tests.conftest import wait_until

PRESSES = 3_000


@pytest.fixture
def slow_keeper(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Keepers do not look at the store before this is set."""
    may_look = threading.Event()
    look = Gatekeeper._look

    def look_late(self: Gatekeeper, *about: Any) -> Any:
        assert may_look.wait(60)
        return look(self, *about)

    monkeypatch.setattr(Gatekeeper, "_look", look_late)
    return may_look


@contextmanager
def locked_head(app: App) -> Iterator[None]:
    """Nothing is committed meanwhile."""
    with app.datastore.transaction() as cursor:
        cursor.execute("SELECT FROM book_head FOR UPDATE")
        yield


def with_patience(app: App, hold_s: float) -> Any:
    """Let claims be held for so long; return the gate."""
    assert app.service.gatekeeper is not None
    gate = app.service.gatekeeper.gate
    gate.settings = gate.settings._replace(hold_s=hold_s)
    return gate


class Presses:
    """Requests for a coupon, one each of many people, all at once."""

    def __init__(self, app: App, campaign: str, count: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.codes: Counter[str] = Counter()
        calls = [self._call(app, campaign, f"person {n}") for n in range(count)]
        app.loop.run(self._press(app.asgi.lane, calls))

    async def _press(self, lane: Any, calls: list[Any]) -> None:
        taken = [lane.take(call, self._heard) for call in calls]
        assert all(taken)

    def _call(self, app: App, campaign: str, who: str) -> Any:
        person = app.service.pseudonyms.of(who)
        session = app.service.sessions.begin(Caller.of("tourist", person))
        head = (
            f"POST /v1/campaigns/{campaign}/claims HTTP/1.1\r\nHost: tidebook.test\r\n"
            f"Authorization: Bearer {session.token}\r\nIdempotency-Key: k\r\n"
            "Content-Length: 0\r\n\r\n"
        )
        call = plain_call(head.encode(), "203.0.113.7")
        assert call is not None
        return call

    def _heard(self, line: bytes, _rest: bytes) -> None:
        self.statuses[int(line.split(b" ")[1])] += 1

    @property
    def heard(self) -> int:
        """How many have their answer."""
        return self.statuses.total()


def test_a_rush_at_a_cold_gate_waits_for_it(
    make_app: MakeApp, slow_keeper: threading.Event
) -> None:
    """Three thousand people press before anything is known, and nobody hears 503."""
    app = make_app()
    gate = with_patience(app, 60)
    campaign = app.open_campaign(quota=PRESSES)
    with locked_head(app):
        presses = Presses(app, campaign, PRESSES)
        wait_until(lambda: any(door.held for door in gate.doors.values()))
        slow_keeper.set()
        wait_until(lambda: gate.tally.words[Verdict.ADMITTED] == PRESSES)
        assert presses.heard == 0
    app.wait_until(lambda: presses.heard == PRESSES, 30)
    assert presses.statuses == {201: PRESSES}


def test_without_holding_a_cold_rush_hears_503(
    make_app: MakeApp, slow_keeper: threading.Event
) -> None:
    """Control: whom the slow lane does not hold is turned away, and there is a coupon for all."""
    app = make_app()
    with_patience(app, 0)
    campaign = app.open_campaign(quota=PRESSES)
    with locked_head(app):
        presses = Presses(app, campaign, PRESSES)
        turned_away = PRESSES - app.settings.slow_lane_max
        app.wait_until(lambda: presses.heard == turned_away, 30)
        slow_keeper.set()
    app.wait_until(lambda: presses.heard == PRESSES, 30)
    assert presses.statuses == {503: turned_away, 201: app.settings.slow_lane_max}


def test_whoever_is_held_in_vain_asks_the_store(
    make_app: MakeApp, slow_keeper: threading.Event
) -> None:
    """The time is over and nothing is known: the slow lane, as without holding."""
    app = make_app()
    with_patience(app, 0.05)
    campaign = app.open_campaign(quota=20)
    presses = Presses(app, campaign, 30)
    app.wait_until(lambda: presses.heard == 30)
    assert presses.statuses == {201: 20, 409: 10}
    slow_keeper.set()


def test_nobody_waits_for_a_campaign_that_is_not_there(make_app: MakeApp) -> None:
    """The keeper finds nothing to build and says so at once."""
    app = make_app()
    with_patience(app, 60)
    draft = app.draft()
    for campaign in (draft, f"{draft[:-1]}{'a' if draft[-1] != 'a' else 'b'}"):
        assert app.claim(campaign).status_code == 404


def test_a_shutdown_lets_nobody_wait(make_app: MakeApp, slow_keeper: threading.Event) -> None:
    """Who is held goes on to the store, or hears that it takes on nothing more."""
    app = make_app()
    gate = with_patience(app, 60)
    campaign = app.open_campaign(quota=30)
    presses = Presses(app, campaign, 30)
    wait_until(lambda: any(door.held for door in gate.doors.values()))
    slow_keeper.set()
    app.loop.run(gate.close())
    app.wait_until(lambda: presses.heard == 30)
    assert presses.statuses == {201: 30}


def test_the_gate_of_what_is_about_to_begin_is_built(app: App, redis_url: str) -> None:
    """Before anybody knocks, and so that the first one is admitted."""
    just_now = draft_body(datetime.now(UTC) + timedelta(seconds=50))["claim_window"]
    campaign = app.open_campaign(quota=30, claim_window=just_now)
    app.project()
    keeper = app.service.gatekeeper
    assert keeper is not None
    tag = tag_of((PublicId.parse(campaign, "cmp").uuid, POOL))
    with redis.Redis.from_url(redis_url) as client:
        assert not client.exists(f"{tag}h")
        app.loop.run(keeper.look_ahead())
        app.wait_until(lambda: client.exists(f"{tag}h"))
    assert app.claim(campaign).status_code == 201
    assert keeper.gate.tally.words[Verdict.UNSURE] == 0
    assert keeper.gate.tally.words[Verdict.ADMITTED] == 1


def test_the_store_is_warmed_before_a_rush_and_not_again_at_once(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where something is about to begin; the next look ahead finds it warm."""
    keeper = app.service.gatekeeper
    assert keeper is not None
    warmed: list[int] = []

    def counted(datastore: Datastore) -> int:
        warmed.append(warm(datastore))
        return warmed[-1]

    monkeypatch.setattr(gatekeeper, "warm", counted)
    app.project()
    app.loop.run(keeper.look_ahead())
    assert warmed == []
    soon = draft_body(datetime.now(UTC) + timedelta(seconds=50))["claim_window"]
    app.open_campaign(quota=30, claim_window=soon)
    app.project()
    app.loop.run(keeper.look_ahead())
    app.loop.run(keeper.look_ahead())
    [pages] = warmed
    assert pages > 0


def with_few(app: App, quota: int) -> tuple[str, Any]:
    """A campaign with few coupons that the gate knows, and the passages of the service."""
    campaign = app.open_campaign(quota=quota)
    assert app.claim(campaign, "whoever is first").status_code == 201
    assert app.service.gatekeeper is not None
    tally = app.service.gatekeeper.gate.tally.words

    def is_known() -> bool:
        before = tally[Verdict.ADMITTED]
        app.claim(campaign, "whoever is first", key=f"again {before}")
        return tally[Verdict.CLAIMED] > 0

    app.wait_until(is_known)
    return campaign, app.service.passages


def test_a_rush_for_the_last_ones_waits_for_a_word(make_app: MakeApp) -> None:
    """Far more people than coupons and than the slow lane is wide: 201 or «sold out», no 503."""
    app = make_app(slow_lane_max=50)
    campaign, _ = with_few(app, 101)
    presses = Presses(app, campaign, PRESSES)
    app.wait_until(lambda: presses.heard == PRESSES, 60)
    assert presses.statuses == {201: 100, 409: PRESSES - 100}


def test_without_waiting_a_rush_for_the_last_ones_hears_503(make_app: MakeApp) -> None:
    """Control: whoever finds no token goes to the slow lane at once."""
    app = make_app(slow_lane_max=50)
    campaign, passages = with_few(app, 101)
    passages.again_max = 0
    presses = Presses(app, campaign, PRESSES)
    app.wait_until(lambda: presses.heard == PRESSES, 60)
    assert presses.statuses[201] == 100
    assert presses.statuses[503] > 0
