"""What routes that read share: who may read, how fresh it must be, and how it is sent."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
from fastapi import Depends, Request, Response

from api import documentation
from api.callers import ROLES, Caller, Role
from api.errors import RETRY_SOON, Problem, not_found
from api.exchange import JSON
from api.routes.ordinary import call_of, service_of
from api.service import Service
from api.views import STAFF
from api.writes import public_id
from ledger.books import PublicId
from projections.projection import Projection
from projections.tracking import position

_POSITION: Final = re.compile(rb"([a-z][a-z0-9]{0,15}):([0-9]{1,18})")
POLL_S: Final = (0.005, 0.05)
"""First and longest pause between two looks at how far a read model has come."""


def _in(*roles: Role) -> Callable[[Request], Awaitable[Caller]]:
    async def admitted(request: Request) -> Caller:
        return await service_of(request).admit(call_of(request), *roles)

    return admitted


Anybody = Annotated[Caller, Depends(_in(*ROLES))]
Tourist = Annotated[Caller, Depends(_in("tourist"))]
Merchant = Annotated[Caller, Depends(_in("merchant"))]
Staff = Annotated[Caller, Depends(_in(*STAFF))]
MerchantOrStaff = Annotated[Caller, Depends(_in("merchant", *STAFF))]
Auditor = Annotated[Caller, Depends(_in("auditor"))]


async def only_admin(request: Request) -> None:
    """Let calls from the admin networks pass; for all others there is nothing here."""
    if not service_of(request).is_admin(call_of(request).address):
        raise not_found()


def public_id_of(request: Request, text: str, prefix: str) -> PublicId:
    """Return the id in an address, of a book of this server; raise `not_found`."""
    found = public_id(text, prefix)
    if found is None or found.book not in service_of(request).writers:
        raise not_found()
    return found


async def shown(request: Request, projection: Projection) -> Service:
    """Return the service once a read model shows the position that the caller asks for."""
    service = service_of(request)
    header = call_of(request).headers.get(b"tidebook-min-position")
    if header is None:
        return service
    match = _POSITION.fullmatch(header)
    book = match[1].decode() if match else ""
    if match is None or book not in service.writers:
        raise Problem(
            "invalid_header",
            "Tidebook-Min-Position must be a book of this server, `:` and a position, as in a "
            "Tidebook-Position.",
        )
    await _wait_for(service, projection, book, int(match[2]))
    return service


async def _wait_for(service: Service, projection: Projection, book: str, wanted: int) -> None:
    deadline = time.monotonic() + service.settings.read_wait_s
    pause_s, longest_s = POLL_S
    while await service.read(lambda cursor: position(cursor, projection, book)) < wanted:
        if time.monotonic() + pause_s > deadline:
            raise Problem("behind", "The read model is not there yet.", headers=RETRY_SOON)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_s)


def as_json(view: msgspec.Struct, status: int = 200) -> Response:
    """Return a view as a response."""
    return Response(msgspec.json.encode(view), status, media_type=JSON.decode())


def read_docs(
    view: type[msgspec.Struct], example: Any, *codes: str, fresh: bool = True
) -> dict[str, Any]:
    """Return the documentation of a route that reads with a token."""
    parameters = (documentation.MIN_POSITION,) if fresh else ()
    more = ("invalid_header", "behind") if fresh else ()
    return {
        "response_class": Response,
        "responses": {
            **documentation.problems((*documentation.READ, *codes, *more)),
            **documentation.reply(200, view, example),
        },
        "openapi_extra": documentation.signed(*parameters),
    }
