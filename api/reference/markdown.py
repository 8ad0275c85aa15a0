"""Markdown: the few forms that reference pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NOTICE = "<!-- Written by `make reference` from the code. Do not edit. -->"


def document(title: str, *parts: str) -> str:
    """Return a page: its title, the notice that it is generated, and its parts."""
    return "\n\n".join([f"# {title}", NOTICE, *parts]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def code(text: str) -> str:
    """Return a word in the type of code; nothing for an empty one."""
    return f"`{text}`" if text else ""


def codes(words: Iterable[str]) -> str:
    """Return words in the type of code, with commas."""
    return ", ".join(map(code, words))


def block(text: str, language: str = "") -> str:
    """Return a fenced block."""
    return f"```{language}\n{text}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
