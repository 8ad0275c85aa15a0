"""A gate with an event loop of its own, to be asked and told by tests in plain calls."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID, uuid4

from campaigns.campaign import POOL
from campaigns.gate import Door, Gate, GateSettings, Knock, Verdict, Word
from campaigns.wire import GATE_LIBRARY, Library, wire_to
from ledger.appending import request_id

T = TypeVar("T")

TIMEOUT_S = 2.0


class Desires:
    """A keeper that only notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Door, bool]] = []

    def unknown(self, door: Door, *, broken: bool) -> None:
        """Note it."""
        self.asked.append((door, broken))


class Gatehouse:
    """One worker's gate at one pool; a context manager."""

    def __init__(
        self,
        url: str | None,
        settings: GateSettings | None = None,
        *,
        library: Library = GATE_LIBRARY,
        cluster: bool = False,
        campaign: UUID | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.campaign = campaign or uuid4()
        self.keeper = Desires()
        wire = url and wire_to(url, library, timeout_s=timeout_s, cluster=cluster)
        self.gate = Gate(wire or None, settings, keeper=self.keeper)
        self.loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        self.run(self.gate.start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.run(self.gate.close())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the gate's loop."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    # --- knocking -----------------------------------------------------------------------------

    def knock(self, person: str, key: str = "k", **how: Any) -> Knock:
        """Return how somebody knocks; another key is another request."""
        scope = f"tourist:{person}"
        return Knock("main", self.campaign, POOL, person, request_id(scope, key), scope, key, **how)

    def ask(self, *knocks: Knock) -> list[Word]:
        """Let all knock in one turn of the loop; return what each hears."""
        return self.run(self._ask(knocks))

    async def _ask(self, knocks: Sequence[Knock]) -> list[Word]:
        heard: list[asyncio.Future[Word]] = []
        for knock in knocks:
            word: asyncio.Future[Word] = self.loop.create_future()
            heard.append(word)
            self.gate.ask(knock, word.set_result)
        return list(await asyncio.gather(*heard))

    def verdict(self, person: str, key: str = "k", **how: Any) -> Verdict:
        """Let one person knock; return the verdict."""
        return self.ask(self.knock(person, key, **how))[0].verdict

    def verdicts(self, *people: str) -> list[Verdict]:
        """Let people knock in one turn of the loop; return their verdicts."""
        return [word.verdict for word in self.ask(*(self.knock(person) for person in people))]

    # --- what the store said ------------------------------------------------------------------

    @property
    def door(self) -> Door:
        """The pool's door, opened if nobody has knocked yet."""
        key = (self.campaign, POOL)
        if key not in self.gate.doors:
            self.gate.doors[key] = Door("main", *key)
        return self.gate.doors[key]

    def rule(
        self,
        how: str = "load",
        *,
        epoch: int = 1,
        free: int = 3,
        position: int = 1,
        limit: int = 1,
        is_open: bool = True,
        full: tuple[int, str, str] | None = None,
        opens: int = 0,
    ) -> list[int]:
        """Tell the gate what the store says; return the epoch that rules and the tokens."""
        ask = (how, epoch, free, position, limit, is_open, full or False, 3_000, 0, opens)
        ruled: list[int] = self.call("rule", ask)
        if ruled[0] == epoch and how != "sweep":
            self.door.epoch = epoch
        return ruled

    def call(self, function: str, argument: Any) -> Any:
        """Call a function of the library about the pool."""
        return self.run(self.gate.call(function, self.door, argument))

    def claimed(self, person: str, key: str = "k", n: int = 1, limit: int = 1) -> None:
        """The store gave somebody a coupon."""
        knock = self.knock(person, key)
        self.gate.claimed(self.campaign, POOL, person, knock.request, n, limit)

    def claimed_before(self, person: str, key: str = "k", limit: int = 1) -> None:
        """The store refused somebody who has all."""
        knock = self.knock(person, key)
        self.gate.claimed_before(self.campaign, POOL, person, knock.request, limit)

    def released(self, person: str, key: str = "k") -> None:
        """The store did nothing for somebody."""
        self.gate.released(self.campaign, POOL, person, self.knock(person, key).request)

    def sold_out(self, position: int, code: str = "sold_out") -> None:
        """The store refused somebody because all is gone."""
        self.gate.sold_out(self.campaign, POOL, code, position, (("quota", 3),))
