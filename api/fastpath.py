"""The front of the application: what every call passes that no lane has taken.

Here, and for calls of the lane in `api.lane`, calls are counted, logged and given the headers that
every reply has.
"""

from __future__ import annotations

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
from api.lane import Lane
from api.logs import access_kind, fault
from api.service import Service

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


class Front:
    """The ASGI application, and its lane for a server that has one for plain calls."""

    def __init__(self, service: Service, routes: Asgi, *, fast: bool = True) -> None:
        """`fast` is switched off by tests that send claims through the ordinary route."""
        self.lane = Lane(service) if fast else None
        self._service = service
        self._routes = routes
        self._log = service.log
        self._proxies = service.settings.trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        call = Incoming(scope, receive, self._proxies)
        await self._ordinary(call, scope, send)

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
        metrics.tally(method, call.route, status, call.code).note(seconds)
        if status == 404 and call.caller is not None:
            self._service.count_missing(call.caller, call.address)
        if self._log is not None:
            role = call.caller.role if call.caller is not None else None
            kind = access_kind(method, call.route, status, call.code, role)
            self._log.access(call.request_id, kind, seconds)


def _completed(headers: list[tuple[bytes, bytes]], call: Incoming) -> list[tuple[bytes, bytes]]:
    """Return a reply's headers with those that every reply has, where it has none of its own."""
    own = {name for name, _ in headers}
    common = ((b"x-request-id", call.request_id.encode()), NO_STORE, *SECURITY_HEADERS)
    return [*headers, *(header for header in common if header[0] not in own)]
