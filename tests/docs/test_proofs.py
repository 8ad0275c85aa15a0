"""The auditor's walk-through is walked: every command of the page, in one shell, as it stands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY, page

PAGE = page("docs/proofs.md")


def walked(script: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as an auditor would, with the project's commands on the path."""
    commands = str(Path(sys.executable).parent)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEBOOK_")}
    environment = {**kept, "PATH": f"{commands}:{os.environ['PATH']}", "TMPDIR": str(scratch)}
    return subprocess.run(
        ["bash", "-euo", "pipefail"],
        cwd=REPOSITORY,
        env=environment,
        input=script,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.slow
def test_the_walk_through_is_as_written(tmp_path: Path) -> None:
    """Each block ends well, and what it is for is said."""
    blocks = [each.text for each in PAGE.snippets if each.mark == "run"]
    assert len(blocks) == len(PAGE.snippets), "nothing on this page is only for show"
    scratch = Path("/tmp") / f"tb-proofs-{os.getpid()}"  # a socket's path must be short
    scratch.mkdir()
    try:
        done = walked("\n".join(blocks), scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    for words in (
        "OK 成立",
        "It does not hold: the inclusion proof does not lead to the root",
        "It does not hold: the quorum of the policy has not cosigned",
        "cosigned by: witness.example/w1",
        "cosigned by witness.example/w1.",
        "the head that it knows: cosigned",
        "another history: refused with 422",
        "a shorter history: refused with 409",
        "Clean: nothing was found.",
        "All the same, byte for byte.",
        "the daily proofs hold",
        "daily_signature_broken",
        "would have been",
    ):
        assert words in done.stdout, words
