"""Waiting rooms: take a place in front of a campaign, and see when it is one's turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Final

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from api import documentation, examples
from api.errors import RETRY_SOON, Problem, not_found
from api.routes.ordinary import CampaignId, service_of
from api.routes.reading import Tourist, as_json, public_id_of, read_docs
from api.service import Service
from api.views import PlaceView, place_view
from campaigns.campaign import POOL
from campaigns.replies import CAMPAIGN_PREFIX
from campaigns.waiting import NoPlace, NoWaitingRoom, Place, WaitingRoom, place_of
from campaigns.wire import Away
from ledger.books import PublicId

router: Final = APIRouter(tags=["campaigns"])

_ADDRESS: Final = "/v1/campaigns/{campaign}/place"
EVERY_S: Final = 1.0
"""Pause between two events of a stream."""
STREAM_S: Final = 600.0
"""A stream ends after this; whoever still waits opens another."""
SOON_S: Final = 3
"""Seconds after which to look again without a stream, when the turn is near."""


_CODES: Final = ("not_found", "no_waiting_room", "waiting_room_away")


@router.put(
    _ADDRESS,
    summary="Take a place in the waiting room",
    operation_id="take_place",
    **read_docs(PlaceView, examples.PLACE, *_CODES, fresh=False),
)
async def take_place(request: Request, campaign: CampaignId, caller: Tourist) -> Response:
    """One place a person, however often it is asked for.

    Everybody who comes before the claims begin gets a random place at the front; later ones come
    behind. A place holds no coupon. At one's turn the reply has a pass, for one minute.
    """
    service, found = service_of(request), public_id_of(request, campaign, CAMPAIGN_PREFIX)
    place = await _asked(_room(service).take(found.book, found.uuid, POOL, caller.person))
    return _shown(_view(service, found, caller.person, place))


@router.get(
    _ADDRESS,
    summary="Look at one's place",
    operation_id="get_place",
    **read_docs(PlaceView, examples.PLACE, *_CODES, fresh=False),
)
async def get_place(request: Request, campaign: CampaignId, caller: Tourist) -> Response:
    """The same as taking it, but 404 where one has none."""
    service, found = service_of(request), public_id_of(request, campaign, CAMPAIGN_PREFIX)
    place = await _asked(_room(service).place(found.book, found.uuid, POOL, caller.person))
    return _shown(_view(service, found, caller.person, place))


@router.get(
    f"{_ADDRESS}/events",
    summary="Watch one's place",
    operation_id="watch_place",
    response_class=Response,
    responses={
        **documentation.problems((*documentation.READ, *_CODES)),
        200: {
            "description": "Server-sent events `place`, one a second, each with the place as "
            "JSON. The last one is one's turn, or that nothing is left.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "headers": documentation.REQUEST_ID,
        },
    },
    openapi_extra=documentation.signed(),
)
async def watch_place(request: Request, campaign: CampaignId, caller: Tourist) -> Response:
    """Takes a place where one has none. Ends after ten minutes at the latest; then open another."""
    service, found = service_of(request), public_id_of(request, campaign, CAMPAIGN_PREFIX)
    place = await _asked(_room(service).take(found.book, found.uuid, POOL, caller.person))
    if service.streams >= service.settings.waiting_streams_max:
        raise Problem("overloaded", "Too many places are watched already.", headers=RETRY_SOON)
    draining = request.scope.get("state", {}).get("draining") or asyncio.Event()
    events = _events(service, found, caller.person, place, draining)
    return StreamingResponse(events, media_type="text/event-stream")


async def _events(
    service: Service, campaign: PublicId, person: str, place: Place, draining: asyncio.Event
) -> AsyncIterator[bytes]:
    room = _room(service)
    until = asyncio.get_running_loop().time() + STREAM_S
    service.streams += 1
    try:
        while True:
            view = _view(service, campaign, person, place)
            yield b"event: place\ndata: " + msgspec.json.encode(view) + b"\n\n"
            left_s = until - asyncio.get_running_loop().time()
            if place.state in ("turn", "sold_out") or left_s < 0:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(draining.wait(), EVERY_S)
                return  # this server goes; another takes the next stream
            try:
                place = await _moved(room, campaign, person, place)
            except (Away, NoWaitingRoom):
                return  # it may be back for the next stream
    finally:
        service.streams -= 1


async def _moved(room: WaitingRoom, campaign: PublicId, person: str, place: Place) -> Place:
    """Return the place a moment later. Only its number has to be asked for each alone."""
    where = (campaign.book, campaign.uuid, POOL)
    queue = await room.queue(*where)
    if not queue.open:
        return place_of(0, queue)
    if not place.number or place.number > queue.places:  # just opened, or the room was emptied
        return await room.take(*where, person)
    return place_of(place.number, queue)


async def _asked(asking: Awaitable[Place]) -> Place:
    """Return the place, or raise the problem of there being none."""
    try:
        return await asking
    except NoPlace:
        raise not_found() from None
    except NoWaitingRoom:
        raise Problem(
            "no_waiting_room", "Claims of this campaign are taken as they come."
        ) from None
    except Away:
        raise Problem(
            "waiting_room_away",
            "The waiting room cannot be reached; claims are taken without it meanwhile.",
            headers=RETRY_SOON,
        ) from None


def _room(service: Service) -> WaitingRoom:
    if service.waiting_room is None:
        raise Problem(
            "waiting_room_away", "This service has no Valkey for places.", headers=RETRY_SOON
        )
    return service.waiting_room


def _view(service: Service, campaign: PublicId, person: str, place: Place) -> PlaceView:
    own = service.passes.issue(campaign.uuid, person) if place.state == "turn" else None
    return place_view(campaign, place, own)


def _shown(view: PlaceView) -> Response:
    """Return a place, and when to look at it again."""
    response = as_json(view)
    if view.state in ("early", "waiting"):
        response.headers["Retry-After"] = str(max(1, min(SOON_S, round(view.wait_s))))
    return response
