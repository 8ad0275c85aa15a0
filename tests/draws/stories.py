"""A book in memory with one campaign that has a public draw."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

from campaigns import commands as c
from campaigns.draws.announcing import ListFacts, announcement, announcement_of
from campaigns.draws.beacon import Beacon
from campaigns.draws.draw import DRAW_FOLD, PublicDraw, draw_id
from campaigns.draws.entry import ENTRY_FOLD, DrawEntered, DrawEntry, entry_id
from campaigns.draws.holding import FreezeList, GiveSeat, MoveUp, Outcome, RecordDraw
from campaigns.draws.listing import numbers
from campaigns.draws.method import draw_key, ranked, result_leaves
from campaigns.draws.opening import seed_of
from campaigns.draws.registering import EnterDraw, WithdrawEntry
from campaigns.draws.terms import QUICKNET, PublicDrawTerms
from campaigns.draws.winning import ClaimWin
from campaigns.packets.terms import PacketTerms, Tier
from ledger.events import Actor
from ledger.merkle import MemoryTree, inclusion_proof, leaf_hash
from tests.campaigns.test_decisions import BOOK, CAMPAIGN, Story
from tests.support.desk import DRAW_KEY, NOON, person, terms_of, tourist

DRAWER = Actor("draw", "system")
CLOSES = NOON + timedelta(hours=1)
"""The end of the registration."""
DRAWN_AT = NOON + timedelta(hours=2)
CLAIM_S = 3_600
DEADLINE = DRAWN_AT + timedelta(seconds=CLAIM_S)
LATER = DEADLINE + timedelta(hours=1)
SIGNATURE = b"s" * 48


def public_draw(**changes: Any) -> PublicDrawTerms:
    """An ordinary draw: two win 5 yuan, two may move up."""
    ordinary: dict[str, Any] = {
        "register_from": NOON,
        "register_until": CLOSES,
        "draw_at": DRAWN_AT,
        "chain": QUICKNET,
        "tiers": (Tier(500, 2),),
        "runners_up": 2,
        "claim_s": CLAIM_S,
    }
    return PublicDrawTerms(**{**ordinary, **changes})


def packets(*tiers: Tier, **changes: Any) -> Any:
    """The terms of a campaign whose draw gives packets of these tiers."""
    return terms_of(
        kind="packet",
        face_minor=min(tier.amount_minor for tier in tiers),
        packet=PacketTerms(),
        public_draw=public_draw(tiers=tiers, **changes),
    )


COUPONS = terms_of(public_draw=public_draw())
TIERED = packets(Tier(80_000, 1), Tier(20_000, 2))


def phone(n: int) -> str:
    """The pseudonym of the n-th telephone."""
    return f"{n:032x}"


def signed(statement: bytes) -> bytes:
    """A signature of these tests; the service's are Ed25519."""
    return sha256(statement).digest()


def enter(n: int = 1, number: int | None = None, **changes: Any) -> EnterDraw:
    """Register the n-th person with a telephone, the n-th one unless told."""
    ordinary: dict[str, Any] = {"region": None, "operator": None, "sign": signed}
    own = phone(n if number is None else number)
    return EnterDraw(BOOK, CAMPAIGN, person(n), own, **{**ordinary, **changes})


def withdraw(n: int = 1) -> WithdrawEntry:
    """Take the n-th person's entry back."""
    return WithdrawEntry(BOOK, CAMPAIGN, entry_id(CAMPAIGN, person(n)))


def claim_win(n: int = 1) -> ClaimWin:
    """Claim what the n-th person won."""
    return ClaimWin(BOOK, CAMPAIGN, person(n))


class DrawStory(Story):
    """The book, and the steps of the draw as any runner of it would take them."""

    def __init__(self, terms: Any = COUPONS) -> None:
        super().__init__(terms)

    @property
    def of_draw(self) -> PublicDrawTerms:
        """The terms of the draw."""
        assert self.terms.public_draw is not None
        return self.terms.public_draw

    def opened(self, quota: int | None = None, budget: int | None = None) -> DrawStory:
        self.now = NOON - timedelta(hours=1)
        self.funded(
            self.of_draw.winners if quota is None else quota,
            self.of_draw.worth_minor if budget is None else budget,
        )
        self.when(c.OpenCampaign(BOOK, CAMPAIGN, lambda: DRAW_KEY), at=self.now)
        return self

    def entered(self, people: Iterable[int]) -> DrawStory:
        """Open where that was not done, and register people."""
        if CAMPAIGN not in self.streams:
            self.opened()
        for n in people:
            assert self.when(enter(n), tourist(person(n))).code == "registered"
        return self

    def draw(self) -> PublicDraw:
        """The draw as it stands."""
        state: PublicDraw | None = None
        for event in self.streams[draw_id(CAMPAIGN)]:
            state = DRAW_FOLD.evolve(state, event)
        assert state is not None
        return state

    def entry(self, n: int) -> DrawEntry:
        """The n-th person's entry as it stands."""
        state: DrawEntry | None = None
        for event in self.streams[entry_id(CAMPAIGN, person(n))]:
            state = ENTRY_FOLD.evolve(state, event)
        assert state is not None
        return state

    def listed(self) -> tuple[ListFacts, list[UUID]]:
        """The list as it is, and whose entry is at each place."""
        entered = sorted(
            (e for events in self.streams.values() for e in events if isinstance(e, DrawEntered)),
            key=lambda event: event.index,
        )
        empty = sorted(
            event.index  # type: ignore[attr-defined]
            for events in self.streams.values()
            for event in events
            if event.TOPIC in {"draw.withdrawn", "draw.entry_voided"}
        )
        tree = MemoryTree(
            leaf_hash(e.originator_id.bytes + e.originator_version.to_bytes(4, "big"))
            for e in entered
        )
        facts = ListFacts(
            len(entered), tree.root().hex(), len(empty), sha256(numbers(empty)).hexdigest()
        )
        return facts, [event.originator_id for event in entered]

    def frozen(self) -> DrawStory:
        """Freeze the list."""
        if CAMPAIGN not in self.streams:
            self.entered(range(1, 7))
        assert self.when(self.freeze(), DRAWER, CLOSES).code == "list_frozen"
        return self

    def freeze(self) -> FreezeList:
        """What any runner asks for at the end of the registration."""
        return FreezeList(BOOK, CAMPAIGN, self.listed()[0])

    def campaign(self) -> Any:
        """The campaign as it stands."""
        from campaigns.campaign import CAMPAIGN_FOLD

        state = None
        for event in self.streams[CAMPAIGN]:
            state = CAMPAIGN_FOLD.evolve(state, event)
        return state

    def ranks(self) -> list[int]:
        """Which entry has which rank."""
        assert self.draw().frozen is not None
        told = announcement_of(BOOK, self.campaign(), self.draw())
        randomness = Beacon(self.draw().round, SIGNATURE).randomness
        key = draw_key(told, seed_of(DRAW_KEY, draw_id(CAMPAIGN)), randomness)
        facts, entries = self.listed()
        gone = {
            event.index  # type: ignore[attr-defined]
            for events in self.streams.values()
            for event in events
            if event.TOPIC in {"draw.withdrawn", "draw.entry_voided"}
        }
        wanted = self.of_draw.winners + self.of_draw.runners_up
        assert announcement(BOOK, self.campaign(), self.draw(), facts) == told
        return ranked(key, len(entries), gone, wanted)

    def record(self, **changes: Any) -> RecordDraw:
        """What any runner asks for when the beacon has spoken."""
        ranks = self.ranks()
        winners = min(len(ranks), self.of_draw.winners)
        root = MemoryTree(result_leaves(ranks)).root().hex()
        ordinary: dict[str, Any] = {
            "seed": seed_of(DRAW_KEY, draw_id(CAMPAIGN)),
            "beacon": Beacon(self.draw().round, SIGNATURE),
            "outcome": Outcome(winners, len(ranks) - winners, root),
        }
        return RecordDraw(BOOK, CAMPAIGN, **{**ordinary, **changes})

    def drawn(self) -> DrawStory:
        """Draw."""
        if CAMPAIGN not in self.streams or self.draw().frozen is None:
            self.frozen()
        self.when(self.record(), DRAWER, DRAWN_AT)
        return self

    def give(self, rank: int, index: int | None = None) -> GiveSeat:
        """What gives a rank its seat, to its own entry unless told."""
        ranks = self.ranks()
        tree = MemoryTree(result_leaves(ranks))
        proof = inclusion_proof(rank, len(ranks), tree.read)
        entry = self.listed()[1][ranks[rank] if index is None else index]
        return GiveSeat(BOOK, CAMPAIGN, entry, rank, tuple(proof))

    def given(self) -> DrawStory:
        """Draw, where that was not done, and give every seat that there is."""
        if CAMPAIGN not in self.streams or self.draw().held is None:
            self.drawn()
        first = self.draw().turns[-1].first_rank
        for rank in range(first, first + self.draw().turns[-1].count):
            self.when(self.give(rank), DRAWER)
        return self

    def moved_up(self) -> DrawStory:
        """Let the deadline pass and runners-up move up."""
        self.when(MoveUp(BOOK, CAMPAIGN), DRAWER, DEADLINE)
        return self.given()

    def of_rank(self, rank: int) -> int:
        """The number of the person who has a rank."""
        entry = self.listed()[1][self.ranks()[rank]]
        return next(n for n in range(1, 99) if entry_id(CAMPAIGN, person(n)) == entry)
