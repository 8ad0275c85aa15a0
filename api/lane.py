"""The lane: claims and redemptions without a framework, a coroutine or a task for each.

A release opens and ten thousand people press «claim» in the same second. Their calls are plain
ones (`api.plain`), their tokens are known or cheap to check, and nothing is wrong with them: such
a call is answered here, by the same checks in the same order and by the same passage as on the
ordinary way. With anything else the lane has nothing to do: it says so before it has had any
effect, and the ordinary way finds the words. Nothing may be decided here.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final, NamedTuple

import structlog

from api import metrics
from api.bodies import check_media_type
from api.callers import Caller
from api.errors import Problem
from api.exchange import NO_STORE, SECURITY_HEADERS, Reply, address_of, internal_error
from api.logs import access_kind, fault, request_id
from api.passage import NO_POSITION, Passage
from api.plain import LaneCall
from api.protocol import Send
from api.routes.campaigns import CLAIM
from api.routes.coupons import REDEEM
from api.service import Service
from api.writes import Asked, Write, reply_of
from ledger.books import Book
from ledger.commit import Answer

_ONCE: Final[frozenset[bytes]] = frozenset()
"""A plain call has no header twice."""

_COMMON: Final = b"".join(b"%b: %b\r\n" % header for header in (NO_STORE, *SECURITY_HEADERS))
_HAS_ALL: Final = frozenset({"already_claimed", "limit_reached"})
"""Whoever is told so presses on: most of them do it again and again."""
_SAMPLE: Final = 424_242_424_242
"""Stands for the position while a form is made."""

STOPS_MAX: Final = 4_096
"""Addresses that are remembered; a rush is on a few."""


class _Form(NamedTuple):
    """What all answers of one kind have in common."""

    line: bytes
    before: bytes
    """Up to the request id, with places for position and length; without the first when there is
    none."""
    after: bytes
    """From the request id to the body."""
    status: int
    log: bytes
    tally: metrics.Tally


class _Told(NamedTuple):
    """An answer that many get, in one piece but for the request id."""

    form: _Form
    before: bytes
    after: bytes


class _Forms:
    """The forms of the answers of one kind of write."""

    __slots__ = ("answer", "by_kind", "told")

    def __init__(self) -> None:
        self.by_kind: dict[tuple[str, bool, bool, Book], _Form] = {}
        """By code, whether replayed, whether with a position, and book."""
        self.answer: Answer | None = None
        """The latest: in a rush the next one is often the same."""
        self.told: _Told | None = None
        """The latest answer, once it was given twice."""


class _Stop(NamedTuple):
    """An address that the lane serves: whose it is, and the forms of its answers."""

    write: Write[Any]
    target: str
    path: str
    forms: _Forms


class _Kind(NamedTuple):
    """A kind of write that the lane serves: how its addresses begin and end."""

    write: Write[Any]
    start: bytes
    end: bytes
    keep: bool
    """Whether few addresses are called many times."""
    forms: _Forms

    @classmethod
    def of(cls, write: Write[Any], *, keep: bool) -> _Kind:
        """Return the kind for a write whose address names one thing."""
        start, _, rest = write.route.partition("{")
        return cls(write, start.encode(), rest.partition("}")[2].encode(), keep, _Forms())


class Lane:
    """The lane of one server process."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._proxies = service.settings.trusted_proxies
        self._kinds = (_Kind.of(CLAIM, keep=True), _Kind.of(REDEEM, keep=False))
        self._stops: dict[bytes, _Stop] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def take(self, call: LaneCall, send: Send) -> bool:
        """Take a call that nothing is wrong with; leave any other, untouched."""
        stop = self._stops.get(call.path) or self._found(call.path)
        if stop is None:
            return False
        service, headers, write = self.service, call.headers, stop.write
        authorization = headers.get(b"authorization")
        if authorization is None:
            return False
        address = call.address or ""
        if self._proxies:
            address = address_of(address, headers, self._proxies)
        own_id = request_id(headers.get(b"x-request-id"))
        try:
            caller = service.recognised(authorization)
            if caller is None:
                return False
            service.sessions.require_standing(caller)
            if service.missing.shuts_out_anybody and service.shut_out_s(caller, address):
                return False
            heading = write.heading(service, headers, _ONCE, caller, stop.target)
            if call.body:
                check_media_type(call.body, headers)
            body = write.parse(call.body)
            asked = write.asked(service, heading, stop.path, body, own_id, address)
        except Exception:  # noqa: BLE001 - nothing was done; the ordinary way meets it and says so
            return False
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        began = call.started
        ride = _Ride(
            service, self._loop, caller, asked, began, stop, own_id, address, authorization, send
        )
        ride.go(service.rates[caller.role], paced=False)
        return True

    def _found(self, path: bytes) -> _Stop | None:
        for write, start, end, keep, forms in self._kinds:
            if path.startswith(start) and path.endswith(end):
                target = path[len(start) : -len(end)]
                if not target or b"/" in target:
                    return None
                stop = _Stop(write, target.decode(), path.decode(), forms)
                if keep and len(self._stops) < STOPS_MAX:
                    self._stops[path] = stop
                return stop
        return None


class _Ride(Passage):
    """A passage whose end is written to a connection."""

    __slots__ = (
        "_address",
        "_authorization",
        "_book",
        "_request_id",
        "_send",
        "_service",
        "_stop",
    )

    def __init__(
        self,
        service: Service,
        loop: asyncio.AbstractEventLoop,
        caller: Caller,
        asked: Asked,
        began: float,
        stop: _Stop,
        own_id: str,
        address: str,
        authorization: bytes,
        send: Send,
    ) -> None:
        book, request, knock = asked
        writer = service.writers[book]
        super().__init__(service.passages, loop, caller, writer, request, knock, began)
        self._service = service
        self._book = book
        self._stop = stop
        self._request_id = own_id
        self._address = address
        self._authorization = authorization
        self._send = send

    def tell(self, answer: Answer) -> None:
        forms = self._stop.forms
        if answer is not forms.answer:
            forms.answer, forms.told = answer, None
            form = self._form(answer)
            before, after = form.before % _figures(answer), form.after + answer.body
            if answer.code in _HAS_ALL and self.caller.session is not None:
                self._service.sessions.remember(self._authorization)
        else:
            told = forms.told
            if told is None:
                form = self._form(answer)
                before, after = form.before % _figures(answer), form.after + answer.body
                told = forms.told = _Told(form, before, after)
            form, before, after = told
        self._send(form.line, b"%b%b%b" % (before, self._request_id.encode(), after))
        self._finish(form)

    def _form(self, answer: Answer) -> _Form:
        code, _, position, replayed = answer
        placed = position != NO_POSITION
        forms, kind = self._stop.forms.by_kind, (code, replayed, placed, self._book)
        form = forms.get(kind)
        if form is None:
            sample = answer._replace(body=b"", position=_SAMPLE if placed else NO_POSITION)
            form = forms[kind] = _form_of(self._stop.write, reply_of(self._book, sample))
        return form

    def tell_problem(self, problem: Problem) -> None:
        self._send_reply(Reply.of_problem(problem))

    def tell_fault(self, error: Exception) -> None:
        structlog.get_logger().error("fault", request_id=self._request_id, **fault(error))
        self._send_reply(internal_error())

    def _send_reply(self, reply: Reply) -> None:
        form = _form_of(self._stop.write, reply)
        before, own_id = form.before % len(reply.body), self._request_id.encode()
        self._send(form.line, b"%b%b%b%b" % (before, own_id, form.after, reply.body))
        self._finish(form)

    def _finish(self, form: _Form) -> None:
        """Count and log a call that was answered."""
        service = self._service
        seconds = perf_counter() - self.began
        form.tally.note(seconds)
        if service.log is not None:
            service.log.access(self._request_id, form.log, seconds)
        if form.status == 404:
            service.count_missing(self.caller, self._address)


def _form_of(write: Write[Any], reply: Reply) -> _Form:
    """Return the form of all replies that are like this one."""
    line = f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n".encode()
    own = b"".join(b"%b: %b\r\n" % header for header in reply.headers)
    before = own.replace(b"%", b"%%").replace(b"%d" % _SAMPLE, b"%d")
    before += b"content-length: %d\r\nx-request-id: "
    kind = ("POST", write.route, reply.status, reply.code)
    log, tally = access_kind(*kind, write.role), metrics.tally(*kind)
    return _Form(line, before, b"\r\n" + _COMMON + b"\r\n", reply.status, log, tally)


def _figures(answer: Answer) -> tuple[int, ...]:
    """Return what an answer puts into its form before the request id."""
    length = len(answer.body)
    return (length,) if answer.position == NO_POSITION else (answer.position, length)
