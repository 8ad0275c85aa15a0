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
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from campaigns.admission import Standing, to_other_holder
from campaigns.campaign import Campaign
from campaigns.coupon import coupon_hex
from campaigns.gate import UNSURE, Knock, PoolKey, Refusable, Verdict, Word
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
        for verdict, times in Counter([word.verdict for word in words]).items():
            self._tally[verdict] += times
        for refusable, word in zip(batch, words, strict=True):
            try:
                refusable.heard(word)
            except Exception:
                log.exception("whoever knocked failed on hearing the word")


class _Pool:
    """A pool that an inquiry is about, as known when the look began, and then as seen."""

    __slots__ = ("_to_holder", "_to_others", "campaign", "key", "limit", "standing")

    def __init__(self, key: PoolKey, campaign: Campaign | None) -> None:
        self.key = key
        self.campaign = campaign
        self.limit = 0 if campaign is None else campaign.terms.per_person_limit
        self.standing: Standing | None = None
        """None when the campaign has gone on since."""
        self._to_others: tuple[Word | None] | None = None
        self._to_holder: tuple[Word | None] | None = None
        """What was said first: to others in the same case it is the same."""

    def word(self, knock: Knock, last_coupon: str, *, has_all: bool) -> Word | None:
        """Return the refusal that holds for somebody; None when the writer must decide."""
        assert self.standing is not None
        if not has_all:
            if self._to_others is None:
                self._to_others = (self.standing.word(knock, has_all=False),)
            return self._to_others[0]
        if self._to_holder is None:
            self._to_holder = (self.standing.word(knock, has_all=True),)
        first = self._to_holder[0]
        return None if first is None else to_other_holder(first, last_coupon)

    @property
    def said_to_others(self) -> bool:
        """Whether somebody who has less than all was told the word that is the same for all."""
        return self._to_others is not None


class _Inquiry:
    """What one look is to tell about a batch of one book."""

    def __init__(self, batch: list[Refusable], known: KnownCampaign) -> None:
        self.batch = batch
        self.pools: list[PoolKey] = []
        self.asked: list[Asked] = []
        self.doubts: set[PoolKey] = set()
        self.lessons: list[tuple[Knock, Verdict]] = []
        self._pools: dict[PoolKey, _Pool] = {}
        self._pool_of: list[_Pool] = []
        """Of each of the batch."""
        pool: _Pool | None = None
        for refusable in batch:
            knock = refusable.knock
            campaign = knock.campaign
            if pool is None or pool.key[0] is not campaign or pool.key[1] != knock.pool:
                key = campaign, knock.pool
                pool = self._pools.get(key)
                if pool is None:
                    pool = self._pools[key] = _Pool(key, known(campaign))
                    self.pools.append(key)
            self._pool_of.append(pool)
            if pool.campaign is not None:
                # Coupons are taken in order: who has the last one has all.
                stream = coupon_hex(campaign.bytes, knock.person, pool.limit)
                self.asked.append(Asked(knock.request, knock.scope, knock.key, stream))

    def words(self, seen: Glance) -> list[Word]:
        """Return the word for each of the batch, as of the moment of the look."""
        for number, pool in enumerate(self._pools.values()):
            pool.standing = _standing(pool.campaign, seen, number)
            if pool.standing is None:
                self.doubts.add(pool.key)
        words: list[Word] = []
        marks = zip(self.asked, seen.answered, seen.existing, strict=True)
        for refusable, pool in zip(self.batch, self._pool_of, strict=True):
            if pool.campaign is None:
                words.append(UNSURE)
                continue
            asked, answered, has_all = next(marks)
            knock, word = refusable.knock, None
            if not answered and pool.standing is not None:
                is_new = not pool.said_to_others
                word = pool.word(knock, asked.stream, has_all=has_all)
                # A holder who was foreseen is known as one.
                if word is not None and (refusable.word.code is not None if has_all else is_new):
                    self.lessons.append((knock, word.verdict))
            if word is None and not answered:
                self.doubts.add(pool.key)
                self.lessons.append((knock, Verdict.UNSURE))
            words.append(word or UNSURE)
        return words


def _standing(campaign: Campaign | None, seen: Glance, number: int) -> Standing | None:
    sight = seen.pools[number]
    if campaign is None or sight.version != campaign.version:
        return None
    return Standing(campaign, sight.capacity, seen.position, seen.instant)
