"""The measurement of a draw, on a small list: `make bench-draw`.

Goal: what is measured is a draw that the stand-alone verifier accepts. Method: it runs as it does
for 33 million entries, and a list of another length is not taken for it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from campaigns.draws import measuring
from campaigns.draws.measuring import main


def test_a_small_draw_is_measured_and_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every figure is told, and the bundle is right."""
    words = ["--entries", "12000", "--winners", "50", "--folder", str(tmp_path), "--verify"]
    assert main(words) == 0
    told = capsys.readouterr().out
    for line in ("entries 12,000", "withdrawn 24", "drawn 10,050", "winners 50", "OK"):
        assert line in [" ".join(one.split()) for one in told.splitlines()]
    with pytest.raises(AssertionError, match="another length"):
        main([*words[2:], "--entries", "500"])


def test_a_wrong_bundle_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the command fails where the verifier refuses what was drawn."""
    monkeypatch.setattr(measuring, "SIGNATURE", b"t" * 8)
    words = ["--entries", "3000", "--winners", "5", "--folder", str(tmp_path), "--verify"]
    assert main(words) == 1
