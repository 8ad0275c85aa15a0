"""Development: tokens for anybody. These addresses do not exist unless the issuer is on."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from api import documentation, examples
from api.bodies import parse_body
from api.errors import not_found
from api.issuers import DEV_ISSUER, DEV_TOKEN_S, DevelopmentIssuer
from api.routes.ordinary import call_of, service_of
from api.routes.reading import as_json, only_admin
from api.schemas import TokenBody
from api.views import TokenReply

router: Final = APIRouter(tags=["development"], dependencies=[Depends(only_admin)])

ALGORITHM: Final = "Ed25519"


def _issuer(request: Request) -> DevelopmentIssuer:
    issuer = service_of(request).dev_issuer
    if issuer is None:
        raise not_found()
    return issuer


@router.post(
    "/dev/token",
    summary="Get a token for anybody",
    operation_id="issue_token",
    response_class=Response,
    responses={
        **documentation.problems(
            (
                "not_found",
                "body_too_large",
                "unsupported_media_type",
                "malformed_json",
                "invalid_body",
                "internal_error",
            )
        ),
        **documentation.reply(200, TokenReply, examples.TOKEN_REPLY),
    },
    openapi_extra=documentation.body(TokenBody, examples.TOKEN),
)
async def issue_token(request: Request) -> Response:
    """For development only: no password, no check. Needs no Idempotency-Key."""
    issuer = _issuer(request)
    body = parse_body(await call_of(request).body(), TokenBody)
    token = issuer.token(body.role, body.identity, body.merchant)
    return as_json(TokenReply(token, "Bearer", DEV_TOKEN_S))


@router.get(
    "/dev/jwks.json",
    summary="Get the development issuer's public key",
    operation_id="get_keys",
    responses=documentation.problems(("not_found",)),
)
async def jwks(request: Request) -> JSONResponse:
    """A JWKS document."""
    return JSONResponse(_issuer(request).jwks())


@router.get(
    "/.well-known/openid-configuration",
    summary="Find the development issuer's key",
    operation_id="get_openid_configuration",
    responses=documentation.problems(("not_found",)),
)
async def openid_configuration(request: Request) -> JSONResponse:
    """The part of OpenID Connect Discovery that a verifier of tokens needs."""
    _issuer(request)
    base = str(request.base_url).rstrip("/")
    document: dict[str, Any] = {
        "issuer": DEV_ISSUER,
        "jwks_uri": f"{base}/dev/jwks.json",
        "token_endpoint": f"{base}/dev/token",
        "id_token_signing_alg_values_supported": [ALGORITHM],
        "subject_types_supported": ["public"],
        "response_types_supported": ["token"],
    }
    return JSONResponse(document)
