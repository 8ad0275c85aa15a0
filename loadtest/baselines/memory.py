"""The unsafe ceiling: FastAPI and a script in Valkey, nothing on disk. It must never be a product.

Everything a claim needs is decided in one script: the person, the key, the stock. It is correct as
long as the server lives, and this is all that can be said for it: an answered claim is in memory
only. Kill the server and every coupon is gone while people hold their 201; fail over to a replica
and the last of them are gone, and sold again; restart from a snapshot and the stock is older than
what was said. There is no record of who and why, no order, and nothing to check the figures
against. It shows what durability costs, and that it is FastAPI rather than the disk that limits it.
"""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from redis.asyncio import BlockingConnectionPool, Redis

from loadtest.baselines import serving
from loadtest.baselines.claims import (
    AlreadyClaimed,
    Coupon,
    Desk,
    NewCampaign,
    NotFound,
    SoldOut,
    application,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fastapi import FastAPI

REDIS_URL: Final = "MEMORY_REDIS_URL"

CONNECTIONS: Final = 32
"""Per worker: each waits for its own answer, as a service without batching has it."""

CLAIM: Final = """
local had = redis.call('HGET', KEYS[2], ARGV[1])
local face, currency = unpack(redis.call('HMGET', KEYS[1], 'face_minor', 'currency'))
if not face then return {'not_found'} end
if had then
  local coupon, at, key = had:match('^(%S+) (%S+) (.*)$')
  if key ~= ARGV[4] then return {'already_claimed'} end
  return {'replayed', coupon, at, face, currency}
end
if tonumber(redis.call('HGET', KEYS[1], 'remaining')) == 0 then return {'sold_out'} end
redis.call('HINCRBY', KEYS[1], 'remaining', -1)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
return {'claimed', ARGV[2], ARGV[3], face, currency}
"""

REFUSALS: Final[dict[str, type[Exception]]] = {
    "not_found": NotFound,
    "already_claimed": AlreadyClaimed,
    "sold_out": SoldOut,
}


class Memory(Desk):
    """Campaigns and claims in hashes of a Valkey that keeps nothing."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(CLAIM)

    async def open_campaign(self, new: NewCampaign) -> UUID:
        """Put the stock into a hash."""
        campaign = uuid4()
        stock: dict[Any, Any] = {
            "face_minor": new.face_minor,
            "currency": new.currency,
            "quota": new.quota,
            "remaining": new.quota,
        }
        await self._redis.hset(_stock(campaign), mapping=stock)
        return campaign

    async def claim(self, campaign: UUID, person: str, key: str) -> Coupon:
        """One call of the script."""
        now = datetime.now(UTC).isoformat()
        word, *facts = await self._script(
            keys=[_stock(campaign), _people(campaign)], args=[person, str(uuid4()), now, key]
        )
        if word in REFUSALS:
            raise REFUSALS[word]
        coupon, at, face_minor, currency = facts
        return Coupon(
            UUID(coupon), campaign, int(face_minor), currency, at, replayed=word == "replayed"
        )

    async def figures(self, campaign: UUID) -> dict[str, int]:
        """Counted in the stock, and person by person."""
        said = await self._redis.hmget(_stock(campaign), ["quota", "remaining"])
        quota, remaining = (int(each or 0) for each in said)
        claims = await self._redis.hlen(_people(campaign))
        return {"issued": quota - remaining, "quota": quota, "claims": claims}


def _stock(campaign: UUID) -> str:
    return f"{{{campaign.hex}}}:stock"


def _people(campaign: UUID) -> str:
    return f"{{{campaign.hex}}}:people"


@asynccontextmanager
async def opened() -> AsyncIterator[Desk]:
    """The desk over the Valkey that the environment names."""
    pool = BlockingConnectionPool.from_url(
        os.environ[REDIS_URL], max_connections=CONNECTIONS, decode_responses=True
    )
    async with Redis(connection_pool=pool) as redis:
        yield Memory(redis)
    await pool.disconnect()


def create_app() -> FastAPI:
    """The service."""
    return application(opened)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the baseline until terminated."""
    parser = serving.parser(
        "python -m loadtest.baselines.memory",
        "Serve claims with FastAPI from memory alone: fast, and lost with the first fault.",
    )
    parser.add_argument("--redis-url", required=True)
    options = parser.parse_args(arguments)
    os.environ[REDIS_URL] = options.redis_url
    serving.serve("loadtest.baselines.memory:create_app", options, factory=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
