"""Who registers, claims and buys what, and when: made up from a seed, adding up to the figures.

Pure: the same seed and figures give the same story. Amounts are what orders come to; what a packet
pays of them is decided in the book. Refunds give back less than the payer added of their own, so
that by the rule of this campaign (the payer's own money first) what packets paid stays as it was
reported.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple

from api.luohu.figures import DOUBLED_EACH, WORTH_MINOR, Figures
from campaigns.draws.terms import Chain

_ZONE: Final = timedelta(hours=8)


def _local(day: int, hour: int = 0) -> datetime:
    """Return a full hour of October 2020 in Shenzhen, in UTC."""
    return datetime(2020, 10, day, tzinfo=UTC) + timedelta(hours=hour) - _ZONE


PREPARED_AT: Final = _local(8, 9)
REGISTER_FROM: Final = _local(9)
REGISTER_UNTIL: Final = _local(12)
FROZEN_AT: Final = REGISTER_UNTIL + timedelta(minutes=1)
DRAW_AT: Final = _local(12, 16)
VALID_FROM: Final = _local(12, 18)
VALID_UNTIL: Final = _local(19)
"""18 October, 24:00."""

BEACON: Final = Chain(
    hash=sha256(b"tidebook: the beacon of the Luohu replay").hexdigest(),
    genesis=1_595_431_050,
    period_s=30,
)
"""A beacon of the replay's own: it has drand's form, and nobody's signature."""

BATCH: Final = 1_000
"""Registrations that are handed over at once."""

UNUSED_PERCENT: Final = 2
"""Of the packets that were claimed: those that nothing is ever paid from."""

LEFT_MAX_MINOR: Final = 15_000
OWN_MAX_MINOR: Final = 10_000
REFUNDED_EACH: Final = 25
"""Of the payments to which the payer added something, one in so many has some of that back."""


class Person(NamedTuple):
    """Somebody who registers: an identity, and the number of a telephone."""

    identity: str
    phone: str


def person(number: int) -> Person:
    """Return the person at a place of the list: the first valid entry has number 0."""
    return Person(f"resident {number}", f"+86{13_000_000_000 + number}")


def arrivals(figures: Figures, seed: int) -> Iterator[list[Person]]:
    """Yield the registrations in order, batch by batch; doubles come after those they double."""
    waiting: list[Person] = []
    for number in range(figures.registered):
        waiting.append(person(number))
        if (number + 1) % DOUBLED_EACH == 0:
            waiting.append(_double(number, seed))
        if len(waiting) >= BATCH:
            yield waiting[:BATCH]
            waiting = waiting[BATCH:]
    if waiting:
        yield waiting


def _double(number: int, seed: int) -> Person:
    """Somebody in the list tries with another telephone, or a telephone comes a second time."""
    earlier = person(_number(seed, f"double {number}") % (number + 1))
    if (number + 1) // DOUBLED_EACH % 2:
        return Person(earlier.identity, f"+86{15_000_000_000 + number}")
    return Person(f"friend {number}", earlier.phone)


def registered_at(done: int, figures: Figures) -> datetime:
    """Return when a batch is handed over, after so many: evenly over the window."""
    window = REGISTER_UNTIL - REGISTER_FROM
    total = figures.registered + figures.doubled
    return REGISTER_FROM + window * min(done, total) / (total + 1)


def beacon_signature(seed: int, number: int) -> bytes:
    """Return the value that the replay's beacon has for a round: 96 bytes, as drand's have."""
    told = f"tidebook luohu beacon {seed} {number}"
    return b"".join(sha256(f"{told} {part}".encode()).digest() for part in range(3))


def secret(seed: int, purpose: str) -> bytes:
    """Return a key of the replay. It guards nothing: whoever knows the seed has it."""
    return sha256(f"tidebook luohu {purpose} {seed}".encode()).digest()


class Claim(NamedTuple):
    """The winner of a rank claims."""

    at: datetime
    rank: int


class Payment(NamedTuple):
    """An order at a merchant; the packet pays what it has of the total."""

    at: datetime
    rank: int
    order: str
    merchant: str
    total_minor: int


class Refund(NamedTuple):
    """Some of an order is given back."""

    at: datetime
    rank: int
    order: str
    merchant: str
    amount_minor: int


Step = Claim | Payment | Refund


def merchants(figures: Figures) -> list[str]:
    """Return the designated merchants."""
    return [f"luohu-{number:04d}" for number in range(1, figures.merchants + 1)]


def steps(figures: Figures, seed: int) -> list[Step]:
    """Return what winners do, in order of time."""
    chance = random.Random(seed)  # noqa: S311 - a story, and no secret
    claims = [
        Claim(_between(chance, VALID_FROM, VALID_UNTIL - timedelta(hours=4)), rank)
        for rank in chance.sample(range(figures.winners), figures.claims)
    ]
    users = claims[: min(figures.payments, figures.claims * (100 - UNUSED_PERCENT) // 100)]
    shops = _shops(figures, chance)
    orders: list[Step] = []
    for claim, spent, count in zip(
        users,
        _spent(figures, len(users), chance),
        _counts(figures, len(users), chance),
        strict=True,
    ):
        orders += _orders(claim, spent, count, shops, chance)
    return sorted([*claims, *orders], key=lambda step: (step.at, type(step) is not Claim))


def _orders(
    claim: Claim, spent: int, count: int, shops: Iterator[str], chance: random.Random
) -> Iterator[Step]:
    """Yield a packet's orders: in the last one the payer may add something, and have some back."""
    cuts = sorted(chance.sample(range(1, spent), count - 1))
    last = VALID_UNTIL - timedelta(hours=1)
    times = sorted(_between(chance, claim.at + timedelta(seconds=1), last) for _ in range(count))
    for nth, (start, end, at) in enumerate(zip([0, *cuts], [*cuts, spent], times, strict=True), 1):
        order, merchant = f"{claim.rank}-{nth}", next(shops)
        is_last = end == WORTH_MINOR
        own = chance.randrange(OWN_MAX_MINOR) if is_last else 0
        yield Payment(at, claim.rank, order, merchant, end - start + own)
        if own and chance.randrange(REFUNDED_EACH) == 0:
            back = chance.randint(1, own)
            yield Refund(_between(chance, at, last), claim.rank, order, merchant, back)


def _spent(figures: Figures, users: int, chance: random.Random) -> list[int]:
    """Return what is spent from each packet: most are emptied, together it is what was reported."""
    left = users * WORTH_MINOR - figures.spent_minor
    assert 0 <= left <= users * LEFT_MAX_MINOR, "the figures fit together"
    spent = [WORTH_MINOR] * users
    order = chance.sample(range(users), users)
    for done, user in enumerate(order):
        rest = (users - done - 1) * LEFT_MAX_MINOR
        kept = max(min(left, chance.randint(1, LEFT_MAX_MINOR)), left - rest)
        spent[user] -= kept
        left -= kept
        if not left:
            break
    return spent


def _counts(figures: Figures, users: int, chance: random.Random) -> list[int]:
    """Return how many payments are made from each packet: one at least."""
    counts = [1] * users
    for user in chance.choices(range(users), k=figures.payments - users):
        counts[user] += 1
    return counts


def _shops(figures: Figures, chance: random.Random) -> Iterator[str]:
    """Yield the merchant of each payment: everybody once, the rest by how well known they are."""
    names = merchants(figures)
    known = [1 / (place + 10) for place in range(len(names))]
    more = figures.payments - len(names)
    chosen = [*names, *chance.choices(names, known, k=max(0, more))][: figures.payments]
    chance.shuffle(chosen)
    return iter(chosen)


def _between(chance: random.Random, start: datetime, end: datetime) -> datetime:
    """Return a whole second in [start, end)."""
    return start + timedelta(seconds=chance.randrange(int((end - start).total_seconds())))


def _number(seed: int, text: str) -> int:
    return int.from_bytes(sha256(f"tidebook luohu {seed} {text}".encode()).digest()[:8], "big")
