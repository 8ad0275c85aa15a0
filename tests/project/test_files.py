"""What is committed: nothing that only makes sense on the machine where it was written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name]


def test_no_file_names_the_place_of_this_checkout(tracked: list[Path]) -> None:
    """Paths are relative to the project."""
    here = str(REPOSITORY).encode() + b"/"
    assert [path for path in tracked if path.is_file() and here in path.read_bytes()] == []


def test_no_third_party_code_is_committed(tracked: list[Path]) -> None:
    """Assets and packages come from registries when the project is installed."""
    foreign = {"node_modules", "vendor", "site-packages", ".venv"}
    assert [path for path in tracked if foreign & set(path.parts)] == []
    assert [path for path in tracked if path.suffix in {".whl", ".so", ".jar", ".map"}] == []
