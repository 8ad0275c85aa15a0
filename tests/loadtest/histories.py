"""Histories of a book as the events feed gives them, true ones and the means to forge them."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid5

Event = dict[str, Any]

CAMPAIGN = UUID(int=1)
FACE = 5_000
THRESHOLD = 20_000
SEED = bytes.fromhex("5e" * 32)


def lottery_terms(seconds: int) -> dict[str, Any]:
    """The terms of a lottery whose intake begins with the first second of the history."""
    return {
        "claim_from": instant(0),
        "claim_until": "2026-06-01T00:00:00Z",
        "intake": {"kind": "lottery", "seconds": seconds},
    }


def instant(position: int) -> str:
    """When the event at a position happened: a second after the one before."""
    return f"2026-05-01T{2 + position // 3600:02}:{position // 60 % 60:02}:{position % 60:02}Z"


def coupon(person: str, n: int = 1) -> str:
    """The coupon's stream as the service derives it; any distinct text would do."""
    return str(uuid5(CAMPAIGN, f"{person}:{n}"))


class History:
    """A true history, written event by event."""

    def __init__(self, *, restock: bool = False, **terms: Any) -> None:
        self.terms = {"per_person_limit": 1, "restock": restock, **terms}
        self.events: list[Event] = []
        self._versions: dict[str, int] = {}

    def add(self, topic: str, stream: str, key: str | None = None, **data: Any) -> History:
        """Append an event with its position, version and time, and the key that asked for it."""
        version = self._versions[stream] = self._versions.get(stream, 0) + 1
        position = len(self.events) + 1
        self.events.append(
            {
                "position": position,
                "topic": topic,
                "stream": stream,
                "version": version,
                "state": {
                    "at": instant(position),
                    **({"why": {"key": key}} if key is not None else {}),
                    **data,
                },
            }
        )
        return self

    def campaign(self, topic: str, **data: Any) -> History:
        """Append an event of the campaign."""
        return self.add(f"campaign.{topic}", str(CAMPAIGN), **data)

    def funded(self, quota: int, budget: int) -> History:
        """Draft, fund and open the campaign."""
        self.campaign("drafted", terms=self.terms)
        self.campaign("funding_proposed", quota=quota, budget_minor=budget)
        self.campaign(
            "funded",
            quota=quota,
            budget_minor=budget,
            quota_change=quota,
            budget_change_minor=budget,
            currency="CNY",
            sponsor="city",
        )
        return self.campaign("opened")

    def claimed(
        self, person: str, n: int = 1, key: str | None = None, *, drawn: bool = False
    ) -> History:
        """Append a claim, or a win."""
        won = {"drawn": True} if drawn else {}
        return self._taken("coupon.claimed", person, n, key, **won)

    def entered(self, person: str, key: str | None = None) -> History:
        """Append an entry into a lottery."""
        return self._taken("coupon.entered", person, 1, key)

    def drawn(self, people: Iterable[str], places: int) -> list[str]:
        """Append the draw among these people, who entered; return the winners by rank."""
        ids = {person: UUID(coupon(person)).bytes for person in people}
        ranks = {person: sha256(SEED + ids[person]).hexdigest() for person in ids}
        winners = sorted(ids, key=lambda person: ranks[person])[:places]
        self.campaign(
            "drawn",
            seed=SEED.hex(),
            entrants=len(ids),
            entrants_sha256=sha256(b"".join(sorted(ids.values()))).hexdigest(),
            winners=len(winners),
            threshold=ranks[winners[-1]],
        )
        return winners

    def lottery(self, quota: int, budget: int) -> History:
        """Draft, fund and open a campaign that commits to the seed of its draw."""
        self.funded(quota, budget)
        self.events[-1]["state"]["seed_commitment"] = sha256(SEED).hexdigest()
        return self

    def _taken(self, topic: str, person: str, n: int, key: str | None, **more: Any) -> History:
        return self.add(
            topic,
            coupon(person, n),
            key,
            campaign=str(CAMPAIGN),
            person=person,
            n=n,
            face_minor=FACE,
            threshold_minor=THRESHOLD,
            currency="CNY",
            valid_from=instant(0),
            valid_until="2027-05-01T00:00:00Z",
            **more,
        )

    def of_coupon(self, topic: str, person: str, **data: Any) -> History:
        """Append a later event of a person's first coupon."""
        common = {"campaign": str(CAMPAIGN), "person": person, "currency": "CNY"}
        return self.add(f"coupon.{topic}", coupon(person), **common, **data)

    def redeemed(self, person: str, total: int = 30_000, key: str | None = None) -> History:
        """Append a redemption at the one merchant."""
        return self.of_coupon(
            "redeemed",
            person,
            key=key,
            merchant="inn",
            order="A1",
            order_total_minor=total,
            discount_minor=FACE,
        )

    def refunded(self, person: str, order: str = "A1") -> History:
        """Append the refund of that redemption."""
        return self.of_coupon("refunded", person, merchant="inn", order=order, amount_minor=FACE)

    def returned(self, topic: str, person: str, to: str = "campaign") -> History:
        """Append an expiry, a void or a reclaim."""
        return self.of_coupon(topic, person, amount_minor=FACE, to=to, sponsor="city")


def day() -> History:
    """A true history with every kind of event: claims, spending, refunds, ends and a close."""
    history = History().funded(10, 10 * FACE)
    for person in "abcdef":
        history.claimed(person)
    history.redeemed("a").redeemed("b").refunded("b").redeemed("c").refunded("c")
    history.campaign("paused").campaign("resumed")
    history.returned("voided", "c").returned("expired", "d")
    history.campaign("closed")
    history.campaign("budget_reclaimed", amount_minor=6 * FACE, currency="CNY", sponsor="city")
    return (
        history.returned("expired", "e", to="sponsor")
        .refunded("a")
        .returned("reclaimed", "a", to="sponsor")
    )
