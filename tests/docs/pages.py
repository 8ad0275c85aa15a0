"""Markdown as the tests read it: pages, their headings, tables, links and marked snippets.

A snippet that is run has `<!-- run -->` on the line before its fence; one that shows what a
command prints has `<!-- output -->`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>\w+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Snippet:
    """A fenced block, the mark in front of it and its language."""

    mark: str
    language: str
    text: str


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """Its path from the top of the project."""
        return self.path.relative_to(REPOSITORY).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def prose(self) -> str:
        """The text without fenced blocks."""
        return _FENCE.sub("", self.text)

    @cached_property
    def snippets(self) -> list[Snippet]:
        found = _FENCE.finditer(self.text)
        return [Snippet(one["mark"] or "", one["language"], one["text"]) for one in found]

    @cached_property
    def headings(self) -> list[str]:
        return _HEADING.findall(self.prose)

    @cached_property
    def anchors(self) -> set[str]:
        """What a link can point to after `#`, as GitHub makes it."""
        return {anchor(heading) for heading in self.headings}

    @cached_property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @cached_property
    def code(self) -> set[str]:
        """What stands in the type of code within sentences and tables."""
        return set(_CODE.findall(self.prose))

    def section(self, heading: str) -> str:
        """The text under a heading of the second level, up to the next."""
        found = re.search(
            rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", self.text, re.MULTILINE | re.DOTALL
        )
        assert found, f"{self.name} has no section {heading!r}"
        return found[1]

    def table(self, *head: str) -> list[list[str]]:
        """The rows of the one table with this head."""
        (found,) = [rows for first, rows in tables(self.text) if first == list(head)]
        return found


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Every table in a text: its head and its rows."""
    found: list[tuple[list[str], list[list[str]]]] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        head, _, *rows = [_cells(line) for line in block.splitlines()]
        found.append((head, rows))
    return found


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [cell.strip().replace("\\|", "|") for cell in cells]


def anchor(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return "".join(c for c in plain if c.isalnum() or c in " -_").strip().replace(" ", "-")


def pages() -> list[Page]:
    """Every page that people are meant to read."""
    top = [
        REPOSITORY / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "loadtest/README.md")
    ]
    return [Page(path) for path in [*top, *sorted((REPOSITORY / "docs").rglob("*.md"))]]


def page(name: str) -> Page:
    """The page at a path from the top of the project."""
    return Page(REPOSITORY / name)
