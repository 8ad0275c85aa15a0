"""A draw without a ledger: a list of made-up entries, and its bundle."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from campaigns.draws.announcing import ListFacts
from campaigns.draws.bundle import write_bundle
from campaigns.draws.entry import leaf_of
from campaigns.draws.listing import EntryList
from campaigns.draws.terms import QUICKNET

SEED = sha256(b"a seed").digest()

ROUND, SIGNATURE = (
    1000,
    bytes.fromhex(
        "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125"
        "e342b73a8dd2bacbe47e4b6b63ed5e39"
    ),
)
"""A value that was published: quicknet's round 1000, of 23 August 2023, 15:59:24 UTC."""

RANDOMNESS = "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd"


def entry(number: int) -> bytes:
    """The leaf of a made-up entry."""
    return leaf_of(UUID(bytes=sha256(b"%d" % number).digest()[:16]), 1)


def told(listed: ListFacts, tiers: Sequence[tuple[int, int]], runners_up: int) -> dict[str, Any]:
    """An announcement; tiers are (winners, amount)."""
    return {
        "format": "tidebook-draw/1",
        "campaign": "cmp_main_" + 32 * "c",
        "name": "中秋 draw",
        "register_from": "2023-08-20T00:00:00Z",
        "register_until": "2023-08-23T00:00:00.5Z",
        "draw_at": "2023-08-23T15:59:23Z",
        "beacon": {
            "chain": QUICKNET.hash,
            "genesis": QUICKNET.genesis,
            "period_s": QUICKNET.period_s,
            "round": ROUND,
        },
        "seed_commitment": sha256(SEED).hexdigest(),
        "tiers": [{"amount_minor": amount, "winners": winners} for winners, amount in tiers],
        "currency": "CNY",
        "runners_up": runners_up,
        "claim_s": 86400,
        "list": listed._asdict(),
    }


def draw_bundle(
    folder: Path,
    entries: int = 12,
    withdrawn: Sequence[int] = (3, 7),
    tiers: Sequence[tuple[int, int]] = ((1, 80_000), (2, 20_000)),
    runners_up: int = 3,
    moves: Sequence[tuple[int, ...]] = ((1, 1), (0, 1)),
) -> Path:
    """Draw and write the bundle; return its folder."""
    with EntryList(folder / "list") as listed:
        listed.add(map(entry, range(entries)))
        listed.take_back(withdrawn)
        write_bundle(
            folder / "bundle",
            told(listed.facts(), tiers, runners_up),
            SEED,
            SIGNATURE,
            listed,
            [filled([count for count, _ in tiers], entries - len(withdrawn)), *moves],
        )
    return folder / "bundle"


def filled(seats: Sequence[int], people: int) -> tuple[int, ...]:
    """Seats of each tier that so many people take."""

    def fill(done: tuple[int, ...], count: int) -> tuple[int, ...]:
        return (*done, min(count, people - sum(done)))

    return functools.reduce(fill, seats, ())
