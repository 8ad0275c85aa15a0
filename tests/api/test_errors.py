"""Errors: one table, one form."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from api.errors import BY_CODE, TABLE, FieldError, Problem, problem_body, render_refusal
from api.writes import SUCCESS
from campaigns.refusals import PRECEDENCE, Refusal


def test_every_refusal_of_the_rules_has_a_row() -> None:
    """No decision can answer with a code that the table does not know."""
    assert {code for row in PRECEDENCE.values() for code in row} <= set(BY_CODE)


def test_codes_are_unique_and_none_means_success() -> None:
    """A code says one thing."""
    assert len(BY_CODE) == len(TABLE)
    assert not set(BY_CODE) & set(SUCCESS)


def test_a_row_has_an_error_status_and_words() -> None:
    """Every row can be shown to a person."""
    for row in TABLE:
        assert 400 <= row.status < 600
        assert row.title
        assert row.meaning.endswith("."), row.code


def test_a_problem_is_written_the_same_way_every_time() -> None:
    """The members of RFC 9457 come first, facts follow by name."""
    body = problem_body("sold_out", "All gone.", {"quota": 5, "a": 1})
    assert body == (
        b'{"type":"/problems/sold_out","title":"All coupons are claimed","status":409,'
        b'"code":"sold_out","detail":"All gone.","a":1,"quota":5}'
    )


def test_a_refusals_facts_are_part_of_its_problem() -> None:
    """The values that a rule looked at are told, instants in UTC with Z."""
    refusal = Refusal("coupon_expired", valid_until=datetime(2026, 5, 1, tzinfo=UTC))
    problem = json.loads(render_refusal(refusal))
    assert problem["status"] == 409
    assert problem["valid_until"] == "2026-05-01T00:00:00Z"


def test_absent_and_hidden_are_one_answer() -> None:
    """Facts of a `not_found` are never told."""
    assert render_refusal(Refusal("not_found", coupon="cpn")) == render_refusal(
        Refusal("not_found")
    )


def test_field_errors_are_listed() -> None:
    """A bad body's problem names each field and rule."""
    problem = Problem("invalid_body", "No.", errors=[FieldError("a.b", "missing_field", "Why.")])
    assert json.loads(problem.body)["errors"] == [
        {"field": "a.b", "rule": "missing_field", "message": "Why."}
    ]


def test_a_fact_cannot_hide_a_member() -> None:
    """A fact named like a member of the problem is a programmer's mistake."""
    with pytest.raises(AssertionError):
        problem_body("sold_out", "All gone.", {"status": 200})
