"""The waiting room: places in a queue in front of a campaign, held in Valkey beside the gate.

Whoever comes before the claims begin gets a random place at the beginning, everybody later one
behind the last. So many places a second come to their turn, by Valkey's clock. Places are hints
about order and nothing else: when they are lost, people take new ones, and no stock is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from campaigns.gate import Gate, PoolKey
from campaigns.wire import Away

State = Literal["early", "waiting", "turn", "sold_out"]

REFRESH_S: Final = 0.5
"""How long a worker goes by what it last heard of a queue."""


class NoWaitingRoom(Exception):
    """The campaign has none; claims are taken as they come."""


class NoPlace(Exception):
    """The person has no place."""


class Queue(NamedTuple):
    """A waiting room as it was a moment ago. `served` places have come to their turn."""

    open: bool
    served: float
    places: int
    per_s: float
    left: int
    """Coupons that the gate believes to be left."""
    sold_out: bool
    opens_in_s: float


class Place(NamedTuple):
    """Where a person stands."""

    state: State
    number: int
    """From 1; 0 before the claims begin, when nobody has a number yet."""
    ahead: int
    wait_s: float
    """Until the person's turn, at the rate of the room; until the beginning, when it is early."""
    queue: Queue


class WaitingRoom:
    """The waiting rooms of all campaigns, for one worker. Belongs to one event loop.

    Every call raises `Away` while Valkey cannot be asked, `NoWaitingRoom` where there is none.
    """

    def __init__(self, gate: Gate, chance: Callable[[], float]) -> None:
        """`chance` returns a number from 0 up to 1; it decides the order of those who are early."""
        self._gate = gate
        self._chance = chance
        self._looks: dict[PoolKey, tuple[float, asyncio.Task[Queue]]] = {}

    async def take(self, book: str, campaign: UUID, pool: str, person: str) -> Place:
        """Return the person's place, a new one at the end when there was none."""
        return await self._place(book, campaign, pool, person, take=True)

    async def place(self, book: str, campaign: UUID, pool: str, person: str) -> Place:
        """Return the person's place; raise `NoPlace`."""
        return await self._place(book, campaign, pool, person, take=False)

    async def queue(self, book: str, campaign: UUID, pool: str) -> Queue:
        """Return how the queue stands; all who ask within a moment are told the same."""
        now = asyncio.get_running_loop().time()
        key = (campaign, pool)
        known = self._looks.get(key)
        if known is None or now - known[0] > REFRESH_S:
            for stale in [k for k, (at, _) in self._looks.items() if now - at > 2 * REFRESH_S]:
                del self._looks[stale]
            look = asyncio.ensure_future(self._ask(book, campaign, pool, "", take=False))
            known = self._looks[key] = (now, asyncio.ensure_future(_second_of(look)))
        return await asyncio.shield(known[1])

    async def _place(
        self, book: str, campaign: UUID, pool: str, person: str, *, take: bool
    ) -> Place:
        number, queue = await self._ask(book, campaign, pool, person, take=take)
        if number < 0:
            raise NoPlace
        return place_of(number, queue)

    async def _ask(
        self, book: str, campaign: UUID, pool: str, person: str, *, take: bool
    ) -> tuple[int, Queue]:
        door = self._gate.door(book, campaign, pool)
        answer: Any = await self._gate.call("place", door, (person, take, self._chance()))
        epoch, per_s, number, served, places, left, sold_out, opens_in_s = answer
        if not epoch:
            self._gate.unknown(door)
            raise Away
        if not per_s:
            raise NoWaitingRoom
        is_open = opens_in_s <= 0
        return number, Queue(is_open, served, places, per_s, left, bool(sold_out), opens_in_s)


def place_of(number: int, queue: Queue) -> Place:
    """Return where the holder of a number stands in a queue."""
    if not queue.open:
        return Place("early", 0, 0, queue.opens_in_s, queue)
    if queue.sold_out:
        return Place("sold_out", number, 0, 0.0, queue)
    ahead = max(0, number - 1 - int(queue.served))
    if number <= queue.served:
        return Place("turn", number, 0, 0.0, queue)
    return Place("waiting", number, ahead, (number - queue.served) / queue.per_s, queue)


async def _second_of(look: asyncio.Future[tuple[int, Queue]]) -> Queue:
    return (await look)[1]
