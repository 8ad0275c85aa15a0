"""Help that helps, and trouble in one line: which option, which rule."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import serve
from api.cli import main, running
from ledger.datastore import Datastore
from tests.cli.conftest import Tidebook
from tests.conftest import Databases
from tests.support.desk import Desk
from tests.support.story import tell

COMMANDS = [
    "run",
    "demo",
    "luohu",
    "replay",
    "trial-balance",
    "statement",
    "journal",
    "reexecute",
    "what-if",
    "restate",
    "verify",
    "export",
    "receipt",
    "check-receipt",
    "daily-proof",
    "bundle",
    "reconcile",
    "fairness",
    "erasure",
    "serve",
    "reload",
    "project",
    "sweep",
    "draw",
    "beacon",
    "log",
    "witness",
    "dispatch",
    "sandbox",
    "migrate",
    "token",
    "suspend",
    "settings",
]
HEAVY = ["eventsourcing", "fastapi", "httpx", "psycopg2", "pydantic", "redis", "rich", "uvicorn"]


@pytest.fixture(scope="module")
def told(databases: Databases) -> Iterator[str]:
    """A store in which everything happened, for tests that change nothing."""
    with databases.fresh() as url:
        datastore = Datastore(url)
        desk = Desk(datastore)
        tell(desk)
        desk.close()
        datastore.close()
        yield url


def program() -> list[str]:
    """The installed script, or the module where the project is not installed."""
    script = Path(sys.executable).with_name("tidebook")
    return [str(script)] if script.exists() else [sys.executable, "-m", "api.cli"]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """One line about each, and nothing that is not there."""
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^│ ([a-z-]+) +[A-Z]", shown, re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("argv", [running.PROGRAM, serve.WORKER], ids=["command", "worker"])
def test_a_process_takes_no_module_from_the_folder_that_it_is_started_in(
    argv: tuple[str, ...], tmp_path: Path
) -> None:
    """Many a folder has an `api`: it is not run, and it is in nobody's way."""
    for name in ("api", "ledger", "campaigns"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the folder was looked into')")
    done = subprocess.run(
        [*argv, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert "the folder was looked into" not in done.stderr
    assert "No module named" not in done.stderr
    assert done.returncode == 0 or argv is serve.WORKER


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its help says what it does and how it is called."""
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example" in shown
    assert f"tidebook {command}" in shown or f"tidebook {command}" in shown.replace("\n", " ")


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A bare call is a question."""
    main([])
    assert "run" in capsys.readouterr().out


def test_the_installed_script_answers_at_once() -> None:
    """Help costs less than half a second of the processor; the best of three, on a busy machine."""
    assert min(_help_cost_s() for _ in range(3)) < 0.5


def _help_cost_s() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*program(), "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "tidebook run" in done.stdout
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    """The command line alone loads neither the database's driver nor the web framework."""
    code = f"import api.cli, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("replay --until yesterday", r"--until: a position or a time with its offset is wanted"),
        ("replay --until 2026-05-01", r"--until: .* for example 2026-05-01T20:00:00\+08:00"),
        ("replay --until 2026-05-01T12:00:00", r"--until: .* with its offset"),
        ("replay --until 2026-13-01T12:00:00Z", r"--until: there is no such time"),
        ("replay --until 0001-01-01T00:00:00+08:00", r"--until: there is no such time"),
        ("replay --until -1", r"--until: a position is a whole number"),
        ("replay --until 99999999999999999999", r"--until: a position is a whole number"),
        ("replay --until １２", r"--until: a position"),
        ("replay --until 33", r"--until: the book main ends at position 32, before 33"),
        ("replay --book nowhere", r"--book: there is no book 'nowhere'; the store has main"),
        ("replay --coupon cpn_main_1", r"--coupon: an id has the form cpn_<book>_<32 hex"),
        ("replay --campaign cpn_main_" + "0" * 32, r"--campaign: an id has the form cmp_"),
        ("replay --coupon cpn_other_" + "0" * 32, r"--book: there is no book 'other'"),
        ("replay --book x --coupon cpn_main_" + "0" * 32, r"--book: .* is in the book main"),
        ("replay --person alice", r"--person: a pseudonym has 32 lower-case hex digits"),
        ("replay --person a --identity b", r"--person and --identity: only one of them"),
        ("verify --book nowhere", r"--book: there is no book 'nowhere'"),
        ("project --rebuild purses", r"NAME: there is no projection 'purses', but wallets"),
        ("project --rebuild --once", r"--rebuild: "),
        ("project --json", r"--json: only --rebuild, --once and --lag"),
        ("sweep --json", r"--json: only --once and --at"),
        ("sweep --at noon", r"--at: a time with its offset is wanted"),
        ("sweep --at 2026-05-01T12:00:00Z", r"--at: this ledger's time is the database's"),
        ("reconcile", r"TIDEBOOK_WALLET_OPERATOR_URL: it is not set, and no sandbox operator runs"),
        ("sandbox --spoil explode", r"--spoil: one of fail_before, fail_after, .* not 'explode'"),
        ("token --role king --identity a", r"--role: one of tourist, merchant, operator, aud"),
        ("token --role merchant --identity a", r"--merchant: a merchant's token names"),
        ("token --role tourist --identity a --merchant m", r"--merchant: a token for the role"),
        ("token --role tourist --identity ", r"--identity: printable text"),
        ("token --role tourist", r"Missing option '--identity'"),
        ("demo --quick --households 5", r"--quick: it chooses the households"),
        ("run --port 99999", r"--port: Input should be less than or equal to 65535"),
        ("run --port x", r"--port"),
        ("run --host 192.0.2.1", r"--host: nobody can listen on 192\.0\.2\.1"),
        ("launch", r"No such command 'launch'"),
        ("verify --fast", r"No such option.*--fast"),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_mistake_is_one_line_that_names_it(
    told: str,
    arguments: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit status 2, nothing on standard output, one line on standard error, no traceback."""
    monkeypatch.setenv("TIDEBOOK_DATABASE_URL", told)
    assert main(arguments.split(" ")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(line, err), err
    assert err.startswith("tidebook: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("TIDEBOOK_PORT", "eight", "TIDEBOOK_PORT: Input should be a valid integer"),
        ("TIDEBOOK_BOOKS", "Main", "TIDEBOOK_BOOKS: a book is a lower-case letter"),
        ("TIDEBOOK_CLOCK", "sundial", "TIDEBOOK_CLOCK: Input should be 'database' or 'request'"),
        ("TIDEBOOK_PSEUDONYM_KEY", "00", "TIDEBOOK_PSEUDONYM_KEY: a key has at least"),
    ],
)
def test_a_wrong_setting_is_named(
    tidebook: Tidebook,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    line: str,
) -> None:
    """The variable and the rule, never the value: it may be a secret."""
    monkeypatch.setenv(variable, value)
    said = tidebook("settings")
    assert (said.status, said.out) == (2, "")
    assert line in said.err


def test_a_home_without_a_ledger_is_not_made_by_asking(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped home is an error, not an empty ledger that verifies as clean."""
    monkeypatch.delenv("TIDEBOOK_DATABASE_URL", raising=False)
    for command in ("verify", "replay", "project", "sweep"):
        assert main([command]) == 2
        assert "there is no ledger in" in capsys.readouterr().err
    assert not home.exists()


def test_a_database_that_is_away_is_said(
    tidebook: Tidebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Could not run is 2, never 0 or 1."""
    monkeypatch.setenv("TIDEBOOK_DATABASE_URL", "postgresql://127.0.0.1:1/tidebook")
    said = tidebook("verify")
    assert said.status == 2
    assert re.search(r"the database cannot be used: .*port 1 failed", said.err)


def test_a_database_that_is_not_ours_yet_is_said(
    tidebook: Tidebook, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says what to do."""
    monkeypatch.setenv("TIDEBOOK_DATABASE_URL", empty_database_url)
    said = tidebook("verify")
    assert said.status == 2
    assert "run `tidebook migrate`" in said.err
