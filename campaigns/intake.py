"""The lottery of a campaign's first seconds: who enters, and who is drawn.

A seed is committed to when the campaign opens and shown when it is drawn; an entrant's rank is
SHA-256(seed ‖ coupon id), and the lowest ranks win as many coupons as there are. Nothing here
knows when or in which order people entered, and nothing may: that is what the lottery is for.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from campaigns.campaign import Campaign, Draw, Terms
from ledger.appending import Capacity

Phase = Literal["entering", "pending", "over"]
"""Claims become entries; claims wait for the draw; what is left is first come, first served."""

_SEED_LABEL: Final = b"tidebook draw 1\0"
_ID_BYTES: Final = 16
_NO_BOUND: Final = b"\xff" * (sha256().digest_size + _ID_BYTES + 1)
"""Behind every rank with its id."""


class Drawing(NamedTuple):
    """What a draw came to; the winners' ids are in order of rank."""

    entrants: int
    entrants_sha256: str
    winners: list[UUID]
    threshold: str | None
    """The rank of the last winner, in hex; None when nobody won."""


def is_lottery(terms: Terms) -> bool:
    """Whether the first claims of such a campaign are drawn."""
    return terms.intake is not None and terms.intake.kind == "lottery"


def draws_at(terms: Terms) -> datetime:
    """Return the end of the intake, itself outside."""
    seconds = terms.intake.seconds if terms.intake is not None else 0
    return terms.claim_from + timedelta(seconds=seconds)


def phase_of(campaign: Campaign, draw: Draw, given: Capacity, now: datetime) -> Phase:
    """Return where a lottery stands; `given` is the capacity of its draw.

    Instants of a book never decrease, so that nobody enters after the intake was closed.
    """
    if draw.places is None and now < draws_at(campaign.terms):
        return "entering"
    return "over" if is_over(draw, given) else "pending"


def is_over(draw: Draw, given: Capacity) -> bool:
    """Whether the draw is done and each of its winners has the coupon."""
    return draw.seed is not None and given.issued >= given.quota


def places_in(free: Capacity, face_minor: int) -> int:
    """Return how many coupons can be drawn: as many as there are stock and money for."""
    money = (free.budget_minor - free.granted_minor) // face_minor
    return max(0, min(free.quota - free.issued, money))


def taken_from(campaign: Campaign, person: str) -> dict[str, Any]:
    """Return what the entry and the coupon of an entrant carry: the one coupon, and its terms."""
    terms = campaign.terms
    return {
        "campaign": campaign.id,
        "campaign_version": campaign.version,
        "person": person,
        "n": 1,
        "face_minor": terms.face_minor,
        "threshold_minor": terms.threshold_minor,
        "currency": terms.currency,
        "valid_from": terms.valid_from,
        "valid_until": terms.valid_until,
    }


# The seed


def seed_of(draw_key: bytes, campaign: UUID, opening: int) -> bytes:
    """Return the seed of a campaign's lottery; `opening` is the version that opened it.

    Whoever has the ledger's draw key finds it again, on any machine, after any crash.
    """
    told = _SEED_LABEL + campaign.bytes + opening.to_bytes(4, "big")
    return hmac.digest(draw_key, told, "sha256")


# The draw


def rank(seed: bytes, coupon: UUID) -> str:
    """Return an entrant's rank in hex; the lowest wins."""
    return sha256(seed + coupon.bytes).hexdigest()


def is_winner(draw: Draw, coupon: UUID) -> bool:
    """Whether a draw that was held gave somebody a coupon."""
    if draw.seed is None or draw.threshold is None:
        return False
    return rank(bytes.fromhex(draw.seed), coupon) <= draw.threshold


def hold(seed: bytes, entrants: Iterable[bytes], places: int) -> Drawing:
    """Draw among the entrants, given by the 16 bytes of their coupons' ids, in any order.

    An entrant takes little more than these bytes until the ids are in order, shelf by shelf, and
    then only those are kept who may win yet.
    """
    shelves = [bytearray() for _ in range(256)]
    for entrant in entrants:
        shelves[entrant[0]] += entrant
    digest, started = sha256(), sha256(seed)
    won: list[bytes] = []
    bound = _NO_BOUND
    for shelf in shelves:
        for entrant in sorted(_ids_on(shelf)):
            digest.update(entrant)
            hashed = started.copy()
            hashed.update(entrant)
            ranked = hashed.digest() + entrant
            if ranked < bound:
                won.append(ranked)
        if len(won) >= 2 * places:
            won.sort()
            del won[places:]
            bound = won[-1] if won else b""
    won.sort()
    del won[places:]
    threshold = won[-1][:-_ID_BYTES].hex() if won else None
    winners = [UUID(bytes=one[-_ID_BYTES:]) for one in won]
    return Drawing(sum(map(len, shelves)) // _ID_BYTES, digest.hexdigest(), winners, threshold)


def _ids_on(shelf: bytearray) -> Iterator[bytes]:
    return (bytes(shelf[at : at + _ID_BYTES]) for at in range(0, len(shelf), _ID_BYTES))
