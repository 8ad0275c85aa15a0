"""Reading the requests of one campaign from a book, in order, and imagining them under other terms.

The whole book is read once, and only what is of the campaign is decoded. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from uuid import UUID

from campaigns.campaign import CAMPAIGN_FOLD, Campaign
from campaigns.drawing import entrants
from campaigns.event_types import MAPPER
from campaigns.refusals import RenderRefusal
from campaigns.replaying.asking import Sources
from campaigns.replaying.decisions import recorded_decisions
from campaigns.replaying.lists import Lists
from campaigns.replaying.refused import REFUSALS, Recognise, Recogniser
from campaigns.replaying.terms import Changed, changed_terms, is_of
from campaigns.replaying.whatif import Asked, Imagining, Outcome, imagine, in_order
from ledger.books import Book
from ledger.datastore import Datastore
from ledger.history import Entry, History, dense
from ledger.kept import kept_in_order


class UnknownCampaign(Exception):
    """The book has no such campaign at that position."""


def campaign_of(history: History, campaign: UUID, until: int) -> Campaign:
    """Return a campaign as it stood at a position; raise `UnknownCampaign`."""
    state: Campaign | None = None
    for _, event in history.stream(campaign, until):
        state = CAMPAIGN_FOLD.evolve(state, event)
    if state is None:
        raise UnknownCampaign(campaign.hex)
    return state


def requests_of(
    history: History,
    datastore: Datastore,
    campaign: Campaign,
    until: int,
    fingerprints: Iterable[bytes],
    on_event: Callable[[], Any] = lambda: None,
) -> Iterator[Asked]:
    """Yield what was asked of a campaign up to a position: decisions, and refusals that are known.

    With what happened to the campaign that its leftovers go to. Raises `PositionGap`.
    """
    packet = campaign.terms.packet
    others = {packet.next_round} if packet is not None and packet.next_round is not None else set()

    def own() -> Iterator[Entry]:
        for entry in dense(history.book, history.entries(0, until), until):
            on_event()
            is_own = is_of(campaign.id, entry.stream, entry.state)
            if is_own or entry.stream in others or _gives_to(campaign.id, entry):
                yield entry

    refusals = kept_in_order(datastore, history.book, REFUSALS, until, list(fingerprints))
    return in_order(recorded_decisions(own(), MAPPER), refusals)


def _gives_to(campaign: UUID, entry: Entry) -> bool:
    """Whether it moves what another campaign left into this one."""
    return f'"into":"{campaign}"'.encode() in entry.state


def what_if(
    history: History,
    datastore: Datastore,
    campaign_uuid: UUID,
    changes: Mapping[str, str],
    until: int,
    *,
    draw_key: Callable[[], bytes],
    recognise: Recognise,
    render: RenderRefusal,
    on_event: Callable[[], Any] = lambda: None,
) -> tuple[Campaign, Changed, Outcome]:
    """Return the campaign, the changed terms and what would have been.

    Raises `UnknownCampaign`, `campaigns.replaying.terms.BadChange`, `PositionGap`.
    """
    campaign = campaign_of(history, campaign_uuid, until)
    changed = changed_terms(campaign, changes)
    sources = Sources(
        Book(history.book),
        draw_key,
        Lists(lambda position: history.entries(0, position)),
        lambda one, position: entrants(history.entries(0, position), one),
    )
    recogniser = Recogniser(recognise, sources, render)
    marks = recognise(campaign_uuid)
    requests = requests_of(history, datastore, campaign, until, marks, on_event)
    imagining = Imagining(campaign_uuid, changed, sources, recogniser, history.streams)
    return campaign, changed, imagine(imagining, requests)
