"""Confirming refusals: what the gate would refuse is compared with the store before anybody hears.

The gate forgets, and it may be wrong. So each batch of refusals that it proposes costs one look at
the store, by keys and without the head's lock: is there really nothing left, does this person
really have all, was this very request answered before? Only then is «no» said, with the code and
facts of that moment. Everything else is left to the writer. A store that does not answer confirms
nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from campaigns.admission import Standing
from campaigns.campaign import Campaign
from campaigns.coupon import coupon_hex
from campaigns.gate import UNSURE, Knock, PoolKey, Refusable, Verdict, Word, tell
from ledger.datastore import Datastore
from ledger.glance import Asked, Glance
from ledger.lookout import Lookout

log = logging.getLogger(__name__)

BATCH_MAX: Final = 1_000
"""Refusals compared in one look: some milliseconds of the store's time."""

WAITING_MAX: Final = 10_000
"""Refusals that may wait; beyond it the slow lane takes them, or refuses them for now."""

RUSH: Final = 8
"""Refusals at once from which on it is a rush; nobody else is held up."""

PACE_S: Final = 0.012
"""Least time between two looks in a rush: a look by itself costs as much as twenty refusals."""

KnownCampaign = Callable[[UUID], Campaign | None]
"""Returns a campaign as last read."""

Learn = Callable[[Knock, Verdict], None]
"""Hears what came of a refusal that was proposed; of several that were alike, once."""


def _learn_nothing(_knock: Knock, _verdict: Verdict) -> None:
    """Nobody wants to know."""


class Confirmer:
    """Compares refusals with the store. Belongs to one event loop."""

    def __init__(
        self,
        datastore: Datastore,
        known: KnownCampaign,
        doubted: Callable[[PoolKey], None],
        *,
        tally: dict[Verdict, int] | None = None,
    ) -> None:
        """`doubted` is told of pools about which the gate and the store do not agree."""
        self._lookout = Lookout(datastore)
        self._known = known
        self._doubted = doubted
        self._tally = tally if tally is not None else dict.fromkeys(Verdict, 0)
        self.learn: Learn = _learn_nothing
        self._waiting: list[Refusable] = []
        self._pause: asyncio.TimerHandle | None = None
        self._looked_at = float("-inf")
        self._loop: Any = None

    def start(self) -> None:
        """Begin; call it in the event loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Stop; whoever waits hears «unsure»."""
        if self._pause is not None:
            self._pause.cancel()
        waiting, self._waiting = self._waiting, []
        self._lookout.close()
        self._tell(waiting, [UNSURE] * len(waiting))

    def __call__(self, refusables: Sequence[Refusable]) -> None:
        """Compare these refusals with the store, together with what comes meanwhile."""
        if len(self._waiting) > WAITING_MAX:
            self._tell(refusables, [UNSURE] * len(refusables))
            return
        self._waiting += refusables
        if not self._lookout.is_out and self._pause is None:
            self._look_soon()

    def propose(self, refusable: Refusable) -> None:
        """Compare one refusal, like the others."""
        self._waiting.append(refusable)
        if not self._lookout.is_out and self._pause is None:
            self._look_soon()
        elif len(self._waiting) > WAITING_MAX:
            self._waiting.pop()
            self._loop.call_soon(self._tell, (refusable,), [UNSURE])

    def _look_soon(self) -> None:
        pause_s = self._looked_at + PACE_S - self._loop.time()
        if pause_s > 0:
            self._pause = self._loop.call_later(pause_s, self._look)
        else:
            self._look()

    def _look(self) -> None:
        """Look for those who wait, of one book at a time."""
        self._pause = None
        if not self._waiting:
            return
        book = self._waiting[0].knock.book
        batch = [one for one in self._waiting if one.knock.book == book][:BATCH_MAX]
        if len(batch) == len(self._waiting):
            self._waiting = []
        else:
            taken = set(map(id, batch))
            self._waiting = [one for one in self._waiting if id(one) not in taken]
        if len(batch) >= RUSH:
            self._looked_at = self._loop.time()
        inquiry = _Inquiry(batch, self._known)
        self._lookout.look(
            book, inquiry.pools, inquiry.asked, lambda seen: self._heard(inquiry, seen)
        )

    def _heard(self, inquiry: _Inquiry, seen: Glance | None) -> None:
        batch = inquiry.batch
        words = [UNSURE] * len(batch)
        try:
            if seen is not None:
                words = inquiry.words(seen)
        except Exception:
            log.exception("refusals could not be compared with the store")
        for pool in inquiry.doubts:
            self._doubted(pool)
        for knock, verdict in inquiry.lessons:
            self.learn(knock, verdict)
        self._tell(batch, words)
        if self._waiting and not self._lookout.is_out and self._pause is None:
            self._look_soon()

    def _tell(self, batch: Sequence[Refusable], words: list[Word]) -> None:
        tally = self._tally
        for refusable, word in zip(batch, words, strict=True):
            tally[word.verdict] += 1
            tell(refusable.heard, word)


class _Inquiry:
    """What one look is to tell about a batch of one book."""

    def __init__(self, batch: list[Refusable], known: KnownCampaign) -> None:
        self.batch = batch
        self.pools: list[PoolKey] = []
        self.asked: list[Asked] = []
        self.doubts: set[PoolKey] = set()
        self.lessons: list[tuple[Knock, Verdict]] = []
        self._campaigns: list[Campaign | None] = []
        """Of each pool, as known when the look began."""
        self._pool_of: list[int] = []
        """Of each of the batch."""
        numbers: dict[tuple[int, str], int] = {}
        for refusable in batch:
            knock = refusable.knock
            pool = numbers.get((knock.campaign.int, knock.pool))
            if pool is None:
                pool = numbers[knock.campaign.int, knock.pool] = len(self.pools)
                self.pools.append((knock.campaign, knock.pool))
                self._campaigns.append(known(knock.campaign))
            self._pool_of.append(pool)
            campaign = self._campaigns[pool]
            if campaign is not None:
                # Coupons are taken in order: who has the last one has all.
                last = campaign.terms.per_person_limit
                stream = coupon_hex(knock.campaign.bytes, knock.person, last)
                self.asked.append(Asked(knock.request, knock.scope, knock.key, stream))

    def words(self, seen: Glance) -> list[Word]:
        """Return the word for each of the batch, as of the moment of the look."""
        standings = [
            _standing(campaign, seen, number) for number, campaign in enumerate(self._campaigns)
        ]
        self.doubts.update(
            pool for pool, found in zip(self.pools, standings, strict=True) if found is None
        )
        words: list[Word] = []
        to_all: dict[int, Word | None] = {}
        marks = zip(seen.answered, seen.existing, strict=True)
        for refusable, pool in zip(self.batch, self._pool_of, strict=True):
            knock = refusable.knock
            if self._campaigns[pool] is None:
                words.append(UNSURE)
                continue
            (answered, has_all), standing = next(marks), standings[pool]
            if answered or standing is None:
                word = None
            elif has_all:
                word = standing.word(knock, has_all=True)
                if word is not None:
                    self.lessons.append((knock, word.verdict))
            elif pool in to_all:
                word = to_all[pool]  # whoever has less than all is told the same
            else:
                word = to_all[pool] = standing.word(knock, has_all=False)
                if word is not None:
                    self.lessons.append((knock, word.verdict))
            if word is None and not answered:
                self.doubts.add(self.pools[pool])
                self.lessons.append((knock, Verdict.UNSURE))
            words.append(word or UNSURE)
        return words


def _standing(campaign: Campaign | None, seen: Glance, number: int) -> Standing | None:
    sight = seen.pools[number]
    if campaign is None or sight.version != campaign.version:
        return None
    return Standing(campaign, sight.capacity, seen.position, seen.instant)
