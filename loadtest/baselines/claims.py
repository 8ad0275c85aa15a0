"""What the baselines have in common: the bodies, the answers, and the routes of those that await.

One claim is a POST with an idempotency key. A 201 repeats byte for byte for the same key; whoever
has a coupon is told so under another key; what is gone is gone. It must never decide anything: who
gets a coupon is the baseline's own affair.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, Protocol
from uuid import UUID

from fastapi import FastAPI, Header
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

PROBLEM: Final = "application/problem+json"

Key = Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=128)]


class NewCampaign(BaseModel):
    """The body that opens a campaign."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=200)
    quota: int = Field(ge=1)
    face_minor: int = Field(ge=1, default=5000)
    currency: str = Field(pattern="^[A-Z]{3}$", default="CNY")


class NewClaim(BaseModel):
    """The body of a claim."""

    model_config = ConfigDict(extra="forbid")
    person: str = Field(min_length=1, max_length=64)


class AlreadyClaimed(Exception):
    """The person holds a coupon of this campaign, claimed with another key."""


class SoldOut(Exception):
    """The campaign has no coupon left."""


class NotFound(Exception):
    """There is no such campaign."""


class Coupon(NamedTuple):
    """A claim's outcome; `replayed` when an earlier request with the key had made it."""

    coupon: UUID
    campaign: UUID
    face_minor: int
    currency: str
    claimed_at: str
    replayed: bool = False


class Desk(Protocol):
    """Where campaigns are opened and coupons are claimed."""

    async def open_campaign(self, new: NewCampaign) -> UUID:
        """Open a campaign with its stock."""
        ...

    async def claim(self, campaign: UUID, person: str, key: str) -> Coupon:
        """Give the person a coupon, or raise which rule is in the way."""
        ...

    async def figures(self, campaign: UUID) -> dict[str, int]:
        """`issued` and `quota` as counted in the stock, `claims` as counted one by one."""
        ...


def created(coupon: Coupon) -> Response:
    """The answer to a claim that succeeded, now or before."""
    body = {
        "coupon": str(coupon.coupon),
        "campaign": str(coupon.campaign),
        "n": 1,
        "state": "held",
        "face": {"amount_minor": coupon.face_minor, "currency": coupon.currency},
        "claimed_at": coupon.claimed_at,
    }
    headers = {"Idempotency-Replayed": "true"} if coupon.replayed else None
    return Response(json.dumps(body), 201, headers, "application/json")


def problem(status: int, code: str) -> Response:
    """A refusal."""
    return Response(json.dumps({"status": status, "code": code}), status, None, PROBLEM)


def application(opened: Callable[[], AbstractAsyncContextManager[Desk]]) -> FastAPI:
    """The service over a desk that is open as long as the process lives."""
    desks: list[Desk] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with opened() as desk:
            desks.append(desk)
            yield

    app = FastAPI(openapi_url=None, lifespan=lifespan)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/campaigns", status_code=201)
    async def open_campaign(body: NewCampaign) -> dict[str, str]:
        return {"campaign": str(await desks[0].open_campaign(body))}

    @app.get("/v1/campaigns/{campaign}/figures")
    async def figures(campaign: UUID) -> dict[str, int]:
        return await desks[0].figures(campaign)

    @app.post("/v1/campaigns/{campaign}/claims")
    async def claim(campaign: UUID, body: NewClaim, key: Key) -> Response:
        try:
            return created(await desks[0].claim(campaign, body.person, key))
        except NotFound:
            return problem(404, "not_found")
        except SoldOut:
            return problem(409, "sold_out")
        except AlreadyClaimed:
            return problem(409, "already_claimed")

    return app
