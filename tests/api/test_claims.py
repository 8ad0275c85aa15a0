"""Claims over HTTP: what a tourist gets, once."""

from __future__ import annotations

from tests.api.harness import App


def test_a_claim_is_answered_with_the_coupon(app: App) -> None:
    """A tourist who claims gets a coupon and the position at which it stands."""
    campaign = app.open_campaign()
    reply = app.claim(campaign)
    assert reply.status_code == 201, reply.text
    assert reply.json()["campaign"] == campaign
    assert reply.json()["state"] == "held"
    assert reply.headers["tidebook-position"] == "main:5"
