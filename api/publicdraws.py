"""Holds the public draws of a book: keeps their lists, and takes each step when its time has come.

It only asks. Whether a list may be frozen, whether seed and round are those that were committed to
and whether an entry has a rank is decided by the book's writer, so that two holders, one that was
killed between any two steps and one that starts all over are harmless. It waits for the beacon as
long as that takes: there is no other randomness here, and none may come in.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from api.drawer import DRAWER
from api.drawlists import DrawLists, Known
from api.upkeep import POLL_S, Troubled, Upkeep, again_and_again
from campaigns.campaign import Campaign
from campaigns.draws.announcing import announcement_of
from campaigns.draws.beacon import Beacon, BeaconDoubled, is_due
from campaigns.draws.draw import SEATS_POOL
from campaigns.draws.holding import FreezeList, GiveSeat, MoveUp, Outcome, RecordDraw
from campaigns.draws.method import draw_key, ranked, result_leaves
from campaigns.draws.opening import seed_of
from campaigns.draws.terms import Chain
from campaigns.replies import CAMPAIGN_PREFIX
from campaigns.seeds import DrawKey, commitment_of
from ledger.appending import Capacity
from ledger.books import PublicId
from ledger.commit import GroupCommit
from ledger.datastore import Datastore
from ledger.history import Standing
from ledger.merkle import MemoryTree, inclusion_proof

BATCH: Final = 500
"""Seats given at once: as many as one transaction of the writer decides."""

FREEZES_MAX: Final = 5
"""How often a list is read on before a freeze is put off: somebody may have withdrawn just now."""

_log = logging.getLogger("tidebook.draws")


class BeaconSource(Protocol):
    """Whoever knows the beacon's values."""

    def value(self, chain: Chain, number: int) -> Beacon | None:
        """Return the value of a round, None while there is none; raise `BeaconDoubled`."""
        ...


class Step(NamedTuple):
    """A step of a draw that was done: what happened, and how many seats were given."""

    campaign: UUID
    code: str
    given: int = 0


class Results(NamedTuple):
    """What a draw came to: the index of each rank, and the entry's stream."""

    ranks: list[int]
    entries: list[UUID]
    tree: MemoryTree

    def proof(self, rank: int) -> tuple[bytes, ...]:
        """Return the proof that an entry has a rank."""
        return tuple(inclusion_proof(rank, len(self.ranks), self.tree.read))


class DrawHolder:
    """Holds the public draws of one book through a writer of its own process."""

    def __init__(
        self,
        datastore: Datastore,
        writer: GroupCommit,
        draw_key: DrawKey,
        beacons: BeaconSource,
        lists: Path,
        *,
        by_the_book: bool = False,
        batch: int = BATCH,
    ) -> None:
        """`lists` is where lists are kept; `by_the_book`: time is that of the last event."""
        self._upkeep = Upkeep(datastore, writer, DRAWER, "draw", by_the_book=by_the_book)
        self._history = self._upkeep.history
        self.book = self._upkeep.book
        self._draw_key = draw_key
        self._beacons = beacons
        self.lists = DrawLists(self._history, lists)
        self._batch = batch
        self._without: set[UUID] = set()
        self._results: tuple[UUID, Results] | None = None

    def steps(self, at: datetime | None = None) -> Generator[Step, None, None]:
        """Do what is due, step by step; whoever stops listening stops it after a whole step.

        `at` is the instant in simulated time. Raises what the writer and the store raise, and
        `Troubled` once everything else is done.
        """
        standing = self._history.standing()
        at = self._upkeep.instant(at, standing)
        troubles = []
        for known in self._draws(standing):
            try:
                yield from self._steps_of(known, standing, at)
            except (BeaconDoubled, Troubled) as error:
                name = PublicId(CAMPAIGN_PREFIX, self.book, known.campaign.id)
                troubles.append(f"{name}: {error}")
        if troubles:
            raise Troubled("; ".join(troubles))

    def run(self, stop: threading.Event, poll_s: float = POLL_S) -> None:
        """Do whatever is due until `stop` is set."""

        def look() -> None:
            for step in self.steps():
                _log.info("%s of %s: %s", step.code, step.campaign.hex, step.given)
                if stop.is_set():
                    return

        put_off = f"the draws of {self.book} are put off"
        again_and_again(look, stop, poll_s, put_off, _log)

    # --- what there is ------------------------------------------------------------------------

    def _draws(self, standing: Standing) -> Iterator[Known]:
        """Yield the draws with something to do, now or later; others are never asked again."""
        for campaign in sorted({campaign for campaign, _ in standing.capacity} - self._without):
            known = self.lists.known(campaign)
            if known is None:
                if not _may_open(self.lists.campaign(campaign)):
                    self._without.add(campaign)
            elif known.campaign.state == "closed" or known.draw.voided is not None:
                self._without.add(campaign)
            else:
                yield known

    # --- the steps ----------------------------------------------------------------------------

    def _steps_of(self, known: Known, standing: Standing, at: datetime | None) -> Iterator[Step]:
        campaign = known.campaign.id
        if known.draw.frozen is None:
            if (yield from self._freeze(known, at)) is None:
                return
            known = self._again(campaign)
        if known.draw.held is None:
            if (yield from self._record(known, at)) is None:
                return
            known = self._again(campaign)
        yield from self._give(known, standing, at)
        if (yield from self._move_up(known, at)) is not None:
            yield from self._give(self._again(campaign), self._history.standing(), at)

    def _again(self, campaign: UUID) -> Known:
        known = self.lists.known(campaign)
        assert known is not None, "what was opened stays opened"
        return known

    def _freeze(self, known: Known, at: datetime | None) -> Generator[Step, None, str | None]:
        """Keep the list up; freeze it when the registration is over."""
        campaign = known.campaign.id
        is_over = self._upkeep.now(at) >= known.terms.register_until
        with self.lists.lend(campaign) as listed:
            self.lists.keep_up(listed, campaign)
            if not is_over:
                return None
            code = self._upkeep.ask([FreezeList(self.book, campaign, listed.facts())], at)[0].code
            for _ in range(FREEZES_MAX):
                if code != "list_differs":
                    break
                self.lists.keep_up(listed, campaign)
                code = self._upkeep.ask([FreezeList(self.book, campaign, listed.facts())], at)[
                    0
                ].code
        if code in {"list_frozen", "draw_voided"}:
            yield Step(campaign, code)
        return code if self._again(campaign).draw.frozen is not None else None

    def _record(self, known: Known, at: datetime | None) -> Generator[Step, None, str | None]:
        """Draw, when the beacon has spoken."""
        campaign, draw, chain = known.campaign.id, known.draw, known.terms.chain
        if known.campaign.state != "open" or not is_due(chain, draw.round, self._upkeep.now(at)):
            return None
        seed = seed_of(self._draw_key(), draw.id)
        if commitment_of(seed) != draw.commitment:
            raise Troubled("the draw key is not the one that it was opened with")
        beacon = self._beacons.value(chain, draw.round)
        if beacon is None:
            return None
        results = self._draw(known, seed, beacon.randomness)
        winners = min(len(results.ranks), known.terms.winners)
        outcome = Outcome(winners, len(results.ranks) - winners, results.tree.root().hex())
        answer = self._upkeep.ask([RecordDraw(self.book, campaign, seed, beacon, outcome)], at)[0]
        if answer.code == "draw_recorded":
            yield Step(campaign, answer.code)
        return answer.code

    def _give(self, known: Known, standing: Standing, at: datetime | None) -> Iterator[Step]:
        """Give the seats of the last turn that are not given yet."""
        held, campaign = known.draw.held, known.campaign.id
        given = standing.capacity.get((campaign, SEATS_POOL), Capacity())
        if held is None or known.campaign.state != "open":
            return
        if given.quota == known.draw.seats_given and given.issued == given.quota:
            return
        results = self.results(known)
        turn = known.draw.turns[-1]
        ranks = iter(range(turn.first_rank, turn.first_rank + turn.count))
        while batch := list(islice(ranks, self._batch)):
            commands = [
                GiveSeat(self.book, campaign, results.entries[rank], rank, results.proof(rank))
                for rank in batch
            ]
            codes = [answer.code for answer in self._upkeep.ask(commands, at)]
            yield Step(campaign, "seats_given", codes.count("seat_given"))
            if "wrong_state" in codes:
                return  # paused: it goes on when the campaign does
            if "not_drawn" in codes:
                self._results = None
                raise Troubled("the list on disk is not the one that was frozen")

    def _move_up(self, known: Known, at: datetime | None) -> Generator[Step, None, str | None]:
        """Let runners-up move up when the last turn's time to claim is over."""
        draw, now = known.draw, self._upkeep.now(at)
        last = draw.turns[-1]
        is_over = last.claim_until <= now < known.campaign.terms.claim_until
        if draw.held is None or not is_over or draw.held.ranks <= last.first_rank + last.count:
            return None
        answer = self._upkeep.ask([MoveUp(self.book, known.campaign.id)], at)[0]
        if answer.code != "moved_up":
            return None
        yield Step(known.campaign.id, answer.code)
        return answer.code

    # --- results -----------------------------------------------------------------------------

    def results(self, known: Known) -> Results:
        """Return what a draw that was held came to, by drawing again."""
        held, draw = known.draw.held, known.draw
        assert held is not None, "the draw was held"
        if self._results is None or self._results[0] != draw.id:
            drawn = self._draw(known, bytes.fromhex(held.seed), bytes.fromhex(held.randomness))
            self._results = (draw.id, drawn)
        results = self._results[1]
        if results.tree.root().hex() != held.root:
            raise Troubled("what was recorded is not what is drawn with it again")
        return results

    def _draw(self, known: Known, seed: bytes, randomness: bytes) -> Results:
        """Draw from the frozen list, which must be the one that was published."""
        frozen, terms = known.draw.frozen, known.terms
        assert frozen is not None, "the list is frozen"
        key = draw_key(announcement_of(self.book, known.campaign, known.draw), seed, randomness)
        with self.lists.frozen(known) as listed:
            wanted = terms.winners + terms.runners_up
            ranks = ranked(key, frozen.entries, frozenset(listed.withdrawn()), wanted)
            listed.flush()
            entries = [UUID(bytes=leaf[:16]) for leaf in listed.leaves_at(ranks)]
        drawn = Results(ranks, entries, MemoryTree(result_leaves(ranks)))
        self._results = (known.draw.id, drawn)
        return drawn


def _may_open(campaign: Campaign | None) -> bool:
    """Whether a public draw may still be opened."""
    if campaign is None or campaign.terms.public_draw is None:
        return False
    return campaign.state in {"draft", "funded"}
