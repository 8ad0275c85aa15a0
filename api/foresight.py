"""Foresight: refusals that are clear before the gate is asked, because they were true just now.

When a campaign is used up, thousands still press, most of them again and again. What the store has
confirmed to a server process in the last second is proposed there at once, without a question to
Valkey, and goes the way of every proposed refusal: the store is looked at before anybody hears it.
So what is foreseen may be wrong and does no harm; whoever is not refused goes on to the gate.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, Final, NamedTuple
from uuid import UUID

from api.confirming import Confirmer
from campaigns.gate import (
    TICKS_PER_S,
    GateSettings,
    Heard,
    Knock,
    Rate,
    Refusable,
    Verdict,
    Word,
    tell,
)

BELIEVED_S: Final = 1.0
"""How long after the store has said so a pool is taken for used up."""

POOLS_MAX: Final = 128
HOLDERS_MAX: Final = 20_000
"""Holders of one pool that are remembered in one half of its memory: a hundred bytes each."""
CALLERS_MAX: Final = 50_000
"""Persons, devices and addresses whose pace is known, in one half of the memory."""

_CLAIMED: Final = Word(Verdict.CLAIMED)
_SOLD_OUT: Final = Word(Verdict.SOLD_OUT)


class _Known:
    """What the store has confirmed about a pool."""

    __slots__ = ("holders", "older_holders", "used_up_until")

    def __init__(self) -> None:
        self.used_up_until = float("-inf")
        self.holders: set[str] = set()
        self.older_holders: set[str] = set()

    def add(self, person: str) -> None:
        if len(self.holders) >= HOLDERS_MAX:
            self.holders, self.older_holders = set(), self.holders
        self.holders.add(person)

    def forget(self, person: str) -> None:
        self.used_up_until = float("-inf")
        self.holders.discard(person)
        self.older_holders.discard(person)


class _Bucket(NamedTuple):
    """A rate in seconds: of one token, and of a full bucket."""

    token_s: float
    full_s: float

    @classmethod
    def of(cls, rate: Rate) -> _Bucket:
        return cls(rate.token / TICKS_PER_S, rate.full / TICKS_PER_S)


class Paces:
    """How fast somebody knocks at one process: the gate's rules for those who do not get there."""

    def __init__(self, settings: GateSettings) -> None:
        self._person = _Bucket.of(settings.person_rate)
        self._device = _Bucket.of(settings.device_rate)
        self._address = _Bucket.of(settings.address_rate)
        self._only_persons = not (self._device.token_s or self._address.token_s)
        self._full_at: dict[str, float] = {}
        self._older: dict[str, float] = {}

    def wait_s(self, knock: Knock, now: float) -> float:
        """Take a token of person, device and address, or none; return how long to wait for one."""
        if self._only_persons:
            wait_s, full_at = self._ahead(knock.person, self._person, now)
            if wait_s <= 0:
                self._full_at[knock.person] = full_at
            return wait_s
        taken = []
        for name, bucket in (
            (knock.person, self._person),
            (knock.device and f"d{knock.device}", self._device),
            (knock.address and f"a{knock.address}", self._address),
        ):
            if name and bucket.token_s:
                wait_s, full_at = self._ahead(name, bucket, now)
                if wait_s > 0:
                    return wait_s
                taken.append((name, full_at))
        self._full_at.update(taken)
        return 0.0

    def _ahead(self, name: str, bucket: _Bucket, now: float) -> tuple[float, float]:
        """Return how long to wait for a token, and until when the bucket is not full after it."""
        full_at = self._full_at.get(name)
        if full_at is None:
            full_at = self._older.get(name, now)
            if len(self._full_at) >= CALLERS_MAX:
                self._full_at, self._older = {}, self._full_at
        full_at = max(full_at, now) + bucket.token_s
        return full_at - now - bucket.full_s, full_at


class Foresight:
    """What one process has learnt just now. Belongs to one event loop."""

    def __init__(
        self, confirmer: Confirmer, settings: GateSettings, tally: dict[Verdict, int]
    ) -> None:
        self._confirmer = confirmer
        self._paces = Paces(settings)
        self._tally = tally
        self._known: OrderedDict[tuple[int, str], _Known] = OrderedDict()
        self._loop: Any = None
        confirmer.learn = self._learn

    def takes(self, knock: Knock, heard: Heard) -> bool:
        """Whether a refusal is clear beforehand; then `heard` is told the word, once, later."""
        known = self._known.get((knock.campaign.int, knock.pool))
        if known is None:
            return False
        now = self._loop.time()
        person = knock.person
        if person in known.holders or person in known.older_holders:
            word = _CLAIMED
        elif now < known.used_up_until:
            word = _SOLD_OUT
        else:
            return False
        wait_s = self._paces.wait_s(knock, now)
        if wait_s > 0:
            self._tally[Verdict.TOO_FAST] += 1
            self._loop.call_soon(tell, heard, Word(Verdict.TOO_FAST, wait_s=wait_s))
        else:
            self._confirmer.propose(Refusable(knock, heard, word))
        return True

    def holds_all(self, campaign: UUID, pool: str, person: str) -> None:
        """Remember who was granted the last coupon that one person may have."""
        key = (campaign.int, pool)
        (self._known.get(key) or self._begin(key)).add(person)

    def _begin(self, key: tuple[int, str]) -> _Known:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        known = self._known[key] = _Known()
        if len(self._known) > POOLS_MAX:
            self._known.popitem(last=False)
        return known

    def _learn(self, knock: Knock, verdict: Verdict) -> None:
        """Remember what came of a proposed refusal."""
        key = (knock.campaign.int, knock.pool)
        known = self._known.get(key)
        if known is None:
            if verdict is Verdict.UNSURE:
                return
            known = self._begin(key)
        if verdict is Verdict.SOLD_OUT:
            known.used_up_until = self._loop.time() + BELIEVED_S
        elif verdict is Verdict.CLAIMED:
            known.add(knock.person)
        else:
            known.forget(knock.person)
