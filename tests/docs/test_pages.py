"""What documents point at is there: links, files, code, settings, tasks, commands."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import pytest
from typer.main import get_command

from api.cli import app
from api.reference.metrics import page as metrics_page
from api.settings import reference as settings_reference
from tests.docs.names import DOTTED, exists, named_tests
from tests.docs.pages import REPOSITORY, Page, page, pages

PAGES = pytest.mark.parametrize("name", [one.name for one in pages()])

FOLDERS = ("api", "campaigns", "docs", "ledger", "loadtest", "projections", "requirements", "tests")
_PATH = re.compile(rf"(?:{'|'.join(FOLDERS)}|\.ci)/[\w./*-]*")
_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


def prose_and_shell(one: Page) -> str:
    """What a reader takes as instructions."""
    return one.prose + "".join(each.text for each in one.snippets if each.language == "sh")


@PAGES
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link has its file, and every anchor its heading."""
    one = page(name)
    for link in one.links:
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        path = (one.path.parent / target).resolve() if target else one.path
        assert path.is_relative_to(REPOSITORY), link
        assert path.exists(), link
        assert not anchor or anchor in Page(path).anchors, link


@PAGES
def test_paths_exist(name: str) -> None:
    """Every file or folder that is named in the type of code is there."""
    for word in page(name).code:
        if _PATH.fullmatch(word):
            assert list(REPOSITORY.glob(word.rstrip("/"))), word


@PAGES
def test_names_of_code_exist(name: str) -> None:
    """Every dotted name of ours is a module, a class, a function, a constant or a field."""
    for word in page(name).code:
        if DOTTED.fullmatch(word) and PurePosixPath(word).suffix not in {".py", ".md", ".sql"}:
            assert exists(word), word


@PAGES
def test_tests_that_are_named_exist(name: str) -> None:
    """Every test that a document relies on is in its file."""
    for file, test in _TEST.findall(page(name).prose):
        assert test in named_tests(file), f"{file}::{test}"


@PAGES
def test_settings_exist(name: str) -> None:
    """Every variable is one that the program reads."""
    known = {setting.variable for setting in settings_reference()}
    assert set(re.findall(r"TIDEBOOK_[A-Z_]+[A-Z]", page(name).text)) <= known


@PAGES
def test_metrics_exist(name: str) -> None:
    """Every metric is one that the program counts."""
    known = set(re.findall(r"`(tidebook_\w+)`", metrics_page()))
    named = {word for word in page(name).code if re.fullmatch(r"tidebook_\w+", word)}
    assert named - {"tidebook_app"} <= known


@PAGES
def test_tasks_exist(name: str) -> None:
    """Every `make` target is in the Makefile."""
    makefile = (REPOSITORY / "Makefile").read_text()
    tasks = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    words = "\n".join([*page(name).code, *(s.text for s in page(name).snippets)])
    assert set(re.findall(r"^make ([a-z-]+)", words, re.MULTILINE)) <= tasks


@PAGES
def test_commands_exist(name: str) -> None:
    """Every `tidebook` command is one that the program has, with the options that are named."""
    commands: dict[str, Any] = getattr(get_command(app), "commands", {})
    for word in page(name).code:
        match = re.fullmatch(r"tidebook ([a-z-]+)(.*)", word)
        if match is None:
            continue
        assert match[1] in commands, word
        known = {opt for each in commands[match[1]].params for opt in each.opts}
        known |= {opt for each in commands[match[1]].params for opt in each.secondary_opts}
        assert set(re.findall(r"--[a-z-]+", match[2])) <= known | {"--help"}, word
