"""The reference is what the code says today."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.reference import PAGES, write
from tests.docs.pages import REPOSITORY

FOLDER = REPOSITORY / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_fresh(name: str) -> None:
    """Run `make reference` when this fails, and commit what it wrote."""
    assert (FOLDER / name).read_text() == PAGES[name]()


def test_there_are_no_other_pages() -> None:
    """A page that nothing writes any more is removed."""
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


def test_pages_are_written_into_a_new_folder(tmp_path: Path) -> None:
    """The command makes the folder and says what it wrote."""
    written = write(tmp_path / "a" / "b")
    assert [path.name for path in written] == list(PAGES)
    assert all(path.read_text().startswith("# ") for path in written)


@pytest.mark.parametrize("name", PAGES)
def test_the_environment_does_not_change_a_page(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults are written, not what is set on the machine that writes."""
    before = PAGES[name]()
    monkeypatch.setenv("TIDEBOOK_PORT", "9999")
    monkeypatch.setenv("TIDEBOOK_OIDC_ISSUER", "https://example.org")
    assert PAGES[name]() == before
