"""Python in documents that is marked to be run holds."""

from __future__ import annotations

import pytest

from tests.docs.pages import page, pages

MARKED = [
    (one.name, number)
    for one in pages()
    for number, snippet in enumerate(one.snippets)
    if snippet.mark == "run" and snippet.language == "python"
]


@pytest.mark.parametrize(("name", "number"), MARKED)
def test_a_marked_snippet_runs(name: str, number: int) -> None:
    """Each runs by itself, and what it asserts is so."""
    exec(compile(page(name).snippets[number].text, name, "exec"), {})


def test_every_mark_is_understood() -> None:
    """Python runs anywhere, shell where a test pastes it; nothing is marked in vain."""
    pasted = {
        "README.md": {("run", "sh"), ("output", "text"), ("started", "text")},
        "docs/proofs.md": {("run", "sh")},
    }
    for one in pages():
        allowed = {("run", "python")} | pasted.get(one.name, set())
        for snippet in one.snippets:
            known = not snippet.mark or (snippet.mark, snippet.language) in allowed
            assert known, f"{one.name}: {snippet.mark} {snippet.language}"
