"""The command line as people call it, on a store of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from api.cli import main
from ledger.datastore import Datastore
from projections.migrations import migrate
from tests.support.desk import Desk
from tests.support.story import Story, tell


class Said(NamedTuple):
    """What a command said and how it ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on standard output; there is nothing else on it."""
        return json.loads(self.out)


Tidebook = Callable[..., Said]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, for keys; nothing of the machine's settings reaches the test."""
    monkeypatch.setenv("TIDEBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


@pytest.fixture
def tidebook(
    home: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Tidebook:
    """Call a command on a fresh database: `tidebook("verify", "--json")`."""
    monkeypatch.setenv("TIDEBOOK_DATABASE_URL", database_url)
    migrate(database_url)  # a copied database comes without its grants

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Said(status, *capsys.readouterr())

    return call


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on the book `main` of that database."""
    desk = Desk(datastore)
    yield desk
    desk.close()


@pytest.fixture
def story(desk: Desk) -> Story:
    """A book in which everything happened."""
    return tell(desk)
