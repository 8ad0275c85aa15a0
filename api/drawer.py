"""The drawer: holds the lotteries of a book when the time of their intake is over.

It only asks. Whether the intake may be closed, whether the seed is the one that was committed to
and whether somebody has won is decided by the book's writer, so that two drawers, a drawer that
was killed between any two steps and one that starts all over are harmless. It reads the book and
no read model, so that nothing that lags can lose an entrant.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from api.upkeep import POLL_S, Troubled, Upkeep, again_and_again
from campaigns.campaign import (
    CAMPAIGN_FOLD,
    DRAW_POOL,
    Campaign,
    CampaignIntakeClosed,
    CampaignOpened,
)
from campaigns.drawing import CloseIntake, GiveDrawn, RecordDraw, entrants
from campaigns.intake import Drawing, draws_at, hold, is_lottery, is_over, seed_of
from campaigns.replies import CAMPAIGN_PREFIX
from campaigns.seeds import DrawKey, commitment_of
from ledger.appending import Capacity
from ledger.books import PublicId
from ledger.commit import GroupCommit
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.history import Positioned, Standing, state_of

DRAWER: Final = Actor("draw", "system")

BATCH: Final = 500
"""Coupons given at once: as many as one transaction of the writer decides."""

_log = logging.getLogger("tidebook.drawer")


class WrongDrawKey(Troubled):
    """The draw key of this machine is not the one that a campaign committed to its seed with."""

    def __init__(self, campaign: PublicId) -> None:
        super().__init__(
            f"the draw key is not the one that {campaign} was opened with: its lottery can only be"
            " drawn with that key (TIDEBOOK_DRAW_KEY, or keys/draw.key in the home)"
        )


class Step(NamedTuple):
    """A step of a draw that was done: what happened, and how many coupons were given."""

    campaign: UUID
    code: str
    given: int = 0


class Drawer:
    """Draws the lotteries of one book through a writer of its own process."""

    def __init__(
        self,
        datastore: Datastore,
        writer: GroupCommit,
        draw_key: DrawKey,
        *,
        by_the_book: bool = False,
        batch: int = BATCH,
    ) -> None:
        """`by_the_book`: in simulated time, the instant is that of the book's last event."""
        self._upkeep = Upkeep(datastore, writer, DRAWER, "draw", by_the_book=by_the_book)
        self._history = self._upkeep.history
        self.book = self._upkeep.book
        self._draw_key = draw_key
        self._batch = batch
        self._done_with: set[UUID] = set()

    def steps(self, at: datetime | None = None) -> Generator[Step, None, None]:
        """Do what is due, step by step; whoever stops listening stops it after a whole step.

        `at` is the instant in simulated time. Raises what the writer and the store raise, and
        `WrongDrawKey` once everything else is done.
        """
        standing = self._history.standing()
        at = self._upkeep.instant(at, standing)
        trouble: WrongDrawKey | None = None
        for campaign in self._lotteries(standing):
            try:
                yield from self._steps_of(campaign, at)
            except WrongDrawKey as error:
                trouble = error
        if trouble is not None:
            raise trouble

    def run(self, stop: threading.Event, poll_s: float = POLL_S) -> None:
        """Draw whatever is due until `stop` is set."""

        def look() -> None:
            for step in self.steps():
                _log.info("%s of %s: %s", step.code, step.campaign.hex, step.given)
                if stop.is_set():
                    return

        put_off = f"the draws of {self.book} are put off"
        again_and_again(look, stop, poll_s, put_off, _log)

    def _lotteries(self, standing: Standing) -> list[UUID]:
        """Return the campaigns with a draw to be done, now or later; the others are never asked."""
        funded = {campaign for campaign, _ in standing.capacity} - self._done_with
        found = []
        for campaign in sorted(funded):
            state = state_of(self._history.stream(campaign), CAMPAIGN_FOLD)
            given = standing.capacity.get((campaign, DRAW_POOL), Capacity())
            if state is None or not _is_to_be_drawn(state, given):
                self._done_with.add(campaign)
            elif state.state == "open":
                found.append(campaign)
        return found

    def _steps_of(self, campaign: UUID, at: datetime | None) -> Iterator[Step]:
        life = self._history.stream(campaign)
        state = state_of(life, CAMPAIGN_FOLD)
        assert state is not None
        assert state.draw is not None
        if state.draw.places is None:
            if self._upkeep.now(at) < draws_at(state.terms):
                return
            answer = self._upkeep.ask([CloseIntake(self.book, campaign)], at)[0]
            if answer.code == "intake_closed":
                yield Step(campaign, answer.code)
            life = self._history.stream(campaign)
        yield from self._draw(campaign, life, at)

    def _draw(
        self, campaign: UUID, life: Sequence[Positioned], at: datetime | None
    ) -> Iterator[Step]:
        state = state_of(life, CAMPAIGN_FOLD)
        if state is None or state.draw is None or state.draw.places is None:
            return
        seed = self._seed(state)
        drawing = self._hold(campaign, life, seed, state.draw.places)
        if state.draw.seed is None:
            answer = self._upkeep.ask([RecordDraw(self.book, campaign, seed, drawing)], at)[0]
            if answer.code == "drawn":
                yield Step(campaign, answer.code)
        yield from self._give(campaign, drawing.winners, at)

    def _seed(self, state: Campaign) -> bytes:
        assert state.draw is not None
        if state.draw.seed is not None:
            return bytes.fromhex(state.draw.seed)
        seed = seed_of(self._draw_key(), state.id, state.draw.opening)
        if commitment_of(seed) != state.draw.commitment:
            raise WrongDrawKey(PublicId(CAMPAIGN_PREFIX, self.book, state.id))
        return seed

    def _hold(
        self, campaign: UUID, life: Sequence[Positioned], seed: bytes, places: int
    ) -> Drawing:
        """Draw among those who entered between the opening and the end of the intake."""
        opened = next(at for at, event in life if isinstance(event, CampaignOpened))
        closed = next(at for at, event in life if isinstance(event, CampaignIntakeClosed))
        return hold(seed, entrants(self._history.entries(opened, closed), campaign), places)

    def _give(self, campaign: UUID, winners: list[UUID], at: datetime | None) -> Iterator[Step]:
        """Give each winner the coupon; those who have it are refused another one."""
        for start in range(0, len(winners), self._batch):
            commands = [
                GiveDrawn(self.book, winner) for winner in winners[start : start + self._batch]
            ]
            codes = [answer.code for answer in self._upkeep.ask(commands, at)]
            yield Step(campaign, "given", codes.count("claimed"))
            if "wrong_state" in codes:
                return  # paused: it goes on when the campaign does


def _is_to_be_drawn(state: Campaign, given: Capacity) -> bool:
    """Whether there is, or may be one day, something to draw."""
    if not is_lottery(state.terms) or state.state == "closed":
        return False
    return state.draw is None or not is_over(state.draw, given)
