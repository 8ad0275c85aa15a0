"""The gate breaks in the middle of a rush over HTTP (F17, F19, F20, F22 to F28).

Goal: whatever happens to the gate, no more is issued than there is (I2), nobody has two (I3), all
stock can be had in the end (I5), and what callers are told is true (I10): every 201 is stored,
repeats byte for byte, and «sold out» is never said while there is something. Method: a server of
its own over real sockets, people who press until they know, with a Valkey that is killed, stopped,
flushed, filled, cut off and lied in meanwhile. Whoever is told «sold out» looks at the store at
once; nothing here depends on how long anything takes. Then each guard is taken away by a bug that
is planted in the server, and the same rush must show it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
import redis

from api.issuers import DevelopmentIssuer
from api.supervisor import Command, Keeper
from campaigns.campaign import POOL
from campaigns.coupon import CouponClaimed
from campaigns.event_types import MAPPER
from campaigns.gate import tag_of
from ledger.books import PublicId
from ledger.datastore import Datastore
from ledger.history import History
from tests.api.harness import draft_body, settings_for, yuan
from tests.conftest import Databases, free_port, wait_until
from tests.support import planted
from tests.support.valkeys import Cluster, Relay, Valkey, running_cluster

QUOTA = 100
PEOPLE = 140
AT_ONCE = 6
TROUBLE_AT = (20, 50, 80, 130)
"""How many people have their answer when the fault strikes, each time."""


RUSHES = 4
"""How many a planted bug has at most to show itself."""
PATIENCE_S = 45.0
TOKENS_RETURN_WITHIN_S = 10.0
"""A silent worker counts for five seconds; then come a sweep, and waiting for our turn here."""


class NotServed(Exception):
    """Somebody met a fault of the server, or pressed again and again and never got an answer."""


class Told(NamedTuple):
    """What a call was told: its status, its code and its bytes."""

    status: int
    code: str
    body: bytes


class Scene:
    """A running service over a Valkey that can be broken, and a campaign."""

    def __init__(
        self,
        database_url: str,
        valkey: Valkey,
        replica: Valkey,
        home: Path,
        cluster: Cluster | None = None,
    ) -> None:
        """On a cluster the servers talk to that, and nothing lies between."""
        self.cluster = cluster
        self.valkey = valkey
        self.replica = replica
        self.relay = Relay(valkey.port)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.settings = settings_for(
            database_url,
            self.relay.url if cluster is None else cluster.url,
            home,
            port=port,
            redis_cluster=cluster is not None,
            workers=2,
            gate_timeout_s=0.2,
            slow_lane_max=100,
        )
        self.issuer = DevelopmentIssuer(
            self.settings.issuer_secret(), self.settings.oidc_audience, time.time
        )
        self.datastore = Datastore(database_url)
        self.mark = home / "died"
        self.patience_s = PATIENCE_S
        self.strikes = 0
        self.is_hopeless = threading.Event()
        """Somebody was never answered; nobody else needs to wait as long."""
        self.keeper: Keeper | None = None
        self.campaign = ""

    @contextmanager
    def running(self, plants: str) -> Iterator[None]:
        """Run the server with planted bugs; open the campaign."""
        home = self.settings.home
        environment = {
            **os.environ,
            **self.settings.as_environment(),
            planted.VARIABLE: plants,
            planted.MARK: str(self.mark),
        }
        self.keeper = Keeper(
            name="serve",
            command=Command(
                [sys.executable, "-m", "tests.support.planted"],
                env=environment,
                output=home / "serve.log",
            ),
            ready=self._is_ready,
        )
        try:
            self.keeper.start()
            self.campaign = self._opened()
            yield
        finally:
            self.keeper.stop()
            self.relay.__exit__()
            self.datastore.close()

    @property
    def nodes(self) -> Cluster:
        """The cluster that this is on."""
        assert self.cluster is not None
        return self.cluster

    @property
    def tag(self) -> str:
        """What the keys of the campaign begin with."""
        return tag_of((PublicId.parse(self.campaign, "cmp").uuid, POOL))

    def _is_ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200
        return False

    def _opened(self) -> str:
        with self.client() as client:
            draft = draft_body(restock=True)
            campaign: str = self.post(
                client, "/v1/campaigns", "operator", "one", "d", draft
            ).json()["campaign"]
            funds = {"quota": QUOTA, "budget": yuan(50 * QUOTA)}
            for step, body, who in (
                ("funding", funds, "one"),
                ("funding/approval", funds, "two"),
                ("open", None, "one"),
            ):
                path = f"/v1/campaigns/{campaign}/{step}"
                assert self.post(client, path, "operator", who, step, body).is_success
        return campaign

    def post(
        self, client: httpx.Client, path: str, role: Any, who: str, key: str, body: Any = None
    ) -> httpx.Response:
        """POST once; raise what the network raises."""
        headers = {
            "Authorization": f"Bearer {self.issuer.token(role, who, None)}",
            "Idempotency-Key": key,
        }
        return client.post(path, json=body, headers=headers)

    def client(self) -> httpx.Client:
        """Return a client of the service; without TLS it has nothing to verify."""
        return httpx.Client(base_url=self.url, timeout=20, verify=False)

    # --- people -------------------------------------------------------------------------------

    def press(self, client: httpx.Client, who: str, key: str) -> Told:
        """Press under one key until the service says that it is or is not done."""
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline and not self.is_hopeless.is_set():
            with suppress(httpx.HTTPError):
                path = f"/v1/campaigns/{self.campaign}/claims"
                reply = self.post(client, path, "tourist", who, key)
                code = "" if reply.is_success else reply.json()["code"]
                if reply.status_code == 500:
                    raise NotServed(reply.text)
                if reply.status_code < 429 and code != "idempotency_in_flight":
                    return Told(reply.status_code, code, reply.content)
            time.sleep(0.02)
        self.is_hopeless.set()
        raise NotServed(f"{who} was never answered")

    # --- what is stored -----------------------------------------------------------------------

    def claims(self) -> list[CouponClaimed]:
        """Every claim in the book."""
        events = History(self.datastore, "main", MAPPER).events()
        return [one.event for one in events if isinstance(one.event, CouponClaimed)]

    def issued(self) -> int:
        """How many coupons are out, as the store counts them."""
        with self.datastore.transaction() as cursor:
            cursor.execute("SELECT issued FROM capacity WHERE pool = %s", (POOL,))
            found: int = cursor.fetchone()[0]
        return found


Fault = Callable[[Scene], None]


class Rush:
    """Everybody presses, each of them several times, while something goes wrong."""

    def __init__(self, scene: Scene, fault: Fault) -> None:
        self.scene = scene
        self.fault = fault
        self.first: dict[str, Told] = {}
        self.broken: Counter[str] = Counter()
        """The invariants that somebody saw broken."""
        self._lock = threading.Lock()
        self._striking = threading.Lock()
        self._strikes = list(TROUBLE_AT)

    def run(self) -> None:
        """Let everybody press and then look at the store."""
        people = [f"person {n}" for n in range(PEOPLE)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(self._are_there, people[n::AT_ONCE]) for n in range(AT_ONCE)]:
                done.result(240)
        self._compare_with_the_store()
        self._free_some()

    def _are_there(self, people: list[str]) -> None:
        """Press, one after the other, and press again as people do."""
        with self.scene.client() as client:
            for who in people:
                told = self._press(client, who, "first")
                self._note(who, told)
                again = self._press(client, who, "first")
                if told.status == 201 and again != told:
                    self.broken["I4"] += 1
                other = self._press(client, who, "second")
                if told.status == 201 and other.status == 201:
                    self.broken["I3"] += 1

    def _press(self, client: httpx.Client, who: str, key: str) -> Told:
        told = self.scene.press(client, who, key)
        if told.code == "sold_out":
            self._doubt_sold_out()
        return told

    def _note(self, who: str, told: Told) -> None:
        with self._lock:
            self.first[who] = told
            strike = bool(self._strikes) and len(self.first) >= self._strikes[0]
            if strike:
                self._strikes.pop(0)
        if strike:
            with self._striking:
                self.fault(self.scene)

    def _doubt_sold_out(self) -> None:
        """Nothing comes back during the rush, so what was used up still is."""
        if self.scene.issued() < QUOTA:
            self.broken["I10"] += 1

    def _compare_with_the_store(self) -> None:
        claims = self.scene.claims()
        if len(claims) > QUOTA:
            self.broken["I2"] += 1
        if max(Counter(claim.person for claim in claims).values()) > 1:
            self.broken["I3"] += 1
        if len(claims) < QUOTA or self.scene.issued() != len(claims):
            self.broken["I5"] += 1
        stored = {claim.originator_id.hex for claim in claims}
        granted = [told for told in self.first.values() if told.status == 201]
        if not all(any(coupon in told.body.decode() for coupon in stored) for told in granted):
            self.broken["I1"] += 1

    def _free_some(self) -> None:
        """What is freed can be had at once, and by as many as there is of it."""
        if self.broken:
            return
        granted = [told for told in self.first.values() if told.status == 201]
        with self.scene.client() as client:
            for n, told in enumerate(granted[:3]):
                coupon = httpx.Response(201, content=told.body).json()["coupon"]
                body = {"reason": "a test"}
                path = f"/v1/coupons/{coupon}/void"
                reply = self.scene.post(client, path, "operator", "one", f"void {n}", body)
                assert reply.is_success, reply.text
            words = [self.scene.press(client, f"late {n}", "k").status for n in range(4)]
        if words != [201, 201, 201, 409]:
            self.broken["I5"] += 1


# --- the faults -----------------------------------------------------------------------------------


def kill(scene: Scene) -> None:
    """F17: it is killed and comes back empty."""
    scene.valkey.kill()
    scene.valkey.start()


def future_state(scene: Scene) -> None:
    """F19: no tokens, everybody has one, and sold out for ever, while there is stock."""
    client = scene.valkey.client
    client.hset(f"{scene.tag}h", "t", 0)
    client.set(f"{scene.tag}s", b'\x93\xcd\x27\x0f\xa8sold_out\xaf[["quota",150]]')
    for half in ("p0", "p1"):
        for person in client.hkeys(f"{scene.tag}{half}"):
            client.hset(f"{scene.tag}{half}", person, b"\x01" + bytes(13))


def big_lie(scene: Scene) -> None:
    """F20: a million tokens, and nobody has been here."""
    client = scene.valkey.client
    client.hset(f"{scene.tag}h", "t", 1_000_000)
    client.delete(f"{scene.tag}p0", f"{scene.tag}p1", f"{scene.tag}s")


def failover(scene: Scene) -> None:
    """F22: a replica that has fallen behind takes over, once."""
    if scene.relay.target == scene.replica.port:
        return
    client = scene.replica.client
    client.replicaof("127.0.0.1", scene.valkey.port)
    scene.replica.wait_until(lambda: client.info("replication")["master_link_status"] == "up")
    client.replicaof("NO", "ONE")
    client.hset(f"{scene.tag}h", "e", 5)  # an epoch of long ago
    scene.relay.lead_to(scene.replica.port)


def flush(scene: Scene) -> None:
    """F23: everything is forgotten at once."""
    scene.valkey.client.flushall()


def fill(scene: Scene) -> None:
    """F23: there is no memory left, until the next strike."""
    config = scene.valkey.client
    is_full = config.config_get("maxmemory")["maxmemory"] != "0"
    config.config_set("maxmemory", "0" if is_full else "1000000")


def flush_functions(scene: Scene) -> None:
    """F24: the library is gone."""
    scene.valkey.client.function_flush()


def fill_soon(scene: Scene) -> None:
    """F25: memory ends somewhere in the middle of a call; the next strike gives some more."""
    client = scene.valkey.client
    client.config_set("maxmemory", str(client.info("memory")["used_memory"] + 3_000))


def pause(scene: Scene) -> None:
    """F26: it stops in its tracks, and goes on."""
    scene.valkey.stop()
    threading.Timer(1.0, scene.valkey.go_on).start()


def partition(scene: Scene) -> None:
    """F26: nothing gets through between the servers and Valkey, for a while."""
    scene.relay.hold()
    threading.Timer(1.0, scene.relay.let_go).start()


def ends_too_early(scene: Scene) -> None:
    """F27: every key ends at once."""
    for key in scene.valkey.client.scan_iter():
        scene.valkey.client.pexpire(key, 1)


def ends_too_late(scene: Scene) -> None:
    """F27: no key ever ends, and workers seem to have spoken tomorrow, also one that is gone."""
    client = scene.valkey.client
    client.hset(f"{scene.tag}w", "gone", f"7 {int(time.time())}")
    for worker, said in client.hgetall(f"{scene.tag}w").items():
        count, _, at = said.partition(b" ")
        client.hset(f"{scene.tag}w", worker, b"%b %d" % (count, int(at) + 86_400))
    for key in client.scan_iter():
        client.persist(key)
    _sweep(scene)


def kill_workers(scene: Scene) -> None:
    """F28: every server worker is killed at once."""
    assert scene.keeper is not None
    assert scene.keeper.pid is not None
    for child in psutil.Process(scene.keeper.pid).children(recursive=True):
        with suppress(psutil.Error):
            child.kill()


def nothing(_: Scene) -> None:
    """The workers see to it themselves."""


def count_after_a_death(scene: Scene) -> None:
    """F28: a worker died with a token, and the gate is swept before that worker counts as dead.

    Whoever had the token presses again and has its coupon from the store by then, so that from now
    on one token is missing.
    """
    scene.strikes += 1
    if scene.strikes != 3:
        return
    wait_until(lambda: scene.mark.exists() and scene.mark.read_text() != "")
    whose = scene.mark.read_text()
    wait_until(lambda: any(claim.person == whose for claim in scene.claims()))
    _sweep(scene)


def _sweep(scene: Scene) -> None:
    """Wait until the tokens are counted anew, for whatever the fault did is seen by that only."""
    client = scene.valkey.client
    client.hset(f"{scene.tag}h", "t", -1_000)  # until then, nobody has one
    client.delete(f"{scene.tag}k")
    wait_until(lambda: int(client.hget(f"{scene.tag}h", "t") or -1) >= 0)


# --- a cluster ------------------------------------------------------------------------------------


def _home_of(scene: Scene) -> Valkey:
    """The primary that has the campaign's keys."""
    scene.nodes.client.nodes_manager.initialize()
    return scene.nodes.node_of(scene.tag)


def promote_a_replica(scene: Scene) -> None:
    """F22: the campaign's primary is killed and its replica takes over."""
    scene.nodes.promote(_home_of(scene))


def lose_the_slot(scene: Scene) -> None:
    """F17: the campaign's primary forgets all it has, functions included."""
    client = _home_of(scene).client
    client.flushall()
    client.function_flush()


def move_the_slot(scene: Scene) -> None:
    """The campaign's keys move to the next primary, while everybody presses."""
    primaries = scene.nodes.primaries
    here = primaries.index(_home_of(scene))
    scene.nodes.move(scene.tag, primaries[(here + 1) % len(primaries)])


def slot_in_trouble(scene: Scene) -> None:
    """One after the other, a strike each: the slot moves, is lost, is another's, is lost again."""
    scene.strikes += 1
    (lose_the_slot, move_the_slot, lose_the_slot, promote_a_replica)[scene.strikes % 4](scene)


def kill_the_primary(scene: Scene) -> None:
    """Its slots are nobody's from now on."""
    if all(node.lives for node in scene.nodes.primaries):
        _home_of(scene).kill()


FAULTS: tuple[Fault, ...] = (
    kill,
    future_state,
    big_lie,
    failover,
    flush,
    fill,
    flush_functions,
    fill_soon,
    pause,
    partition,
    ends_too_early,
    ends_too_late,
    kill_workers,
)


Scenes = Callable[[], AbstractContextManager[Scene]]


@pytest.fixture
def scenes(databases: Databases, server_home: Path, tmp_path: Path) -> Scenes:
    """What makes a service that is not running yet, with a Valkey and one that can replace it."""

    @contextmanager
    def made() -> Iterator[Scene]:
        with ExitStack() as stack:
            url = stack.enter_context(databases.fresh())
            valkey = stack.enter_context(Valkey(server_home))
            replica = stack.enter_context(Valkey(server_home))
            home = Path(stack.enter_context(TemporaryDirectory(dir=tmp_path)))
            yield Scene(url, valkey, replica, home)

    return made


@pytest.fixture
def scene(scenes: Scenes) -> Iterator[Scene]:
    """One of them."""
    with scenes() as one:
        yield one


@pytest.fixture
def clusters(databases: Databases, server_home: Path, tmp_path: Path) -> Scenes:
    """The same on a cluster."""

    @contextmanager
    def made() -> Iterator[Scene]:
        with ExitStack() as stack:
            url = stack.enter_context(databases.fresh())
            cluster = stack.enter_context(running_cluster(server_home, replicas=True))
            home = Path(stack.enter_context(TemporaryDirectory(dir=tmp_path)))
            yield Scene(url, cluster.primaries[0], cluster.primaries[1], home, cluster)

    return made


@pytest.fixture
def clustered(clusters: Scenes) -> Iterator[Scene]:
    """One of them."""
    with clusters() as one:
        yield one


def broken_by(scene: Scene, fault: Fault, plants: str = "nothing") -> set[str]:
    """Return the invariants that a rush with a fault and planted bugs breaks."""
    with scene.running(plants):
        rush = Rush(scene, fault)
        try:
            rush.run()
        except NotServed:
            rush.broken["answers"] += 1
    return set(rush.broken)


def is_seen(invariant: str, scenes: Scenes, fault: Fault, bug: str) -> bool:
    """Tell whether one of a few rushes shows a planted bug.

    Who presses in which instant is up to the machine, and a bug that only some of them can meet may
    be missed by one rush. The rushes without a bug get no second chance.
    """
    for _ in range(RUSHES):
        with scenes() as scene:
            scene.patience_s = TOKENS_RETURN_WITHIN_S
            if invariant in broken_by(scene, fault, bug):
                return True
    return False


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_invariants_hold_whatever_happens_to_the_gate(scene: Scene, fault: Fault) -> None:
    """Nothing is over-issued, doubled, lost or refused wrongly."""
    assert broken_by(scene, fault) == set()


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [slot_in_trouble, kill_the_primary],
    ids=lambda fault: fault.__name__,
)
def test_the_invariants_hold_on_a_cluster(clustered: Scene, fault: Fault) -> None:
    """Whatever happens to the primary that has the campaign's keys; then the gate is kept up again.

    Where somebody has the slot, the gate knows the campaign again and is swept: its tokens are what
    the store has left.
    """
    with clustered.running("nothing"):
        rush = Rush(clustered, fault)
        rush.run()
        assert set(rush.broken) == set()
        if fault is not kill_the_primary:
            wait_until(lambda: tokens_at(clustered) == 0)


@pytest.mark.fault
@pytest.mark.slow
def test_a_planted_bug_is_seen_on_a_cluster(clusters: Scenes) -> None:
    """Control: a lost slot takes everybody's memory along, and only the store keeps the limit."""
    assert is_seen("I3", clusters, lose_the_slot, "no_person_key")


def tokens_at(scene: Scene) -> int | None:
    """How many tokens the campaign's primary holds; None where nothing is known."""
    with suppress(redis.RedisError, OSError):
        tokens = scene.nodes.client.hget(f"{scene.tag}h", "t")
        return None if tokens is None else int(float(tokens))
    return None


@pytest.mark.fault
@pytest.mark.slow
def test_a_worker_that_dies_after_an_admission_takes_no_stock_along(scene: Scene) -> None:
    """Its token was taken and its claim never reached the store (F28)."""
    assert broken_by(scene, nothing, "dies_after_admission") == set()
    assert scene.mark.exists()


@pytest.mark.fault
@pytest.mark.slow
def test_the_token_of_a_worker_that_died_comes_back(scene: Scene) -> None:
    """Also where nobody is let to the store without one (F28)."""
    scene.patience_s = TOKENS_RETURN_WITHIN_S
    assert broken_by(scene, count_after_a_death, "dies_after_admission,tokens_only") == set()
    assert scene.mark.exists()


@pytest.mark.fault
@pytest.mark.slow
def test_tokens_held_until_tomorrow_come_back(scene: Scene) -> None:
    """Whoever holds them by a clock that was wrong counts no more (F27)."""
    scene.patience_s = TOKENS_RETURN_WITHIN_S
    assert broken_by(scene, ends_too_late, "tokens_only") == set()


CONTROLS: tuple[tuple[Fault, str, str], ...] = (
    (kill, "stock_of_the_gate", "I2"),
    (big_lie, "stock_of_the_gate", "I2"),
    (flush, "no_person_key", "I3"),
    (big_lie, "no_person_key", "I3"),
    (failover, "no_person_key", "I3"),
    (future_state, "refusals_not_confirmed", "I10"),
    (fill_soon, "no_tokens_is_sold_out", "I10"),
    (partition, "errors_reach_callers", "answers"),
    (flush_functions, "errors_are_answers", "I10"),
    (ends_too_late, "tokens_only,the_stale_hold_tokens", "answers"),
    (count_after_a_death, "dies_after_admission,tokens_only,the_dead_hold_tokens", "answers"),
)
"""A fault, the bug that is planted, and the invariant that breaks."""


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize(("fault", "bug", "invariant"), CONTROLS)
def test_a_planted_bug_is_seen(scenes: Scenes, fault: Fault, bug: str, invariant: str) -> None:
    """Control: with the guard taken away, the same rush shows what it was for."""
    assert is_seen(invariant, scenes, fault, bug)
