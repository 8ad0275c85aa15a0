"""Judging public draws again: who registered, what was frozen, who was drawn, who may claim.

It shares folds and events with the decisions and none of their code: the draw is held again by the
stand-alone verifier's functions. An entry takes one number here. What is found is told in a code
and two words for a report; nothing is raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from campaigns.campaign import Campaign, Terms
from campaigns.draws import verify_draw
from campaigns.draws.announcing import announced, facts_of
from campaigns.draws.draw import (
    DRAW_FOLD,
    DrawDrawn,
    DrawFrozen,
    DrawMovedUp,
    DrawOpened,
    DrawVoided,
    PublicDraw,
)
from campaigns.draws.entry import (
    DrawEntered,
    DrawEntryVoided,
    DrawPhoneFreed,
    DrawPhoneTaken,
    DrawWithdrawn,
    DrawWon,
    entry_id,
    telephone_id,
)
from campaigns.draws.terms import problems_of
from campaigns.redrawing import Wrong
from campaigns.resplitting import is_seed_of, seed_bytes
from ledger.appending import Capacity
from ledger.books import Book
from ledger.events import Event
from ledger.merkle import CompactRange

_REGISTERED, _WITHDRAWN, _VOIDED, _WON = range(4)
_STATE_BITS: Final = 2
_STATE_MASK: Final = (1 << _STATE_BITS) - 1

_STEPS: Final = {
    DrawOpened.TOPIC: None,
    DrawFrozen.TOPIC: "registering",
    DrawVoided.TOPIC: "registering",
    DrawDrawn.TOPIC: "frozen",
    DrawMovedUp.TOPIC: "drawn",
}
"""Topic → the state of the draw in which it may happen."""

RULES: Final[dict[str, str]] = {
    "entry_outside_registration": "nobody registers, withdraws or is voided outside registration",
    "entry_id": "an entry's id is made of its campaign and its person, a telephone's of its number",
    "entry_twice": "an identity and a telephone are in a draw's list once",
    "entry_not_eligible": "whoever is in the list was eligible",
    "list_differs": "a frozen list is what was registered, in order, and was announced like that",
    "frozen_late": "a list is frozen after the registration and before the beacon speaks",
    "beacon_differs": "a draw is decided by the round that was announced, in its time",
    "seat_differs": "a seat is that of the rank, its tier and its turn, and is given once",
    "claim_without_seat": "what a public draw gives is claimed by who has a seat, in time, once",
}
"""Finding → the rule that it breaks, beside those that lotteries have too."""


@dataclass(slots=True)
class PublicDrawAudit:
    """A campaign's public draw as its events made it."""

    book: Book
    draw: PublicDraw | None = None
    listed: CompactRange = field(default_factory=CompactRange)
    entries: dict[int, int] = field(default_factory=dict)
    """Stream of an entry → its index and its state."""
    phones: dict[int, int] = field(default_factory=dict)
    """Stream of a telephone → the entry that it stands for; none when it is free."""
    owed: int = 0
    """The telephone that the last entry must take next."""
    empty: set[int] = field(default_factory=set)
    ranks: list[int] = field(default_factory=list)
    """The index of each rank, drawn again here."""
    seats: dict[str, tuple[int, int, datetime]] = field(default_factory=dict)
    """Person → tier, amount and deadline of the seat that was given."""
    given: int = 0
    claims: dict[int, int] = field(default_factory=dict)
    """Tier → how much of it was claimed."""
    claimed: set[str] = field(default_factory=set)

    def pools(self) -> dict[str, Capacity]:
        """Return what the stored capacities should be."""
        found = {
            "list": Capacity(self.listed.end, self.listed.end),
            "withdrawn": Capacity(len(self.empty), len(self.empty)),
        }
        if self.draw is not None and self.draw.turns:
            found["seats"] = Capacity(self.given, self.draw.seats_given)
            for tier, count in enumerate(self.draw.turns[0].seats, 1):
                found[f"claims{tier}"] = Capacity(self.claims.get(tier, 0), count)
        return {pool: capacity for pool, capacity in found.items() if any(capacity)}

    def judge(self, event: Any, campaign: Campaign) -> Iterator[Wrong]:
        """Take an event of the draw, of an entry or of a telephone; yield what is wrong with it."""
        match event:
            case DrawEntered():
                yield from self._entered(event, campaign)
            case DrawWithdrawn() | DrawEntryVoided():
                yield from self._emptied(event, campaign)
            case DrawPhoneTaken() | DrawPhoneFreed():
                yield from self._phone(event)
            case DrawWon():
                yield from self._won(event, campaign)
            case _:
                yield from self._step(event, campaign)

    def claim(self, event: Any, amount_minor: int) -> Wrong | None:
        """Judge the claim of a coupon or packet of a campaign with a public draw."""
        seat = self.seats.get(event.person)
        if seat is None or event.person in self.claimed:
            return Wrong("claim_without_seat", "a winner's only claim", event.person)
        self.claimed.add(event.person)
        tier, worth_minor, until = seat
        self.claims[tier] = self.claims.get(tier, 0) + 1
        if event.at >= until:
            return Wrong("claim_without_seat", f"before {until}", event.at)
        if amount_minor != worth_minor:
            return Wrong("other_amount", worth_minor, amount_minor)
        return None

    # --- entries ----------------------------------------------------------------------------

    def _entered(self, event: DrawEntered, campaign: Campaign) -> Iterator[Wrong]:
        terms = campaign.terms.public_draw
        assert terms is not None, "the campaign has a public draw"
        stream = event.originator_id
        kept = self.entries.get(stream.int)
        if event.index != self.listed.end:
            yield Wrong("list_differs", f"entry {self.listed.end}", event.index)
        self.entries[stream.int] = self.listed.end << _STATE_BITS | _REGISTERED
        leaf = stream.bytes + event.originator_version.to_bytes(4, "big")
        self.listed.append(verify_draw.leaf_hash(leaf))
        if self.owed:
            yield Wrong("entry_id", "each entry with its telephone", f"{self.owed:032x}")
        self.owed = telephone_id(campaign.id, event.phone).int
        if stream != entry_id(campaign.id, event.person):
            yield Wrong("entry_id", f"the entry of {event.person}", stream.hex)
        elif kept is not None and kept & _STATE_MASK != _WITHDRAWN:
            yield Wrong("entry_twice", "one entry a person", event.person)
        yield from self._in_time(event, campaign, ("open",))
        regions = terms.regions is None or event.region in terms.regions
        operators = terms.operators is None or event.operator in terms.operators
        if not (regions and operators):
            yield Wrong("entry_not_eligible", (terms.regions, terms.operators), event.person)

    def _in_time(
        self, event: Event, campaign: Campaign, states: tuple[str, ...]
    ) -> Iterator[Wrong]:
        terms = campaign.terms.public_draw
        assert terms is not None, "the campaign has a public draw"
        in_window = terms.register_from <= event.at < terms.register_until
        is_open = campaign.state in states and self.draw is not None
        if not (in_window and is_open and self.draw and self.draw.state == "registering"):
            window = f"{terms.register_from} up to {terms.register_until}"
            yield Wrong("entry_outside_registration", window, event.at)

    def _emptied(
        self, event: DrawWithdrawn | DrawEntryVoided, campaign: Campaign
    ) -> Iterator[Wrong]:
        kept = self.entries.get(event.originator_id.int)
        expected = event.index << _STATE_BITS | _REGISTERED
        if kept != expected:
            yield Wrong("illegal_step", f"{event.TOPIC} of an entry in the list", kept)
        state = _WITHDRAWN if isinstance(event, DrawWithdrawn) else _VOIDED
        self.entries[event.originator_id.int] = event.index << _STATE_BITS | state
        self.empty.add(event.index)
        yield from self._in_time(event, campaign, ("open", "paused"))

    def _phone(self, event: DrawPhoneTaken | DrawPhoneFreed) -> Iterator[Wrong]:
        stream, entry = event.originator_id.int, event.entry.int
        holder = self.phones.get(stream, 0)
        expected = 0 if isinstance(event, DrawPhoneTaken) else entry
        if holder != expected:
            yield Wrong("entry_twice", f"{expected:032x} before {event.TOPIC}", f"{holder:032x}")
        self.phones[stream] = entry if isinstance(event, DrawPhoneTaken) else 0
        if isinstance(event, DrawPhoneTaken) and self.owed != stream:
            yield Wrong("entry_id", "the telephone of the entry before", event.originator_id.hex)
        self.owed = 0

    # --- the draw ---------------------------------------------------------------------------

    def _step(self, event: Any, campaign: Campaign) -> Iterator[Wrong]:
        before = None if self.draw is None else self.draw.state
        allowed = _STEPS[event.TOPIC]
        if before != allowed:
            yield Wrong("illegal_step", f"{event.TOPIC} when {allowed}", before)
            return
        before_draw = self.draw
        self.draw = DRAW_FOLD.evolve(before_draw, event)
        match event:
            case DrawOpened():
                yield from self._opened(event, campaign)
            case DrawFrozen():
                yield from self._frozen(event, campaign)
            case DrawDrawn():
                yield from self._drawn(event, campaign)
            case DrawMovedUp():
                assert before_draw is not None, "only a draw that was held moves up"
                yield from self._moved_up(event, before_draw)

    def _opened(self, event: DrawOpened, campaign: Campaign) -> Iterator[Wrong]:
        terms = campaign.terms.public_draw
        assert terms is not None, "the campaign has a public draw"
        since = terms.draw_at.timestamp() - terms.chain.genesis
        expected = max(1, int(-(-since // terms.chain.period_s)) + 1)
        if event.round != expected:
            yield Wrong("beacon_differs", expected, event.round)
        if event.at >= terms.register_until:
            yield Wrong("entry_outside_registration", terms.register_until, event.at)

    def _frozen(self, event: DrawFrozen, campaign: Campaign) -> Iterator[Wrong]:
        terms = campaign.terms.public_draw
        assert terms is not None, "the campaign has a public draw"
        assert self.draw is not None, "the draw was frozen"
        assert self.draw.frozen is not None, "the draw was frozen"
        if not terms.register_until <= event.at < terms.round_time:
            window = f"{terms.register_until} up to {terms.round_time}"
            yield Wrong("frozen_late", window, event.at)
        places = b"".join(index.to_bytes(8, "big") for index in sorted(self.empty))
        told = announced(self.book, campaign, self.draw, facts_of(self.draw.frozen))
        expected = (
            self.listed.end,
            self.listed.root().hex(),
            len(self.empty),
            sha256(places).hexdigest(),
            self.draw.round,
            sha256(verify_draw.canonical(told)).hexdigest(),
        )
        found = (
            event.entries,
            event.root,
            event.withdrawn,
            event.withdrawn_sha256,
            event.round,
            event.announcement,
        )
        if expected != found:
            yield Wrong("list_differs", expected, found)

    def _drawn(self, event: DrawDrawn, campaign: Campaign) -> Iterator[Wrong]:
        terms, draw = campaign.terms.public_draw, self.draw
        assert terms is not None, "the campaign has a public draw"
        assert draw is not None, "the draw was frozen"
        assert draw.frozen is not None, "the draw was frozen"
        seed, signature = seed_bytes(event.seed), seed_bytes(event.signature)
        if not is_seed_of(event.seed, draw.commitment):
            yield Wrong("seed_differs", f"the seed of {draw.commitment}", event.seed)
        randomness = sha256(signature).digest()
        beacon = (draw.round, randomness.hex(), True)
        found_beacon = (event.round, event.randomness, event.at >= terms.round_time)
        if beacon != found_beacon:
            yield Wrong("beacon_differs", beacon, found_beacon)
        told = verify_draw.canonical(announced(self.book, campaign, draw, facts_of(draw.frozen)))
        key = sha256(b"tidebook public draw 1\0" + sha256(told).digest() + seed + randomness)
        wanted = terms.winners + terms.runners_up
        self.ranks = verify_draw.drawn(key.digest(), draw.frozen.entries, self.empty, wanted)
        winners = min(terms.winners, len(self.ranks))
        _, root = verify_draw.tree_root(
            rank.to_bytes(4, "big") + index.to_bytes(8, "big")
            for rank, index in enumerate(self.ranks)
        )
        until = event.at + timedelta(seconds=terms.claim_s)
        expected = (
            winners,
            len(self.ranks) - winners,
            root.hex(),
            _fill([tier.count for tier in terms.tiers], winners),
            min(until, campaign.terms.claim_until),
        )
        found = (event.winners, event.runners_up, event.root, event.seats, event.claim_until)
        if expected != found:
            yield Wrong("draw_differs", expected, found)

    def _moved_up(self, event: DrawMovedUp, before: PublicDraw) -> Iterator[Wrong]:
        last = before.turns[-1]
        first_rank = last.first_rank + last.count
        vacant = [
            count - self.claims.get(tier, 0) for tier, count in enumerate(before.turns[0].seats, 1)
        ]
        expected = (
            len(before.turns),
            first_rank,
            _fill(vacant, len(self.ranks) - first_rank),
            True,
        )
        found = (event.turn, event.first_rank, event.seats, event.at >= last.claim_until)
        if expected != found:
            yield Wrong("draw_differs", expected, found)

    def _won(self, event: DrawWon, campaign: Campaign) -> Iterator[Wrong]:
        terms, draw = campaign.terms.public_draw, self.draw
        assert terms is not None, "the campaign has a public draw"
        self.given += 1
        kept = self.entries.get(event.originator_id.int)
        self.entries[event.originator_id.int] = event.index << _STATE_BITS | _WON
        if kept != event.index << _STATE_BITS | _REGISTERED or draw is None or not draw.turns:
            yield Wrong("seat_differs", "one seat for an entry in the list", event.person)
            return
        number = draw.turn_of(event.rank)
        if number is None or self.ranks[event.rank : event.rank + 1] != [event.index]:
            yield Wrong("not_a_winner", f"the entry of rank {event.rank}", event.index)
            return
        turn = draw.turns[number]
        place, tier = event.rank - turn.first_rank, 0
        while place >= turn.seats[tier]:
            place -= turn.seats[tier]
            tier += 1
        amount_minor = sum(one.amount_minor for one in terms.tiers[tier : tier + 1])
        expected = (number, tier + 1, amount_minor, campaign.terms.currency, turn.claim_until)
        found = (event.turn, event.tier, event.amount_minor, event.currency, event.claim_until)
        self.seats[event.person] = (tier + 1, amount_minor, turn.claim_until)
        if expected != found:
            yield Wrong("seat_differs", expected, found)


def problem_of_draw(terms: Terms) -> str | None:
    """Return what of a public draw nobody could keep; None where there is none."""
    draw = terms.public_draw
    if draw is None:
        return None
    instants = (draw.register_from, draw.register_until, draw.draw_at)
    if any(instant.utcoffset() is None for instant in instants):
        return "an instant without offset"
    problems = problems_of(draw, terms.claim_from, terms.claim_until)
    return next((f"{field}: {words}" for field, words in problems), None)


def _fill(seats: list[int], people: int) -> tuple[int, ...]:
    found: list[int] = []
    for count in seats:
        found.append(max(0, min(count, people - sum(found))))
    return tuple(found)
