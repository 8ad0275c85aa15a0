"""Processes that are kept running: started, watched, restarted after a crash, ended with us.

A `Keeper` owns one process, a `Supervisor` the set of them that makes up a running Tidebook. A
process never outlives its keeper: it is ended by `stop()`, and by the kernel when the whole
program is killed. Therefore every process is spawned by its keeper's own thread, which lives as
long as the process may: the kernel's death signal follows the thread that spawned.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

_log: Final = logging.getLogger("tidebook.supervisor")

READY_POLL_S: Final = 0.02
START_TIMEOUT_S: Final = 60.0
"""A first start that takes longer has failed. Crash recovery of a large book may take a while."""

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 2.0
"""A process that crashes at every start costs little and is back soon after its cause is gone."""

STABLE_AFTER_S: Final = 1.0
"""A process that served this long is restarted without delay when it crashes."""

_LAUNCHER: Final = Path(__file__).with_name("child.py")


class Hangup:
    """Tells the two meanings of SIGHUP apart: the terminal was closed, or «start anew».

    Made at the start of a program. Only a program that had a terminal then can lose it.
    """

    def __init__(self) -> None:
        self._had_terminal = _has_terminal()

    def terminal_is_gone(self) -> bool:
        """Whether the person who started us has closed the terminal."""
        return self._had_terminal and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class StartFailed(Exception):
    """A process did not become ready; the message holds its last words."""


@dataclass(frozen=True)
class Account:
    """The unprivileged account that a process gives up root for, and the paths it must enter."""

    uid: int
    gid: int
    reach: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Command:
    """A program to run as a child that ends when we end."""

    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    """The whole environment; None inherits ours."""

    account: Account | None = None
    death_signal: int = signal.SIGTERM
    """Sent by the kernel when the thread that spawned the process is gone."""

    output: Path | None = None
    """Where standard output and error go, from the top; None leaves them ours."""

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the program in a session of its own, so that Ctrl-C reaches only us."""
        sink = _emptied(self.output) if self.output else None
        try:
            return subprocess.Popen(  # noqa: S603 - argv is ours
                [sys.executable, "-I", "-S", str(_LAUNCHER), self._plan(), *self.argv],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        finally:
            if sink is not None:
                os.close(sink)

    def run(self, timeout_s: float) -> None:
        """Run the program to its end. Raises `StartFailed` unless it succeeded in time."""
        process = self.spawn()
        try:
            code = process.wait(timeout_s)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if code != 0:
            message = f"{Path(self.argv[0]).name} {_how_it_ended(code)}{self.last_words()}"
            raise StartFailed(message)

    def last_words(self) -> str:
        """The end of what the program printed, ready to be appended to a message."""
        if self.output is None:
            return ""
        with suppress(OSError):
            lines = self.output.read_text(errors="replace").splitlines()[-8:]
            return "".join(f"\n  {line}" for line in lines)
        return ""

    def _plan(self) -> str:
        account = self.account
        return json.dumps(
            {
                "parent": os.getpid(),
                "death_signal": int(self.death_signal),
                "account": [account.uid, account.gid] if account else None,
                "reach": [str(path) for path in account.reach] if account else [],
            }
        )


StopStep = tuple[int, float]
"""A signal, and how many seconds the process then has before the next step."""

DEFAULT_STOP: Final[tuple[StopStep, ...]] = ((signal.SIGTERM, 30.0), (signal.SIGKILL, 5.0))


@dataclass
class Keeper:
    """Keeps one process running from `start()` to `stop()`.

    `ready` says whether the process now serves (None: as soon as it runs). `before` runs before
    each spawn and clears away what an earlier process left; `after` runs once a process has ended.
    """

    name: str
    command: Command
    ready: Callable[[], bool] | None = None
    before: Callable[[], None] | None = None
    after: Callable[[int], None] | None = None
    stop_steps: tuple[StopStep, ...] = DEFAULT_STOP
    start_timeout_s: float = START_TIMEOUT_S

    restarts: int = field(default=0, init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _failure: Exception | None = field(default=None, init=False)
    _served_since: float | None = field(default=None, init=False)
    _serving: threading.Event = field(default_factory=threading.Event, init=False)
    _settled: threading.Event = field(default_factory=threading.Event, init=False)
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)

    def start(self, *, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start the process and wait until it is ready, or until `cancelled` says so.

        Raises `StartFailed` when it did not become ready; then nothing runs.
        """
        assert self._thread is None, "a keeper starts once"
        self._thread = threading.Thread(target=self._keep, name=f"keep-{self.name}", daemon=True)
        self._thread.start()
        try:
            self._await_ready(cancelled)
        except BaseException:
            self.stop()
            raise

    def _await_ready(self, cancelled: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while not self._settled.wait(READY_POLL_S):
            if cancelled():
                return
            if time.monotonic() > deadline:
                message = f"{self.name} was not ready within {self.start_timeout_s:.0f} s"
                raise StartFailed(message + self.command.last_words())
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the process: politely first, then surely. Does nothing when none runs."""
        self._stopping.set()
        if self._thread is None:
            return
        for number, patience_s in self.stop_steps:
            process = self._process
            if process is not None:
                process.send_signal(number)
            self._thread.join(patience_s)
            if not self._thread.is_alive():
                return
        _log.error("process.will_not_end", extra={"child": self.name, "pid": self.pid})

    def signal(self, number: int) -> None:
        """Send a signal to the process, if one runs."""
        process = self._process
        if process is not None:
            process.send_signal(number)

    @property
    def pid(self) -> int | None:
        """The process id of the process that runs now."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def alive(self) -> bool:
        """Whether the process runs and serves at this moment."""
        return self.pid is not None and self._serving.is_set() and self._is_ready()

    def _keep(self) -> None:
        backoff_s = 0.0
        while not self._stopping.is_set():
            self._served_since = None
            try:
                code = self._live_once()
            except Exception as error:  # noqa: BLE001 - raised by start(), or logged
                if not self._settled.is_set():
                    self._failure = error
                    self._settled.set()
                    return
                _log.exception("process.not_started", extra={"child": self.name})
                code = None
            if self._stopping.is_set():
                return
            if not self._settled.is_set():
                words = _how_it_ended(code) + self.command.last_words()
                self._failure = StartFailed(f"{self.name} {words}")
                self._settled.set()
                return
            backoff_s = next_backoff_s(backoff_s, self._served_for_s())
            self.restarts += 1
            _log.warning(
                "process.restarting",
                extra={"child": self.name, "status": code, "after_s": backoff_s},
            )
            self._stopping.wait(backoff_s)

    def _live_once(self) -> int:
        """Start one process, wait for its end, return its status."""
        if self.before is not None:
            self.before()
        process = self.command.spawn()
        self._process = process
        if self._stopping.is_set():  # stop() may have looked before there was a process
            process.send_signal(self.stop_steps[0][0])
        try:
            if self._became_ready(process):
                self._served_since = time.monotonic()
                self._serving.set()
                self._settled.set()
            return process.wait()
        finally:
            self._serving.clear()
            if self.after is not None:
                self.after(process.pid)

    def _served_for_s(self) -> float:
        since = self._served_since
        return time.monotonic() - since if since is not None else 0.0

    def _became_ready(self, process: subprocess.Popen[bytes]) -> bool:
        while process.poll() is None and not self._stopping.is_set():
            if self._is_ready():
                return True
            time.sleep(READY_POLL_S)
        return False

    def _is_ready(self) -> bool:
        if self.ready is None:
            return True
        try:
            return self.ready()
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it does not serve yet
            return False


def next_backoff_s(last_s: float, served_s: float) -> float:
    """How long to wait before a process that ended by itself is started again, after `last_s`."""
    if served_s > STABLE_AFTER_S:
        return 0.0
    return min(max(BACKOFF_FIRST_S, 2 * last_s), BACKOFF_MAX_S)


@dataclass(frozen=True)
class Child:
    """One process of a running Tidebook, as `tidebook run` names it.

    `env` is the whole environment (None inherits ours). `ready` is polled until it says True before
    the next child starts (None: do not wait). It is ended with SIGTERM, and killed
    `stop_timeout_s` later. A child that ends by itself is restarted, whatever its exit status.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    ready: Callable[[], bool] | None = None
    stop_timeout_s: float = 30.0
    reloads: bool = False
    """Whether SIGHUP makes it start anew inside; others have no use for the signal."""


class Supervisor:
    """Runs children until it is told to end: `Supervisor([Child(…), …]).run()`.

    Children start in order and end in reverse order. SIGINT, SIGTERM and a closed terminal end
    everything politely, a second signal at once; SIGUSR1 and SIGUSR2 are passed on to the children,
    and SIGHUP to those that reload.
    """

    _ENDING: Final = (signal.SIGINT, signal.SIGTERM)
    _PASSED_ON: Final = (signal.SIGUSR1, signal.SIGUSR2)

    def __init__(
        self, children: Sequence[Child], *, on_started: Callable[[], None] | None = None
    ) -> None:
        self._keepers = [_keeper_of(child) for child in children]
        self._reloading = [
            keeper for keeper, child in zip(self._keepers, children, strict=True) if child.reloads
        ]
        self._on_started = on_started
        self._ended_by: list[int] = []
        self._wake, self._waker = os.pipe()

    def run(self) -> int:
        """Run until a signal or `stop()`; return the signal's number, 0 after `stop()`.

        Call it from the main thread: it handles the signals itself. Raises `StartFailed` when a
        child did not become ready; then nothing is left running.
        """
        ours = (*self._ENDING, *self._PASSED_ON, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in ours}
        self._hangup = Hangup()
        signal.signal(signal.SIGHUP, self._hung_up)
        for number in self._ENDING:
            signal.signal(number, self._end)
        for number in self._PASSED_ON:
            signal.signal(number, self._pass_on)
        try:
            self._start_and_wait()
        finally:
            self._stop_children()
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._wake)
            os.close(self._waker)
        return self._ended_by[0] if self._ended_by else 0

    def stop(self) -> None:
        """End `run()`, from any thread."""
        with suppress(OSError):  # it has ended already
            os.write(self._waker, b"!")

    def pids(self) -> dict[str, int | None]:
        """The process id of each child, None for one that is not running at this moment."""
        return {keeper.name: keeper.pid for keeper in self._keepers}

    def _start_and_wait(self) -> None:
        for keeper in self._keepers:
            if self._ended_by:
                return
            keeper.start(cancelled=lambda: bool(self._ended_by))
        if self._on_started is not None and not self._ended_by:
            self._on_started()
        os.read(self._wake, 1)

    def _stop_children(self) -> None:
        for keeper in reversed(self._keepers):
            keeper.stop()

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self._ended_by.append(number)
        self.stop()
        if len(self._ended_by) > 1:
            for keeper in self._keepers:
                keeper.signal(signal.SIGKILL)

    def _hung_up(self, number: int, frame: FrameType | None) -> None:
        if self._hangup.terminal_is_gone():
            self._end(number, frame)
        for keeper in self._reloading:
            keeper.signal(number)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        for keeper in self._keepers:
            keeper.signal(number)


def _keeper_of(child: Child) -> Keeper:
    return Keeper(
        name=child.name,
        command=Command(argv=child.argv, env=child.env),
        ready=child.ready,
        after=_end_session,
        stop_steps=((signal.SIGTERM, child.stop_timeout_s), (signal.SIGKILL, 5.0)),
    )


def _end_session(pid: int) -> None:
    """Kill what a child that ended has left behind in its process group."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _emptied(path: Path) -> int:
    """A descriptor of an empty file; a symbolic link in its place is refused."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "did not start"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"
