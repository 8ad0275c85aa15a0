"""The glossary: one word for one idea, in two languages, each tied to the code."""

from __future__ import annotations

import re

import pytest

from campaigns.campaign import State as CampaignState
from campaigns.coupon import State as CouponState
from campaigns.event_types import EVENT_TYPES
from tests.docs.names import exists
from tests.docs.pages import page, pages, tables

GLOSSARY = page("docs/glossary.md")
HEAD = ["word", "中文", "what it is", "in the code"]
ROWS = [row for head, rows in tables(GLOSSARY.text) if head == HEAD for row in rows]
WORDS = {word for row in ROWS for word in row[0].split(", ")}
EACH = pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])


@EACH
def test_a_word_has_a_chinese_one(row: list[str]) -> None:
    """Every word has its counterpart in Han characters."""
    assert re.fullmatch(r"[一-鿿]+(、[一-鿿]+)*", row[1])


@EACH
def test_a_definition_is_one_sentence(row: list[str]) -> None:
    """It begins with a capital, ends with a full stop and has no second sentence."""
    assert re.fullmatch(r"[A-Z][^.]*(\. ?[a-z][^.]*)*\.", row[2]), row[2]


@EACH
def test_a_word_lives_in_the_code(row: list[str]) -> None:
    """What the last column names can be imported."""
    assert exists(row[3].strip("`")), row[3]


def test_a_word_is_defined_once() -> None:
    """No word has two meanings, in either language."""
    assert len(WORDS) == sum(len(row[0].split(", ")) for row in ROWS)
    assert len({row[1] for row in ROWS}) == len(ROWS)


def test_what_happens_is_in_the_glossary() -> None:
    """The things that events are about are words of the glossary."""
    assert {topic.split(".")[0] for topic in EVENT_TYPES.topics} <= WORDS


def test_the_states_are_in_the_glossary() -> None:
    """A coupon's states are words; a campaign's are the past participles of words."""
    states: tuple[str, ...] = CouponState.__args__  # type: ignore[attr-defined]
    assert set(states) <= WORDS
    roots = {
        "draft": "draft",
        "funded": "fund",
        "open": "open",
        "paused": "pause",
        "closed": "close",
    }
    assert set(CampaignState.__args__) == set(roots)  # type: ignore[attr-defined]
    assert set(roots.values()) <= WORDS


@pytest.mark.parametrize("unused", [row[0] for row in GLOSSARY.table("not", "but")])
def test_words_that_are_not_used_are_not_used(unused: str) -> None:
    """Prose keeps to the glossary."""
    for one in pages():
        if one.name not in {GLOSSARY.name, "docs/demo.md"}:
            assert not re.search(rf"\b{unused}s?\b", one.prose, re.IGNORECASE), one.name


@pytest.mark.parametrize("word", [row[1] for row in GLOSSARY.table("not", "but")])
def test_what_is_used_instead_is_defined(word: str) -> None:
    """The word to take is in the glossary."""
    assert set(re.split(r", | or ", word)) <= WORDS
