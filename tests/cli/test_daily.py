"""`tidebook daily-proof`: made, listed, shown and checked, with a store and without one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from ledger.transparency.statements import statement_signer
from tests.cli.conftest import Tidebook
from tests.ledger.test_transparency_log import as_owner
from tests.support.desk import NOON, Desk, terms_of
from tests.support.story import AFTER_VALIDITY, Story


def test_days_are_proved_and_checked(
    tidebook: Tidebook, story: Story, desk: Desk, database_url: str, tmp_path: Path
) -> None:
    """Made once; a check names a forged figure; published notes are checked by themselves."""
    assert "begin the log" in tidebook("daily-proof", "check").err
    with desk.datastore.transaction() as cursor:
        cursor.execute("INSERT INTO installation (name, value) VALUES ('clock', 'request')")
    desk.opened(terms=terms_of(claim_until=NOON + timedelta(days=9)), key="later")
    assert tidebook("log", "--once").status == 0
    made = tidebook("daily-proof", "make", "--json").document
    assert {lines["day"] for lines in made} >= {"2026-05-01", "2026-05-03"}
    assert AFTER_VALIDITY.day == 4
    assert tidebook("daily-proof", "make").out == "main: 0 daily proofs made\n"
    listed = tidebook("daily-proof", "list", "--json").document
    assert sorted(map(str, listed)) == sorted(map(str, made))
    spring = f"cmp_main_{story.spring.hex}"
    assert "2026-05-01" in tidebook("daily-proof", "list", spring).out
    note = tidebook("daily-proof", "show", spring, "2026-05-01")
    assert note.out.startswith("tidebook-daily-proof/1\n")
    assert tidebook("daily-proof", "show", spring, "2026-05-01", "--json").document in made
    assert tidebook("daily-proof", "check").out == "the daily proofs hold\n"
    assert tidebook("daily-proof", "check", spring, "--json").document == {"findings": []}
    key = tidebook("log", "--statement-key").out.strip()
    folder = tmp_path / "published"
    folder.mkdir()
    for lines in made:
        if lines["campaign"] == spring:
            shown = tidebook("daily-proof", "show", spring, lines["day"]).out
            (folder / f"{lines['day']}.note").write_text(shown)
    alone = ("daily-proof", "check", "--notes", folder, "--statement-key", key)
    assert tidebook(*alone).status == 0
    first = folder / "2026-05-01.note"
    first.write_text(first.read_text().replace("\nissued ", "\nissued 9", 1))
    assert tidebook(*alone).status == 1
    clean = tidebook("verify", "--no-projections", "--json")
    assert (clean.status, clean.document["daily_proofs"]) == (0, len(made)), clean.document
    assert clean.document["daily_signatures"] is True
    elsewhere = ("verify", "--no-projections", "--json", "--home", tmp_path / "elsewhere")
    unsigned = tidebook(*elsewhere)
    assert (unsigned.status, unsigned.document["daily_signatures"]) == (0, False)
    assert not (tmp_path / "elsewhere" / "keys" / "refusal.key").exists()
    assert tidebook(*elsewhere, "--statement-key", key).document["daily_signatures"] is True
    stranger = statement_signer("stranger.example/log", bytes(32)).verifier
    refused = tidebook(*elsewhere, "--statement-key", str(stranger))
    assert (refused.status, set(refused.document["counts"])) == (1, {"daily_signature_broken"})
    with as_owner(database_url) as curs:
        curs.execute(
            "UPDATE daily_proof SET note = convert_to(replace(convert_from(note, 'UTF8'),"
            " E'\\nissued ', E'\\nissued 1'), 'UTF8')"
        )
    found = tidebook("daily-proof", "check", "--json")
    assert found.status == 1
    assert {one["code"] for one in found.document["findings"]} >= {
        "daily_signature_broken",
        "daily_figure_differs",
    }
    whole = tidebook("verify", "--no-projections", "--json")
    assert whole.status == 1
    assert whole.document["findings"] == found.document["findings"]


def test_what_is_asked_wrongly_is_named(tidebook: Tidebook, story: Story) -> None:
    """The argument and its rule."""
    tidebook("log", "--once")
    spring = f"cmp_main_{story.spring.hex}"
    for arguments, named in (
        (("show", spring), "CAMPAIGN, DAY"),
        (("show", spring, "May"), "DAY"),
        (("show", spring, "2020-01-01"), "DAY"),
        (("list", "x"), "CAMPAIGN"),
        (("list", "--book", "other"), "--book"),
        (("list", "--notes", "."), "--notes"),
        (("check", "--notes", "."), "--statement-key"),
        (("check", "--statement-key", "x"), "--statement-key"),
    ):
        said = tidebook("daily-proof", *arguments)
        assert (said.status, named in said.err) == (2, True), (arguments, said)
