"""What the tests of read models share: databases in which schemas can be made, a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from ledger.datastore import Datastore
from projections.migrations import migrate
from tests.conftest import Databases
from tests.projections.helpers import Clock

FreshDatastore = Callable[[], AbstractContextManager[Datastore]]


@pytest.fixture
def datastore(database_url: str) -> Iterator[Datastore]:
    """A pool of connections to a fresh database, whose copy of the grants is complete."""
    migrate(database_url)
    store = Datastore(database_url)
    yield store
    store.close()


@pytest.fixture
def fresh_datastore(databases: Databases) -> FreshDatastore:
    """Makes a datastore over a database of its own, for each example of a property."""

    @contextmanager
    def fresh() -> Iterator[Datastore]:
        with databases.fresh() as url:
            migrate(url)
            store = Datastore(url)
            try:
                yield store
            finally:
                store.close()

    return fresh


@pytest.fixture
def clock() -> Clock:
    """A clock that the test moves."""
    return Clock()
