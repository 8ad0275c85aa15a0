"""The gatekeeper: keeps the gate true to the store, in every server worker.

It says that its worker lives and how many requests it has at the store, so that the tokens of a
dead worker come back. What the gate does not know, it builds from the store under a new epoch. In
turn with the other workers it compares tokens and «sold out» with the store. All of this is about
hints: when it is late or wrong, claims take longer, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg2
from eventsourcing import persistence as es
from redis.exceptions import RedisError

from api.confirming import Confirmer
from api.foresight import Foresight
from api.settings import Settings
from campaigns.admission import Standing
from campaigns.campaign import CAMPAIGN_FOLD, POOL, Campaign
from campaigns.event_types import MAPPER
from campaigns.freeing import Freeing
from campaigns.gate import Door, Gate, GateSettings, PoolKey, Rate, facts_as_text
from campaigns.wire import Away, Wire, wire_to
from ledger.datastore import Datastore
from ledger.glance import Glance, connect, glance
from ledger.history import History, state_of
from ledger.warming import warm
from projections.campaign_figures import beginning

log = logging.getLogger(__name__)

BEAT_S: Final = 1.0
"""How often a worker says that it lives; the gate takes five silent seconds for death."""

SWEEP_S: Final = 1.0
"""How often tokens and «sold out» of a pool are compared with the store, by one worker."""

SETTLE_WITHIN_S: Final = 30.0
"""After so long a request that was admitted and not settled holds no token any more."""

IDLE_S: Final = 60.0
"""A pool at which nobody knocked for so long is no longer kept up."""

REBUILD_EVERY_S: Final = 0.5
"""Least time between two rebuilds of one pool."""

AHEAD_S: Final = 60.0
"""How long before its claims begin a campaign is built at the gate: nobody finds it cold."""

LOOK_AHEAD_EVERY_S: Final = 10.0
"""How often campaigns are looked for whose claims are about to begin."""

WARM_EVERY_S: Final = 300.0
"""Least time between two warmings of the store's cache."""

HOLD_S: Final = 1.0
"""How long claims wait for the gate of their campaign to be built: time enough for two tries."""

TROUBLE: Final = (
    Away,
    RedisError,
    OSError,
    TimeoutError,
    psycopg2.Error,
    es.PersistenceError,
    ValueError,
)

Jobs = dict[str, list[tuple[Door, str]]]
"""Per book the doors to compare with the store, and how: `load`, `restart` or `sweep`."""

_THOROUGHNESS: Final = {"sweep": 0, "load": 1, "restart": 2}


class Sums(NamedTuple):
    """What a worker's gatekeeper has done, for the metrics."""

    loads: int = 0
    sweeps: int = 0
    corrected: int = 0
    """Tokens given or taken by sweeps."""


def gate_settings(settings: Settings) -> GateSettings:
    """Return what is set about the gate."""
    return GateSettings(
        person_rate=Rate.per_second(settings.rate_tourist_per_s, settings.rate_tourist_burst),
        device_rate=Rate.per_second(settings.rate_device_per_s, settings.rate_device_burst),
        address_rate=Rate.per_second(settings.rate_address_per_s, settings.rate_address_burst),
        persons_max=settings.gate_persons_max,
        persons_s=settings.gate_persons_s,
        sold_out_ms=round(settings.gate_sold_out_s * 1000),
        pools_max=settings.gate_campaigns_max,
        hold_s=HOLD_S,
    )


def gatekeeper_of(settings: Settings, datastore: Datastore) -> Gatekeeper | None:
    """Return the gatekeeper of a server process; None where there is no gate.

    There is none without Valkey, and none where callers bring the time along: what a claim is told
    then depends on an instant that the gate cannot know.
    """
    if settings.redis_url is None or settings.clock == "request":
        return None
    wire = wire_to(
        settings.redis_url.get_secret_value(),
        timeout_s=settings.gate_timeout_s,
        cluster=settings.redis_cluster,
    )
    return Gatekeeper(wire, datastore, gate_settings(settings))


def freeing_of(settings: Settings) -> Freeing | None:
    """Return what tells the gate of stock that comes back; each writer needs its own."""
    if settings.redis_url is None or settings.clock == "request":
        return None
    return Freeing(settings.redis_url.get_secret_value(), cluster=settings.redis_cluster)


class Gatekeeper:
    """The gate of one worker and its upkeep. Belongs to one event loop."""

    def __init__(
        self,
        wire: Wire | None,
        datastore: Datastore,
        settings: GateSettings | None = None,
        *,
        beat_s: float = BEAT_S,
        sweep_s: float = SWEEP_S,
    ) -> None:
        self.gate = Gate(wire, settings, keeper=self)
        self.sums = Sums()
        self._confirmer = Confirmer(
            datastore, self._known, self._doubt, tally=self.gate.tally.words
        )
        self.gate.judge = self._confirmer
        self.foresight = Foresight(self._confirmer, self.gate.settings, self.gate.tally.words)
        self.gate.holds_all = self.foresight.holds_all
        self._datastore = datastore
        self._beat_s = beat_s
        self._sweep_s = sweep_s
        self._campaigns: OrderedDict[UUID, Campaign] = OrderedDict()
        self._wanted: dict[PoolKey, str] = {}
        self._built_at: dict[PoolKey, float] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._connection: Any = None
        self._loop: Any = None
        self._warmed_at = float("-inf")

    async def start(self) -> None:
        """Begin; the gate answers from now on."""
        self._loop = asyncio.get_running_loop()
        self._confirmer.start()
        await self.gate.start()
        self._tasks = [
            self._loop.create_task(self._keep_beating()),
            self._loop.create_task(self._keep_building()),
            self._loop.create_task(self._keep_looking_ahead()),
        ]

    async def close(self) -> None:
        """Stop; whoever still waits at the gate hears «unsure»."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.gate.close()
        self._confirmer.close()
        if self._connection is not None:
            self._connection.close()

    # --- what others ask for ------------------------------------------------------------------

    async def look_ahead(self) -> None:
        """Build what is about to begin, and have the store ready for it.

        Which campaigns these are, a projection hints.
        """
        beginning = await asyncio.to_thread(self._beginning)
        for book, campaign in beginning:
            door = self.gate.door(book, campaign, POOL)
            if not door.epoch:
                self._want(door.key, "sweep")
        now = self._loop.time()
        if beginning and now - self._warmed_at >= WARM_EVERY_S:
            self._warmed_at = now
            pages = await asyncio.to_thread(warm, self._datastore)
            log.info("%d pages of indexes are in the store's cache", pages)

    def unknown(self, door: Door, *, broken: bool) -> None:
        """The gate knows nothing of a pool, or an older state, or what it has is broken."""
        self._want(door.key, "restart" if broken else "load")

    def _doubt(self, pool: PoolKey) -> None:
        """The store does not confirm what the gate says of a pool."""
        self._campaigns.pop(pool[0], None)
        self._want(pool, "sweep")

    def _known(self, campaign: UUID) -> Campaign | None:
        return self._campaigns.get(campaign)

    def _want(self, pool: PoolKey, how: str) -> None:
        if _THOROUGHNESS[how] > _THOROUGHNESS.get(self._wanted.get(pool, ""), -1):
            self._wanted[pool] = how
            self._wake.set()

    # --- the tasks ----------------------------------------------------------------------------

    async def _keep_looking_ahead(self) -> None:
        while True:
            try:
                await self.look_ahead()
            except TROUBLE as error:
                log.info("nothing is known of what begins: %s", type(error).__name__)
            await asyncio.sleep(LOOK_AHEAD_EVERY_S)

    async def _keep_beating(self) -> None:
        beats = 0
        while True:
            await asyncio.sleep(self._beat_s)
            beats += 1
            if beats * self._beat_s >= SETTLE_WITHIN_S:
                beats = 0
                for door in self.gate.doors.values():
                    self.gate.tally.lost += door.forget_the_oldest()
            self._shut_idle_doors()
            for door in list(self.gate.doors.values()):
                if door.campaign not in self._campaigns:
                    self._want(door.key, "sweep")
                if door.epoch and not self.gate.away:
                    try:
                        await self._beat(door)
                    except TROUBLE as error:
                        log.info("a heartbeat was not heard: %s", error)

    async def _beat(self, door: Door) -> None:
        period_ms = round(self._sweep_s * 1000)
        epoch, turn = await self.gate.call(
            "beat", door, (self.gate.worker, door.admitted, period_ms)
        )
        if epoch < door.epoch:
            self._want(door.key, "load")
        else:
            door.epoch = epoch
            if turn:
                self._want(door.key, "sweep")

    async def _keep_building(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            later = False
            jobs: Jobs = {}
            now = self._loop.time()
            for pool, how in list(self._wanted.items()):
                if how != "sweep" and now - self._built_at.get(pool, -1e9) < REBUILD_EVERY_S:
                    later = True
                    continue
                del self._wanted[pool]
                door = self.gate.doors.get(pool)
                if door is not None:
                    self._built_at[pool] = now
                    jobs.setdefault(door.book, []).append((door, how))
            for book, doors in jobs.items():
                try:
                    await self._compare(book, doors)
                except TROUBLE as error:
                    log.warning("the gate of %s is not brought up to date: %s", book, error)
                    for door, _ in doors:
                        self.gate.not_built(door)
            if later:
                self._loop.call_later(REBUILD_EVERY_S / 5, self._wake.set)

    def _shut_idle_doors(self) -> None:
        horizon = self._loop.time() - IDLE_S
        for door in list(self.gate.doors.values()):
            if door.asked_at < horizon and not door.admitted:
                self.gate.shut(door)
        for pool in [pool for pool in self._built_at if pool not in self.gate.doors]:
            del self._built_at[pool]
        while len(self._campaigns) > self.gate.settings.pools_max:
            self._campaigns.popitem(last=False)

    # --- bringing the gate up to date ---------------------------------------------------------

    async def _compare(self, book: str, jobs: Sequence[tuple[Door, str]]) -> None:
        seen = await asyncio.to_thread(self._look, book, [door.key for door, _ in jobs])
        for (door, how), standing in zip(jobs, seen, strict=True):
            if standing is None:
                self.gate.not_built(door)
            else:
                await self._rule(door, how, standing)

    async def _rule(self, door: Door, how: str, standing: Standing) -> None:
        epoch = door.epoch
        if how != "sweep":
            epoch = max(epoch + 1, round(standing.now.timestamp() * 1e6))
        used_up = standing.used_up if standing.is_open else None
        full = (
            False if used_up is None else (standing.position, used_up[0], facts_as_text(used_up[1]))
        )
        door.limit = standing.campaign.terms.per_person_limit
        ruled, before, after = await self.gate.call(
            "rule",
            door,
            (
                how,
                epoch,
                standing.free,
                standing.position,
                door.limit,
                standing.is_open,
                full,
                self.gate.settings.sold_out_ms,
                *standing.waiting_room,
            ),
        )
        if ruled < max(epoch, 1):
            self._want(door.key, "load")
            return
        if ruled == epoch:
            self._note(how, abs(after - before))
        door.epoch = ruled  # perhaps another worker was faster
        self.gate.built(door)

    def _note(self, how: str, corrected: int) -> None:
        sums = self.sums
        if how == "sweep":
            self.sums = sums._replace(sweeps=sums.sweeps + 1, corrected=sums.corrected + corrected)
        else:
            self.sums = sums._replace(loads=sums.loads + 1)

    # --- in a thread: what the store says -----------------------------------------------------

    def _beginning(self) -> list[tuple[str, UUID]]:
        with self._datastore.transaction() as cursor:
            return beginning(cursor, AHEAD_S, self.gate.settings.pools_max // 2)

    def _look(self, book: str, pools: list[PoolKey]) -> list[Standing | None]:
        """Return how pools stand, all at one moment; None for what cannot be claimed from yet."""
        seen = self._glance(book, pools)
        stale = [
            pool[0]
            for pool, sight in zip(pools, seen.pools, strict=True)
            if sight.version and not self._is_current(pool[0], sight.version)
        ]
        if stale:
            self._read_campaigns(book, stale)
        return [
            Standing(campaign, sight.capacity, seen.position, seen.instant)
            if (campaign := self._campaigns.get(pool[0])) is not None
            and campaign.version == sight.version
            and campaign.state != "draft"
            else None
            for pool, sight in zip(pools, seen.pools, strict=True)
        ]

    def _is_current(self, campaign: UUID, version: int) -> bool:
        known = self._campaigns.get(campaign)
        return known is not None and known.version == version

    def _read_campaigns(self, book: str, campaigns: Iterable[UUID]) -> None:
        streams = History(self._datastore, book, MAPPER).streams(list(campaigns))
        for stream, entries in streams.items():
            campaign = state_of(entries, CAMPAIGN_FOLD)
            if campaign is not None:
                self._campaigns[stream] = campaign

    def _glance(self, book: str, pools: list[PoolKey]) -> Glance:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = connect(self._datastore)
            return glance(self._connection, book, pools)
        except psycopg2.Error:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            raise
