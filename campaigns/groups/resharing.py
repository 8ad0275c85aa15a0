"""Handing out a group's shares again, from the seed that was shown, and comparing.

It shares no code with the hand-out that it checks (`campaigns.groups.sharing`,
`campaigns.splitting`); the published check of docs/group-packets.md does the same.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID


class Take(NamedTuple):
    """A share that was taken, at a position of its book."""

    position: int
    share: UUID
    number: int
    amount_minor: int


def is_seed_of(seed: str, commitment: str) -> bool:
    """Whether a seed in hex is the one that was committed to."""
    try:
        return sha256(bytes.fromhex(seed)).hexdigest() == commitment
    except ValueError:
        return False


def wrong_takes(
    seed: str, group: UUID, salt: str, kind: str, total: int, count: int, takes: Iterable[Take]
) -> Iterator[tuple[Take, int, int]]:
    """Yield each taking that gave another share than it should, with the right number and amount.

    Takings are given in order. Whoever comes after a wrong one is judged as if it had been right.
    """
    mixed = hmac.digest(
        bytes.fromhex(seed), b"tidebook group 1\0" + group.bytes + bytes.fromhex(salt), "sha256"
    )
    amounts = equal(total, count) if kind == "equal" else random(mixed, total, count)
    left = list(range(count))
    for nth, take in enumerate(takes, 1):
        if not left:
            yield take, 0, 0
            continue
        place = left.pop(_below(mixed, b"take\0" + take.share.bytes, nth, len(left)))
        if (take.number, take.amount_minor) != (place + 1, amounts[place]):
            yield take, place + 1, amounts[place]


def equal(total: int, count: int) -> list[int]:
    """Return equal shares; the first ones are a unit larger where the total does not divide."""
    return [total // count + (place < total % count) for place in range(count)]


def random(mixed: bytes, total: int, count: int) -> list[int]:
    """Return random shares by the double-mean rule."""
    amounts = []
    for place in range(count):
        people = count - place
        most = total if people == 1 else min(2 * total // people, total - people + 1)
        least = most if people == 1 else 1
        amount = least
        if most > least:
            amount += _below(mixed, b"share\0", place + 1, most - least + 1)
        amounts.append(amount)
        total -= amount
    return amounts


def _below(mixed: bytes, label: bytes, index: int, bound: int) -> int:
    for attempt in range(1 << 32):
        told = label + index.to_bytes(8, "big") + attempt.to_bytes(4, "big")
        number = int.from_bytes(hmac.digest(mixed, told, "sha256"), "big")
        if number < 2**256 - 2**256 % bound:
            return number % bound
    raise AssertionError("a hash falls into the fair range before that")
