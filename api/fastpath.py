"""The front of the application: the fast way for claims, and what every other call passes.

Ten thousand people press «claim» in the same second, so that one address is answered here,
without a framework around it; the ordinary route does the same through the same handler. Here,
and only here, calls are counted, logged and given the headers that every reply has.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from api import metrics
from api.exchange import (
    NO_STORE,
    SECURITY_HEADERS,
    Incoming,
    Message,
    Receive,
    Reply,
    Scope,
    Send,
    internal_error,
    send_reply,
)
from api.logs import fault
from api.routes.campaigns import CLAIM
from api.service import Service

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_CLAIMS: Final = re.compile(r"/v1/campaigns/([^/]+)/claims")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


class Front:
    """The ASGI application: claims go straight to their handler, the rest to the routes."""

    def __init__(self, service: Service, routes: Asgi, *, fast: bool = True) -> None:
        """`fast` is switched off by tests that send claims through the ordinary route."""
        self._service = service
        self._routes = routes
        self._fast = fast
        self._log = service.log
        self._proxies = service.settings.trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        call = Incoming(scope, receive, self._proxies)
        if self._fast and call.method == "POST":
            claim = _CLAIMS.fullmatch(call.path)
            if claim is not None:
                await self._claim(call, claim[1], send)
                return
        await self._ordinary(call, scope, send)

    async def _claim(self, call: Incoming, campaign: str, send: Send) -> None:
        try:
            reply = await CLAIM.answer(self._service, call, campaign)
        except Exception as error:  # noqa: BLE001 - whatever broke, the caller gets an answer
            reply = self._broken(call, error)
        await send_reply(send, reply, call)
        call.code = reply.code
        self._finish(call, reply.status)

    async def _ordinary(self, call: Incoming, scope: Scope, send: Send) -> None:
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _completed(message["headers"], call)
            await send(message)

        scope["tidebook.call"] = call
        try:
            await self._routes(scope, call.receive, send_with_headers)
        except Exception as error:  # noqa: BLE001 - whatever broke, the caller gets an answer
            reply = self._broken(call, error)
            if not status:
                await send_reply(send, reply, call)
            status = reply.status
        route = scope.get("route")
        if call.route == "unmatched" and route is not None:
            call.route = getattr(route, "path", call.route)
        self._finish(call, status)

    def _broken(self, call: Incoming, error: Exception) -> Reply:
        call.code = "internal_error"
        structlog.get_logger().error("fault", request_id=call.request_id, **fault(error))
        return internal_error()

    def _finish(self, call: Incoming, status: int) -> None:
        """Count and log a call that was answered."""
        seconds = time.perf_counter() - call.started
        method = call.method if call.method in METHODS else "other"
        metrics.observe(method, call.route, status, seconds, call.code)
        if status == 404:
            self._service.count_missing(call)
        if self._log is not None:
            role = call.caller.role if call.caller is not None else None
            self._log.access(call.request_id, method, call.route, status, call.code, role, seconds)


def _completed(headers: list[tuple[bytes, bytes]], call: Incoming) -> list[tuple[bytes, bytes]]:
    """Return a reply's headers with those that every reply has, where it has none of its own."""
    own = {name for name, _ in headers}
    common = ((b"x-request-id", call.request_id.encode()), NO_STORE, *SECURITY_HEADERS)
    return [*headers, *(header for header in common if header[0] not in own)]
