"""A waiting room keeps an order, lets so many a second in, and never decides who has a coupon."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.passes import Passes
from tests.api.conftest import MakeApp
from tests.api.harness import App

CAMPAIGN, OTHER = UUID(int=7), UUID(int=8)
PERSON = "6664a42048c6d6d7fe3657e39b14155c"
SECRETS = (b"s" * 32, b"t" * 32)


def room(per_s: int = 1) -> dict[str, Any]:
    """An intake through a waiting room."""
    return {"kind": "waiting_room", "rate_per_s": per_s}


def place(app: App, campaign: str, who: str, method: str = "PUT") -> dict[str, Any]:
    """Take a place, or look at it."""
    reply = app.call(method, f"/v1/campaigns/{campaign}/place", token=app.token("tourist", who))
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document


def known(app: App, campaign: str) -> None:
    """Wait until the gate has heard of the campaign from the store."""
    address = f"/v1/campaigns/{campaign}/place"
    token = app.token("tourist", "somebody else")
    app.wait_until(lambda: app.call("GET", address, token=token).status_code == 404)


def claim(app: App, campaign: str, who: str, shown: str | None = None) -> Any:
    """Claim, with a pass or without."""
    headers = [("Tidebook-Pass", shown)] if shown is not None else []
    return app.claim(campaign, who, headers=headers)


# --- passes ---------------------------------------------------------------------------------------


def test_a_pass_is_good_for_its_campaign_and_person_until_its_end() -> None:
    """Another campaign, another person and a later time are not admitted."""
    now = [1_000.0]
    passes = Passes(SECRETS, 60, lambda: now[0])
    token = passes.issue(CAMPAIGN, PERSON).token.encode()
    assert passes.admits(token, CAMPAIGN, PERSON)
    assert not passes.admits(token, OTHER, PERSON)
    assert not passes.admits(token, CAMPAIGN, "0" * 32)
    assert not passes.admits(None, CAMPAIGN, PERSON)
    now[0] += 60
    assert not passes.admits(token, CAMPAIGN, PERSON)


def test_a_pass_made_with_the_previous_key_is_still_good() -> None:
    """A change of keys sends nobody back to the end of the queue; a stranger's key counts not."""
    before = Passes((SECRETS[1],), 60, lambda: 0.0).issue(CAMPAIGN, PERSON).token.encode()
    assert Passes(SECRETS, 60, lambda: 0.0).admits(before, CAMPAIGN, PERSON)
    assert not Passes((SECRETS[0],), 60, lambda: 0.0).admits(before, CAMPAIGN, PERSON)


@given(at=st.integers(0, 200), byte=st.integers(0, 255), cut=st.integers(0, 100))
def test_no_other_bytes_are_a_pass(at: int, byte: int, cut: int) -> None:
    """Any byte changed, left out or added makes it nothing, and nothing breaks."""
    passes = Passes(SECRETS, 60, lambda: 0.0)
    token = passes.issue(CAMPAIGN, PERSON).token.encode()
    changed = bytearray(token)
    changed[at % len(token)] = byte
    for forged in (bytes(changed), token[:cut], token + b"A", token.replace(b"tbp1", b"tbs1")):
        assert passes.admits(forged, CAMPAIGN, PERSON) == (forged == token)


# --- rooms ----------------------------------------------------------------------------------------


def test_a_claim_without_a_pass_is_sent_to_the_waiting_room(app: App) -> None:
    """With a pass it is a claim like any other, and without one it had no effect."""
    campaign = app.open_campaign(intake=room())
    known(app, campaign)
    refused = claim(app, campaign, "alice")
    assert (refused.status_code, refused.json()["code"]) == (429, "waiting_room")
    assert refused.headers["retry-after"] == "1"
    at_turn = place(app, campaign, "alice")
    assert at_turn["state"] == "turn"
    assert claim(app, campaign, "bob", at_turn["pass"]).json()["code"] == "waiting_room"
    assert claim(app, campaign, "alice", at_turn["pass"]).status_code == 201


def test_places_are_given_in_order_and_once_a_person(app: App) -> None:
    """Whoever asks again keeps the place; the one behind waits for those in front."""
    campaign = app.open_campaign(intake=room())
    known(app, campaign)
    numbers = [place(app, campaign, who)["number"] for who in ("a", "b", "c", "a", "c")]
    assert numbers == [1, 2, 3, 1, 3]
    last = place(app, campaign, "c", "GET")
    assert last["state"] in ("waiting", "turn")
    assert last["places"] == 3
    if last["state"] == "waiting":
        assert 0 < last["wait_s"] <= 2
        assert "pass" not in last


def test_everybody_comes_to_their_turn(app: App) -> None:
    """The room serves on although nobody but the last one looks."""
    campaign = app.open_campaign(intake=room(20))
    known(app, campaign)
    for who in range(30):
        place(app, campaign, str(who))
    app.wait_until(lambda: place(app, campaign, "29", "GET")["state"] == "turn")


def test_a_stream_ends_with_the_pass(app: App) -> None:
    """Server-sent events tell the place until it is one's turn."""
    campaign = app.open_campaign(intake=room(5))
    known(app, campaign)
    for who in range(8):
        place(app, campaign, str(who))
    reply = app.get(
        f"/v1/campaigns/{campaign}/place/events", token=app.token("tourist", "the ninth")
    )
    assert reply.headers["content-type"].startswith("text/event-stream")
    told = [
        json.loads(event.split("data: ")[1]) for event in reply.text.split("\n\n") if event.strip()
    ]
    assert [each["state"] for each in told[:-1]] == ["waiting"] * (len(told) - 1)
    assert told[-1]["state"] == "turn"
    assert claim(app, campaign, "the ninth", told[-1]["pass"]).status_code == 201


def test_who_is_early_gets_a_random_place(app: App) -> None:
    """Before the claims begin nobody has a number; then the early ones stand first, by lot."""
    opens = datetime.now(UTC) + timedelta(seconds=6)
    window = {"from": opens.isoformat(), "until": (opens + timedelta(hours=1)).isoformat()}
    campaign = app.open_campaign(intake=room(1_000), claim_window=window)
    known(app, campaign)
    early = [str(who) for who in range(40)]
    states = Counter(place(app, campaign, who)["state"] for who in early)
    assert states == {"early": 40}
    app.wait_until(lambda: place(app, campaign, "0")["state"] != "early", within_s=20)
    late = place(app, campaign, "late")
    numbers = [place(app, campaign, who, "GET")["number"] for who in early]
    assert sorted(numbers) == list(range(1, 41))
    assert numbers != sorted(numbers)
    assert late["number"] == 41


def test_nothing_left_is_said_in_the_waiting_room(app: App) -> None:
    """Who waits for nothing is told so."""
    campaign = app.open_campaign(quota=1, intake=room(1))
    known(app, campaign)
    first = place(app, campaign, "first")
    others = [place(app, campaign, f"other {i}") for i in range(3)]
    assert others[-1]["number"] == 4
    assert claim(app, campaign, "first", first["pass"]).status_code == 201
    app.wait_until(lambda: place(app, campaign, "other 2", "GET")["state"] == "sold_out")


def test_without_valkey_there_is_no_room_and_claims_are_taken(make_app: MakeApp) -> None:
    """A waiting room that is away keeps nobody from a coupon."""
    app = make_app(redis_url=None)
    campaign = app.open_campaign(intake=room())
    reply = app.call("PUT", f"/v1/campaigns/{campaign}/place", token=app.token("tourist", "alice"))
    assert (reply.status_code, reply.json()["code"]) == (503, "waiting_room_away")
    assert claim(app, campaign, "alice").status_code == 201


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_a_campaign_without_a_waiting_room_says_so(app: App, method: str) -> None:
    """There is nothing to wait for."""
    campaign = app.open_campaign()
    address = f"/v1/campaigns/{campaign}/place"
    token = app.token("tourist")

    def told() -> str:
        code: str = app.call(method, address, token=token).json()["code"]
        return code

    app.wait_until(lambda: told() == "no_waiting_room")


def test_a_place_is_for_tourists_and_for_campaigns_that_exist(app: App) -> None:
    """Another role and another address are refused."""
    campaign = app.open_campaign(intake=room())
    address = f"/v1/campaigns/{campaign}/place"
    assert app.call("PUT", address, token=app.token("auditor")).json()["code"] == "role_forbidden"
    assert app.call("PUT", "/v1/campaigns/x/place", token=app.token("tourist")).status_code == 404
