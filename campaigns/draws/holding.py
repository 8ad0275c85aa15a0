"""Holding a public draw, step by step: freeze, record, give the seats, move up.

Whoever sends these commands is only believed what can be checked under the book's lock, so that two
may run the same draw at once and each step may be repeated after a crash. The round of the beacon
was fixed before anybody registered, and a list that is not frozen before it is never drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from campaigns.campaign import Campaign
from campaigns.commands import Changes, Decision, Header, campaign_read
from campaigns.draws.announcing import ListFacts, announcement
from campaigns.draws.beacon import Beacon, is_due
from campaigns.draws.draw import (
    DRAW_FOLD,
    LIST_POOL,
    SEATS_POOL,
    WITHDRAWN_POOL,
    DrawDrawn,
    DrawFrozen,
    DrawMovedUp,
    DrawVoided,
    Held,
    PublicDraw,
    claims_pool,
)
from campaigns.draws.entry import DrawEntry, DrawWon
from campaigns.draws.method import result_bytes, seat_of
from campaigns.draws.opening import draw_read
from campaigns.draws.registering import DrawCommand, entry_read
from campaigns.draws.replies import registration_reply, step_reply
from campaigns.draws.terms import PublicDrawTerms
from campaigns.refusals import Refusal
from campaigns.seeds import commitment_of
from ledger.appending import Capacity
from ledger.books import Book
from ledger.commit import Read, View
from ledger.events import Event
from ledger.merkle import leaf_hash, verify_inclusion


class Outcome(NamedTuple):
    """What a draw came to: how many have a rank, and the root over ranks and entries, in hex."""

    winners: int
    runners_up: int
    root: str


@dataclass(frozen=True, slots=True)
class FreezeList(DrawCommand):
    """Publish the list as it is at the end of the registration."""

    name: ClassVar[str] = "freeze_list"

    listed: ListFacts

    def pools(self) -> tuple[tuple[UUID, str], ...]:
        """How many places there are, and how many of them are empty."""
        return ((self.campaign, LIST_POOL), (self.campaign, WITHDRAWN_POOL))

    def decide(self, view: View, header: Header) -> Decision:
        """Before the beacon speaks, or never: a later list could have been chosen by its value."""
        campaign, terms, draw = opened(self, view, "open", "paused")
        if draw.state != "registering":
            raise Refusal("wrong_state", state=draw.state, allowed=["registering"])
        if view.now < terms.register_until:
            raise Refusal("still_entering", draws_at=terms.register_until)
        own = {**header.of(draw.id, draw.version + 1), "campaign": self.campaign}
        if is_due(terms.chain, draw.round, view.now):
            voided = DrawVoided(**own, reason="frozen_too_late")
            return decided(self.book, "draw_voided", draw, voided)
        found = (self.listed.entries, self.listed.withdrawn)
        stored = tuple(view.capacity(pool).issued for pool in self.pools())
        if found != stored:
            raise Refusal("list_differs", entries=stored[0], withdrawn=stored[1])
        told = announcement(self.book, campaign, draw, self.listed)
        event = DrawFrozen(
            **own,
            **self.listed._asdict(),
            round=draw.round,
            announcement=sha256(told).hexdigest(),
        )
        return decided(self.book, "list_frozen", draw, event)


@dataclass(frozen=True, slots=True)
class RecordDraw(DrawCommand):
    """Show the seed and the beacon's value, and record what was drawn with them."""

    name: ClassVar[str] = "record_draw"

    seed: bytes
    beacon: Beacon
    outcome: Outcome

    def decide(self, view: View, header: Header) -> Decision:
        """By the seed that was committed to and the round that was announced, once."""
        campaign, terms, draw = opened(self, view, "open")
        if draw.frozen is None or draw.state != "frozen":
            raise Refusal("wrong_state", state=draw.state, allowed=["frozen"])
        if self.beacon.round != draw.round or not is_due(terms.chain, draw.round, view.now):
            raise Refusal("other_round", round=draw.round, emitted_at=terms.round_time)
        if commitment_of(self.seed) != draw.commitment:
            raise Refusal("commitment_mismatch", seed_commitment=draw.commitment)
        valid = draw.frozen.entries - draw.frozen.withdrawn
        winners = min(valid, terms.winners)
        runners_up = min(valid - winners, terms.runners_up)
        assert self.outcome[:2] == (winners, runners_up), "every seat is drawn"
        seats = filled([tier.count for tier in terms.tiers], winners)
        event = DrawDrawn(
            **header.of(draw.id, draw.version + 1),
            campaign=self.campaign,
            seed=self.seed.hex(),
            round=draw.round,
            signature=self.beacon.signature.hex(),
            randomness=self.beacon.randomness.hex(),
            winners=winners,
            runners_up=runners_up,
            root=self.outcome.root,
            seats=seats,
            claim_until=deadline(campaign, terms, view.now),
        )
        pools = [(claims_pool(tier), count) for tier, count in enumerate(seats, 1)]
        changes = [
            ((self.campaign, pool), Capacity(quota=count))
            for pool, count in [(SEATS_POOL, winners), *pools]
            if count
        ]
        return decided(self.book, "draw_recorded", draw, event, changes)


@dataclass(frozen=True, slots=True)
class GiveSeat(DrawCommand):
    """Give an entry the seat of its rank. `proof` shows the rank in the tree of results."""

    name: ClassVar[str] = "give_seat"

    entry: UUID
    rank: int
    proof: tuple[bytes, ...]

    def reads(self) -> tuple[Read[Any], ...]:
        """The campaign, its draw and the entry."""
        own = entry_read(self.entry)
        return (campaign_read(self.campaign), draw_read(self.campaign), own)

    def pools(self) -> tuple[tuple[UUID, str], ...]:
        """The seats that are given."""
        return ((self.campaign, SEATS_POOL),)

    def decide(self, view: View, header: Header) -> Decision:
        """The rank is shown by the published root, and the turn says whether it has a seat."""
        campaign, terms, draw = opened(self, view, "open")
        entry = view.state(entry_read(self.entry))
        number = draw.turn_of(self.rank)
        if draw.held is None or entry is None or number is None:
            raise Refusal("not_drawn")
        if entry.state == "won":
            raise Refusal("already_won")
        if entry.state != "registered" or not self._is_shown(draw.held, entry):
            raise Refusal("not_drawn")
        turn = draw.turns[number]
        tiers = [(t.amount_minor, n) for t, n in zip(terms.tiers, turn.seats, strict=True)]
        seat = seat_of(tiers, self.rank - turn.first_rank)
        event = DrawWon(
            **header.of(entry.id, entry.version + 1),
            campaign=self.campaign,
            person=entry.person,
            index=entry.index,
            rank=self.rank,
            turn=number,
            tier=seat.tier,
            amount_minor=seat.amount_minor,
            currency=campaign.terms.currency,
            claim_until=turn.claim_until,
        )
        reply = registration_reply(self.book, campaign, draw, entry)
        given = [((self.campaign, SEATS_POOL), Capacity(issued=1))]
        return Decision("seat_given", reply, [event], given)

    def _is_shown(self, held: Held, entry: DrawEntry) -> bool:
        leaf = leaf_hash(result_bytes(self.rank, entry.index))
        return verify_inclusion(self.rank, held.ranks, leaf, self.proof, bytes.fromhex(held.root))


@dataclass(frozen=True, slots=True)
class MoveUp(DrawCommand):
    """Give the seats that nobody claimed in time to the next ranks."""

    name: ClassVar[str] = "move_up"

    def pools(self) -> tuple[tuple[UUID, str], ...]:
        """The seats that are given."""
        return ((self.campaign, SEATS_POOL),)

    def decide(self, view: View, header: Header) -> Decision:
        """From the highest tier down, as many as there are vacant seats and runners-up."""
        campaign, terms, draw = opened(self, view, "open")
        if draw.held is None:
            raise Refusal("wrong_state", state=draw.state, allowed=["drawn"])
        last = draw.turns[-1]
        given = view.capacity((self.campaign, SEATS_POOL))
        if given.issued < given.quota or view.now < last.claim_until:
            raise Refusal("winners_may_claim", claim_until=last.claim_until)
        first_rank = last.first_rank + last.count
        vacant = [
            view.capacity((self.campaign, claims_pool(tier)))
            for tier in range(1, len(terms.tiers) + 1)
        ]
        seats = filled([pool.quota - pool.issued for pool in vacant], draw.held.ranks - first_rank)
        if not sum(seats) or view.now >= campaign.terms.claim_until:
            raise Refusal("nobody_moves_up")
        event = DrawMovedUp(
            **header.of(draw.id, draw.version + 1),
            campaign=self.campaign,
            turn=len(draw.turns),
            first_rank=first_rank,
            seats=seats,
            claim_until=deadline(campaign, terms, view.now),
        )
        more = [((self.campaign, SEATS_POOL), Capacity(quota=sum(seats)))]
        return decided(self.book, "moved_up", draw, event, more)


def opened(
    command: DrawCommand, view: View, *states: str
) -> tuple[Campaign, PublicDrawTerms, PublicDraw]:
    """Return campaign, terms and draw of a campaign that is in one of these states."""
    campaign, terms, draw = command.known(view)
    if draw is None or campaign.state not in states:
        raise Refusal("wrong_state", state=campaign.state, allowed=list(states))
    return campaign, terms, draw


def filled(seats: Sequence[int], people: int) -> tuple[int, ...]:
    """Return how many seats of each tier so many people take, from the highest tier down."""
    found = []
    for count in seats:
        taken = max(0, min(count, people))
        found.append(taken)
        people -= taken
    return tuple(found)


def deadline(campaign: Campaign, terms: PublicDrawTerms, now: datetime) -> datetime:
    """Return until when somebody who wins now may claim."""
    return min(now + timedelta(seconds=terms.claim_s), campaign.terms.claim_until)


def decided(
    book: Book, code: str, draw: PublicDraw, event: Event, capacity: Changes = ()
) -> Decision:
    """Return the decision that writes one event of a draw."""
    return Decision(code, step_reply(book, DRAW_FOLD.evolve(draw, event)), [event], capacity)
