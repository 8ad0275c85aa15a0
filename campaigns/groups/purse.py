"""A purse: what one person may send as group packets of one campaign.

Two operators fill it from the campaign's pot, the person sends from it, and what nobody took comes
back to it. Nothing else ever comes in, so that no packet's balance is passed on; and nothing is
paid out of it. Each filling and each sending commits to the seed of the next group, before anybody
can know what will be sent.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from campaigns.coupon import ReturnsTo
from ledger.events import Event


def purse_id(campaign: UUID, person: str) -> UUID:
    """Return the id of a person's purse of a campaign: there is one."""
    return uuid5(campaign, f"purse:{person}")


class PurseFillingProposed(Event, frozen=True, kw_only=True):
    """An operator proposed to put money into a person's purse; a second one must approve it."""

    TOPIC: ClassVar[str] = "purse.filling_proposed"
    campaign: UUID
    person: str
    amount_minor: int
    currency: str


class PurseFilled(Event, frozen=True, kw_only=True):
    """A second operator approved; money left the pot for the purse."""

    TOPIC: ClassVar[str] = "purse.filled"
    campaign: UUID
    person: str
    amount_minor: int
    currency: str
    proposed_by: str
    seed_commitment: str


class PurseSent(Event, frozen=True, kw_only=True):
    """The person sent money to a group; the purse commits to the seed of the next one."""

    TOPIC: ClassVar[str] = "purse.sent"
    campaign: UUID
    person: str
    group: UUID
    amount_minor: int
    currency: str
    seed_commitment: str


class PurseReturned(Event, frozen=True, kw_only=True):
    """What nobody took of a group came back to its sender's purse."""

    TOPIC: ClassVar[str] = "purse.returned"
    campaign: UUID
    person: str
    group: UUID
    amount_minor: int
    currency: str


class PurseEmptied(Event, frozen=True, kw_only=True):
    """What was in the purse went back to the pot, or to the sponsor."""

    TOPIC: ClassVar[str] = "purse.emptied"
    campaign: UUID
    person: str
    amount_minor: int
    currency: str
    to: ReturnsTo
    sponsor: str
    reason: str | UnsetType = UNSET


PURSE_EVENTS: Final[tuple[type[Event], ...]] = (
    PurseFillingProposed,
    PurseFilled,
    PurseSent,
    PurseReturned,
    PurseEmptied,
)


class Filling(msgspec.Struct, frozen=True):
    """An amount that waits for a second operator."""

    amount_minor: int
    by: str


class Commitment(msgspec.Struct, frozen=True):
    """The hash of the next group's seed; `version` is the purse's, by which the seed is found."""

    sha256: str
    version: int


class Purse(msgspec.Struct, frozen=True, kw_only=True):
    """A purse as its events made it."""

    id: UUID
    version: int
    campaign: UUID
    person: str
    currency: str
    balance_minor: int = 0
    filling: Filling | None = None
    commitment: Commitment | None = None


class PurseFold:
    """Folds a purse's events into a `Purse`."""

    def evolve(self, state: Purse | None, event: Any) -> Purse:
        """Return the purse after `event`."""
        version = event.originator_version
        if state is None:
            assert isinstance(event, PurseFillingProposed), f"{event.TOPIC} is no first event"
            state = Purse(
                id=event.originator_id,
                version=version,
                campaign=event.campaign,
                person=event.person,
                currency=event.currency,
            )
        balance_minor = state.balance_minor
        match event:
            case PurseFillingProposed():
                filling = Filling(event.amount_minor, event.by.id)
                return replace(state, version=version, filling=filling)
            case PurseFilled():
                return replace(
                    state,
                    version=version,
                    balance_minor=balance_minor + event.amount_minor,
                    filling=None,
                    commitment=Commitment(event.seed_commitment, version),
                )
            case PurseSent():
                return replace(
                    state,
                    version=version,
                    balance_minor=balance_minor - event.amount_minor,
                    commitment=Commitment(event.seed_commitment, version),
                )
            case PurseReturned():
                balance_minor += event.amount_minor
                return replace(state, version=version, balance_minor=balance_minor)
            case PurseEmptied():
                balance_minor -= event.amount_minor
                return replace(state, version=version, balance_minor=balance_minor)
            case _:
                raise AssertionError(f"{event.TOPIC} is no event of a purse")


PURSE_FOLD: Final = PurseFold()
