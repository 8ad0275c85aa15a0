"""Every command of docs/replay.md runs as it is written there."""

from __future__ import annotations

import re
import shlex

import pytest

from ledger.books import Book, PublicId
from tests.cli.conftest import Tidebook
from tests.docs.pages import page
from tests.support.story import Story

COMMANDS = [
    line
    for snippet in page("docs/replay.md").snippets
    if snippet.language == "sh"
    for line in snippet.text.splitlines()
]


def test_the_commands_of_the_page_run(
    tidebook: Tidebook, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a book in which everything happened, with ids of it in the place of the shortened ones."""
    monkeypatch.setattr("sys.stdin.readline", lambda: "\n", raising=False)
    assert len(COMMANDS) == 11
    for command in COMMANDS:
        name, *arguments = shlex.split(command)
        assert name == "tidebook"
        said = tidebook(*(_known(one, story) for one in arguments))
        assert said.status == 0, (command, said.err)
        assert said.out


def _known(argument: str, story: Story) -> str:
    things = {"cpn": story.used, "cmp": story.spring}
    found = re.fullmatch(r"(cpn|cmp)_main_3f2c…", argument)
    return argument if found is None else str(PublicId(found[1], Book("main"), things[found[1]]))
