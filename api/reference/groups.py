"""What the page of events says of group packets: what fields mean, and one event of each type."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from campaigns.groups import group as g
from campaigns.groups import purse as p
from campaigns.groups.commands import GROUP_NAMESPACE
from campaigns.groups.sharing import share_id
from ledger.events import Event

KINDS: Final = (*p.PURSE_EVENTS, *g.GROUP_EVENTS)

MEANINGS: Final = {
    "person": "pseudonym of whose purse it is, of the sender, or of the taker",
    "amount_minor": "how much was put in, sent, returned or taken",
    "group": "the group's stream",
    "purse": "the purse's stream",
    "seed_commitment": "SHA-256 (hex) of a group's seed: of a purse, that of its next group",
    "committed_by": "the purse's version that committed to the seed",
    "salt": "the sender's part of what decides who gets which share (hex)",
    "kind": "equal or random shares",
    "shares": "how many shares there are",
    "total_minor": "what all shares sum to",
    "until": "end of the time in which shares are taken, itself outside",
    "sender_may_take": "true when the sender may take a share too; absent otherwise",
    "members": "pseudonyms of who may take a share; absent where a code decides",
    "code_sha256": "SHA-256 (hex) of the group's code; absent where members are named",
    "share": "the packet that the share is: its id is made of group and person",
    "index": "which of the shares it is, from 1",
    "seed": "the seed (hex): amounts and takers follow from it, see docs/group-packets.md",
    "returned": "how many shares nobody took",
    "returned_minor": "what they were worth",
    "to": "where the money went: the pot, or where leftovers go once the campaign is closed",
    "reason": "why, in the words of who did it; absent when the time was over",
}
"""Field of an event of a purse or a group → what it means."""

BESIDE: Final = {
    p.PurseSent.TOPIC: ("group_funded",),
    g.GroupClosed.TOPIC: ("group_returned",),
    g.GroupGivenUp.TOPIC: ("group_returned",),
    "packet.claimed": ("share_taken",),
}
"""Topic of an event that is not the last of a decision → codes of the decisions that write it."""

_AT: Final = datetime(2026, 5, 2, 2, 0, 0, 184_213, tzinfo=UTC)
_SEED: Final = sha256(b"an example").digest()
_SENDER: Final = "b3d1f5a7c9e2048683a1c5e7092b4d6f"


def story(campaign: UUID, person: str) -> list[tuple[type[Event], str, UUID, int, dict[str, Any]]]:
    """Return one event of each type: who acts (a role), its stream and version, its own fields."""
    purse = p.purse_id(campaign, _SENDER)
    group = UUID(bytes=sha256(GROUP_NAMESPACE.bytes).digest()[:16], version=5)
    sender = {"campaign": campaign, "person": _SENDER}
    commitment = sha256(_SEED).hexdigest()
    following = sha256(sha256(b"another").digest()).hexdigest()
    filled = {**sender, "amount_minor": 100_000, "currency": "CNY"}
    sent = {**sender, "group": group, "amount_minor": 20_000, "currency": "CNY"}
    funded = {
        **sender,
        "purse": purse,
        "kind": "random",
        "shares": 8,
        "total_minor": 20_000,
        "currency": "CNY",
        "salt": "7f3a" * 16,
        "seed_commitment": commitment,
        "committed_by": 2,
        "until": _AT,
        "code_sha256": sha256(b"k3ybqf7ph2mzx5wcnd4r").hexdigest(),
    }
    taken = {
        "campaign": campaign,
        "person": person,
        "share": share_id(group, person),
        "index": 5,
        "amount_minor": 3_141,
        "currency": "CNY",
    }
    closed = {
        "campaign": campaign,
        "seed": _SEED.hex(),
        "returned": 7,
        "returned_minor": 16_859,
        "currency": "CNY",
    }
    asked = {"campaign": campaign, "reason": "the draw key was lost in a fire"}
    given_up = {
        **asked,
        "proposed_by": "0d2f4be8a1c34d7790b5f6a3e2c1d845",
        **{name: closed[name] for name in ("returned", "returned_minor", "currency")},
    }
    emptied = {**filled, "amount_minor": 96_859, "to": "campaign", "sponsor": "province"}
    return [
        (p.PurseFillingProposed, "operator", purse, 1, filled),
        (
            p.PurseFilled,
            "operator",
            purse,
            2,
            {
                **filled,
                "proposed_by": "0d2f4be8a1c34d7790b5f6a3e2c1d845",
                "seed_commitment": commitment,
            },
        ),
        (p.PurseSent, "tourist", purse, 3, {**sent, "seed_commitment": following}),
        (g.GroupFunded, "tourist", group, 1, funded),
        (g.GroupShareTaken, "tourist", group, 2, taken),
        (g.GroupClosed, "sweeper", group, 3, closed),
        (g.GroupGivingUpProposed, "operator", group, 3, asked),
        (g.GroupGivenUp, "operator", group, 4, given_up),
        (p.PurseReturned, "sweeper", purse, 4, {**sent, "amount_minor": 16_859}),
        (p.PurseEmptied, "sweeper", purse, 5, emptied),
    ]
