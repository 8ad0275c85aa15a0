"""Receipts: whoever may see an event gets its proof, and whoever was refused a signed statement."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api import documentation, qr, receipts
from api.callers import Caller
from api.errors import RETRY_SOON, Problem, not_found
from api.receipts import Asker, Given, OtherCampaign
from api.routes.books import BookName
from api.routes.ordinary import CampaignId, CouponId, GroupId, PacketId, service_of
from api.routes.reading import Anybody, Tourist, public_id_of
from campaigns.draws.entry import entry_id
from campaigns.groups.replies import GROUP_PREFIX
from campaigns.replies import CAMPAIGN_PREFIX, COUPON_PREFIX, PACKET_PREFIX
from ledger.books import DEFAULT_BOOK
from ledger.transparency.packing import pack
from ledger.transparency.receipts import NotYetProved

router: Final = APIRouter(tags=["transparency"])

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
TEXT: Final = "text/plain; charset=utf-8"
SVG: Final = "image/svg+xml"

Find = Callable[[Any, Asker], Given | None]
"""Finds a receipt with a cursor."""


class FormQuery(BaseModel):
    """In which form a receipt is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["file", "text", "svg"] = "file"
    """The file, the text of its QR code, or a picture of that code."""


class KeyQuery(FormQuery):
    """Which request a receipt is wanted of."""

    key: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[ -~]+$")]
    book: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,15}$")] = DEFAULT_BOOK
    campaign: Annotated[str, Field(pattern=r"^cmp_[a-z][a-z0-9]{0,15}_[0-9a-f]{32}$")] | None = None


Number = Annotated[
    str,
    Path(description="The event's number in the life of this thing, from 1.", examples=["1"]),
]


def _docs(what: str, *codes: str) -> dict[str, Any]:
    return {
        "response_class": Response,
        "responses": {
            **documentation.problems((*documentation.READ, "not_found", "behind", *codes)),
            200: {
                "description": what,
                "content": {TEXT: {"schema": {"type": "string"}}, SVG: {}},
                "headers": dict(documentation.REQUEST_ID),
            },
        },
        "openapi_extra": documentation.signed(),
    }


async def _answer(
    request: Request, asker: Asker, find: Find, form: Literal["file", "text", "svg"]
) -> Response:
    try:
        given = await service_of(request).read(lambda cursor: find(cursor, asker))
    except NotYetProved:
        raise Problem(
            "behind", "No head that is served has this event yet.", headers=RETRY_SOON
        ) from None
    except OtherCampaign:
        raise Problem(
            "invalid_query", "What was asked with this key was no claim of this campaign."
        ) from None
    if given is None:
        raise not_found()
    return _sent(given, form, str(request.url.replace(query="")))


def _sent(given: Given, form: Literal["file", "text", "svg"], address: str) -> Response:
    if form == "text":
        return Response(pack(given.data), media_type=TEXT)
    if form == "svg":
        return Response(qr.coded(given.data, given.leaf, address).svg(), media_type=SVG)
    headers = {"Content-Disposition": f'attachment; filename="{given.name}"'}
    return Response(given.data, media_type=TEXT, headers=headers)


def _number(text: str) -> int:
    """Return a position or version in an address; raise `not_found` for what is none."""
    if not _NUMBER.fullmatch(text):
        raise not_found()
    return int(text)


def _asker(request: Request, caller: Caller, book: str) -> Asker:
    service = service_of(request)
    if book not in service.writers:
        raise not_found()
    return Asker(caller, book, service.settings.refusal_secret())


async def _of_thing(
    request: Request, caller: Caller, text: str, prefix: str, number: str, query: FormQuery
) -> Response:
    found, wanted = public_id_of(request, text, prefix), _number(number)

    def find(cursor: Any, asker: Asker) -> Given | None:
        return receipts.of_stream(cursor, asker, found.uuid, wanted)

    return await _answer(request, _asker(request, caller, found.book), find, query.form)


_EVENT: Final = "The event with its proof (C2SP tlog-proof)"


@router.get(
    "/v1/books/{book}/events/{position}/receipt",
    summary="Get the receipt of an event",
    operation_id="get_receipt",
    **_docs(_EVENT, "invalid_query"),
)
async def get_receipt(
    request: Request,
    book: BookName,
    position: Annotated[str, Path(description="The event's position.", examples=["4711"])],
    caller: Anybody,
    query: Annotated[FormQuery, Query()],
) -> Response:
    """One event and the proof that it is in the log, to be verified offline.

    The position is the one that the reply told as `Tidebook-Position`, where its decision made one
    event. For auditors, for whoever caused it, and for the person or merchant that it is about.
    """
    wanted = _number(position)

    def find(cursor: Any, asker: Asker) -> Given | None:
        return receipts.of_position(cursor, asker, wanted)

    return await _answer(request, _asker(request, caller, book), find, query.form)


@router.get(
    "/v1/receipts",
    summary="Get the receipt of what was answered under one's own idempotency key",
    operation_id="get_receipt_of_request",
    **_docs("The event with its proof, or a signed refusal (C2SP signed-note)", "invalid_query"),
)
async def get_receipt_of_request(
    request: Request, caller: Anybody, query: Annotated[KeyQuery, Query()]
) -> Response:
    """What became of a request, as proof: an event of one's own, or a refusal under a signature.

    With `campaign` the statement names the campaign, if a coupon of it is what was claimed. What
    was refused before it came to the writer is not kept, so there is nothing to sign.
    """

    def find(cursor: Any, asker: Asker) -> Given | None:
        return receipts.of_key(cursor, asker, query.key, query.campaign)

    return await _answer(request, _asker(request, caller, query.book), find, query.form)


@router.get(
    "/v1/coupons/{coupon}/receipts/{number}",
    summary="Get the receipt of an event of a coupon",
    operation_id="get_coupon_receipt",
    **_docs(_EVENT, "invalid_query"),
)
async def get_coupon_receipt(
    request: Request,
    coupon: CouponId,
    number: Number,
    caller: Anybody,
    query: Annotated[FormQuery, Query()],
) -> Response:
    """Number 1 is the claim, or the entry in a lottery.

    For its holder, for the merchant of a redemption or refund, and for auditors.
    """
    return await _of_thing(request, caller, coupon, COUPON_PREFIX, number, query)


@router.get(
    "/v1/packets/{packet}/receipts/{number}",
    summary="Get the receipt of an event of a packet",
    operation_id="get_packet_receipt",
    **_docs(_EVENT, "invalid_query"),
)
async def get_packet_receipt(
    request: Request,
    packet: PacketId,
    number: Number,
    caller: Anybody,
    query: Annotated[FormQuery, Query()],
) -> Response:
    """Number 1 is how it came to its holder: by a claim, or as a share of a group packet.

    For its holder, for the merchant of a payment or refund, and for auditors.
    """
    return await _of_thing(request, caller, packet, PACKET_PREFIX, number, query)


@router.get(
    "/v1/groups/{group}/receipts/{number}",
    summary="Get the receipt of an event of a group packet",
    operation_id="get_group_receipt",
    **_docs(_EVENT, "invalid_query"),
)
async def get_group_receipt(
    request: Request,
    group: GroupId,
    number: Number,
    caller: Anybody,
    query: Annotated[FormQuery, Query()],
) -> Response:
    """Number 1 is the sending, for its sender; a share is for whoever took it. And for auditors."""
    return await _of_thing(request, caller, group, GROUP_PREFIX, number, query)


@router.get(
    "/v1/campaigns/{campaign}/draw/entry/receipts/{number}",
    summary="Get the receipt of an event of one's own entry in a public draw",
    operation_id="get_entry_receipt",
    **_docs(_EVENT, "invalid_query"),
)
async def get_entry_receipt(
    request: Request,
    campaign: CampaignId,
    number: Number,
    caller: Tourist,
    query: Annotated[FormQuery, Query()],
) -> Response:
    """Number 1 is the registration. That the entry is in the frozen list has a proof of its own."""
    found = public_id_of(request, campaign, CAMPAIGN_PREFIX)
    own, wanted = entry_id(found.uuid, caller.person), _number(number)

    def find(cursor: Any, asker: Asker) -> Given | None:
        return receipts.of_stream(cursor, asker, own, wanted)

    return await _answer(request, _asker(request, caller, found.book), find, query.form)
