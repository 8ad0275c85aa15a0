"""The finisher: what is left to do when campaigns of packets are over.

Leftovers that wait in the pot of a closed campaign go into the next round, and the seed by which
tiers or shares were given is shown. It only asks: everything is judged by the book's writer, so
that two finishers and one that starts all over are harmless. It reads the book and no read model.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from api.sweeper import SWEEPER
from api.upkeep import POLL_S, Upkeep, again_and_again
from campaigns.campaign import CAMPAIGN_FOLD, POOL, Campaign
from campaigns.commands import Command
from campaigns.packets.rolling import RollOver, ShowSplit
from campaigns.packets.sharing import WrongSplitKey, seed_of_split
from campaigns.replies import CAMPAIGN_PREFIX
from campaigns.seeds import DrawKey
from ledger.appending import Capacity
from ledger.books import PublicId
from ledger.commit import GroupCommit
from ledger.datastore import Datastore
from ledger.history import Standing, state_of

_log = logging.getLogger("tidebook.finisher")


class Done(NamedTuple):
    """A step that was taken: with which campaign, and what happened."""

    campaign: PublicId
    code: str


class Finisher:
    """Finishes the campaigns of packets of one book, through a writer of its own process."""

    def __init__(
        self,
        datastore: Datastore,
        writer: GroupCommit,
        draw_key: DrawKey,
        *,
        by_the_book: bool = False,
    ) -> None:
        """`by_the_book`: in simulated time, the instant is that of the book's last event."""
        self._upkeep = Upkeep(datastore, writer, SWEEPER, "finish", by_the_book=by_the_book)
        self._history = self._upkeep.history
        self.book = self._upkeep.book
        self._draw_key = draw_key
        self._never: set[UUID] = set()
        """Campaigns that will never have anything to finish."""

    def sweep(self, at: datetime | None = None) -> list[Done]:
        """Take every step that is due; return those that were taken.

        `at` is the instant in simulated time. Raises what the writer and the store raise.
        """
        standing = self._history.standing()
        at = self._upkeep.instant(at, standing)
        done = []
        for state, command in self._wanted(standing):
            [answer] = self._upkeep.ask([command], at)
            if answer.code in {"rolled_over", "reclaimed", "split_shown"}:
                name = PublicId(CAMPAIGN_PREFIX, self.book, state.id)
                done.append(Done(name, answer.code))
        return done

    def run(self, stop: threading.Event, poll_s: float = POLL_S) -> None:
        """Finish whatever is due until `stop` is set."""

        def look() -> None:
            for done in self.sweep():
                _log.info("%s: %s", done.code, done.campaign)

        again_and_again(look, stop, poll_s, f"finishing {self.book} is put off", _log)

    def _wanted(self, standing: Standing) -> Iterator[tuple[Campaign, Command]]:
        """Yield the steps that may be due, with the campaigns that they are about."""
        for campaign in sorted({one for one, _ in standing.capacity} - self._never):
            state = state_of(self._history.stream(campaign), CAMPAIGN_FOLD)
            if state is None or not _may_have_steps(state):
                self._never.add(campaign)
                continue
            pool = standing.capacity.get((campaign, POOL), Capacity())
            if state.state == "closed" and _rolls_over(state) and _left(pool):
                yield state, RollOver(self.book, campaign)
            if state.split is not None and state.split.seed is None:
                yield from self._show(state)

    def _show(self, state: Campaign) -> Iterator[tuple[Campaign, Command]]:
        assert state.split is not None
        try:
            seed = seed_of_split(self._draw_key(), state.id, state.split)
        except WrongSplitKey:
            name = PublicId(CAMPAIGN_PREFIX, self.book, state.id)
            _log.error("the draw key is not the one that %s was opened with", name)
            return
        yield state, ShowSplit(self.book, state.id, seed)


def _may_have_steps(state: Campaign) -> bool:
    """Whether leftovers may come at any time, or a seed waits to be shown."""
    packet = state.terms.packet
    if packet is None:
        return False
    return _rolls_over(state) or (
        packet.is_seeded and (state.split is None or state.split.seed is None)
    )


def _rolls_over(state: Campaign) -> bool:
    packet = state.terms.packet
    return packet is not None and packet.leftover == "next_round"


def _left(pool: Capacity) -> bool:
    return pool.budget_minor > pool.granted_minor
