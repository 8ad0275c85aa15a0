"""The service: everything that handlers need, wired once per server process.

A handler gets this object and one call. Nothing here is global: a test builds as many services
as it likes, each over its own database.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import cache
from random import SystemRandom
from typing import Any, Final, TypeVar

from eventsourcing import persistence as es
from pydantic_core import PydanticCustomError

from api import metrics, traffic
from api.callers import Caller, Pseudonyms, Role
from api.errors import RETRY_SOON, UNSIGNED, Problem, rate_limited, unauthenticated
from api.exchange import Incoming
from api.gatekeeper import Gatekeeper, freeing_of, gatekeeper_of
from api.issuers import DEV_ISSUER, DevelopmentIssuer, OidcKeys
from api.logs import Log
from api.passage import Passages
from api.passes import Passes
from api.ratelimit import Budget, Rate, RateLimiter, address_key
from api.schemas import instant_of
from api.sessions import POLL_S, Sessions, session_header
from api.settings import Settings
from api.signing import Signer
from api.tokens import Checked, TokenRules, Tokens
from api.traffic import CampaignTraffic
from api.transparency import check_logs
from api.vault.vault import Erased
from api.vault.wiring import vault_of
from api.views import BookReadiness, Readiness
from api.wallets.journal import Journal, Standing
from campaigns.accounting import check_postings
from campaigns.event_types import MAPPER
from campaigns.freeing import Freeing
from campaigns.waiting import WaitingRoom
from ledger import migrations, safety
from ledger.books import Book
from ledger.commit import GroupCommit, Limits
from ledger.datastore import Datastore
from projections.lag import lags

T = TypeVar("T")

READINESS_TIMEOUT_S: Final = 2.0
PASS_S: Final = 60
"""How long after one's turn in a waiting room one may claim."""
WATCH_S: Final = 1.0
"""How often the gauges are brought up to date."""

MIGRATED: Final = ("ledger", "projections", "api", "api.wallets")
"""Packages with tables that a server works on."""

READERS_PER_CONNECTION: Final = 8
"""Reads that may wait for one database connection before further ones are refused."""


_STANDING: Final = """
SELECT b.position, b.halted, l.published_size
FROM tidebook.book_head b LEFT JOIN tidebook.log_head l USING (book) WHERE b.book = %s
"""


class Misconfigured(Exception):
    """The settings do not make a service that can be started."""


class Service:
    """One server process's parts: who may call, how fast, the writers, and the reading side."""

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], float] = time.time,
        log: Log | None = None,
    ) -> None:
        if settings.database_url is None:
            raise Misconfigured("TIDEBOOK_DATABASE_URL is needed; `tidebook run` brings its own")
        self.settings = settings
        self.now = now
        self.log = log
        self.dev_issuer = _development_issuer(settings, now)
        self.pseudonyms = Pseudonyms(settings.pseudonym_secret())
        self.signer = Signer(settings.refusal_secret())
        self.draw_key = cache(settings.draw_secret)
        """Read once, when it is first needed: each claim of a seeded packet and each share asks."""
        self.vault = vault_of(settings)
        self.tokens = _tokens(settings, self.dev_issuer, self.pseudonyms, now)
        self.tokens.persons = self._person_of
        self.sessions = Sessions(settings.session_secrets(), settings.session_s, now)
        self.datastore = Datastore(
            settings.database_url.get_secret_value(), pool_size=settings.pool_size
        )
        self._threads = ThreadPoolExecutor(settings.pool_size, thread_name_prefix="reader")
        self._readers = 0
        self.rates: dict[Role, Rate | None] = {
            "tourist": Rate.per_second(settings.rate_tourist_per_s, settings.rate_tourist_burst),
            **dict.fromkeys(
                ("merchant", "operator", "auditor"),
                Rate.per_second(settings.rate_staff_per_s, settings.rate_staff_burst),
            ),
        }
        self._missing_rate = Rate.per_minute(settings.rate_missing_per_min)
        self._missing_address_rate = Rate.per_minute(settings.rate_missing_address_per_min)
        redis_url = settings.redis_url
        self.limiter = RateLimiter(
            redis_url.get_secret_value() if redis_url is not None else None,
            timeout_s=settings.rate_timeout_s,
            cluster=settings.redis_cluster,
        )
        self.missing = Budget(self.limiter)
        self.traffic = CampaignTraffic()
        self.passages = Passages(
            self.limiter,
            timeout_s=settings.commit_timeout_s,
            slow_lane_max=settings.slow_lane_max,
            traffic=self.traffic,
        )
        self.gatekeeper = gatekeeper_of(settings, self.datastore)
        if self.gatekeeper is not None:
            self.passages.gate = self.gatekeeper.gate
            self.passages.foresight = self.gatekeeper.foresight
            self.passages.gate_paces = True
        self.waiting_room = _waiting_room(self.gatekeeper)
        self.passes = Passes(settings.session_secrets(), PASS_S, now)
        self.streams = 0
        """Places that are watched now."""
        self.writers: dict[Book, GroupCommit] = {}
        self._observers: list[Freeing] = []
        self._running: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Check the database and start the writers."""
        await asyncio.to_thread(self.check_database)
        await self.in_store(self.sessions.revocations.read)
        limits = Limits(queue_max=self.settings.queue_max, batch_max=self.settings.batch_max)
        for book in self.settings.books:
            self.writers[book] = GroupCommit(
                self.datastore,
                book,
                MAPPER,
                limits=limits,
                check=check_postings,
                observer=self._new_observer(),
            ).start()
        if self.gatekeeper is not None:
            await self.gatekeeper.start()
        self._running = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._watch_revocations()),
            asyncio.create_task(self._hand_on_traffic()),
        ]

    async def stop(self) -> None:
        """Finish what the writers have queued, then let everything go."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*(asyncio.to_thread(writer.close) for writer in self.writers.values()))
        if self.gatekeeper is not None:
            await self.gatekeeper.close()
        for observer in self._observers:
            observer.close()
        with suppress(Problem, es.PersistenceError):
            await self._store_traffic()
        await self.limiter.close()
        self._threads.shutdown(wait=False)
        self.datastore.close()

    def _new_observer(self) -> Freeing | None:
        observer = freeing_of(self.settings)
        if observer is not None:
            self._observers.append(observer)
        return observer

    # --- who calls, and how often -------------------------------------------------------------

    async def admit(self, call: Incoming, *roles: Role) -> Caller:
        """Return the caller, authenticated, not too fast, and in one of these roles."""
        caller = await self.identify(call)
        check_role(caller, roles)
        return caller

    async def identify(self, call: Incoming) -> Caller:
        """Return the caller; raise `unauthenticated` or `rate_limited`."""
        authorization = _authorization(call)
        caller = self.recognised(authorization)
        if caller is None:
            caller = (await self.tokens.checked(authorization)).caller
        await self._welcome(call, caller)
        return caller

    def recognised(self, authorization: bytes) -> Caller | None:
        """Return whom a token names when that takes no question to anybody, else None.

        Raises `unauthenticated` for a bad session token.
        """
        session = session_header(authorization)
        if session is not None:
            return self.sessions.caller(session)
        return self.tokens.known(authorization)

    async def sign_in(self, call: Incoming) -> Checked:
        """Return who calls with a token of the issuer, and until when that is good."""
        checked = await self.tokens.checked(_authorization(call))
        await self._welcome(call, checked.caller)
        return checked

    async def _person_of(self, identity: str) -> str:
        """Return the person of a verified identity; raise the problem of one who was erased."""
        keyed = self.pseudonyms.of(identity)
        if self.vault.needs_no_row(keyed):
            return keyed
        try:
            return await self.in_store(lambda cursor: self.vault.resolve(cursor, keyed))
        except Erased as erased:
            facts = {} if erased.until is None else {"until": erased.until.isoformat()}
            raise Problem(
                "person_erased", "The person of this identity was erased.", facts=facts
            ) from None

    async def _welcome(self, call: Incoming, caller: Caller) -> None:
        """Note who calls; raise when calls of theirs are not taken now."""
        call.caller = caller
        self.sessions.require_standing(caller)
        wait_s = self.shut_out_s(caller, call.address)
        wait_s = wait_s or await self.limiter.take(caller.scope, self.rates[caller.role])
        if wait_s > 0:
            raise rate_limited(wait_s)

    def shut_out_s(self, caller: Caller, address: str) -> float:
        """Return for how long nothing is answered to somebody who seems to be guessing."""
        if not self.missing.shuts_out_anybody:
            return 0.0
        return self.missing.wait(_missing_key(caller), address_key(address))

    def count_missing(self, caller: Caller, address: str) -> None:
        """Charge a caller for an answer 404: too many of them look like guessing."""
        self.missing.charge(_missing_key(caller), self._missing_rate)
        self.missing.charge(address_key(address), self._missing_address_rate)

    # --- time ---------------------------------------------------------------------------------

    def simulated_instant(
        self, headers: Mapping[bytes, bytes], repeated: AbstractSet[bytes]
    ) -> datetime | None:
        """Return the instant that a call brings along; None where the database's clock counts."""
        sent = headers.get(b"tidebook-time")
        if self.settings.clock == "database":
            if sent is not None:
                raise Problem("invalid_header", "Tidebook-Time is not taken: this is no replay.")
            return None
        once = sent if sent is not None and b"tidebook-time" not in repeated else b""
        try:
            return instant_of(once.decode("latin-1"))
        except PydanticCustomError:
            raise Problem(
                "invalid_header", "Tidebook-Time must be sent once, as a time with its offset."
            ) from None

    # --- reading ------------------------------------------------------------------------------

    async def in_store(self, work: Callable[[Any], T]) -> T:
        """Return what `work` does with a cursor, in a thread, in a transaction of its own."""
        return await self.read(work)

    async def read(self, query: Callable[[Any], T]) -> T:
        """Return what `query` finds with a cursor, in a thread; raise what a caller is told."""
        if self._readers >= self.settings.pool_size * READERS_PER_CONNECTION:
            raise Problem("overloaded", "Too many reads wait already.", headers=RETRY_SOON)
        self._readers += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._query, query)
        except (es.OperationalError, es.InterfaceError, es.InternalError) as error:
            raise Problem(
                "store_unavailable", "The store cannot be read now.", headers=RETRY_SOON
            ) from error
        finally:
            self._readers -= 1

    def _query(self, query: Callable[[Any], T]) -> T:
        with self.datastore.transaction() as cursor:
            return query(cursor)

    # --- watching -----------------------------------------------------------------------------

    async def readiness(self) -> Readiness:
        """Return whether this server can do its work."""
        try:
            async with asyncio.timeout(READINESS_TIMEOUT_S):
                books = await self.read(self._read_books)
        except (Problem, TimeoutError, es.PersistenceError):
            return Readiness("unready", "unavailable", self._rate_limits, [])
        halted = any(book.halted is not None for book in books)
        status = "degraded" if self.limiter.degraded or halted else "ready"
        return Readiness(status, "ok", self._rate_limits, books)

    @property
    def _rate_limits(self) -> str:
        return "alone" if self.limiter.degraded else "shared"

    def _read_books(self, cursor: Any) -> list[BookReadiness]:
        found = []
        for book, writer in self.writers.items():
            of_book = lags(cursor, [book])
            cursor.execute(_STANDING, (book,))
            head, halted, served = cursor.fetchone() or (0, None, None)
            behind = {lag.projection: lag.events for lag in of_book}
            lag_s = {lag.projection: round(lag.seconds, 3) for lag in of_book}
            found.append(BookReadiness(book, head, behind, lag_s, writer.queued, served, halted))
        return found

    async def measure_lag(self) -> None:
        """Bring the gauges of followers up to date; they stay while the store is away."""
        with suppress(Problem, TimeoutError, es.PersistenceError):
            async with asyncio.timeout(READINESS_TIMEOUT_S):
                metrics.projection_lags(await self.read(lambda c: lags(c, list(self.writers))))
                metrics.journal_standings(await self.read(self._read_journals))

    def _read_journals(self, cursor: Any) -> list[Standing]:
        return [Journal(book).standing(cursor) for book in self.writers]

    async def _watch(self) -> None:
        """Keep the gauges true."""
        while True:
            metrics.hand_on()
            metrics.SLOW_LANE.set(self.passages.in_slow_lane)
            if self.gatekeeper is not None:
                metrics.gate_state(self.gatekeeper.gate)
                metrics.gatekeeper_state(self.gatekeeper)
            metrics.RATE_DEGRADED.set(self.limiter.degraded)
            for book, writer in self.writers.items():
                metrics.writer_state(book, writer)
            await asyncio.sleep(WATCH_S)

    async def _watch_revocations(self) -> None:
        """Keep what was revoked up to date; without the store it becomes stale by itself."""
        while True:
            await asyncio.sleep(POLL_S)
            with suppress(Problem, es.PersistenceError):
                await self.in_store(self.sessions.revocations.read)

    async def _hand_on_traffic(self) -> None:
        """Add what was counted to the database; what it does not take waits for the next time."""
        while True:
            await asyncio.sleep(WATCH_S)
            with suppress(Problem, es.PersistenceError):
                await self._store_traffic()

    async def _store_traffic(self) -> None:
        held = self.traffic.take()
        if not held.edges and not held.counts:
            return
        try:
            await self.in_store(lambda cursor: traffic.store(cursor, held))
        except (Problem, es.PersistenceError):
            self.traffic.give_back(held)
            raise

    def is_admin(self, address: str) -> bool:
        """Whether a call from this address may see what is for the admin networks only."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self.settings.admin_networks)

    def check_database(self) -> None:
        """Refuse a database that is unsafe, of an older shape, or begun with other settings.

        A book that does not extend what was signed of it is halted: it can be read.
        """
        with self.datastore.transaction() as cursor:
            safety.require_safe(cursor)
            missing = migrations.missing(cursor, MIGRATED)
            if missing:
                what = ", ".join(missing)
                raise Misconfigured(f"the database lacks {what}: run `tidebook migrate`")
            key = self.settings.pseudonym_secret()
            mark = hmac.digest(key, b"tidebook pseudonym key", "sha256").hex()[:16]
            self._require_mark(cursor, "pseudonym_key", mark, "TIDEBOOK_PSEUDONYM_KEY")
            self._require_mark(cursor, "persons", self.settings.persons, "TIDEBOOK_PERSONS")
            self._require_mark(cursor, "clock", self.settings.clock, "TIDEBOOK_CLOCK")
            check_logs(cursor, self.settings.home, self.settings.books, self.settings.log_witnesses)

    @staticmethod
    def _require_mark(cursor: Any, name: str, value: str, setting: str) -> None:
        """Refuse a ledger begun under another value: one person would be two, or times mix."""
        cursor.execute(
            "INSERT INTO installation (name, value) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (name, value),
        )
        cursor.execute("SELECT value FROM installation WHERE name = %s", (name,))
        if cursor.fetchone() != (value,):
            raise Misconfigured(f"this ledger was begun with another {setting}")


def check_role(caller: Caller, roles: tuple[Role, ...]) -> None:
    """Raise `role_forbidden` unless the caller has one of these roles."""
    if caller.role not in roles:
        raise Problem("role_forbidden", f"This is for the role {' or '.join(roles)}.")


def _authorization(call: Incoming) -> bytes:
    authorization = call.headers.get(b"authorization")
    if b"authorization" in call.repeated:
        raise unauthenticated("The call carries more than one Authorization header.")
    if authorization is None:
        raise unauthenticated(UNSIGNED)
    return authorization


def _missing_key(caller: Caller) -> str:
    return f"m:{caller.role}:{caller.person}"


def _waiting_room(gatekeeper: Gatekeeper | None) -> WaitingRoom | None:
    """Return the waiting rooms, which are held where the gate is."""
    return None if gatekeeper is None else WaitingRoom(gatekeeper.gate, SystemRandom().random)


def _development_issuer(settings: Settings, now: Callable[[], float]) -> DevelopmentIssuer | None:
    if not settings.dev_issuer:
        return None
    if settings.oidc_issuer is not None:
        raise Misconfigured("TIDEBOOK_DEV_ISSUER and TIDEBOOK_OIDC_ISSUER exclude each other")
    return DevelopmentIssuer(settings.issuer_secret(), settings.oidc_audience, now)


def _tokens(
    settings: Settings,
    dev_issuer: DevelopmentIssuer | None,
    pseudonyms: Pseudonyms,
    now: Callable[[], float],
) -> Tokens:
    if dev_issuer is not None:
        rules = TokenRules(DEV_ISSUER, settings.oidc_audience)
        return Tokens(rules, dev_issuer, pseudonyms, now)
    if settings.oidc_issuer is None or settings.oidc_jwks_url is None:
        raise Misconfigured(
            "nobody could sign in: set TIDEBOOK_OIDC_ISSUER and TIDEBOOK_OIDC_JWKS_URL, or "
            "TIDEBOOK_DEV_ISSUER=1 for development"
        )
    rules = TokenRules(settings.oidc_issuer, settings.oidc_audience)
    return Tokens(rules, OidcKeys(settings.oidc_jwks_url, now), pseudonyms, now)
