"""The baseline: FastAPI and the `eventsourcing` library as it comes, one save per claim.

What a competent developer writes in an afternoon with the library's PostgreSQL recorder, honest in
the same ways as the system it is compared with: an aggregate per coupon keyed by campaign and
person, so that a second claim cannot be written; the stock taken in the same transaction, by the
hook that the recorder has for this, pipelined with the insert; the idempotency key kept in the
event and replays answered from it; a commit flushed to disk before each answer. It must never cheat
in its own favour (a stock held in memory, an unflushed commit) nor be made slow on purpose: it asks
for no token, has no second read model, and runs with as many connections and workers as were
measured to be its best.
"""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from anyio import to_thread
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import IntegrityError, OperationalError, ProgrammingError
from eventsourcing.postgres import PostgresApplicationRecorder
from eventsourcing.utils import get_topic, retry
from fastapi import FastAPI
from fastapi.responses import Response
from psycopg.conninfo import conninfo_to_dict

from loadtest.baselines import claims, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from eventsourcing.persistence import StoredEvent
    from eventsourcing.postgres import PostgresDatastore

DATABASE_URL: Final = "STOCK_DATABASE_URL"
POOL_SIZE: Final = "STOCK_POOL_SIZE"

POOL_SIZE_DEFAULT: Final = 4
"""Connections and threads per worker: more of them only wait for the recorder's table lock."""

WORKERS_DEFAULT: Final = 2


class Campaign(Aggregate):
    """What a campaign promises; its stock is counted in a row of its own."""

    class Opened(Aggregate.Created):
        name: str
        quota: int
        face_minor: int
        currency: str

    def __init__(self, name: str, quota: int, face_minor: int, currency: str) -> None:
        self.name = name
        self.quota = quota
        self.face_minor = face_minor
        self.currency = currency


class Coupon(Aggregate):
    """One claimed coupon; its id is its campaign and person, so there is at most one."""

    class Claimed(Aggregate.Created):
        campaign: UUID
        person: str
        face_minor: int
        currency: str
        key: str

    def __init__(
        self, campaign: UUID, person: str, face_minor: int, currency: str, key: str
    ) -> None:
        self.campaign = campaign
        self.person = person
        self.face_minor = face_minor
        self.currency = currency
        self.key = key

    @staticmethod
    def create_id(campaign: UUID, person: str) -> UUID:
        return uuid5(campaign, person)


class StockTakingRecorder(PostgresApplicationRecorder):
    """The stock recorder; a claim takes one from the stock in the transaction of its event."""

    def _create_table(self, curs: Any) -> None:
        super()._create_table(curs)
        curs.execute(
            "CREATE TABLE IF NOT EXISTS stock ("
            "campaign uuid PRIMARY KEY, issued bigint NOT NULL, quota bigint NOT NULL, "
            "CHECK (issued <= quota))"
        )

    @retry(ProgrammingError, max_attempts=5)
    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Insert in one transaction; again where the driver lost track of its statements.

        A refusal aborts the pipeline before the statements behind it are parsed. psycopg (3.3)
        may believe those to be prepared and name them in the connection's next transaction,
        which fails as a whole; that rollback makes it forget them.
        """
        inserted: Sequence[int] | None = super().insert_events(stored_events, **kwargs)
        return inserted

    def _insert_events(
        self,
        curs: Any,
        stored_events: Sequence[StoredEvent],
        *,
        open_stock: tuple[UUID, int] | None = None,
        take_from: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        if open_stock is not None:
            curs.execute("INSERT INTO stock VALUES (%s, 0, %s)", open_stock)
        if take_from is not None:
            curs.execute(
                "UPDATE stock SET issued = issued + 1 WHERE campaign = %s",
                (take_from,),
                prepare=True,
            )
        super()._insert_events(curs, stored_events, **kwargs)


class Coupons(Application[UUID]):
    """Campaigns and claims."""

    def open_campaign(self, name: str, quota: int, face_minor: int, currency: str) -> UUID:
        """Record a campaign together with its stock."""
        campaign = Campaign(name, quota, face_minor, currency)
        self.save(campaign, open_stock=(campaign.id, quota))
        return campaign.id

    @lru_cache(maxsize=1024)  # noqa: B019 - one application per process, for its whole life
    def campaign(self, campaign: UUID) -> Campaign:
        """The campaign's terms, which never change."""
        return self.repository.get(campaign)

    def claim(self, campaign_id: UUID, person: str, key: str) -> claims.Coupon:
        """Give the person a coupon, or say which rule is in the way."""
        campaign = self.campaign(campaign_id)
        coupon = Coupon(campaign.id, person, campaign.face_minor, campaign.currency, key)
        try:
            self.save(coupon, take_from=campaign_id)
        except IntegrityError:
            return _claimed(self._earlier(coupon), replayed=True)
        except OperationalError:
            # psycopg (3.3) may report that the pipeline was aborted instead of what aborted it.
            if self._has_stock(campaign_id):
                raise
            return _claimed(self._earlier(coupon), replayed=True)
        return _claimed(coupon, replayed=False)

    def _has_stock(self, campaign: UUID) -> bool:
        with self._datastore().get_connection() as connection:
            row = connection.execute(
                "SELECT issued < quota AS left FROM stock WHERE campaign = %s", (campaign,)
            ).fetchone()
        return row is not None and bool(row["left"])

    def _datastore(self) -> PostgresDatastore:
        assert isinstance(self.recorder, StockTakingRecorder)
        return self.recorder.datastore

    def _earlier(self, coupon: Coupon) -> Coupon:
        """The coupon that an earlier request with the same key made."""
        try:
            earlier: Coupon = self.repository.get(coupon.id)
        except AggregateNotFoundError:
            raise claims.SoldOut from None
        if earlier.key != coupon.key:
            raise claims.AlreadyClaimed
        return earlier

    def figures(self, campaign: UUID) -> dict[str, int]:
        """Issued and quota from the stock row, claims counted in the events themselves."""
        with self._datastore().get_connection() as connection:
            row = connection.execute(
                "SELECT issued, quota FROM stock WHERE campaign = %s", (campaign,)
            ).fetchone()
            counted = connection.execute(
                "SELECT count(*) AS claims FROM coupons_events WHERE topic = %s "
                "AND convert_from(state, 'UTF8') LIKE %s",
                (get_topic(Coupon.Claimed), f"%{campaign.hex}%"),
            ).fetchone()
        assert row is not None
        assert counted is not None
        return {**row, **counted}


def _claimed(coupon: Coupon, *, replayed: bool) -> claims.Coupon:
    at = coupon.created_on.isoformat()
    return claims.Coupon(
        coupon.id, coupon.campaign, coupon.face_minor, coupon.currency, at, replayed=replayed
    )


def create_app() -> FastAPI:
    """The service over the database that the environment names."""
    coupons = Coupons(env={**_environment(), "CREATE_TABLE": "no"})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # As many threads as connections: a thread without one can only be in the way.
        to_thread.current_default_thread_limiter().total_tokens = _pool_size()
        yield
        coupons.close()

    app = FastAPI(openapi_url=None, lifespan=lifespan)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/campaigns", status_code=201)
    def open_campaign(body: claims.NewCampaign) -> dict[str, str]:
        campaign = coupons.open_campaign(body.name, body.quota, body.face_minor, body.currency)
        return {"campaign": str(campaign)}

    @app.get("/v1/campaigns/{campaign}/figures")
    def figures(campaign: UUID) -> dict[str, int]:
        return coupons.figures(campaign)

    @app.post("/v1/campaigns/{campaign}/claims")
    def claim(campaign: UUID, body: claims.NewClaim, key: claims.Key) -> Response:
        try:
            return claims.created(coupons.claim(campaign, body.person, key))
        except AggregateNotFoundError:
            return claims.problem(404, "not_found")
        except claims.SoldOut:
            return claims.problem(409, "sold_out")
        except claims.AlreadyClaimed:
            return claims.problem(409, "already_claimed")

    return app


def _environment() -> dict[str, str]:
    """The library's own settings for the database's address."""
    where = conninfo_to_dict(os.environ[DATABASE_URL])
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "APPLICATION_RECORDER_TOPIC": get_topic(StockTakingRecorder),
        "POSTGRES_DBNAME": str(where["dbname"]),
        "POSTGRES_HOST": str(where["host"]),
        "POSTGRES_PORT": str(where.get("port", 5432)),
        "POSTGRES_USER": str(where["user"]),
        "POSTGRES_PASSWORD": str(where.get("password") or "none"),
        "POSTGRES_POOL_SIZE": str(_pool_size()),
    }


def _pool_size() -> int:
    return int(os.environ.get(POOL_SIZE, POOL_SIZE_DEFAULT))


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the baseline until terminated."""
    parser = serving.parser(
        "python -m loadtest.baselines.stock",
        "Serve claims with FastAPI and the stock eventsourcing recorder.",
        workers=WORKERS_DEFAULT,
    )
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--pool-size", type=int, default=POOL_SIZE_DEFAULT)
    options = parser.parse_args(arguments)
    os.environ[DATABASE_URL] = options.database_url
    os.environ[POOL_SIZE] = str(options.pool_size)
    Coupons(env=_environment()).close()  # creates the tables once, before the workers race for it
    serving.serve("loadtest.baselines.stock:create_app", options, factory=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
