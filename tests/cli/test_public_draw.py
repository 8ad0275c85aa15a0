"""Public draws from the command line: steps that are due, a beacon that was brought, the bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from campaigns.draws.entry import entry_id
from campaigns.draws.registering import EnterDraw
from ledger.datastore import Datastore
from tests.cli.conftest import Tidebook
from tests.cli.test_projecting_and_sweeping import simulate_time
from tests.draws.stories import CLOSES, DRAWN_AT, TIERED, phone, signed
from tests.support.desk import DRAW_KEY, NOON, Desk, person, tourist


@pytest.fixture
def campaign(desk: Desk, datastore: Datastore, monkeypatch: pytest.MonkeyPatch) -> UUID:
    """A public draw of three packets for six people, in a ledger of simulated time."""
    monkeypatch.setenv("TIDEBOOK_DRAW_KEY", DRAW_KEY.hex())
    simulate_time(datastore)
    draw = TIERED.public_draw
    campaign = desk.opened(draw.winners, TIERED, draw.worth_minor)
    for n in range(6):
        entering = EnterDraw(desk.book, campaign, person(n), phone(n), None, None, sign=signed)
        assert desk.send(entering, tourist(person(n)), at=NOON).code == "registered"
    return campaign


def test_a_public_draw_from_freeze_to_bundle(
    tidebook: Tidebook, campaign: UUID, tmp_path: Path
) -> None:
    """Frozen, waiting for the beacon, drawn by the value that was brought, published, verified."""
    name, round_ = f"cmp_main_{campaign.hex}", TIERED.public_draw.round
    assert tidebook("draw", "--at", CLOSES.isoformat()).out == (
        f"{name}: list_frozen, 0 seats given\n"
    )
    assert tidebook("draw", "--at", DRAWN_AT.isoformat()).out == "nothing to draw\n"
    early = tidebook("bundle", name, str(tmp_path / "early"))
    assert (early.status, "its draw is frozen" in early.err) == (2, True)
    [awaited] = tidebook("beacon", "--json").document
    assert (awaited["campaign"], awaited["round"]) == (name, round_)

    brought = tmp_path / "answer.json"
    brought.write_text(json.dumps({"round": round_, "signature": "cd" * 48}))
    tidebook("beacon", str(brought))
    assert tidebook("draw", "--at", DRAWN_AT.isoformat()).out == (
        f"{name}: draw_recorded, 3 seats given\n"
    )
    assert tidebook("beacon").out == "no draw awaits a beacon\n"
    assert tidebook("verify").status == 0
    written = tidebook("bundle", name, str(tmp_path / "draw"), "--json").document
    folder = tmp_path / "draw"
    found = subprocess.run(
        [
            *(sys.executable, "-I", str(folder / "verify_draw.py"), str(folder)),
            *("--announced", written["announcement"]),
            *("--entry", entry_id(campaign, person(0)).hex + "00000001"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout
    again = tidebook("bundle", name, str(folder))
    assert (again.status, "is not empty" in again.err) == (2, True)


def test_a_doubled_beacon_is_told(tidebook: Tidebook, campaign: UUID, tmp_path: Path) -> None:
    """One line that says why the draw waits."""
    tidebook("draw", "--at", CLOSES.isoformat())
    values = tmp_path / "values.jsonl"
    lines = [{"round": TIERED.public_draw.round, "signature": one * 48} for one in ("ab", "cd")]
    values.write_text("\n".join(map(json.dumps, lines)))
    tidebook("beacon", str(values))
    said = tidebook("draw", "--at", DRAWN_AT.isoformat())
    assert said.status == 2
    assert "two values for round" in said.err


@pytest.mark.parametrize(
    "value",
    [
        "no JSON",
        "[]",
        '{"round": 0, "signature": "ab"}',
        '{"round": 7, "signature": "xyz"}',
        '{"round": 7, "signature": "' + "ab" * 48 + '", "randomness": "' + "00" * 32 + '"}',
    ],
)
def test_what_is_no_value_is_not_recorded(
    tidebook: Tidebook, campaign: UUID, tmp_path: Path, value: str
) -> None:
    """Nor is a randomness that is not that of its signature."""
    brought = tmp_path / "answer.json"
    brought.write_text(value)
    said = tidebook("beacon", str(brought))
    assert (said.status, said.err.startswith("tidebook: FILE:")) == (2, True)


def test_there_is_no_bundle_of_nothing(tidebook: Tidebook, desk: Desk, tmp_path: Path) -> None:
    """Neither of a campaign without a draw nor of a word."""
    plain = desk.opened(1)
    said = tidebook("bundle", f"cmp_main_{plain.hex}", str(tmp_path / "draw"))
    assert "there is no public draw" in said.err
    assert tidebook("bundle", "x", str(tmp_path / "draw")).status == 2
