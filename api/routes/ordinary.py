"""The ordinary way in: how a kind of write becomes a FastAPI route with its documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request, Response

from api import documentation
from api.callers import Caller
from api.exchange import Incoming, Reply
from api.service import Service
from api.writes import SUCCESS, Order, Write
from campaigns.refusals import PRECEDENCE
from ledger.books import PublicId


def _id_in_path(thing: str, prefix: str, number: str) -> Any:
    """Return what is said of an id in an address."""
    return Path(
        description=f"A {thing}'s id.",
        examples=[f"{prefix}_main_{number}"],
        json_schema_extra={"pattern": f"^{prefix}_[a-z][a-z0-9]{{0,15}}_[0-9a-f]{{32}}$"},
    )


CampaignId = Annotated[str, _id_in_path("campaign", "cmp", "0f8fad5bd9cb5c1a8a5f3b1c2d3e4f50")]
CouponId = Annotated[str, _id_in_path("coupon", "cpn", "7c9e6679742558de944be07fc1f90ae7")]
PurseId = Annotated[str, _id_in_path("purse", "prs", "9d2b1c0e7a3f5d4e8b6c2a1f0e9d8c7b")]
GroupId = Annotated[str, _id_in_path("group packet", "grp", "4e6f8a1b3c5d5e7f9a0b2c4d6e8f0a1b")]
PacketId = Annotated[str, _id_in_path("packet", "pkt", "2b1f0a7e5d3c5e8f9a6b4c2d1e0f9a8b")]

PersonName = Annotated[
    str,
    Path(
        description="A person, as `GET /v1/me/particulars` names oneself.",
        examples=["per_main_6664a42048c6d6d7fe3657e39b14155c"],
        json_schema_extra={"pattern": "^per_[a-z][a-z0-9]{0,15}_[0-9a-f]{32}$"},
    ),
]

Success = tuple[str, type[msgspec.Struct], Any]
"""The code of a success, its reply and an example."""


@dataclass(frozen=True, slots=True)
class Words:
    """What the documentation says about a write beyond its types."""

    summary: str
    rules: str
    """The row of `campaigns.refusals.PRECEDENCE` whose codes it may answer with."""
    happened: str
    """The code of its success."""
    reply: type[msgspec.Struct]
    example: Any
    reply_example: Any
    otherwise: tuple[Success, ...] = ()
    """Other successes that there may be."""

    @property
    def successes(self) -> list[Success]:
        """Every success."""
        return [(self.happened, self.reply, self.reply_example), *self.otherwise]


def service_of(request: Request) -> Service:
    """Return the service that answers this request."""
    service: Service = request.app.state.service
    return service


def call_of(request: Request) -> Incoming:
    """Return the call as the front of the application has read it."""
    call: Incoming = request.scope["tidebook.call"]
    return call


def target_of(order: Order[Any]) -> PublicId:
    """Return the thing that a write is about, where its address names one."""
    assert order.target is not None, "the address of this write names a thing"
    return order.target


def merchant_of(caller: Caller) -> str:
    """Return the merchant that a caller of that role is."""
    assert caller.merchant is not None, "the role merchant names a merchant"
    return caller.merchant


def as_response(reply: Reply) -> Response:
    """Return a reply as FastAPI sends it."""
    response = Response(reply.body, reply.status)
    response.raw_headers = [
        *reply.headers,
        (b"content-length", b"%d" % len(reply.body)),
    ]
    return response


def add_write(router: APIRouter, write: Write[Any], words: Words) -> None:
    """Add a write to a router, with its documentation."""

    async def bare(request: Request) -> Response:
        return as_response(await write.answer(service_of(request), call_of(request)))

    async def on_campaign(request: Request, campaign: CampaignId) -> Response:
        return as_response(await write.answer(service_of(request), call_of(request), campaign))

    async def on_coupon(request: Request, coupon: CouponId) -> Response:
        return as_response(await write.answer(service_of(request), call_of(request), coupon))

    async def on_purse(request: Request, purse: PurseId) -> Response:
        return as_response(await write.answer(service_of(request), call_of(request), purse))

    async def on_group(request: Request, group: GroupId) -> Response:
        return as_response(await write.answer(service_of(request), call_of(request), group))

    async def on_packet(request: Request, packet: PacketId) -> Response:
        return as_response(await write.answer(service_of(request), call_of(request), packet))

    async def on_person(request: Request, person: PersonName) -> Response:
        return as_response(await write.answer(service_of(request), call_of(request), person))

    endpoints: dict[str | None, Callable[..., Any]] = {
        None: bare,
        "cmp": on_campaign,
        "cpn": on_coupon,
        "pkt": on_packet,
        "prs": on_purse,
        "grp": on_group,
        "per": on_person,
    }
    router.add_api_route(
        write.route,
        endpoints[write.prefix],
        methods=["POST"],
        status_code=SUCCESS[words.happened],
        summary=words.summary,
        description=f"For the role {write.role}.",
        operation_id=words.rules,
        response_class=Response,
        responses={
            **documentation.problems(codes_of(words.rules)),
            **documentation.replies(
                [(SUCCESS[code], struct, example) for code, struct, example in words.successes],
                "Tidebook-Position",
                "Idempotency-Replayed",
            ),
        },
        openapi_extra={
            **documentation.body(
                write.body, words.example, required=any_required(write.body.model_fields.values())
            ),
            **documentation.signed(*_headers(write)),
        },
    )


def codes_of(rules: str) -> tuple[str, ...]:
    """Return every code that a write may be answered with."""
    at_the_gate = ("waiting_room",) if rules == "claim" else ()
    return (*documentation.WRITE, *at_the_gate, *PRECEDENCE[rules])


def _headers(write: Write[Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the headers that a write takes besides the token."""
    if write.rush:
        return (documentation.IDEMPOTENCY_KEY, documentation.PASS)
    return (documentation.IDEMPOTENCY_KEY,)


def any_required(fields: Iterable[Any]) -> bool:
    """Whether a body without fields would be refused."""
    return any(field.is_required() for field in fields)
