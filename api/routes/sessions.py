"""Sessions: begin one with a token of the issuer, end it with its own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter, Request, Response

from api import documentation, examples
from api.bodies import parse_body
from api.callers import ROLES
from api.errors import not_found
from api.routes.ordinary import call_of, service_of
from api.routes.reading import as_json
from api.schemas import SessionBody
from api.sessions import revoke
from api.views import SessionReply

router: Final = APIRouter(tags=["sessions"])


@router.post(
    "/v1/sessions",
    status_code=201,
    summary="Begin a session",
    operation_id="begin_session",
    response_class=Response,
    responses={
        **documentation.problems(
            (
                *documentation.ALWAYS,
                "body_too_large",
                "unsupported_media_type",
                "malformed_json",
                "invalid_body",
            )
        ),
        **documentation.reply(201, SessionReply, examples.SESSION_REPLY),
    },
    openapi_extra={
        **documentation.body(SessionBody, examples.SESSION, required=False),
        "security": [{"bearer": []}],
    },
)
async def begin_session(request: Request) -> Response:
    """For every role, with a token of the issuer; a session token begins no other session.

    The session token is sent where the issuer's token was. Nothing is stored and nothing is used
    up, so this POST needs no Idempotency-Key.
    """
    service, call = service_of(request), call_of(request)
    checked = await service.sign_in(call)
    body = parse_body(await call.body(), SessionBody)
    device = None if body.device is None else service.pseudonyms.device(body.device)
    session = service.sessions.begin(checked.caller, device, checked.expires_at)
    ends_at = datetime.fromtimestamp(session.ends_at, UTC)
    return as_json(SessionReply(session.token, ends_at, checked.caller.role), 201)


@router.delete(
    "/v1/sessions/current",
    status_code=204,
    summary="End one's session",
    operation_id="end_session",
    response_class=Response,
    responses={
        **documentation.problems((*documentation.ALWAYS, "not_found", "overloaded")),
        204: {"description": "The session has ended.", "headers": documentation.REQUEST_ID},
    },
    openapi_extra=documentation.signed(),
)
async def end_session(request: Request) -> Response:
    """Every server refuses the session's token within a minute, this one at once.

    A call with a token of the issuer has no session to end.
    """
    service, call = service_of(request), call_of(request)
    caller = await service.admit(call, *ROLES)
    session = caller.session
    if session is None:
        raise not_found()
    ends_at = service.now() + service.settings.session_s
    await service.in_store(lambda cursor: revoke(cursor, session, ends_at))
    service.sessions.revocations.note(session)
    return Response(status_code=204)
