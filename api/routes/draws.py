"""Public draws: register, withdraw, look, prove, claim what was won."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query, Request, Response
from msgspec.structs import replace

from api import documentation, examples
from api.drawlists import folder_of
from api.drawviews import (
    Announcement,
    DrawEntryPage,
    DrawEntryView,
    EntryProof,
    PublicDrawView,
    entry_view,
    public_draw_view,
)
from api.errors import RETRY_SOON, Problem, not_found
from api.exchange import JSON
from api.paging import Page, page_of, read_cursor
from api.routes.ordinary import CampaignId, Words, add_write, service_of, target_of
from api.routes.reading import Anybody, Tourist, as_json, public_id_of, read_docs, shown
from api.schemas import EmptyBody, EntryVoidBody, RegistrationBody
from api.service import Service
from api.writes import Asked, Heading, Order, Write, public_id
from campaigns import commands
from campaigns.campaign import CAMPAIGN_FOLD, Campaign
from campaigns.draws.announcing import announcement_of
from campaigns.draws.bundle import proof_document
from campaigns.draws.draw import DRAW_FOLD, SEATS_POOL, PublicDraw, draw_id
from campaigns.draws.entry import ENTRY_FOLD, DrawEntry, entry_id
from campaigns.draws.listing import ListFiles
from campaigns.draws.registering import EnterDraw, VoidEntry, WithdrawEntry, void_statement
from campaigns.draws.replies import ENTRY_PREFIX, RegistrationReply
from campaigns.draws.winning import ClaimWin
from campaigns.event_types import MAPPER
from campaigns.packets.replies import PacketReply
from campaigns.replies import CAMPAIGN_PREFIX, CouponReply
from ledger.books import Book
from ledger.commit import Fold
from ledger.history import state_of, streams_by_key
from projections import campaign_figures as figures
from projections.campaign_figures import CAMPAIGN_FIGURES

router: Final = APIRouter(tags=["draws"])

Command = tuple[Book, commands.Command]


@dataclass(frozen=True, slots=True)
class _Registration(Write[RegistrationBody]):
    """A registration. Its telephone becomes a pseudonym before anything is made of the body.

    So neither the fingerprint of the request nor an event can be searched for a number.
    """

    def asked(
        self,
        service: Service,
        heading: Heading,
        path: str,
        body: RegistrationBody,
        request_id: str,
        address: str,
    ) -> Asked:
        """Return what the writer is to decide."""
        assert heading.target is not None, "the address names a campaign"
        phone = service.pseudonyms.telephone(heading.target.uuid.hex, body.phone)
        hidden = body.model_copy(update={"phone": phone})
        return Write.asked(self, service, heading, path, hidden, request_id, address)


def _enter(order: Order[RegistrationBody], service: Service) -> Command:
    target, body = target_of(order), order.body
    return target.book, EnterDraw(
        target.book,
        target.uuid,
        order.caller.person,
        body.phone,
        body.region,
        body.operator,
        sign=service.signer.sign,
    )


def _withdraw(order: Order[EmptyBody], _service: Service) -> Command:
    target = target_of(order)
    own = entry_id(target.uuid, order.caller.person)
    return target.book, WithdrawEntry(target.book, target.uuid, own)


def _void(order: Order[EntryVoidBody], _service: Service) -> Command:
    target, body = target_of(order), order.body
    entry = public_id(body.entry, ENTRY_PREFIX)
    if entry is None or entry.book != target.book:
        raise not_found()
    return target.book, VoidEntry(target.book, target.uuid, entry.uuid, body.reason)


def _claim(order: Order[EmptyBody], _service: Service) -> Command:
    target = target_of(order)
    return target.book, ClaimWin(target.book, target.uuid, order.caller.person)


_ONE: Final = "/v1/campaigns/{campaign}/draw"

ENTER: Final = _Registration(f"{_ONE}/entries", "tourist", RegistrationBody, "cmp", _enter)
WITHDRAW: Final = Write(f"{_ONE}/withdrawals", "tourist", EmptyBody, "cmp", _withdraw)
VOID: Final = Write(f"{_ONE}/voids", "operator", EntryVoidBody, "cmp", _void)
CLAIM: Final = Write(f"{_ONE}/wins", "tourist", EmptyBody, "cmp", _claim)

_WORDS: Final[tuple[tuple[Write[Any], Words], ...]] = (
    (
        ENTER,
        Words(
            "Register for a public draw",
            "enter_draw",
            "registered",
            RegistrationReply,
            examples.REGISTRATION,
            examples.REGISTERED,
        ),
    ),
    (
        WITHDRAW,
        Words(
            "Take one's entry back",
            "withdraw_entry",
            "withdrawn",
            RegistrationReply,
            {},
            {**examples.REGISTERED, "state": "withdrawn"},
        ),
    ),
    (
        VOID,
        Words(
            "Find an entry void",
            "void_entry",
            "entry_voided",
            RegistrationReply,
            {"entry": examples.ENTRY_ID, "reason": "a bought account"},
            {**examples.REGISTERED, "state": "voided"},
        ),
    ),
    (
        CLAIM,
        Words(
            "Claim what the draw gave",
            "claim_win",
            "claimed",
            CouponReply,
            {},
            examples.coupon(),
            (("claimed", PacketReply, examples.packet()),),
        ),
    ),
)

for _write, _words in _WORDS:
    add_write(router, _write, _words)


_SEATS: Final = (
    "SELECT issued, quota FROM tidebook.capacity WHERE book = %s AND campaign = %s AND pool = %s"
)


# --- reading --------------------------------------------------------------------------------------


class _Found(msgspec.Struct, frozen=True):
    """A public draw that was opened, and one entry in it."""

    book: Book
    campaign: Campaign
    draw: PublicDraw
    entry: DrawEntry | None
    given: bool
    """Whether each seat that there is was given."""


def _look(cursor: Any, book: Book, campaign: UUID, person: str | None) -> _Found | None:
    """Return a draw that was opened, by primary key and never from a read model."""
    own = entry_id(campaign, person) if person is not None else None
    wanted = [campaign, draw_id(campaign), *([own] if own is not None else [])]
    streams = streams_by_key(cursor, book, MAPPER, wanted)
    cursor.execute(_SEATS, (book, campaign, SEATS_POOL))
    issued, quota = cursor.fetchone() or (0, 0)

    def folded(stream: UUID, fold: Fold[Any]) -> Any:
        return state_of(streams.get(stream, ()), fold)

    draw = folded(draw_id(campaign), DRAW_FOLD)
    if draw is None:
        return None
    entry = folded(own, ENTRY_FOLD) if own is not None else None
    given = draw.held is not None and issued == quota == draw.seats_given
    return _Found(book, folded(campaign, CAMPAIGN_FOLD), draw, entry, given)


async def _found(request: Request, campaign: str, person: str | None = None) -> _Found:
    """Return a draw; raise `not_found` where none was opened."""
    known = public_id_of(request, campaign, CAMPAIGN_PREFIX)
    found = await service_of(request).in_store(
        lambda cursor: _look(cursor, known.book, known.uuid, person)
    )
    if found is None:
        raise not_found()
    return found


@router.get(
    _ONE,
    summary="Look at a public draw",
    operation_id="get_draw",
    **read_docs(PublicDrawView, examples.PUBLIC_DRAW, "not_found", fresh=False),
)
async def get_draw(request: Request, campaign: CampaignId, _caller: Anybody) -> Response:
    """Everything that is published of it, as the book has it now. The seed is shown by the draw."""
    found = await _found(request, campaign)
    signer = service_of(request).signer.public
    return as_json(public_draw_view(found.book, found.campaign, found.draw, signer))


@router.get(
    f"{_ONE}/announcement",
    summary="Read a draw's announcement",
    operation_id="get_draw_announcement",
    response_class=Response,
    responses={
        **documentation.problems((*documentation.READ, "not_found", "not_frozen")),
        **documentation.reply(200, Announcement, examples.ANNOUNCEMENT),
    },
    openapi_extra=documentation.signed(),
)
async def get_announcement(request: Request, campaign: CampaignId, _caller: Anybody) -> Response:
    """The bytes whose SHA-256 was published before the beacon spoke."""
    found = await _found(request, campaign)
    if found.draw.frozen is None:
        raise Problem("not_frozen", "The list of this draw is not frozen yet.")
    told = announcement_of(found.book, found.campaign, found.draw)
    assert sha256(told).hexdigest() == found.draw.frozen.announcement, "as it was published"
    return Response(told, media_type=JSON.decode())


@router.get(
    f"{_ONE}/entry",
    summary="Look at one's own entry",
    operation_id="get_draw_entry",
    **read_docs(DrawEntryView, examples.DRAW_ENTRY, "not_found", fresh=False),
)
async def get_entry(request: Request, campaign: CampaignId, caller: Tourist) -> Response:
    """In the list or not, drawn or not, and until when what was won may be claimed."""
    found = await _found(request, campaign, caller.person)
    if found.entry is None:
        raise not_found()
    return as_json(_entry_view(service_of(request), found, found.entry))


@router.get(
    "/v1/draw-entries",
    summary="List one's own entries in public draws, the newest draw first",
    operation_id="list_draw_entries",
    **read_docs(DrawEntryPage, {"items": [examples.DRAW_ENTRY], "next": None}, "invalid_query"),
)
async def list_entries(
    request: Request, caller: Tourist, query: Annotated[Page, Query()]
) -> Response:
    """In which lists one is or was, and what was won. A page is of so many draws. For tourists."""
    after = read_cursor(query.after, figures.CampaignCursor)
    service = await shown(request, CAMPAIGN_FIGURES)
    rows = await service.read(
        lambda cursor: figures.with_public_draw(cursor, after=after, limit=query.limit + 1)
    )
    draws, following = page_of(rows, query.limit, _draw_of, figures.cursor_of)

    def look(cursor: Any) -> list[_Found | None]:
        return [_look(cursor, book, campaign, caller.person) for book, campaign in draws]

    items = [
        _entry_view(service, found, found.entry)
        for found in await service.in_store(look)
        if found is not None and found.entry is not None
    ]
    return as_json(DrawEntryPage(items, following))


def _draw_of(row: figures.CampaignFigures) -> tuple[Book, UUID]:
    return Book(row.book), row.campaign


@router.get(
    f"{_ONE}/proof",
    summary="Get the proof that one was in the draw",
    operation_id="get_draw_proof",
    **read_docs(
        EntryProof, examples.DRAW_PROOF, "not_found", "not_frozen", "list_away", fresh=False
    ),
)
async def get_proof(request: Request, campaign: CampaignId, caller: Tourist) -> Response:
    """What `verify_draw.py --proof` checks, against the root that was published."""
    found = await _found(request, campaign, caller.person)
    if found.entry is None:
        raise not_found()
    if found.draw.frozen is None:
        raise Problem("not_frozen", "The list of this draw is not frozen yet.")
    service, size = service_of(request), found.draw.frozen.entries
    folder = folder_of(service.settings.lists, found.book, found.campaign.id)
    listed, index = ListFiles(folder), found.entry.index
    if listed.entries() < size:
        raise Problem("list_away", "The list is not kept on this machine.", headers=RETRY_SOON)
    document = await asyncio.to_thread(proof_document, listed, index, size)
    if found.draw.frozen.root.encode() not in document:
        raise Problem("list_away", "The list on this machine is damaged.", headers=RETRY_SOON)
    return Response(document, media_type=JSON.decode())


def _entry_view(service: Service, found: _Found, entry: DrawEntry) -> DrawEntryView:
    view = entry_view(found.book, found.campaign, found.draw, entry, given=found.given)
    if entry.reason is None or entry.voided_at is None:
        return view
    statement = void_statement(
        found.book, found.campaign.id, entry.person, entry.reason, entry.voided_at
    )
    return replace(
        view,
        reason=entry.reason,
        statement=statement.decode(),
        signature=service.signer.sign(statement).hex(),
    )
