"""Requests: what a step of the plan looks like as an HTTP call. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from api.demo.client import Request
from api.demo.plan import CURRENCY, Moment, Offer, Step
from api.demo.year import ZONE

FIRST_OPERATOR: Final = "demo operator 1"
SECOND_OPERATOR: Final = "demo operator 2"
AUDITOR: Final = "demo auditor"


class Person(NamedTuple):
    """Somebody who calls: in a role, under an identity, at a merchant if it is one's till."""

    role: str
    identity: str
    merchant: str | None = None


OPERATOR_1: Final = Person("operator", FIRST_OPERATOR)
OPERATOR_2: Final = Person("operator", SECOND_OPERATOR)
AUDITS: Final = Person("auditor", AUDITOR)


def household(number: int) -> Person:
    """A household, as a tourist."""
    return Person("tourist", f"household {number}")


def store(number: int) -> Person:
    """A store's till, as a merchant."""
    name = f"store-{number}"
    return Person("merchant", f"till of {name}", name)


def caller_of(step: Step) -> Person:
    """Who sends a step. Whoever approves a funding is not who proposed it."""
    if step.order is not None:
        return store(step.order.store)
    if step.household is not None:
        return household(step.household)
    return OPERATOR_2 if step.kind == "approve" else OPERATOR_1


def people(moments: list[Moment]) -> list[Person]:
    """Everybody who calls in a plan, and the auditor who looks at the end."""
    callers = (caller_of(step) for moment in moments for step in moment.steps)
    return [*dict.fromkeys([OPERATOR_1, OPERATOR_2, AUDITS, *callers])]


def token_request(person: Person) -> Request:
    """Ask the development issuer for somebody's token."""
    wanted = {"role": person.role, "identity": person.identity}
    if person.merchant is not None:
        wanted["merchant"] = person.merchant
    return Request("POST", "/dev/token", body=_json(wanted))


def bearer(token: str) -> tuple[str, str]:
    """The header that carries a token."""
    return ("Authorization", f"Bearer {token}")


def step_request(step: Step, at: datetime, token: str, ids: Mapping[str, str]) -> Request:
    """A step as a request. `ids` has the public ids of what earlier steps made, by their keys."""
    return Request(
        "POST",
        _path(step, ids),
        (bearer(token), ("Idempotency-Key", step.key), ("Tidebook-Time", at.isoformat())),
        _json(_body(step)),
    )


def _path(step: Step, ids: Mapping[str, str]) -> str:
    if step.kind == "draft":
        return "/v1/campaigns"
    if step.kind == "redeem":
        claim = Step("claim", step.offer, step.household)
        return f"/v1/coupons/{ids[claim.key]}/redemptions"
    campaign = f"/v1/campaigns/{ids[Step('draft', step.offer).key]}"
    return {
        "propose": f"{campaign}/funding",
        "approve": f"{campaign}/funding/approval",
        "open": f"{campaign}/open",
        "claim": f"{campaign}/claims",
        "close": f"{campaign}/close",
    }[step.kind]


def _body(step: Step) -> dict[str, Any]:
    offer = step.offer
    match step.kind:
        case "draft":
            return _draft(offer)
        case "propose" | "approve":
            return {"quota": offer.quota, "budget": _money(offer.budget_cents)}
        case "redeem":
            assert step.order is not None, "a redemption has an order"
            return {
                "order": str(step.order.basket),
                "order_total": _money(step.order.total_cents),
            }
        case "close":
            return {"reason": f"mailing {offer.mailing} has ended"}
        case "open" | "claim":
            return {}


def _draft(offer: Offer) -> dict[str, Any]:
    window = {"from": offer.opens.isoformat(), "until": offer.ends.isoformat()}
    return {
        "name": offer.name,
        "sponsor": offer.sponsor,
        "coupon": {"kind": "fixed", "face": _money(offer.face_cents)},
        "per_person_limit": 1,
        "claim_window": window,
        "validity_window": window,
        "zone": ZONE,
    }


def _money(cents: int) -> dict[str, Any]:
    return {"amount_minor": cents, "currency": CURRENCY}


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode() if body else b""
