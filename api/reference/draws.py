"""What the page of events says of public draws: what fields mean, and one event of each type."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from campaigns.draws import draw as d
from campaigns.draws import entry as e
from ledger.events import Event

KINDS: Final = (*d.DRAW_EVENTS, *e.ENTRY_EVENTS)

MEANINGS: Final = {
    "commitment": "SHA-256 (hex) of the seed that the draw will show",
    "round": "the beacon's round that decides",
    "entries": "how many places the list has",
    "root": "root (hex) of a Merkle tree: of the list, or of ranks and places",
    "withdrawn": "how many of them are empty",
    "withdrawn_sha256": "SHA-256 (hex) over the empty places, ascending, 8 bytes each",
    "announcement": "SHA-256 (hex) of all that was announced, see the page on bundles",
    "seed": "the seed (hex)",
    "signature": "the beacon's signature of the round (hex)",
    "randomness": "SHA-256 of it (hex)",
    "winners": "how many entries won",
    "runners_up": "how many have a rank after them",
    "seats": "how many seats of each tier were given",
    "claim_until": "end of the time to claim, itself outside",
    "turn": "0 for the draw; from 1 on for moving up",
    "first_rank": "the first rank that has one of these seats",
    "campaign": "the campaign whose draw it is",
    "person": "pseudonym of who registered",
    "index": "place in the list, from 0",
    "phone": "pseudonym of the telephone, in this draw only",
    "region": "the region that eligibility was judged by; absent when none was told",
    "operator": "the wallet's operator that eligibility was judged by; absent when none was told",
    "rank": "rank in the draw, from 0",
    "tier": "the seat's tier, from 1",
    "amount_minor": "what the seat is worth",
    "entry": "the entry's stream",
    "reason": "why",
}
"""Field of an event of a public draw → what it means."""

_AT: Final = datetime(2026, 5, 2, 1, 0, 4, tzinfo=UTC)
_ROUND: Final = 28_264_612
_SIGNATURE: Final = 24 * "b446"


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def story(campaign: UUID, person: str) -> list[tuple[type[Event], str, UUID, int, dict[str, Any]]]:
    """Return one event of each type: who acts (a role), its stream and version, its own fields."""
    draw, entry = d.draw_id(campaign), e.entry_id(campaign, person)
    phone = _hash("telephone")[:32]
    telephone = e.telephone_id(campaign, phone)
    own = {"campaign": campaign, "person": person, "index": 117_042}
    of_phone = {"campaign": campaign, "entry": entry}
    frozen = {
        "entries": 1_913_847,
        "root": _hash("root"),
        "withdrawn": 2_112,
        "withdrawn_sha256": _hash("withdrawn"),
        "round": _ROUND,
        "announcement": _hash("announcement"),
    }
    drawn = {
        "seed": _hash("seed"),
        "round": _ROUND,
        "signature": _SIGNATURE,
        "randomness": sha256(bytes.fromhex(_SIGNATURE)).hexdigest(),
        "winners": 20_000,
        "runners_up": 2_000,
        "root": _hash("results"),
        "seats": (20_000,),
        "claim_until": _AT,
    }
    won = {
        "rank": 311,
        "turn": 0,
        "tier": 1,
        "amount_minor": 10_000,
        "currency": "CNY",
        "claim_until": _AT,
    }
    registered = {"campaign_version": 4, "phone": phone, "region": "460000", "operator": "icbc"}
    moved = {"turn": 1, "first_rank": 20_000, "seats": (971,), "claim_until": _AT}
    opened = {"commitment": _hash("commitment"), "round": _ROUND}
    return [
        (d.DrawOpened, "operator", draw, 1, {"campaign": campaign, **opened}),
        (e.DrawEntered, "tourist", entry, 1, {**own, **registered}),
        (e.DrawPhoneTaken, "tourist", telephone, 1, of_phone),
        (e.DrawWithdrawn, "tourist", entry, 2, own),
        (e.DrawPhoneFreed, "tourist", telephone, 2, of_phone),
        (e.DrawEntryVoided, "operator", entry, 2, {**own, "reason": "a bought account"}),
        (d.DrawFrozen, "draw", draw, 2, {"campaign": campaign, **frozen}),
        (d.DrawVoided, "draw", draw, 2, {"campaign": campaign, "reason": "frozen_too_late"}),
        (d.DrawDrawn, "draw", draw, 3, {"campaign": campaign, **drawn}),
        (e.DrawWon, "draw", entry, 2, {**own, **won}),
        (d.DrawMovedUp, "draw", draw, 4, {"campaign": campaign, **moved}),
    ]
