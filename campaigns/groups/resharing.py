"""Handing out a group's shares again, from the seed that was shown, and comparing.

It shares no code with the hand-out that it checks (`campaigns.groups.sharing`,
`campaigns.splitting`); the published check of docs/group-packets.md does the same.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from uuid import UUID

from campaigns.resplitting import number_again, random_shares


class Take(NamedTuple):
    """A share that was taken, at a position of its book."""

    position: int
    share: UUID
    number: int
    amount_minor: int


def wrong_takes(
    seed: str, group: UUID, salt: str, kind: str, total: int, count: int, takes: Iterable[Take]
) -> Iterator[tuple[Take, int, int]]:
    """Yield each taking that gave another share than it should, with the right number and amount.

    Takings are given in order. Whoever comes after a wrong one is judged as if it had been right.
    """
    mixed = hmac.digest(
        bytes.fromhex(seed), b"tidebook group 1\0" + group.bytes + bytes.fromhex(salt), "sha256"
    )
    amounts = equal(total, count) if kind == "equal" else [*random_shares(mixed, total, count)]
    left = list(range(count))
    for nth, take in enumerate(takes, 1):
        if not left:
            yield take, 0, 0
            continue
        place = left.pop(number_again(mixed, b"take\0" + take.share.bytes, nth, len(left)))
        if (take.number, take.amount_minor) != (place + 1, amounts[place]):
            yield take, place + 1, amounts[place]


def equal(total: int, count: int) -> list[int]:
    """Return equal shares; the first ones are a unit larger where the total does not divide."""
    return [total // count + (place < total % count) for place in range(count)]
