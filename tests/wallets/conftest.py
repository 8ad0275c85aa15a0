"""What the tests of wallets share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.datastore import Datastore
from tests.wallets.harness import Town
from tests.wallets.harness import town as make_town


@pytest.fixture
def town(datastore: Datastore, tmp_path: Path) -> Iterator[Town]:
    """A ledger with an open packet campaign, and an operator that behaves until told otherwise."""
    with make_town(datastore, tmp_path) as made:
        yield made
