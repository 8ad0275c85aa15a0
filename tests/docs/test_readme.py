"""The first steps of the README, taken as a newcomer takes them: started, then pasted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.pages import REPOSITORY, Snippet, page

README = page("README.md")
PROGRAM = f"{sys.executable} -m api.cli"
SHOWN_PROGRAM = ".venv/bin/tidebook"
SHOWN_ADDRESS = "http://127.0.0.1:8080"
LAST_WORDS = "/v1/wallet"
MARK = "--- the next block ---"


class Running(NamedTuple):
    """A Tidebook that runs: where it listens, its environment, and what it printed at its start."""

    address: str
    environment: dict[str, str]
    guide: str


@pytest.fixture
def tidebook(tmp_path: Path) -> Iterator[Running]:
    """The whole system as `make run` starts it, on a free port and in a home of its own."""
    environment = {**os.environ, "TIDEBOOK_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(
        [*PROGRAM.split(), "run", "--port", "0"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    guide = ""
    for line in process.stdout:
        guide += line
        if LAST_WORDS in line:
            break
    address = re.search(r"http://\S+(?=/docs)", guide)
    assert address, f"it did not start: {guide}"
    yield Running(address[0], environment, guide)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0


def pasted(blocks: list[Snippet], into: Running) -> list[str]:
    """Paste the blocks into one shell; return what each printed."""
    script = "".join(f"{block.text}\necho '{MARK}'\n" for block in blocks)
    script = script.replace(SHOWN_ADDRESS, into.address).replace(SHOWN_PROGRAM, PROGRAM)
    finished = subprocess.run(
        ["bash", "-euo", "pipefail"],
        cwd=REPOSITORY,
        env=into.environment,
        input=script,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stdout
    return finished.stdout.split(f"{MARK}\n")[:-1]


def masked(output: str) -> str:
    """Output without what each installation has of its own: instants, ids and the address."""
    output = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "<instant>", output)
    output = re.sub(r"http://127\.0\.0\.1:\d+", "<address>", output)
    return re.sub(r"(cmp|cpn)_main_[0-9a-f]{32}", r"\1_main_<id>", output)


def blocks_of(mark: str) -> list[Snippet]:
    """The README's snippets with a mark."""
    return [each for each in README.snippets if each.mark == mark]


def shown_after(block: Snippet) -> str | None:
    """What the page shows as the output of a block; None when it shows nothing."""
    following = README.snippets[README.snippets.index(block) + 1 :][:1]
    return following[0].text if following and following[0].mark == "output" else None


@pytest.mark.slow
def test_the_first_steps_are_as_shown(tidebook: Running) -> None:
    """It starts with the words of the page, and every block prints what the page shows."""
    (started,) = blocks_of("started")
    assert set(masked(started.text).splitlines()) <= set(masked(tidebook.guide).splitlines())
    blocks = blocks_of("run")
    printed = dict(zip(blocks, pasted(blocks, tidebook), strict=True))
    for block, output in printed.items():
        shown = shown_after(block)
        assert shown is None or masked(output) == masked(shown), block.text
    *_, verified = printed.values()
    assert "Clean: nothing was found." in verified
    again = dict(zip(blocks, pasted(blocks, tidebook), strict=True))
    for block in blocks:
        if "-X POST" in block.text:
            assert again[block] == printed[block], "pasted a second time, it is a replay"
