"""The load test's command line: what is wrong is named in one line, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.__main__ import main
from tests.conftest import free_port


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nope"], "invalid choice: 'nope'"),
        ([], "required: scenario"),
        (["rush", "--users", "many"], "'many' is no whole number from 1 on"),
        (["rush", "--users", "0"], "'0' is no whole number from 1 on"),
        (["rush", "--quota", "-1"], "'-1' is no whole number from 1 on"),
        (["rush", "--seconds", "soon"], "'soon' is no number of seconds from 0.1 to 86400"),
        (["rush", "--seconds", "nan"], "'nan' is no number of seconds from 0.1 to 86400"),
        (["rush", "--url", "https://127.0.0.1"], "is no address like http://127.0.0.1:8080"),
        (["rush", "--url", "http://127.0.0.1:99999999"], "is no address like"),
        (["rush", "--url", "localhost:8080"], "is no address like"),
    ],
)
def test_a_mistyped_command_is_told_so(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, the option and what is wrong about it."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_nobody_there_is_named_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, the address, and no directory of a run that never began."""
    url, out = f"http://127.0.0.1:{free_port()}", tmp_path / "run"
    assert main(["rush", "--url", url, "--out", str(out)]) == 2
    assert url in capsys.readouterr().err
    assert not out.exists()


def test_a_directory_that_cannot_be_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 before anything is started."""
    (tmp_path / "file").write_text("in the way")
    assert main(["rush", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "nothing can be written to" in capsys.readouterr().err
