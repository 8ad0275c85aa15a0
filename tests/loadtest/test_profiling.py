"""What py-spy saw is summed up by function and by file, in µs of a claim."""

from __future__ import annotations

import pytest

from loadtest.profiling import text, top

STACKS = """\
process 7:"python -m api.worker";thread (0x7F): MainThread;run (asyncio/runners.py:118);take (/opt/there/site-packages/uvicorn/server.py:70) 30
process 7:"python -m api.worker";thread (0x7F): MainThread;run (asyncio/runners.py:118);take (/opt/there/site-packages/uvicorn/server.py:71) 10
process 8:"python -m api.worker";thread (0x7E): writer-main;_run (ledger/commit.py:9);<genexpr> (ledger/commit.py:12) 50
process 8:"python -m api.worker";thread (0x7E): writer-main;_run (ledger/commit.py:9);execute (native) 10

"""  # noqa: E501 - as py-spy writes it


def test_time_is_counted_where_the_work_is_done() -> None:
    """Lines of one function add up, whoever called it; processes and threads are no functions."""
    functions, files, total = top(STACKS.splitlines())
    assert total == 100
    assert [(row.what, row.share) for row in functions] == [
        ("<genexpr> (ledger/commit.py)", 0.5),
        ("take (uvicorn/server.py)", 0.4),
        ("execute (native)", 0.1),
    ]
    assert [row.what for row in files] == ["ledger/commit.py", "uvicorn/server.py", "native"]


def test_shares_are_told_as_time_of_a_claim_and_the_limit_of_the_cores() -> None:
    """Half of 60 µs are 30; 60, 30 and 10 µs are 100, and two cores could do 20,000 of these."""
    written = text(STACKS.splitlines(), {"server": 60.0, "postgres": 30.0, "driver": 10.0}, 2)
    [row] = [line for line in written.splitlines() if "<genexpr>" in line]
    assert row.split()[:2] == ["30.00", "50.0%"]
    assert "20,000 claims/s" in written


@pytest.mark.parametrize("lines", [[], [""], ["process 7;thread (0x7F): MainThread 5"]])
def test_nothing_seen_is_nothing_told(lines: list[str]) -> None:
    """No division by zero, and no rows."""
    assert top(lines) == ([], [], 0)
    assert "0 samples" in text(lines, {}, 2)
