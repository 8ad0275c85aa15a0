"""Claims over HTTP: what a tourist gets, exactly once."""

from __future__ import annotations

from collections import Counter

from tests.api.harness import App, draft_body


def test_a_claim_is_answered_with_the_coupon(app: App) -> None:
    """A tourist who claims gets a coupon and the position at which it stands."""
    campaign = app.open_campaign()
    reply = app.claim(campaign)
    assert reply.status_code == 201, reply.text
    assert reply.json()["campaign"] == campaign
    assert reply.json()["state"] == "held"
    assert reply.headers["tidebook-position"] == "main:5"
    assert "idempotency-replayed" not in reply.headers


def test_the_same_key_gets_the_same_bytes(app: App) -> None:
    """A retry has no second effect and an equal body, whatever its request id."""
    campaign = app.open_campaign()
    first = app.claim(campaign, key="k")
    events = app.events()
    again = app.claim(campaign, key="k", headers=[("X-Request-Id", "another-request")])
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert app.events() == events


def test_a_quoted_key_is_the_key(app: App) -> None:
    """The structured-field form of the draft and the plain form are one key."""
    campaign = app.open_campaign()
    first = app.claim(campaign, key="k-1")
    assert app.claim(campaign, key='"k-1"').content == first.content


def test_a_body_of_nothing_is_no_body(app: App) -> None:
    """Empty, `{}` and `{}` with blanks are one request."""
    campaign = app.open_campaign()
    first = app.claim(campaign, key="k")
    assert app.claim(campaign, key="k", json={}).content == first.content
    json = [("Content-Type", "application/json")]
    assert app.claim(campaign, key="k", content=b" { }\n", headers=json).content == first.content


def test_spelling_does_not_change_a_request(app: App) -> None:
    """Order, blanks, offsets and defaults written out make no other request of a draft."""
    draft = draft_body()
    token = app.token("operator")
    first = app.post("/v1/campaigns", draft, token=token, key="k")
    spelled = {
        **dict(reversed(draft.items())),
        "per_person_limit": 1,
        "merchants": None,
        "claim_window": {
            name: time.replace("+00:00", "Z") for name, time in draft["claim_window"].items()
        },
    }
    again = app.post("/v1/campaigns", spelled, token=token, key="k")
    assert again.content == first.content, again.text
    other = app.post("/v1/campaigns", {**draft, "name": "other"}, token=token, key="k")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_refusal_is_replayed_as_well(app: App) -> None:
    """The first answer to a key stands, even when the rule would say otherwise by now."""
    campaign = app.draft()
    refused = app.claim(campaign, key="early")
    assert refused.status_code == 404
    assert app.claim(campaign, key="early").content == refused.content


def test_keys_of_different_callers_do_not_meet(app: App) -> None:
    """The same key of another person is another request."""
    campaign = app.open_campaign()
    one = app.claim(campaign, "one", key="k")
    two = app.claim(campaign, "two", key="k")
    assert one.status_code == two.status_code == 201
    assert one.json()["coupon"] != two.json()["coupon"]


def test_two_devices_of_one_identity_get_one_coupon(app: App) -> None:
    """The limit is the person's, whichever account or token is used."""
    campaign = app.open_campaign()
    first = app.claimed(campaign, "one identity")
    second = app.claim(campaign, "one identity")
    assert (second.status_code, second.json()["code"]) == (409, "already_claimed")
    assert second.json()["coupon"] == first


def test_a_hundred_at_once_for_the_last_coupon(app: App) -> None:
    """One gets it, ninety-nine are told the truth, and one event is stored."""
    campaign = app.open_campaign(quota=1)
    events = app.events()
    tokens = [app.token("tourist", f"tourist {n}") for n in range(100)]
    address = f"/v1/campaigns/{campaign}/claims"
    answers = [app.start("POST", address, token=token) for token in tokens]
    replies = [answer.result(60) for answer in answers]
    assert Counter(reply.status_code for reply in replies) == {201: 1, 409: 99}
    assert {r.json()["code"] for r in replies if r.status_code == 409} == {"sold_out"}
    assert app.events() == events + 1


def test_twenty_copies_of_one_request_have_one_effect(app: App) -> None:
    """All get the same bytes."""
    campaign = app.open_campaign()
    events = app.events()
    token = app.token("tourist")
    address = f"/v1/campaigns/{campaign}/claims"
    answers = [app.start("POST", address, token=token, key="k") for _ in range(20)]
    replies = [answer.result(60) for answer in answers]
    assert {reply.status_code for reply in replies} == {201}
    assert len({reply.content for reply in replies}) == 1
    assert sum("idempotency-replayed" in reply.headers for reply in replies) == 19
    assert app.events() == events + 1
