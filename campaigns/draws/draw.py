"""A public draw's life: opened with its commitment, frozen, drawn, moved up.

Its stream is made of its campaign's id. What is fixed before the beacon speaks is in `draw.opened`
and `draw.frozen`, what it came to in `draw.drawn`; nothing of it is ever decided twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import UUID, uuid5

import msgspec
from msgspec.structs import replace

from ledger.events import Event

LIST_POOL: Final = "list"
"""Pool of a campaign that counts the places in the list: `issued` is the next index."""

WITHDRAWN_POOL: Final = "withdrawn"
"""Pool that counts the places that stay empty."""

SEATS_POOL: Final = "seats"
"""Pool of the seats that the draw gave: as many, once each, as there are."""


CLAIMS_POOL: Final = "claims"
"""Pool, followed by a tier's number from 1, of what its winners may claim."""


def claims_pool(tier: int) -> str:
    """Return the pool of what a tier's winners may claim."""
    return f"{CLAIMS_POOL}{tier}"


def draw_id(campaign: UUID) -> UUID:
    """Return the stream of a campaign's public draw."""
    return uuid5(campaign, "public draw")


class DrawOpened(Event, frozen=True, kw_only=True):
    """People can register; the seed is committed to and the beacon's round is fixed."""

    TOPIC: ClassVar[str] = "draw.opened"
    campaign: UUID
    commitment: str
    round: int


class DrawFrozen(Event, frozen=True, kw_only=True):
    """The list takes and loses no more entries; it is published by its Merkle root.

    `announcement` is the SHA-256 of all that was announced, docs/draw-bundle.md has the bytes.
    """

    TOPIC: ClassVar[str] = "draw.frozen"
    campaign: UUID
    entries: int
    root: str
    withdrawn: int
    withdrawn_sha256: str
    round: int
    announcement: str


class DrawDrawn(Event, frozen=True, kw_only=True):
    """The beacon spoke and the seed was shown: who has which rank is decided by both.

    `root` is that of the tree of results; `seats` are the winners of each tier.
    """

    TOPIC: ClassVar[str] = "draw.drawn"
    campaign: UUID
    seed: str
    round: int
    signature: str
    randomness: str
    winners: int
    runners_up: int
    root: str
    seats: tuple[int, ...]
    claim_until: datetime


class DrawMovedUp(Event, frozen=True, kw_only=True):
    """Seats that nobody claimed in time went to the next ranks."""

    TOPIC: ClassVar[str] = "draw.moved_up"
    campaign: UUID
    turn: int
    first_rank: int
    seats: tuple[int, ...]
    claim_until: datetime


class DrawVoided(Event, frozen=True, kw_only=True):
    """The draw will not be held, because it could not be held as it was announced."""

    TOPIC: ClassVar[str] = "draw.voided"
    campaign: UUID
    reason: str


DRAW_EVENTS: tuple[type[Event], ...] = (DrawOpened, DrawFrozen, DrawDrawn, DrawMovedUp, DrawVoided)


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """The frozen list."""

    entries: int
    root: str
    withdrawn: int
    withdrawn_sha256: str
    announcement: str
    at: datetime


class Turn(msgspec.Struct, frozen=True):
    """Seats that were given at once: the draw itself, or one moving up."""

    first_rank: int
    seats: tuple[int, ...]
    claim_until: datetime

    @property
    def count(self) -> int:
        """How many seats."""
        return sum(self.seats)


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A draw that was held."""

    seed: str
    signature: str
    randomness: str
    winners: int
    runners_up: int
    root: str

    @property
    def ranks(self) -> int:
        """How many entries have a rank."""
        return self.winners + self.runners_up


class PublicDraw(msgspec.Struct, frozen=True, kw_only=True):
    """A public draw as its events made it. `turns` begin with the draw itself."""

    id: UUID
    version: int
    campaign: UUID
    commitment: str
    round: int
    frozen: Frozen | None = None
    held: Held | None = None
    turns: tuple[Turn, ...] = ()
    voided: str | None = None

    @property
    def state(self) -> str:
        """Where it stands, in one word."""
        if self.voided is not None:
            return "voided"
        if self.held is not None:
            return "drawn"
        return "registering" if self.frozen is None else "frozen"

    @property
    def seats_given(self) -> int:
        """How many seats all turns have."""
        return sum(turn.count for turn in self.turns)

    @property
    def claim_until(self) -> datetime | None:
        """The end of the last turn's time to claim."""
        return self.turns[-1].claim_until if self.turns else None

    def turn_of(self, rank: int) -> int | None:
        """Return the turn in which a rank has a seat; None for runners-up who have none."""
        for number, turn in enumerate(self.turns):
            if turn.first_rank <= rank < turn.first_rank + turn.count:
                return number
        return None


class DrawFold:
    """Folds a public draw's events into a `PublicDraw`."""

    def evolve(self, state: PublicDraw | None, event: Any) -> PublicDraw:
        """Return the draw after `event`."""
        version = event.originator_version
        match event:
            case DrawOpened():
                return PublicDraw(
                    id=event.originator_id,
                    version=version,
                    campaign=event.campaign,
                    commitment=event.commitment,
                    round=event.round,
                )
            case _ if state is None:
                raise AssertionError(f"{event.TOPIC} is no draw's first event")
            case DrawFrozen():
                return replace(state, version=version, frozen=_frozen(event))
            case DrawDrawn():
                turn = Turn(0, event.seats, event.claim_until)
                return replace(state, version=version, held=_held(event), turns=(turn,))
            case DrawMovedUp():
                turn = Turn(event.first_rank, event.seats, event.claim_until)
                return replace(state, version=version, turns=(*state.turns, turn))
            case DrawVoided():
                return replace(state, version=version, voided=event.reason)
            case _:
                raise AssertionError(f"{event.TOPIC} is no event of a public draw")


def _frozen(event: DrawFrozen) -> Frozen:
    return Frozen(
        entries=event.entries,
        root=event.root,
        withdrawn=event.withdrawn,
        withdrawn_sha256=event.withdrawn_sha256,
        announcement=event.announcement,
        at=event.at,
    )


def _held(event: DrawDrawn) -> Held:
    return Held(
        seed=event.seed,
        signature=event.signature,
        randomness=event.randomness,
        winners=event.winners,
        runners_up=event.runners_up,
        root=event.root,
    )


DRAW_FOLD = DrawFold()
