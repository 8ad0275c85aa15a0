"""The Makefile as a newcomer meets it."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def make(*arguments: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """Run make on the project's Makefile."""
    return subprocess.run(
        ["make", "--no-print-directory", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("target", ["run", "test", "lint", "bench", "demo", "format", "clean"])
def test_bare_make_lists_the_target(target: str) -> None:
    """Each task is listed with a line of help."""
    assert re.search(rf"^  make {target} +[A-Z].+$", make().stdout, re.MULTILINE)


def test_every_target_has_help() -> None:
    """What is declared as a task is listed."""
    makefile = (REPOSITORY / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split()
    assert set(re.findall(r"^  make ([a-z-]+)", make().stdout, re.MULTILINE)) == set(phony)


def test_a_machine_without_a_new_python_is_told_so(tmp_path: Path) -> None:
    """The message names what is needed and how to point at it."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    finished = make("PYTHONS=no-such-python", ".venv/bin/python", folder=tmp_path)
    assert finished.returncode != 0
    assert "Python 3.11 or newer" in finished.stderr
    assert "make PYTHON=" in finished.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_old_python_is_passed_over(tmp_path: Path) -> None:
    """The first Python that is new enough is taken, not the first that there is."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("#!/bin/sh\nexit 1\n")
    new.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "new $*" >> taken\nexit 0\n')
    for program in (old, new):
        program.chmod(0o755)
    make(f"PYTHONS={old} {new}", ".venv/bin/python", folder=tmp_path)
    assert "new -m venv --clear .venv" in (tmp_path / "taken").read_text()


def test_the_check_can_be_run_as_it_is() -> None:
    """`.ci/run` is executable, strict, and ends with the tests."""
    script = REPOSITORY / ".ci" / "run"
    lines = script.read_text().splitlines()
    assert script.stat().st_mode & stat.S_IXUSR
    assert "set -euo pipefail" in lines
    assert lines[-2:] == ["make lint", "make test"]
