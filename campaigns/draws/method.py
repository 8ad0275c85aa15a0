"""The method: from what was announced, the seed and the beacon's value to ranks and tiers.

It takes O(k) hashes to pick k of n, by the first k steps of a Fisher-Yates shuffle whose swaps are
kept in a dictionary, and every order of picks is equally likely to whoever lacks seed or value.
Nothing of the time, the place or the channel of an entry goes into it. The stand-alone verifier
(`verify_draw.py`) does the same in code of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from campaigns.splitting import number_below
from ledger.merkle import leaf_hash

KEY_LABEL: Final = b"tidebook public draw 1\0"
PICK_LABEL: Final = b"pick\0"


class Seat(NamedTuple):
    """What a rank wins: the tier, counted from 1, and its amount."""

    tier: int
    amount_minor: int


def draw_key(announcement: bytes, seed: bytes, randomness: bytes) -> bytes:
    """Return the key of all picks. `announcement` are the bytes that were published before."""
    return sha256(KEY_LABEL + sha256(announcement).digest() + seed + randomness).digest()


def picks(key: bytes, entries: int) -> Iterator[int]:
    """Yield entries' indices in the order in which they are picked: each once, one hash each."""
    moved: dict[int, int] = {}
    for step in range(entries):
        other = step + number_below(key, PICK_LABEL, step, entries - step)
        yield moved.get(other, other)
        moved[other] = moved.pop(step, step)


def ranked(key: bytes, entries: int, withdrawn: Collection[int], count: int) -> list[int]:
    """Return the first `count` picks that were not withdrawn: the index of each rank, from 0."""
    found: list[int] = []
    if count <= 0:
        return found
    for index in picks(key, entries):
        if index not in withdrawn:
            found.append(index)
            if len(found) == count:
                break
    return found


def seat_of(counts: Sequence[tuple[int, int]], place: int) -> Seat:
    """Return the seat of the `place`-th winner, from 0; tiers are (amount, count) in order."""
    for tier, (amount_minor, count) in enumerate(counts, 1):
        if place < count:
            return Seat(tier, amount_minor)
        place -= count
    raise AssertionError("every winner has a tier")


def result_bytes(rank: int, index: int) -> bytes:
    """Return the leaf of the results' tree that says which entry has a rank."""
    return rank.to_bytes(4, "big") + index.to_bytes(8, "big")


def result_leaves(ranks: Sequence[int]) -> list[bytes]:
    """Return the hashes of the leaves of the results' tree."""
    return [leaf_hash(result_bytes(rank, index)) for rank, index in enumerate(ranks)]
