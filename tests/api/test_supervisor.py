"""The supervisor, on real processes: order, restarts, signals, and nothing left behind."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from api.supervisor import (
    BACKOFF_MAX_S,
    STABLE_AFTER_S,
    Account,
    Child,
    Command,
    Keeper,
    StartFailed,
    Supervisor,
    next_backoff_s,
)
from tests.conftest import wait_until

REPOSITORY = Path(__file__).parents[2]

RECORDER = """
import os, signal, sys, time

name, record = sys.argv[1:3]

def say(what):
    with open(record, "a") as file:
        file.write(f"{what} {name}\\n")

def end(*_):
    say("ended")
    os._exit(0)

if "stubborn" in name:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGUSR1, lambda *_: say("signalled"))
if "anew" in name:
    signal.signal(signal.SIGHUP, lambda *_: say("reloaded"))
if "parent" in name and os.fork() == 0:
    name = "grandchild"
    say("started")
    time.sleep(600)
say("started")
while True:
    time.sleep(600)
"""

PROGRAM = """
import json, sys
from pathlib import Path
from api.supervisor import Child, Supervisor

recorder, record, *names = sys.argv[1:]

def started(name):
    return lambda: f"started {name}" in Path(record).read_text()

children = [
    Child(
        name,
        [sys.executable, "-c", recorder, name, record],
        ready=started(name),
        reloads="anew" in name,
    )
    for name in names
]
supervisor = Supervisor(children, on_started=lambda: print(json.dumps(supervisor.pids())))
sys.stdout.reconfigure(line_buffering=True)
print("ended by", supervisor.run())
"""


class Running:
    """A supervisor in a process of its own, with recorders as its children."""

    def __init__(self, record: Path, *names: str) -> None:
        record.touch()
        self.record = record
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, RECORDER, str(record), *names],
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        assert self.process.stdout is not None
        self.pids: dict[str, int] = json.loads(self.process.stdout.readline())
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def lines(self) -> list[str]:
        """What the children recorded so far."""
        return self.record.read_text().splitlines()

    def gone(self) -> bool:
        """Whether no child or grandchild runs."""
        return not any(
            process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            for process in self.family
            if psutil.pid_exists(process.pid)
        )


@contextmanager
def supervised(record: Path, *names: str) -> Iterator[Running]:
    """A running supervisor, ended at the end of the block if it still runs."""
    running = Running(record, *names)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()
        for process in running.family:
            if process.is_running():
                process.kill()


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The file in which children write down what happens to them."""
    return tmp_path / "record"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_children_start_in_order_and_end_in_reverse(record: Path, number: signal.Signals) -> None:
    """One ending signal ends every child politely, the last one first."""
    with supervised(record, "one", "two", "three") as running:
        running.process.send_signal(number)
        output, _ = running.process.communicate(timeout=60)
        assert output == f"ended by {number.value}\n"
        assert running.lines() == [
            *("started one", "started two", "started three"),
            *("ended three", "ended two", "ended one"),
        ]


def test_a_hangup_is_for_those_who_can_start_anew(record: Path) -> None:
    """Nothing ends; the signal would kill the other children."""
    with supervised(record, "one", "anew") as running:
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reloaded anew" in running.lines())
        running.process.send_signal(signal.SIGTERM)
        running.process.communicate(timeout=60)
        assert running.lines()[2:] == ["reloaded anew", "ended anew", "ended one"]


def test_a_closed_terminal_ends_everything(record: Path) -> None:
    """The same signal means the end when the terminal that it came with is gone."""
    program = [sys.executable, "-c", PROGRAM, RECORDER, str(record), "one", "anew"]
    record.touch()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(REPOSITORY)
        os.execv(program[0], program)
    wait_until(lambda: len(record.read_text().splitlines()) == 2)
    os.close(terminal)
    os.waitpid(pid, 0)
    assert record.read_text().splitlines()[-2:] == ["ended anew", "ended one"]


@pytest.mark.fault
def test_a_child_that_dies_is_restarted(record: Path) -> None:
    """The others are not disturbed."""
    with supervised(record, "one", "two") as running:
        os.kill(running.pids["two"], signal.SIGKILL)
        wait_until(lambda: running.lines().count("started two") == 2)
        assert running.lines().count("started one") == 1


def test_who_served_a_while_is_back_at_once_and_who_crashes_at_each_start_is_not() -> None:
    """The first restart waits for nothing; each further one twice as long, up to a bound."""
    assert next_backoff_s(2.0, STABLE_AFTER_S + 1) == 0.0
    pauses = [0.0]
    for _ in range(6):
        pauses.append(next_backoff_s(pauses[-1], 0.0))
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, BACKOFF_MAX_S]


@pytest.mark.fault
def test_killing_the_supervisor_ends_its_children(record: Path) -> None:
    """The kernel tells each child, which ends as politely as ever."""
    with supervised(record, "one", "two") as running:
        running.process.kill()
        wait_until(running.gone)
        assert sorted(running.lines()[2:]) == ["ended one", "ended two"]


@pytest.mark.fault
def test_what_a_dead_child_left_is_killed(record: Path) -> None:
    """A grandchild does not outlive the child that started it."""
    with supervised(record, "parent") as running:
        wait_until(lambda: "started grandchild" in running.lines())
        family = psutil.Process(running.process.pid).children(recursive=True)
        assert len(family) == 2
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(60)
        running.family = family
        wait_until(running.gone)


def test_a_second_signal_ends_a_stubborn_child(record: Path) -> None:
    """The first is polite and waits; the second does not wait."""
    with supervised(record, "stubborn") as running:
        running.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(0.5)
        running.process.send_signal(signal.SIGINT)
        running.process.wait(20)
        assert running.gone()


def test_other_signals_are_passed_on(record: Path) -> None:
    """SIGUSR1 reaches every child and ends none."""
    with supervised(record, "one", "two") as running:
        running.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: len(running.lines()) == 4)
        assert sorted(running.lines()[2:]) == ["signalled one", "signalled two"]


def test_a_child_that_cannot_start_ends_the_others(record: Path) -> None:
    """`run` says which child failed, and leaves nothing running."""
    record.touch()
    good = Child("good", [sys.executable, "-c", RECORDER, "good", str(record)])
    bad = Child("bad", [sys.executable, "-c", "raise SystemExit(3)"], ready=lambda: False)
    supervisor = Supervisor([good, bad])
    with pytest.raises(StartFailed, match="bad ended with status 3"):
        supervisor.run()
    assert supervisor.pids() == {"good": None, "bad": None}


def test_a_start_that_takes_too_long_fails_with_the_last_words(tmp_path: Path) -> None:
    """The message holds what the program said, and the process is gone."""
    program = "import time; print('still looking', flush=True); time.sleep(600)"
    command = Command([sys.executable, "-c", program], output=tmp_path / "output")
    keeper = Keeper("slow", command, ready=lambda: False, start_timeout_s=1.0)
    with pytest.raises(StartFailed, match=r"not ready within 1 s\n  still looking"):
        keeper.start()
    assert keeper.pid is None


def test_a_child_whose_parent_is_gone_does_not_start() -> None:
    """The launcher looks for its parent after it has asked for the death signal."""
    plan: dict[str, object] = {"parent": 1, "death_signal": 15, "account": None, "reach": []}
    launcher = REPOSITORY / "api" / "child.py"
    finished = subprocess.run(
        [sys.executable, "-I", "-S", launcher, json.dumps(plan), sys.executable, "-c", "print(1)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 78
    assert "parent ended" in finished.stderr
    assert finished.stdout == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root")
def test_an_account_without_root_runs_what_lies_below_a_closed_directory(tmp_path: Path) -> None:
    """It may look at, enter and run what it could have run with the door open; not write there."""
    closed = tmp_path / "closed"
    (closed / "open").mkdir(parents=True)
    closed.chmod(0o700)
    program = closed / "open" / "program"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    account = Account(65534, 65534, reach=(closed, Path(sys.base_prefix)))
    looks = (
        f"import os; assert os.access({str(program)!r}, os.X_OK); os.mkdir({str(closed)!r} '/x')"
    )
    Command([str(program)], account=account, output=tmp_path / "output").run(30)
    with pytest.raises(StartFailed, match="PermissionError"):
        Command([sys.executable, "-c", looks], account=account, output=tmp_path / "output").run(30)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can give up root"
)
def test_without_the_capability_the_message_says_what_to_do(tmp_path: Path) -> None:
    """Where the machine withholds capabilities, a closed directory is named with the way out."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    output = tmp_path / "output"
    bounded = [
        *("setpriv", "--bounding-set", "-dac_override,-dac_read_search"),
        *(sys.executable, "-c", _STARTS_BELOW, str(closed)),
    ]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"]}
    Command(bounded, env=environment, output=output).run(60)
    assert "TIDEBOOK_HOME" in output.read_text()
    assert "chmod o+x" in output.read_text()


_STARTS_BELOW = """
import sys
from pathlib import Path
from api.supervisor import Account, Command, StartFailed
closed = Path(sys.argv[1])
try:
    Command(
        ["/bin/true"], account=Account(65534, 65534, (closed,)), output=closed / "output"
    ).run(10)
except StartFailed as failed:
    print(failed)
"""
