"""Who gets which share: what seed, salt and takers decide together, by a published method.

The seed is the server's and was committed to before the sender sent anything; the salt is the
sender's, who does not know the seed. Both together fix the amounts. Which of the amounts that are
left somebody gets follows from these and from the id of the taker's share, which nobody can
choose. Nothing here is random, and nothing knows a clock. docs/group-packets.md tells the method.
"""

from __future__ import annotations

import base64
import hmac
from functools import lru_cache
from hashlib import sha256
from typing import Final
from uuid import UUID

from campaigns.coupon import coupon_id
from campaigns.groups.group import Group, GroupKind
from campaigns.splitting import equal_shares, number_below, shares

_MIX_LABEL: Final = b"tidebook group 1\0"
_TAKE_LABEL: Final = b"take\0"
_CODE_LABEL: Final = b"tidebook group code 1\0"

CODE_CHARS: Final = 20
"""Five bits each: a hundred, so that nobody guesses a group."""


def share_id(group: UUID, person: str) -> UUID:
    """Return the id of a person's share of a group, which is the id of the packet that it is."""
    return coupon_id(group, person, 1)


def mixed_seed(seed: bytes, group: UUID, salt: str) -> bytes:
    """Return what decides a group: neither the server nor the sender can choose it alone."""
    return hmac.digest(seed, _MIX_LABEL + group.bytes + bytes.fromhex(salt), "sha256")


@lru_cache(maxsize=1_024)
def amounts_of(kind: GroupKind, mixed: bytes, total_minor: int, count: int) -> tuple[int, ...]:
    """Return the amounts of all shares, in order of their numbers."""
    if kind == "equal":
        return tuple(equal_shares(total_minor, count))
    return tuple(shares(mixed, total_minor, count))


def index_for(mixed: bytes, share: UUID, nth: int, left: list[int]) -> int:
    """Return the number of the share that the `nth` taker gets, from 1, of those that are left."""
    return left[number_below(mixed, _TAKE_LABEL + share.bytes, nth, len(left))]


def next_share(group: Group, seed: bytes, share: UUID) -> tuple[int, int]:
    """Return number and amount of the share that a group's next taker gets."""
    mixed = mixed_seed(seed, group.id, group.salt)
    index = index_for(mixed, share, len(group.taken) + 1, group.left)
    amounts = amounts_of(group.kind, mixed, group.total_minor, group.shares)
    return index, amounts[index - 1]


def code_of(key: bytes, group: UUID) -> str:
    """Return a group's code, which its sender passes on; it is kept nowhere."""
    digest = hmac.digest(key, _CODE_LABEL + group.bytes, "sha256")
    return base64.b32encode(digest).decode().lower()[:CODE_CHARS]


def code_hash(code: str) -> str:
    """Return what an event holds of a code."""
    return sha256(code.encode()).hexdigest()
