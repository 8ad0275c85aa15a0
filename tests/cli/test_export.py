"""`tidebook export` and `tidebook verify EXPORT`: from a store to files, and from files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Tidebook
from tests.support.damage import damaged
from tests.support.desk import Desk
from tests.support.story import Story


def test_a_book_is_exported_and_verified_with_no_store(
    tidebook: Tidebook, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sign, export, take the store away, verify; the keys are those of the auditor."""
    assert "no signed checkpoint" in tidebook("export", tmp_path / "audit").err
    tidebook("log", "--once")
    key = tidebook("log", "--keys").out.strip()
    [told] = tidebook("export", tmp_path / "audit", "--json").document
    assert (told["book"], told["events"], told["signed"]) == ("main", 32, True)
    assert "main" in tidebook("export", tmp_path / "audit", "--book", "main").out
    monkeypatch.setenv("TIDEBOOK_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    found = tidebook("verify", tmp_path / "audit", "--log-key", key, "--json")
    assert found.status == 0
    [one] = found.document["exports"]
    assert (one["position"], one["judged"], one["checkpoints"]) == (32, 32, 1)
    assert one["believed"] == "the keys that were given"
    text = tidebook("verify", tmp_path / "audit" / "main", "--jobs", 0)
    assert text.status == 0
    assert "the keys in the export" in text.out
    assert "Clean" in text.out


def test_what_has_come_since_is_added(
    tidebook: Tidebook, story: Story, desk: Desk, tmp_path: Path
) -> None:
    """The export ends at the head that is served, and grows with it."""
    tidebook("log", "--once")
    tidebook("export", tmp_path / "audit")
    desk.drafted(key="next")
    tidebook("log", "--once")
    tidebook("export", tmp_path / "audit")
    [one] = tidebook("verify", tmp_path / "audit", "--json").document["exports"]
    assert one["checkpoints"] == 2
    assert one["position"] == 33


def test_an_event_that_was_changed_before_the_export_is_named(
    tidebook: Tidebook, story: Story, database_url: str, tmp_path: Path
) -> None:
    """The log knows the leaf that was signed; the rules know what was broken."""
    tidebook("log", "--once")
    with damaged(database_url) as damage:
        position = damage.position("coupon.voided")
        damage.rewrite(position, amount_minor=499)
    tidebook("export", tmp_path / "audit")
    found = tidebook("verify", tmp_path / "audit", "--jobs", 0, "--json")
    assert found.status == 1
    places = {one["code"]: one["where"] for one in found.document["findings"]}
    assert places["leaf_differs"].startswith(f"main:{position} stream {story.voided} field")
    assert places["root_differs"] == "main at size 32 field root"
    assert places["other_amount"] == f"main:{position}"


def test_what_cannot_be_is_said_in_a_line(tidebook: Tidebook, tmp_path: Path) -> None:
    """No export, an export of no such book, keys for a store."""
    assert "EXPORT: " in tidebook("verify", tmp_path).err
    assert "--log-key" in tidebook("verify", "--log-key", "x").err
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "manifest.json").write_text("{}")
    assert "--book" in tidebook("verify", tmp_path, "--book", "other").err
    assert "--log-key" in tidebook("verify", tmp_path, "--log-key", "x").err
    assert "--witness" in tidebook("verify", tmp_path, "--witness", "x").err
    broken = tidebook("verify", tmp_path, "--json")
    assert broken.status == 1
    assert json.loads(broken.out)["counts"] == {"manifest_broken": 1}
