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
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

import psycopg2
from eventsourcing import persistence as es

from campaigns.admission import Standing
from campaigns.campaign import Campaign
from campaigns.coupon import coupon_id
from campaigns.gate import UNSURE, Knock, PoolKey, Refusable, Verdict, Word, tell
from ledger.datastore import Datastore
from ledger.glance import Asked, Sight, connect, glance

log = logging.getLogger(__name__)

BATCH_MAX: Final = 1_000
"""Refusals compared in one look: some milliseconds of the store's time."""

WAITING_MAX: Final = 10_000
"""Refusals that may wait; beyond it the slow lane takes them, or refuses them for now."""

TIMEOUT_S: Final = 2.0
"""How long anybody waits for the store; then the slow lane tells them what is the matter."""

KnownCampaign = Callable[[UUID], Campaign | None]
"""Returns a campaign as last read."""


class Confirmer:
    """Compares refusals with the store in a thread of its own. Belongs to one event loop."""

    def __init__(
        self,
        datastore: Datastore,
        known: KnownCampaign,
        doubted: Callable[[PoolKey], None],
        *,
        tally: dict[Verdict, int] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`doubted` is told of pools about which the gate and the store do not agree."""
        self._datastore = datastore
        self._known = known
        self._doubted = doubted
        self._tally = tally if tally is not None else dict.fromkeys(Verdict, 0)
        self._timeout_s = timeout_s
        self._waiting: list[Refusable] = []
        self._out: Sequence[Refusable] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: Any = None
        self._work: queue.SimpleQueue[Sequence[Refusable] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="confirmer", daemon=True)

    def start(self) -> None:
        """Start the thread; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """Stop; whoever waits hears «unsure»."""
        self._work.put(None)
        self._give_up()

    def __call__(self, refusables: Sequence[Refusable]) -> None:
        """Compare these refusals with the store, together with what comes meanwhile."""
        if len(self._waiting) > WAITING_MAX:
            self._tell(refusables, [UNSURE] * len(refusables))
            return
        self._waiting += refusables
        if not self._out:
            self._send()

    def _send(self) -> None:
        batch = self._waiting[:BATCH_MAX]
        self._waiting = self._waiting[BATCH_MAX:]
        self._out = batch
        self._timer = self._loop.call_later(self._timeout_s, self._give_up)
        self._work.put(batch)

    def _give_up(self) -> None:
        """The store does not answer: nothing is confirmed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        silent, self._out = [*self._out, *self._waiting], ()
        self._waiting = []
        self._tell(silent, [UNSURE] * len(silent))

    def _heard(self, batch: Sequence[Refusable], words: list[Word], doubts: set[PoolKey]) -> None:
        for pool in doubts:
            self._doubted(pool)
        if self._out is not batch:
            return  # given up: everybody has an answer
        self._out = ()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tell(batch, words)
        if self._waiting and not self._out:
            self._send()

    def _tell(self, batch: Sequence[Refusable], words: list[Word]) -> None:
        for refusable, word in zip(batch, words, strict=True):
            self._tally[word.verdict] += 1
            tell(refusable.heard, word)

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        connection: Any = None
        while (batch := self._work.get()) is not None:
            doubts: set[PoolKey] = set()
            words = [UNSURE] * len(batch)
            try:
                if connection is None or connection.closed:
                    connection = connect(self._datastore)
                words = self._judge(connection, [one.knock for one in batch], doubts)
            except (psycopg2.Error, es.PersistenceError) as error:
                log.warning("the store confirms nothing: %s", type(error).__name__)
                _discard(connection)
                connection = None
            except Exception:
                log.exception("refusals could not be compared with the store")
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._heard, batch, words, doubts)
        _discard(connection)

    def _judge(self, connection: Any, knocks: list[Knock], doubts: set[PoolKey]) -> list[Word]:
        by_book: dict[str, list[int]] = {}
        for index, knock in enumerate(knocks):
            by_book.setdefault(knock.book, []).append(index)
        words = [UNSURE] * len(knocks)
        for book, indexes in by_book.items():
            found = self._look(connection, book, [knocks[index] for index in indexes], doubts)
            for index, word in zip(indexes, found, strict=True):
                words[index] = word
        return words

    def _look(
        self, connection: Any, book: str, knocks: list[Knock], doubts: set[PoolKey]
    ) -> list[Word]:
        """Return the word for each knock of one book, as of one moment."""
        campaigns = {knock.campaign: self._known(knock.campaign) for knock in knocks}
        pools = list(dict.fromkeys((knock.campaign, knock.pool) for knock in knocks))
        asked = [
            Asked(knock.request, knock.scope, knock.key, _last_coupon(campaign, knock))
            for knock in knocks
            if (campaign := campaigns[knock.campaign]) is not None
        ]
        seen = glance(connection, book, pools, asked)
        standings: dict[PoolKey, Standing] = {}
        for pool, sight in zip(pools, seen.pools, strict=True):
            campaign = campaigns[pool[0]]
            if campaign is not None and _is_as_known(campaign, sight):
                standing = Standing(campaign, sight.capacity, seen.position, seen.instant)
                standings[pool] = standing
            else:
                doubts.add(pool)
        marks = zip(seen.answered, seen.existing, strict=True)
        words = []
        for knock in knocks:
            if campaigns[knock.campaign] is None:
                words.append(UNSURE)
                continue
            answered, has_all = next(marks)
            found = standings.get((knock.campaign, knock.pool))
            word = None if found is None or answered else found.word(knock, has_all=has_all)
            if word is None and not answered:
                doubts.add((knock.campaign, knock.pool))
            words.append(word or UNSURE)
        return words


def _last_coupon(campaign: Campaign, knock: Knock) -> UUID:
    """The last coupon that the person may have: coupons are taken in order."""
    return coupon_id(campaign.id, knock.person, campaign.terms.per_person_limit)


def _is_as_known(campaign: Campaign, sight: Sight) -> bool:
    return sight.version == campaign.version


def _discard(connection: Any) -> None:
    if connection is not None:
        with suppress(psycopg2.Error):
            connection.close()
