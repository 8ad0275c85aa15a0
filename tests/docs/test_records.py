"""Decision records have one form, and the list of them is complete."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import REPOSITORY, Page, page

FOLDER = REPOSITORY / "docs" / "decisions"
RECORDS = sorted(path.name for path in FOLDER.glob("0*.md"))
EACH = pytest.mark.parametrize("name", RECORDS)


def record(name: str) -> Page:
    """A decision record."""
    return Page(FOLDER / name)


def test_records_are_numbered_without_a_gap() -> None:
    """The first is 0001 and none is left out."""
    assert [int(name[:4]) for name in RECORDS] == list(range(1, len(RECORDS) + 1))


def test_the_list_holds_every_record() -> None:
    """Each is linked once, under its own title."""
    rows = page("docs/decisions/README.md").table("record", "decision")
    listed = [re.fullmatch(r"\[(\d{4})\]\((.+)\)", row[0]) for row in rows]
    assert [match and match[2] for match in listed] == RECORDS
    for name, row in zip(RECORDS, rows, strict=True):
        assert record(name).headings[0] == f"{name[:4]}: {row[1].replace('`', '`')}"


@EACH
def test_a_record_has_its_parts(name: str) -> None:
    """Context, decision, consequences, alternatives, in this order and no others."""
    _, *parts = record(name).headings
    assert parts == ["Context", "Decision", "Consequences", "Alternatives"]


@EACH
def test_a_decision_is_one_sentence(name: str) -> None:
    """The line that people quote is bold and stands alone."""
    decision = record(name).section("Decision").strip()
    assert re.fullmatch(r"\*\*[A-Z][^*]+\.\*\*", decision), decision
    assert len(re.findall(r"\.(?=\s|\*)", decision)) == 1


@EACH
def test_a_context_is_short(name: str) -> None:
    """Two to five sentences say what was the case."""
    context = " ".join(record(name).section("Context").split())
    assert 2 <= len(re.findall(r"[.?](?=\s|$)", context)) <= 5, context


@EACH
def test_a_record_is_a_page(name: str) -> None:
    """It can be read in a minute or two, and says when it was decided."""
    assert len(record(name).text.split()) < 500
    assert re.search(r"^Accepted, \w+ 20\d\d\.", record(name).text, re.MULTILINE)
