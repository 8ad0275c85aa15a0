"""The lock files: complete, with hashes, the same for everybody, tied to no machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
LOCKS = ("run", "dev")


def lock_text(name: str) -> str:
    """The text of a lock file."""
    return (REPOSITORY / "requirements" / f"{name}.lock").read_text()


def locked(name: str) -> dict[tuple[str, str], list[str]]:
    """The hashes of every requirement of a lock, by its name and the rest of its first line."""
    found: dict[tuple[str, str], list[str]] = {}
    hashes: list[str] = []
    for line in lock_text(name).splitlines():
        if match := re.match(r"([a-z0-9-]+)(==[^\\]+?) \\$", line):
            hashes = found[match[1], match[2]] = []
        else:
            hashes.append(line.strip(" \\"))
    return found


def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def names(requirements: list[str]) -> set[str]:
    """The package names of requirement strings."""
    return {re.split(r"[\[<>=~! ]", text, maxsplit=1)[0] for text in requirements}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_with_hashes(lock: str) -> None:
    """Nothing is installed that was not named by version and content."""
    requirements = locked(lock)
    assert len(requirements) > 40
    for requirement, hashes in requirements.items():
        assert hashes, requirement
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", text) for text in hashes)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_place(lock: str) -> None:
    """Every machine installs from the index that it is set up for."""
    assert not re.search(
        r"https?:|file:|git\+|@ |--index|--find|/(tmp|home|root|opt)/", lock_text(lock)
    )


def test_the_development_lock_holds_the_run_lock() -> None:
    """What is tested is what is run."""
    run, dev = locked("run"), locked("dev")
    pins = {(name, pin.split(" ")[0]): set(hashes) for (name, pin), hashes in dev.items()}
    for (name, pin), hashes in run.items():
        assert pins[name, pin.split(" ")[0]] == set(hashes)


def test_what_the_project_asks_for_is_locked() -> None:
    """A dependency that was added without `make lock` is noticed here."""
    groups = project()["dependency-groups"]
    run = {name for name, _ in locked("run")}
    dev = {name for name, _ in locked("dev")}
    assert names(project()["project"]["dependencies"]) | names(groups["build"]) <= run
    assert names(groups["dev"]) <= dev


def test_what_builds_the_project_is_locked() -> None:
    """The project is installed without build isolation, so its backend must be there."""
    assert names(project()["build-system"]["requires"]) <= {name for name, _ in locked("run")}
