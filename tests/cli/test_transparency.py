"""`tidebook log`, `receipt`, `check-receipt` and `witness`, as an auditor would use them."""

from __future__ import annotations

import json
from pathlib import Path

import zxingcpp
from PIL import Image

from ledger.transparency import check_receipt
from ledger.transparency.statements import (
    REFUSAL,
    Statement,
    signed_statement,
    statement_signer,
)
from tests.cli.conftest import Tidebook
from tests.support.story import Story


def test_a_receipt_is_made_and_checked_with_keys_alone(
    tidebook: Tidebook, story: Story, tmp_path: Path
) -> None:
    """Sign, take a receipt, check it; a changed file does not hold."""
    [signed] = tidebook("log", "--once", "--json").document
    assert signed["size"] == signed["signed"] == signed["published"] > 0
    key = tidebook("log", "--keys").out.strip()
    file = tmp_path / "first.tlog-proof"
    assert tidebook("receipt", 3, "--to", file).status == 0
    assert tidebook("receipt", 3).out == file.read_text()
    held = tidebook("check-receipt", file, "--log-key", key, "--json")
    assert held.status == 0
    assert held.document["position"] == 3
    assert held.document["head"] == signed["size"]
    assert "topic: " in tidebook("check-receipt", file, "--log-key", key).out
    witness = tidebook("witness", "--key").out.strip()
    lacking = tidebook("check-receipt", file, "--log-key", key, "--witness", witness)
    assert lacking.status == 1
    assert "cosigned" in lacking.out
    text = file.read_text()
    file.write_text(text.replace("index 2", "index 1"))
    refused = tidebook("check-receipt", file, "--log-key", key, "--json")
    assert (refused.status, refused.document["holds"]) == (1, False)
    assert tidebook("check-receipt", file, "--log-key", "no key").status == 2
    assert "POSITION" in tidebook("receipt", 10**9).err


def test_a_receipt_becomes_a_code_and_is_checked_from_its_text(
    tidebook: Tidebook, story: Story, tmp_path: Path
) -> None:
    """As a picture, in the terminal, of an event of a coupon; and judged by the file alone too."""
    tidebook("log", "--once")
    key = tidebook("log", "--keys").out.strip()
    code = tmp_path / "code.png"
    name = f"cpn_main_{story.used.hex}/1"
    assert tidebook("receipt", name, "--qr", code).out == ""
    (found,) = zxingcpp.read_barcodes(Image.open(code))
    text = tmp_path / "code.txt"
    text.write_text(found.text)
    assert tidebook("check-receipt", text, "--log-key", key, "--json").document["version"] == 1
    assert check_receipt.main([str(text), "--log-key", key]) == 0
    drawn = tidebook("receipt", name, "--qr", "terminal", "--to", tmp_path / "a.tlog-proof")
    assert set(drawn.out) <= set(" \n█▀▄\x1b[0123456789;m")
    assert tidebook("receipt", name, "--qr", tmp_path / "code.svg").status == 0
    assert (tmp_path / "code.svg").read_bytes().startswith(b"<svg")
    for wrong in ("x", "cpn_main_0/1", f"cpn_main_{'0' * 32}/1"):
        assert "POSITION" in tidebook("receipt", wrong).err
    assert "--qr" in tidebook("receipt", 3, "--qr", tmp_path / "code.pdf").err
    assert "--log-key" in tidebook("check-receipt", text).err


def test_a_refusal_is_checked_by_the_key_of_statements(
    tidebook: Tidebook, home: Path, tmp_path: Path
) -> None:
    """Which is printed for those who verify; another key does not hold."""
    key = tidebook("log", "--statement-key").out.strip()
    assert tidebook("log", "--statement-key", "--json").document == {"main": key}
    origin = key.split("+")[0].removesuffix("/statements")
    seed = bytes.fromhex((home / "keys" / "refusal.key").read_text().strip())[:32]
    told = Statement(REFUSAL, {"book": "main", "code": "sold_out"})
    file = tmp_path / "refusal.note"
    file.write_bytes(signed_statement(told, statement_signer(origin, seed)).encode())
    held = tidebook("check-receipt", file, "--statement-key", key, "--json")
    assert held.document == {
        "holds": True, "statement": REFUSAL, "book": "main", "code": "sold_out",
    }  # fmt: skip
    log_key = tidebook("log", "--keys").out.strip()
    assert tidebook("check-receipt", file, "--statement-key", log_key).status == 1
    assert "--statement-key" in tidebook("check-receipt", file).err
    assert check_receipt.main([str(file), "--statement-key", key]) == 0


def test_keys_are_added_and_retired(tidebook: Tidebook, story: Story) -> None:
    """Both sign in between, and the name stays."""
    tidebook("log", "--once")
    (old,) = tidebook("log", "--keys", "--json").document["main"]
    both = tidebook("log", "--new-key", "--json").document["main"]
    assert both[0] == old
    assert both[1].partition("+")[0] == old.partition("+")[0]
    (new,) = tidebook("log", "--retire-key", old.split("+")[1], "--json").document["main"]
    assert new == both[1]
    assert tidebook("log", "--retire-key", new.split("+")[1]).status == 2


def test_verify_looks_at_the_log(tidebook: Tidebook, story: Story, home: Path) -> None:
    """A head that the signer remembers and the store does not reach is a finding."""
    tidebook("log", "--once")
    assert tidebook("verify", "--no-projections").status == 0
    name = json.loads(tidebook("log", "--keys", "--json").out)["main"][0].partition("+")[0]
    root = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    signature = f"\N{EM DASH} {name} AAAAAAAA"
    (home / "log" / "main.head").write_text(f"{name}\n99999\n{root}\n\n{signature}\n")
    found = tidebook("verify", "--no-projections", "--json")
    assert found.status == 1
    assert found.document["counts"] == {"head_not_extended": 1}
