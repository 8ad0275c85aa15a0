"""Kept refusals, asked again: who was refused what, and at which instants it can have been.

A kept refusal has the fingerprint of its request and not the request. Requests that say nothing but
where they are sent are known by it; of the others only the count is told. Its instant is not kept
either: it lies between the events before and after it, and every answer of that time is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from campaigns import commands as c
from campaigns.campaign import Campaign
from campaigns.draws.entry import entry_id
from campaigns.draws.registering import WithdrawEntry
from campaigns.draws.winning import ClaimWin
from campaigns.intake import draws_at
from campaigns.refusals import PRECEDENCE
from campaigns.replaying.asking import NotAsked, Sources
from campaigns.replaying.world import World
from ledger.events import Actor
from ledger.kept import Kept

REFUSALS: Final = frozenset(code for codes in PRECEDENCE.values() for code in codes)

Recognise = Callable[[UUID], Mapping[bytes, str]]
"""Fingerprint → name of the command, for the requests about a campaign that say nothing more."""


class Refused(NamedTuple):
    """A refusal that can be asked for again: the command, and who sent it how."""

    kept: Kept
    command: c.Command
    campaign: UUID
    call: Callable[..., c.Call]


class Recogniser:
    """Knows refused requests by their fingerprints, for the campaigns that it was told of."""

    def __init__(self, recognise: Recognise, sources: Sources, render: Any) -> None:
        self._recognise = recognise
        self._sources = sources
        self._render = render
        self._known: dict[bytes, tuple[str, UUID]] = {}

    def learn(self, campaign: UUID) -> None:
        """Know the requests about a campaign from now on."""
        for fingerprint, name in self._recognise(campaign).items():
            self._known[fingerprint] = (name, campaign)

    def refused(self, kept: Kept) -> Refused:
        """Return what was refused; raise `NotAsked`."""
        found = self._known.get(kept.fingerprint)
        if found is None:
            raise NotAsked("unrecorded")
        name, campaign = found
        role, _, person = kept.scope.partition(":")
        command = _command(name, campaign, person, self._sources)

        def call() -> c.Call:
            by = Actor(role, person)
            return c.Call(by, "", self._render, kept.key, kept.fingerprint)

        return Refused(kept, command, campaign, call)


def _command(name: str, campaign: UUID, person: str, sources: Sources) -> c.Command:
    book, key = sources.book, sources.draw_key
    match name:
        case "claim":
            return c.ClaimCoupon(book, campaign, person, key)
        case "open":
            return c.OpenCampaign(book, campaign, key)
        case "resume":
            return c.ResumeCampaign(book, campaign)
        case "claim_win":
            return ClaimWin(book, campaign, person)
        case "withdraw_entry":
            return WithdrawEntry(book, campaign, entry_id(campaign, person))
        case _:
            raise NotAsked("unrecorded")


def instants(
    world: World, campaign: UUID, after: datetime, before: datetime | None
) -> Iterator[datetime]:
    """Yield an instant for each answer that a request can have had between two events.

    An answer only changes with time where a window of the campaign begins or ends.
    """
    yield after
    known = world.state(c.campaign_read(campaign))
    if known is not None:
        for edge in sorted(_edges(known)):
            if edge > after and (before is None or edge <= before):
                yield edge


def _edges(campaign: Campaign) -> set[datetime]:
    terms = campaign.terms
    edges = {terms.claim_from, terms.claim_until, draws_at(terms)}
    draw = terms.public_draw
    if draw is not None:
        edges |= {draw.register_from, draw.register_until}
    return edges


def answer_at(refused: Refused, world: World, at: datetime) -> tuple[str, bytes]:
    """Return what the request is answered at an instant: code and reply."""
    world.now = at
    verdict = refused.command.request(refused.call()).decide(world)
    return verdict.code, verdict.body
