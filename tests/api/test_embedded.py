"""The embedded servers, on real processes: they keep data, come back, and leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
import redis

from api.embedded import (
    EmbeddedError,
    EmbeddedPostgres,
    EmbeddedValkey,
    HomeInUse,
    WrongVersion,
)
from api.embedded.postgres import settings_for
from api.supervisor import Account, Command, StartFailed
from tests.conftest import wait_until

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root")


@pytest.fixture
def home() -> Iterator[Path]:
    """A home of its own under a directory that only its owner may enter."""
    closed = Path(tempfile.mkdtemp(prefix="tidebook-home-"))
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    yield closed / "home"
    shutil.rmtree(closed)


def query(url: str, statement: str) -> Any:
    """The first value that a statement returns, None when it returns no row."""
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
    finally:
        connection.close()


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; what nobody collected is not running."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill(pid: int | None) -> None:
    """Kill a process in the way that it cannot notice."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


HOLDER = """
import json, sys, time
from pathlib import Path
from api.embedded import EmbeddedPostgres, EmbeddedValkey

home = Path(sys.argv[1])
with EmbeddedPostgres(home) as postgres, EmbeddedValkey(home) as valkey:
    print(json.dumps({"postgres": postgres.pid, "valkey": valkey.pid, "url": postgres.url}))
    sys.stdout.flush()
    sys.stdin.read()
"""


@contextmanager
def holder(home: Path, **options: Any) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Another process that runs both servers on `home` until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        **options,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def test_a_second_start_keeps_everything(home: Path) -> None:
    """What was committed before a stop is there after the next start."""
    with EmbeddedPostgres(home) as server:
        query(server.url, "CREATE TABLE kept AS SELECT 7 AS n")
    with EmbeddedPostgres(home) as server:
        assert query(server.url, "SELECT n FROM kept") == 7


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data_checksums", "on"),
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
        ("TimeZone", "UTC"),
    ],
)
def test_the_settings_are_safe(postgres_server: EmbeddedPostgres, setting: str, value: str) -> None:
    """Acknowledged commits survive, damage is noticed, and nothing listens on the network."""
    assert query(postgres_server.url, f"SHOW {setting}") == value


def test_text_is_compared_by_code_point(postgres_server: EmbeddedPostgres) -> None:
    """Order and case of text do not depend on the machine's locales."""
    assert query(postgres_server.url, "SELECT datlocprovider FROM pg_database LIMIT 1") == "b"
    assert query(postgres_server.url, "SELECT string_agg(t, '' ORDER BY t) FROM (VALUES "
                 "('é'), ('z'), ('A'), ('满')) AS v(t)") == "Azé满"  # fmt: skip


def test_a_stop_leaves_no_process_and_frees_the_home(home: Path) -> None:
    """After stop() neither the server nor a child of it runs, and a stop can be repeated."""
    server = EmbeddedPostgres(home).start()
    assert server.pid is not None
    processes = family(server.pid)
    assert len(processes) > 3
    server.stop()
    server.stop()
    assert running(processes) == []
    assert not server.alive()


@pytest.mark.fault
def test_postgres_comes_back_after_a_kill_with_what_was_committed(home: Path) -> None:
    """A killed postmaster is replaced although a backend of it is still busy; no commit is lost."""
    with EmbeddedPostgres(home) as server:
        query(server.url, "CREATE TABLE kept AS SELECT 7 AS n")
        busy = threading.Thread(target=_query_until_cut, args=[server.url])
        busy.start()
        wait_until(lambda: query(server.url, _BUSY_BACKENDS) == 1)
        assert server.pid is not None
        first = family(server.pid)
        kill(server.pid)
        wait_until(lambda: server.restarts == 1 and server.alive())
        busy.join(30)
        assert query(server.url, "SELECT n FROM kept") == 7
        assert running(first) == []


def test_all_files_are_synced_at_once_where_the_kernel_tells_of_failures() -> None:
    """An older one would hide a write that failed, so there each file is synced by itself."""
    name = "recovery_init_sync_method"
    for kernel in ("5.8.0-generic", "6.18.44", "10.1"):
        assert settings_for(1 << 30, kernel)[name] == "syncfs"
    for kernel in ("5.7.19", "4.18.0-553.el8", "", "unknown"):
        assert name not in settings_for(1 << 30, kernel)


@pytest.mark.fault
def test_nobody_knocks_at_a_server_that_recovers(home: Path) -> None:
    """We wait for its own word that it is ready: a refused connection costs it a process."""
    with EmbeddedPostgres(home) as server:
        kill(server.pid)
        wait_until(lambda: server.restarts == 1 and server.alive())
        [log] = server.log.glob("*.log")
        said = log.read_text()
    assert "was not properly shut down" in said
    assert "FATAL" not in said


_BUSY = "SELECT count(*) FROM generate_series(1, 1000000000000)"
_BUSY_BACKENDS = f"SELECT count(*) FROM pg_stat_activity WHERE query = '{_BUSY}'"


def _query_until_cut(url: str) -> None:
    with pytest.raises(psycopg2.Error):
        query(url, _BUSY)


@pytest.mark.fault
def test_valkey_comes_back_empty_after_a_kill(home: Path) -> None:
    """A killed Valkey is replaced under the same URL; it remembers nothing and evicts nothing."""
    with EmbeddedValkey(home) as server, redis.Redis.from_url(server.url) as client:
        client.set("hint", 1)
        kill(server.pid)
        wait_until(lambda: server.restarts == 1 and server.alive())
        assert client.get("hint") is None
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


@pytest.mark.fault
def test_killing_the_program_leaves_no_server_behind(home: Path) -> None:
    """The servers end with the process that started them, and the next start finds its data."""
    with holder(home) as (process, servers):
        query(servers["url"], "CREATE TABLE kept AS SELECT 7 AS n")
        processes = family(servers["postgres"]) + family(servers["valkey"])
        process.kill()
        process.wait()
        with EmbeddedPostgres(home) as server:  # at once: it waits for the end of the first
            assert server.pid != servers["postgres"]
            assert query(server.url, "SELECT n FROM kept") == 7
        wait_until(lambda: running(processes) == [])


def test_one_home_runs_one_tidebook(home: Path) -> None:
    """A second server on the same home is refused and told who holds it; the first is unharmed."""
    with EmbeddedPostgres(home) as first, EmbeddedValkey(home) as valkey:
        with pytest.raises(HomeInUse, match=rf"process {os.getpid()}.*TIDEBOOK_HOME"):
            EmbeddedPostgres(home).start()
        with pytest.raises(HomeInUse):
            EmbeddedValkey(home).start()
        assert first.alive()
        assert valkey.alive()


def test_data_of_another_major_version_is_refused(home: Path) -> None:
    """The message names both versions; the data is not touched."""
    EmbeddedPostgres(home).start().stop()
    version = home / "postgres" / "data" / "PG_VERSION"
    version.write_text("12\n")
    with pytest.raises(WrongVersion, match=r"PostgreSQL 12, and this Tidebook brings \d+"):
        EmbeddedPostgres(home).start()
    assert version.read_text() == "12\n"


def test_a_start_that_fails_says_why_and_leaves_nothing(home: Path) -> None:
    """A mistake in a person's own settings is reported in PostgreSQL's words."""
    EmbeddedPostgres(home).start().stop()
    (home / "postgres" / "local.conf").write_text("max_connections = many\n")
    server = EmbeddedPostgres(home)
    with pytest.raises(StartFailed, match="max_connections"):
        server.start()
    assert server.pid is None
    (home / "postgres" / "local.conf").write_text("max_connections = 40\n")
    with server:
        assert query(server.url, "SHOW max_connections") == "40"


def test_a_stale_process_number_does_not_stop_a_start(home: Path) -> None:
    """After a reboot the number in postmaster.pid may belong to any other program."""
    EmbeddedPostgres(home).start().stop()
    stale = home / "postgres" / "data" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{stale.parent}\n1700000000\n5432\n\n\n")
    with EmbeddedPostgres(home) as server:
        assert server.alive()


def test_an_interrupted_first_start_is_begun_again(home: Path) -> None:
    """A half-made data directory is never taken for data."""
    half = home / "postgres" / "data.new-1"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(home) as server:
        assert query(server.url, "SELECT 1") == 1
    assert not half.exists()


def test_a_home_too_deep_for_a_socket_uses_a_short_directory(home: Path) -> None:
    """The kernel takes 107 bytes; a longer path moves the socket, and a stop removes it there."""
    deep = home / ("deep-" * 20)
    with EmbeddedPostgres(deep) as postgres, EmbeddedValkey(deep) as valkey:
        sockets = [postgres._sockets, valkey._sockets]
        assert all(path.parent == Path("/tmp") for path in sockets)
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in sockets)
        assert query(postgres.url, "SELECT 1") == 1
        assert valkey.alive()
    assert not any(path.exists() for path in sockets)


@as_root
def test_a_squatted_socket_directory_is_refused(home: Path) -> None:
    """Another account cannot offer us a socket of its own in the shared directory."""
    server = EmbeddedValkey(home / ("deep-" * 20))
    server._sockets.mkdir(mode=0o755)
    os.chown(server._sockets, 12345, 12345)
    try:
        with pytest.raises(EmbeddedError, match="belongs to another account"):
            server.start()
    finally:
        shutil.rmtree(server._sockets, ignore_errors=True)


@as_root
def test_root_gives_up_root_and_opens_no_directory(home: Path) -> None:
    """As root the servers run as an ordinary account, even below a directory closed to it."""
    with EmbeddedPostgres(home) as postgres, EmbeddedValkey(home) as valkey:
        for server in (postgres, valkey):
            assert server.pid is not None
            process = psutil.Process(server.pid)
            assert 0 not in process.uids()
            assert 0 not in process.gids()
            assert _capabilities(server.pid) <= {1, 2}
        assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert home.parent.stat().st_uid == 0


def _capabilities(pid: int) -> set[int]:
    """The numbers of the capabilities that a process can ever use."""
    status = Path(f"/proc/{pid}/status").read_text()
    bits = int(status.split("CapPrm:")[1].split()[0], 16)
    return {number for number in range(64) if bits >> number & 1}


@as_root
def test_root_keeps_no_capability_where_none_is_needed(home: Path) -> None:
    """When the account can enter the home by itself, it gets no right beyond that."""
    home.parent.chmod(0o711)
    home.mkdir(mode=0o711)
    with EmbeddedValkey(home) as server:
        assert server.pid is not None
        program = Path(psutil.Process(server.pid).exe())
        reachable = all(path.stat().st_mode & 0o001 for path in program.parents)
        assert not reachable or _capabilities(server.pid) == set()


@as_root
def test_data_that_belongs_to_root_is_refused(home: Path) -> None:
    """A copy made by root is not silently given away."""
    (home / "postgres" / "data").mkdir(parents=True)
    with pytest.raises(EmbeddedError, match="belongs to root"):
        EmbeddedPostgres(home).start()


def test_an_ordinary_user_runs_both_servers(home: Path) -> None:
    """Without root the servers run as the user, and only the user reaches the sockets."""
    home.mkdir()
    command = [sys.executable, "-c", HOLDER, str(home)]
    account = None
    if os.geteuid() == 0:
        os.chown(home, NOBODY, NOBODY)
        places = (home, REPOSITORY, Path(sys.prefix), Path(sys.base_prefix))
        account = Account(NOBODY, NOBODY, reach=places)
    output = home.parent / "output"
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"]}
    # Its standard input is empty: it starts both servers, says so, and ends them.
    Command(command, env=environment, account=account, output=output).run(timeout_s=120)
    servers = json.loads(output.read_text())
    uid = account.uid if account else os.geteuid()
    assert (home / "postgres" / "data").stat().st_uid == uid
    assert not any(psutil.pid_exists(servers[name]) for name in ("postgres", "valkey"))


@as_root
def test_an_ordinary_user_cannot_use_the_home_of_root(home: Path) -> None:
    """The message says that the home belongs to another account."""
    EmbeddedValkey(home).start().stop()
    home.parent.chmod(0o711)
    home.chmod(0o711)
    output = home.parent / "output"
    account = Account(NOBODY, NOBODY, reach=(Path(sys.prefix), Path(sys.base_prefix)))
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"]}
    command = Command(
        [sys.executable, "-c", HOLDER.replace("Postgres(home) as postgres, Embedded", ""),
         str(home)], env=environment, account=account, output=output,
    )  # fmt: skip
    with pytest.raises(StartFailed, match="belongs to another account"):
        command.run(timeout_s=60)
