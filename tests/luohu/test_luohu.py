"""The replay of Luohu, small: a thousandth of it through real servers, broken off and taken up."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from api.cli import main
from api.luohu import story
from api.luohu.campaign import LuohuCampaign
from api.luohu.figures import scaled
from api.luohu.report import Row, Sides, rows_of, shown
from ledger.commit import Answer

SCALE = 1_000


@pytest.fixture(name="home")
def _home() -> Iterator[Path]:
    """A home that the servers' account can enter, short enough for sockets."""
    home = Path(tempfile.mkdtemp(prefix="tidebook-luohu-"))
    yield home
    with suppress(OSError):
        shutil.rmtree(home)


def luohu(home: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """Run the command; return its exit status and its document."""
    status = main(["luohu", "--scale", str(SCALE), "--home", str(home), "--json"])
    out = capsys.readouterr().out
    return status, json.loads(out) if out else None


class _BrokenOff(Exception):
    """Somebody pulled the plug."""


def breaks_off_after(count: int) -> Callable[..., tuple[str, Future[Answer]]]:
    """What plays steps, until so many were sent."""
    plain = LuohuCampaign._step
    left = iter(range(count))

    def step(self: LuohuCampaign, one: story.Step, winner: str) -> tuple[str, Future[Answer]]:
        if next(left, None) is None:
            raise _BrokenOff
        return plain(self, one, winner)

    return step


@pytest.mark.slow
def test_it_comes_out_as_reported_even_when_it_is_broken_off(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run goes on in the middle of the payments; to the fen, and both verifiers agree.

    Nothing of the caller's settings reaches it.
    """
    monkeypatch.setenv("TIDEBOOK_DATABASE_URL", "postgresql://nobody@nowhere.invalid/ledger")
    with monkeypatch.context() as patched:
        patched.setattr(LuohuCampaign, "_step", breaks_off_after(30))
        assert luohu(home, capsys) == (2, None)
    status, found = luohu(home, capsys)
    assert [row["name"] for row in found["rows"] if row["expected"] != row["found"]] == []
    figures = {row["name"]: row["found"] for row in found["rows"]}
    assert figures["registrations"] == 1_913
    assert figures["paid from packets"] == 876_400
    assert figures["paid + returned"] == figures["funded"] == 1_000_000
    assert found["bundle_said"].endswith("OK\n")
    assert found["verification"]["clean"]
    assert (status, found["bundle_verified"], found["verified"]) == (0, True, True)

    draw = json.loads((home / "luohu-1-1000" / "bundle" / "draw.json").read_bytes())
    assert draw["announcement"]["list"]["entries"] == 1_913
    signature = story.beacon_signature(1, draw["announcement"]["beacon"]["round"])
    assert draw["disclosure"]["signature"] == signature.hex()


def test_a_figure_that_differs_is_a_failure() -> None:
    """Control: of any figure, by one; nothing in the table is taken from the plan."""
    planned = scaled(SCALE)
    row = _Bent(planned)
    sides = Sides(row, row, planned.registered, {"same_person": 5, "same_phone": 4})  # type: ignore[arg-type]
    assert [one for one in rows_of(planned, sides) if not one.matches] == []
    for name in row.NAMES:
        bent = _Bent(planned, name)
        rows = rows_of(planned, sides._replace(figures=bent, totals=bent))  # type: ignore[arg-type]
        assert [one for one in rows if not one.matches], name


class _Bent:
    """Both read models as they should be, but for one figure."""

    NAMES = (
        *("registered", "winners", "seats", "claimed", "paid", "paid_count", "merchants"),
        *("funded_minor", "paid_minor", "balance_minor", "reclaimed_minor", "spent_minor"),
        *("held_minor", "pot_minor"),
    )

    def __init__(self, planned: Any, bent: str | None = None) -> None:
        right = (
            *(planned.registered, planned.winners, planned.winners, planned.claims),
            *(planned.payments, planned.payments, planned.merchants, planned.funded_minor),
            *(planned.spent_minor, planned.spent_minor, planned.returned_minor),
            *(planned.spent_minor, 0, 0),
        )
        for name, value in zip(self.NAMES, right, strict=True):
            setattr(self, name, value + (name == bent))


def test_money_is_shown_to_the_fen() -> None:
    """In yuan, and counts as they are."""
    assert shown(876_400_000, is_money=True) == "8,764,000.00"
    assert shown(5, is_money=True) == "0.05"
    assert shown(1_913_847, is_money=False) == "1,913,847"
    assert not Row("x", 1, 2).matches


def test_a_home_that_cannot_be_used_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, in one line."""
    (home / "luohu-1-1000").write_text("not a directory")
    assert main(["luohu", "--scale", "1000", "--home", str(home)]) == 2
    assert "the replay cannot be run" in capsys.readouterr().err
    assert main(["luohu", "--scale", "1001"]) == 2
    assert "--scale" in capsys.readouterr().err
