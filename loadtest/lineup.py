"""The line-up of the benchmark: every contender's name, title and unit, and how it is started.

In the order of the turns. What two contenders share (our server, the people who are signed in) is
started once, by the first who needs it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from loadtest.contenders import Baseline, Constant, Contender, NotMeasurable
from loadtest.ours import (
    CLAIMS_PER_S_MAX,
    AlreadyClaimed,
    AtEighty,
    NewPeople,
    Redemptions,
    Rush,
    SoldOut,
    Tidebook,
    WithLog,
    WithProjections,
)
from loadtest.stores import GroupCommit, Umadb, plain_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

PEOPLE_PER_S: Final = CLAIMS_PER_S_MAX
CROWD: Final = 3
"""New people of a run, as a part of those who are signed in all along: signing in takes time."""

COPY_ROWS: Final = 500
"""Rows of a transaction of plain COPY: as many as our writer takes at most."""

T = TypeVar("T")

Kind = Literal["http", "calls", "store", "rebuild"]


class Stage:
    """Where everything runs, and what several contenders share."""

    def __init__(self, home: Path, workers: int, people: int, servers: ExitStack) -> None:
        self.home = home
        self.workers = workers
        self.people = people
        self.servers = servers
        self._shared: dict[Callable[[Stage], Any], Any] = {}

    @property
    def tidebook(self) -> Tidebook | None:
        """Our server, if it was started."""
        server = self._shared.get(_our_server)
        return server if isinstance(server, Tidebook) else None

    def shared(self, make: Callable[[Stage], T]) -> T:
        """What `make` made for the first who asked; if it could not, nobody tries again."""
        if make not in self._shared:
            try:
                self._shared[make] = make(self)
            except Exception as error:
                self._shared[make] = error
                raise
        made: T = self._shared[make]
        if isinstance(made, Exception):
            raise NotMeasurable(f"what it shares with others did not start: {made}")
        return made


def _our_server(stage: Stage) -> Tidebook:
    return stage.servers.enter_context(Tidebook.started(stage.home, stage.workers))


def _everybody(stage: Stage) -> Rush:
    return Rush(stage.shared(_our_server), stage.people)


def _our_commit(stage: Stage) -> GroupCommit:
    return stage.servers.enter_context(GroupCommit.started(stage.home))


def _umadb_server(stage: Stage) -> Umadb:
    return stage.servers.enter_context(Umadb.started(stage.home))


class Entry(NamedTuple):
    """One contender: what it is called, and how it is started."""

    title: str
    unit: str
    kind: Kind
    start: Callable[[Stage], Contender]


def _constant(name: str, server: str) -> Callable[[Stage], Contender]:
    def start(stage: Stage) -> Contender:
        return stage.servers.enter_context(
            Constant.started(name, stage.home, stage.workers, server)
        )

    return start


def _in_postgres(name: str, connections: int, *words: str) -> Callable[[Stage], Contender]:
    def start(stage: Stage) -> Contender:
        served = Baseline.in_postgres(name, stage.home, stage.workers, connections, words)
        return stage.servers.enter_context(served)

    return start


def _in_memory(name: str, connections: int, *words: str) -> Callable[[Stage], Contender]:
    def start(stage: Stage) -> Contender:
        served = Baseline.in_memory(name, stage.home, stage.workers, connections, words)
        return stage.servers.enter_context(served)

    return start


def _commit(name: str, how: str, count: int) -> Callable[[Stage], Contender]:
    return lambda stage: stage.shared(_our_commit).asked_by(name, how, count)


def _umadb(name: str, threads: int) -> Callable[[Stage], Contender]:
    return lambda stage: stage.shared(_umadb_server).asked_by(name, threads)


def _copy(name: str) -> Callable[[Stage], Contender]:
    return lambda stage: stage.servers.enter_context(plain_copy(name, stage.home, COPY_ROWS))


def _with_rush(contender: Callable[[Rush], Contender]) -> Callable[[Stage], Contender]:
    return lambda stage: contender(stage.shared(_everybody))


def _new_people(stage: Stage) -> Contender:
    return NewPeople(stage.shared(_our_server), stage.people // CROWD)


_claims = partial(Entry, unit="claims/s", kind="http")
_refusals = partial(Entry, unit="refusals/s", kind="calls")
_stores = partial(Entry, unit="claims/s", kind="store")
_rows = "loadtest.baselines.rows"

ENTRIES: Final[dict[str, Entry]] = {
    "constant": Entry(
        "our server, a constant", "answers/s", "http", _constant("constant", "api.constant")
    ),
    "constant_asgi": Entry(
        "uvicorn, a constant",
        "answers/s",
        "http",
        _constant("constant_asgi", "loadtest.baselines.constant"),
    ),
    "memory": _claims(
        "memory only, unsafe", start=_in_memory("memory", 64, "loadtest.baselines.memory")
    ),
    "stock": _claims("stock recorder", start=_in_postgres("stock", 32, "loadtest.baselines.stock")),
    "for_update": _claims(
        "SELECT … FOR UPDATE", start=_in_postgres("for_update", 32, _rows, "--way", "for-update")
    ),
    "conditional": _claims(
        "UPDATE … WHERE left > 0",
        start=_in_postgres("conditional", 32, _rows, "--way", "conditional"),
    ),
    "tidebook": _claims("Tidebook", start=_with_rush(lambda rush: rush)),
    "tidebook_at_80": _claims("… at 80 % of that", start=_with_rush(AtEighty)),
    "tidebook_with_projections": _claims("… with projections", start=_with_rush(WithProjections)),
    "tidebook_with_log": _claims("… with the log", start=_with_rush(WithLog)),
    "tidebook_new_people": _claims("… new people", start=_new_people),
    "sold_out": _refusals("… sold out", start=_with_rush(SoldOut)),
    "already_claimed": _refusals("… already claimed", start=_with_rush(AlreadyClaimed)),
    "redemptions": Entry("… redemptions", "redemptions/s", "calls", _with_rush(Redemptions)),
    "commit_1": _stores("our commit, 1 thread", start=_commit("commit_1", "--threads", 1)),
    "commit_32": _stores("our commit, 32 threads", start=_commit("commit_32", "--threads", 32)),
    "commit_512": _stores(
        "our commit, 512 at once", start=_commit("commit_512", "--in-flight", 512)
    ),
    "umadb_1": _stores("umadb, 1 thread", start=_umadb("umadb_1", 1)),
    "umadb_32": _stores("umadb, 32 threads", start=_umadb("umadb_32", 32)),
    "copy": Entry("plain COPY, 500 rows", "rows/s", "store", _copy("copy")),
}

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "baselines": ("constant", "constant_asgi", "memory", "stock", "for_update", "conditional"),
    "ours": (
        *("tidebook", "tidebook_at_80", "tidebook_with_projections", "tidebook_with_log"),
        *("tidebook_new_people", "sold_out", "already_claimed", "redemptions"),
    ),
    "stores": ("commit_1", "commit_32", "commit_512", "umadb_1", "umadb_32", "copy"),
}


def chosen(names: Sequence[str], *more: str) -> list[str]:
    """The contenders of these names and groups in the order of the turns; all without a name."""
    wanted = {member for name in names for member in GROUPS.get(name, (name,))}
    return [name for name in (*ENTRIES, *more) if name in wanted or not names]


def in_turn(contenders: Sequence[T], turn: int) -> list[T]:
    """The order of a turn, counted from 1: there and back, so that neighbours change places."""
    return list(contenders)[:: 1 if turn % 2 else -1]
