"""The eventsourcing library's conformance suite, run on our persistence module and PostgreSQL."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from eventsourcing.tests.persistence import (
    AggregateRecorderTestCase,
    ApplicationRecorderTestCase,
    InfrastructureFactoryTestCase,
    NonInterleavingNotificationIDsBaseCase,
    ProcessRecorderTestCase,
    TrackingRecorderTestCase,
)
from eventsourcing.utils import Environment

from ledger.datastore import Datastore
from ledger.persistence import (
    BookAggregateRecorder,
    BookApplicationRecorder,
    BookProcessRecorder,
    BookTrackingRecorder,
    Factory,
)

_books = (f"book{n}" for n in itertools.count())


@pytest.fixture(autouse=True)
def store(request: pytest.FixtureRequest, database_url: str, datastore: Datastore) -> None:
    """Give the library's unittest classes a fresh database."""
    request.cls.database_url = database_url
    request.cls.datastore = datastore


class TestSnapshotRecorder(AggregateRecorderTestCase):
    """Streams without positions."""

    datastore: Datastore

    def create_recorder(self) -> BookAggregateRecorder:
        return BookAggregateRecorder(self.datastore, next(_books))


class TestEventRecorder(ApplicationRecorderTestCase[BookApplicationRecorder]):
    """Events of a book with positions 1, 2, 3 and so on."""

    datastore: Datastore

    def create_recorder(self) -> BookApplicationRecorder:
        return BookApplicationRecorder(self.datastore, next(_books))

    def test_subscription_follows_the_book(self) -> None:
        """The library's optional subscription case passes as well."""
        self.optional_test_insert_subscribe()


class TestTrackingRecorder(TrackingRecorderTestCase):
    """Tracking moves forward only."""

    datastore: Datastore

    def create_recorder(self) -> BookTrackingRecorder:
        return BookTrackingRecorder(self.datastore, next(_books))


class TestProcessRecorder(ProcessRecorderTestCase):
    """Events and tracking in one transaction."""

    datastore: Datastore

    def create_recorder(self) -> BookProcessRecorder:
        return BookProcessRecorder(self.datastore, next(_books))


class TestNonInterleaving(NonInterleavingNotificationIDsBaseCase):
    """The events of one save are never interleaved with another's."""

    datastore: Datastore

    def create_recorder(self) -> BookApplicationRecorder:
        return BookApplicationRecorder(self.datastore, next(_books))


class SpecialTrackingRecorder(BookTrackingRecorder):
    """A subclass that the factory is asked for by class and by topic."""


class TestFactory(InfrastructureFactoryTestCase[Factory]):
    """The factory that `PERSISTENCE_MODULE=ledger.persistence` names."""

    database_url: str

    def setUp(self) -> None:
        self.env = Environment("Campaigns")
        self.env[Factory.PERSISTENCE_MODULE] = "ledger.persistence"
        self.env[Factory.DATABASE_URL] = self.database_url
        super().setUp()

    def expected_factory_class(self) -> type[Factory]:
        return Factory

    def expected_aggregate_recorder_class(self) -> type[Any]:
        return BookAggregateRecorder

    def expected_application_recorder_class(self) -> type[Any]:
        return BookApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[Any]:
        return BookTrackingRecorder

    def tracking_recorder_subclass(self) -> type[Any]:
        return SpecialTrackingRecorder

    def expected_process_recorder_class(self) -> type[Any]:
        return BookProcessRecorder

    def test_refuses_to_be_built_without_a_database(self) -> None:
        """A missing database URL is an error that names the variable."""
        with pytest.raises(OSError, match="TIDEBOOK_DATABASE_URL"):
            Factory(Environment("Campaigns", {}))
