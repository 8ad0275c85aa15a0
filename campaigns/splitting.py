"""Splitting a sum: shares by the double-mean rule, and tiers in random order, from a secret seed.

Which share is the n-th follows from the seed and n alone, by a method that is published
(docs/packets.md): the seed is committed to before the first share is taken and shown after the
last, so that anybody can split the sum again. Nothing here knows who takes a share, or when, and
nothing may. No random numbers are made here.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

SHARE_MIN_MINOR: Final = 1
"""No share is empty."""

_SEED_LABEL: Final = b"tidebook split 1\0"
_SHARE_LABEL: Final = b"share\0"
_TIER_LABEL: Final = b"tier\0"
_NUMBERS: Final = 1 << 256
"""How many values a hash can have."""


class Range(NamedTuple):
    """The least and the greatest amount that a share can have, both included."""

    least_minor: int
    most_minor: int


# The seed


def split_seed(key: bytes, stream: UUID, version: int) -> bytes:
    """Return the seed of what a stream splits from its `version` on.

    Whoever has the ledger's draw key finds it again, on any machine, after any crash.
    """
    told = _SEED_LABEL + stream.bytes + version.to_bytes(4, "big")
    return hmac.digest(key, told, "sha256")


def number_below(seed: bytes, label: bytes, index: int, bound: int) -> int:
    """Return the `index`-th number below `bound`; each is equally likely to who lacks the seed.

    It is HMAC-SHA256(seed, label ‖ index ‖ attempt) mod `bound`, with index as 8 and attempt as 4
    bytes, big-endian. An attempt among the last 2²⁵⁶ mod `bound` values, which would make some
    numbers likelier than others, is rejected for the next one.
    """
    assert bound > 0, "there is a number below the bound"
    fair = _NUMBERS - _NUMBERS % bound
    told = label + index.to_bytes(8, "big")
    attempt = 0
    while True:
        digest = hmac.digest(seed, told + attempt.to_bytes(4, "big"), "sha256")
        number = int.from_bytes(digest, "big")
        if number < fair:
            return number % bound
        attempt += 1


# Random shares (拼手气)


def share_range(left_minor: int, left_count: int) -> Range:
    """Return what the next of `left_count` shares can be when `left_minor` are left.

    At most twice the mean of what is left, in whole minor units, and never so much that somebody
    after it would get nothing. The last one takes the rest.
    """
    assert left_count >= 1, "a share is left"
    assert left_minor >= left_count * SHARE_MIN_MINOR, "each share can have its least amount"
    if left_count == 1:
        return Range(left_minor, left_minor)
    twice_the_mean = 2 * left_minor // left_count
    for_the_others = (left_count - 1) * SHARE_MIN_MINOR
    return Range(SHARE_MIN_MINOR, min(twice_the_mean, left_minor - for_the_others))


def share(seed: bytes, index: int, left_minor: int, left_count: int) -> int:
    """Return the amount of the `index`-th share, from 1, of what is left by those before it."""
    least, most = share_range(left_minor, left_count)
    if least == most:
        return least
    return least + number_below(seed, _SHARE_LABEL, index, most - least + 1)


def shares(seed: bytes, total_minor: int, count: int) -> list[int]:
    """Split a total into so many random shares, in the order in which they are taken."""
    found: list[int] = []
    for index in range(1, count + 1):
        amount = share(seed, index, total_minor, count - index + 1)
        found.append(amount)
        total_minor -= amount
    return found


# Equal shares


def equal_shares(total_minor: int, count: int) -> list[int]:
    """Split a total into equal shares; the odd minor units go to the first ones, one to each."""
    assert total_minor >= count * SHARE_MIN_MINOR > 0, "each share can have its least amount"
    each, odd = divmod(total_minor, count)
    return [each + 1] * odd + [each] * (count - odd)


# Tiers in random order


def tier(seed: bytes, index: int, left: Sequence[int]) -> int:
    """Return which tier the `index`-th award, from 1, is of; `left` has what each has left.

    One of all that is left, whichever it is: so every order of all awards is equally likely.
    """
    number = number_below(seed, _TIER_LABEL, index, sum(left))
    for which, count in enumerate(left):
        if number < count:
            return which
        number -= count
    raise AssertionError("a number below the sum lies in one of its parts")
