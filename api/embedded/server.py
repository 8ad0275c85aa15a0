"""What both embedded servers share: a directory, its lock, an account, a socket and a keeper.

Nothing here knows which server it is. As root we never write through a name that the server's
account could have replaced.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import signal
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self

from api.supervisor import Account, Command, Keeper, StopStep

SOCKET_PATH_MAX_BYTES: Final = 107
"""The kernel's limit for the path of a unix socket."""

ACCOUNTS: Final = ("postgres", "nobody")
"""Whom the servers run as when we are root: the first of these that the machine has."""

START_TIMEOUT_S: Final = 300.0
"""A first start may have to wait for an earlier server, or to recover a large book."""


class EmbeddedError(Exception):
    """An embedded server cannot run on this home; the message says what to do about it."""


class HomeInUse(EmbeddedError):
    """Another Tidebook already runs a server in this directory."""


class EmbeddedServer:
    """A server under `home/<name>`, from `start()` to `stop()`.

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
        self.data = self.directory / "data"
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
        if self._lock is None:
            return
        if self._sockets.parent != self.directory:
            shutil.rmtree(self._sockets, ignore_errors=True)
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
        """Whoever owns the data; for new data, the first account that the machine has."""
        reach = (self.directory, *self._program_directories())
        if not self.data.exists():
            return _unprivileged_account(reach)
        owner = self.data.stat()
        if owner.st_uid == 0:
            message = f"{self.data} belongs to root, and no server runs as root: chown -R it"
            raise EmbeddedError(message)
        return Account(owner.st_uid, owner.st_gid, reach)

    def _program_directories(self) -> tuple[Path, ...]:
        """The directories of the program that the server's account must be able to enter."""
        raise NotImplementedError

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


def _unprivileged_account(reach: tuple[Path, ...]) -> Account:
    """The account that new servers run as for root, and which paths it must enter."""
    for name in ACCOUNTS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid, reach)
    message = (
        f"the servers never run as root, and this machine has none of the accounts "
        f"{', '.join(ACCOUNTS)}: start Tidebook as an ordinary user"
    )
    raise EmbeddedError(message)


def package_path(package: str) -> Path:
    """Where a package lies. It is not imported: these two bring machinery of their own."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        message = f"the package {package} is not installed"
        raise EmbeddedError(message)
    return Path(next(iter(spec.submodule_search_locations)))
