"""Splitting a sum again, from a seed that was shown: what all audits of draws and splits compute.

It shares no code with the splitting that it checks (`campaigns.splitting`), so that a share that
was given wrongly is found.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from hashlib import sha256


def seed_bytes(shown: str) -> bytes:
    """Return the bytes of a seed as an event shows it; none when it is no hex."""
    try:
        return bytes.fromhex(shown)
    except ValueError:
        return b""


def is_seed_of(shown: str, commitment: str) -> bool:
    """Whether a seed that is shown is the one that was committed to."""
    seed = seed_bytes(shown)
    return bool(seed) and sha256(seed).hexdigest() == commitment


def random_shares(seed: bytes, total: int, count: int) -> Iterator[int]:
    """Yield random shares by the double-mean rule, in order."""
    for index in range(1, count + 1):
        people = count - index + 1
        if people == 1:
            yield total
            return
        most = min(2 * total // people, total - people + 1)
        amount = 1 + number_again(seed, b"share\0", index, most) if most > 1 else 1
        yield amount
        total -= amount


def number_again(seed: bytes, label: bytes, index: int, bound: int) -> int:
    """Return a number below `bound`: the first attempt that favours none."""
    for attempt in range(1 << 32):
        told = label + index.to_bytes(8, "big") + attempt.to_bytes(4, "big")
        number = int.from_bytes(hmac.digest(seed, told, "sha256"), "big")
        if number < 2**256 - 2**256 % bound:
            return number % bound
    raise AssertionError("a hash falls into the fair range before that")
