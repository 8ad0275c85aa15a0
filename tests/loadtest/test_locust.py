"""Both drivers are green on an honest service and red on one that forgets or lies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loadtest.small_service import Service, serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOCUST = [
    *("-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), "--headless"),
    *("-u", "20", "-r", "20", "--only-summary", "--people", "40", "--curve-seconds", "1"),
]
OWN = ["-m", "loadtest", "rush", "--users", "40", "--seconds", "1"]
BUGS = [
    ({}, 0, "every invariant holds"),
    ({"forgetful": True}, 1, "what was answered is stored"),
    ({"liar": True}, 1, "sold out is said when it is so"),
]


def run(arguments: list[str], url_option: str, service: Service, out: Path) -> tuple[int, str]:
    """The exit status and the words of a run against a service."""
    with serving(service) as url:
        done = subprocess.run(
            [sys.executable, *arguments, url_option, url, "--out", str(out)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("bug", "status", "words"), BUGS)
def test_locust_ends_red_exactly_when_something_is_wrong(
    bug: dict[str, bool], status: int, words: str, tmp_path: Path
) -> None:
    """Same scenario, same traffic: the exit status tells the honest service from the others."""
    service = Service(**bug)
    returncode, output = run(LOCUST, "-H", service, tmp_path)
    assert len(service.holders) >= 30, output
    assert words in output, output
    assert returncode == status, output
    assert json.loads((tmp_path / "report.json").read_text())["driver"] == "locust"


@pytest.mark.parametrize(("bug", "status", "words"), BUGS)
def test_the_command_ends_red_exactly_when_something_is_wrong(
    bug: dict[str, bool], status: int, words: str, tmp_path: Path
) -> None:
    """The open-loop driver sends the same visits and comes to the same verdicts."""
    service = Service(**bug)
    returncode, output = run(OWN, "--url", service, tmp_path)
    assert len(service.holders) >= 30, output
    assert words in output, output
    assert returncode == status, output
    assert json.loads((tmp_path / "report.json").read_text())["driver"] == "open loop"
