"""The application: routes, their errors and their documentation, put together once.

No business rule and no setting is read here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from api import documentation, schemas
from api.bodies import mistake
from api.errors import Problem, not_found
from api.exchange import Incoming, Reply, internal_error
from api.fastpath import Front
from api.logs import fault
from api.routes import (
    books,
    campaigns,
    corrections,
    coupons,
    daily,
    development,
    draws,
    fairness,
    groups,
    journal,
    merchants,
    operations,
    packets,
    persons,
    receipts,
    sessions,
    transparency,
    waiting,
)
from api.routes.ordinary import as_response, call_of
from api.service import Service

DESCRIPTION: Final = """
An event-sourced ledger for coupons: every claim, redemption, refund and expiry exactly once.

* Every write is a POST with an `Idempotency-Key`: the same key and body get the same reply, byte
  for byte.
* 2xx is committed. 4xx surely had no effect. After 5xx or no answer, the same key tells.
* Errors are `application/problem+json` with a stable `code`; each code has a page at its `type`.
* Money is whole minor units with a currency. Times have their offset.
"""

TAGS: Final = [
    {"name": "sessions", "description": "Sign in once, then call with a short-lived token."},
    {"name": "campaigns", "description": "Draft, fund, open, pause, close; claim."},
    {"name": "draws", "description": "Register for a public draw, prove it, claim what was won."},
    {"name": "coupons", "description": "Redeem, refund, void; one's own wallet."},
    {"name": "packets", "description": "Pay from packets, refund; balances and statements."},
    {"name": "corrections", "description": "What was reported late counts for when it was."},
    {"name": "persons", "description": "Particulars, who looked at them, and erasure."},
    {"name": "group packets", "description": "Purses, sums sent to groups, and their shares."},
    {"name": "merchants", "description": "Balances and redemptions of the caller's merchant."},
    {"name": "books", "description": "The events themselves, for auditors."},
    {"name": "journal", "description": "Trial balances, accounts and statements."},
    {"name": "transparency", "description": "The books' logs, for anybody's tools."},
    {"name": "operations", "description": "Health, readiness, metrics, this description."},
    {"name": "development", "description": "Tokens for anybody, where that is switched on."},
]

ROUTERS: Final = (
    sessions.router,
    campaigns.router,
    fairness.router,
    waiting.router,
    coupons.router,
    draws.router,
    packets.router,
    persons.router,
    corrections.router,
    groups.router,
    merchants.router,
    books.router,
    journal.router,
    transparency.router,
    receipts.router,
    daily.router,
    operations.router,
    operations.admin,
)


def create_app(service: Service, *, fast: bool = True) -> Front:
    """Return the ASGI application of a service, which it starts and stops with its life span."""

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await service.start()
        except Exception as error:
            structlog.get_logger().error("start.failed", **fault(error))
            raise
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="Tidebook",
        version="1",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=life,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.service = service
    app.state.routers = [*ROUTERS, *([development.router] if service.dev_issuer else [])]
    for router in app.state.routers:
        app.include_router(router)
    _add_error_handlers(app)
    _add_documentation(app)
    return Front(service, app, fast=fast)


def _add_documentation(app: FastAPI) -> None:
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            described = documentation.describe(app, _routes(app), schemas.BODIES, schemas.REPLIES)
            document.update(described)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _add_error_handlers(app: FastAPI) -> None:
    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return _problem_response(call_of(request), error)

    async def on_query(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = [mistake({**found, "loc": found["loc"][1:]}) for found in error.errors()]
        names = ", ".join(dict.fromkeys(each.field for each in errors))
        problem = Problem(
            "invalid_query", f"These parameters break a rule: {names}.", errors=errors
        )
        return _problem_response(call_of(request), problem)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allowed = ", ".join(_allowed_methods(app, request.url.path))
            problem = Problem(
                "method_not_allowed",
                f"This address offers {allowed}.",
                headers={"Allow": allowed},
            )
        else:
            problem = not_found()
        return _problem_response(call_of(request), problem)

    async def on_fault(_request: Request, _error: Exception) -> Response:
        """The front logs the fault; here the caller gets an answer."""
        return as_response(internal_error())

    app.add_exception_handler(Exception, on_fault)
    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_query)
    app.add_exception_handler(HTTPException, on_http)


def _problem_response(call: Incoming, problem: Problem) -> Response:
    call.code = problem.trouble.code
    return as_response(Reply.of_problem(problem))


def _allowed_methods(app: FastAPI, path: str) -> list[str]:
    """Return the methods that an address offers; the framework tells those of one route only."""
    methods: set[str] = set()
    for route in _routes(app):
        if route.path_regex.fullmatch(path):
            methods.update(route.methods or ())
    return sorted(methods)


def _routes(app: FastAPI) -> list[APIRoute]:
    """Return every route of an application."""
    routers: list[APIRouter] = app.state.routers
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
