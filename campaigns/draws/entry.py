"""An entry's life: registered, withdrawn, registered again, won. And a telephone's: taken, freed.

An entry's stream is made of campaign and person, a telephone's of campaign and the keyed pseudonym
of its number, so that one identity and one number are in the list once at most: the store's
primary keys hold it. A number itself is never here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final, Literal
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ledger.events import Event

State = Literal["registered", "withdrawn", "voided", "won"]

REGISTRATIONS_MAX: Final = 20
"""How often a person may register for one draw, having withdrawn in between."""

LEAF_BYTES: Final = 20


def entry_id(campaign: UUID, person: str) -> UUID:
    """Return the id of a person's entry in the draw of a campaign."""
    return uuid5(campaign, f"entry {person}")


def telephone_id(campaign: UUID, phone: str) -> UUID:
    """Return the stream that a telephone has in the draw of a campaign."""
    return uuid5(campaign, f"phone {phone}")


def leaf_of(entry: UUID, version: int) -> bytes:
    """Return what stands in the list: the entry, and the version that registered it."""
    return entry.bytes + version.to_bytes(4, "big")


class DrawEntered(Event, frozen=True, kw_only=True):
    """A person registered for a draw, and was eligible as of that instant.

    `index` is the place in the list, from 0, `phone` the pseudonym of the telephone. `region` and
    `operator` are what eligibility was judged by: what becomes of them later changes nothing.
    """

    TOPIC: ClassVar[str] = "draw.entered"
    campaign: UUID
    campaign_version: int
    person: str
    index: int
    phone: str
    region: str | UnsetType = UNSET
    operator: str | UnsetType = UNSET


class DrawWithdrawn(Event, frozen=True, kw_only=True):
    """A person took the entry back; its place in the list stays empty."""

    TOPIC: ClassVar[str] = "draw.withdrawn"
    campaign: UUID
    person: str
    index: int


class DrawEntryVoided(Event, frozen=True, kw_only=True):
    """An operator found an entry void; its place stays empty, and its telephone is not free."""

    TOPIC: ClassVar[str] = "draw.entry_voided"
    campaign: UUID
    person: str
    index: int
    reason: str


class DrawWon(Event, frozen=True, kw_only=True):
    """The draw gave an entry a seat: the right to claim until `claim_until`.

    `turn` is 0 for who was drawn; from 1 on for who moved up.
    """

    TOPIC: ClassVar[str] = "draw.won"
    campaign: UUID
    person: str
    index: int
    rank: int
    turn: int
    tier: int
    amount_minor: int
    currency: str
    claim_until: datetime


class DrawPhoneTaken(Event, frozen=True, kw_only=True):
    """A telephone stands for an entry of a draw, and for no other while it does."""

    TOPIC: ClassVar[str] = "draw.phone_taken"
    campaign: UUID
    entry: UUID


class DrawPhoneFreed(Event, frozen=True, kw_only=True):
    """The entry was withdrawn; the telephone may stand for another one."""

    TOPIC: ClassVar[str] = "draw.phone_freed"
    campaign: UUID
    entry: UUID


ENTRY_EVENTS: tuple[type[Event], ...] = (
    DrawEntered,
    DrawWithdrawn,
    DrawEntryVoided,
    DrawWon,
    DrawPhoneTaken,
    DrawPhoneFreed,
)


class Won(msgspec.Struct, frozen=True):
    """The seat of an entry that won."""

    rank: int
    turn: int
    tier: int
    amount_minor: int
    currency: str
    claim_until: datetime


class DrawEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as its events made it. `entered` is the version that registered it last."""

    id: UUID
    version: int
    state: State
    campaign: UUID
    person: str
    index: int
    phone: str
    entered: int
    entered_at: datetime
    won: Won | None = None
    reason: str | None = None
    """Why it is void."""
    voided_at: datetime | None = None

    @property
    def leaf(self) -> bytes:
        """What stands in the list."""
        return leaf_of(self.id, self.entered)


class EntryFold:
    """Folds an entry's events into a `DrawEntry`."""

    def evolve(self, state: DrawEntry | None, event: Any) -> DrawEntry:
        """Return the entry after `event`."""
        version = event.originator_version
        match event:
            case DrawEntered():
                return DrawEntry(
                    id=event.originator_id,
                    version=version,
                    state="registered",
                    campaign=event.campaign,
                    person=event.person,
                    index=event.index,
                    phone=event.phone,
                    entered=version,
                    entered_at=event.at,
                )
            case _ if state is None:
                raise AssertionError(f"{event.TOPIC} is no entry's first event")
            case DrawWithdrawn():
                return replace(state, version=version, state="withdrawn")
            case DrawEntryVoided():
                return replace(
                    state,
                    version=version,
                    state="voided",
                    reason=event.reason,
                    voided_at=event.at,
                )
            case DrawWon():
                won = Won(
                    event.rank,
                    event.turn,
                    event.tier,
                    event.amount_minor,
                    event.currency,
                    event.claim_until,
                )
                return replace(state, version=version, state="won", won=won)
            case _:
                raise AssertionError(f"{event.TOPIC} is no event of an entry")


class Telephone(msgspec.Struct, frozen=True, kw_only=True):
    """A telephone in a draw: which entry it stands for, None when it is free."""

    id: UUID
    version: int
    entry: UUID | None


class TelephoneFold:
    """Folds a telephone's events into a `Telephone`."""

    def evolve(self, _state: Telephone | None, event: Any) -> Telephone:
        """Return the telephone after `event`."""
        entry = event.entry if isinstance(event, DrawPhoneTaken) else None
        return Telephone(id=event.originator_id, version=event.originator_version, entry=entry)


ENTRY_FOLD = EntryFold()
TELEPHONE_FOLD = TelephoneFold()
