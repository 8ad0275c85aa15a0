"""The tracking of a read model is a tracking recorder of the eventsourcing library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from eventsourcing.tests.persistence import TrackingRecorderTestCase

from ledger.datastore import Datastore
from projections.tracking import PositionTracking, TrackingMoved
from projections.wallets import WALLETS

if TYPE_CHECKING:
    from eventsourcing.persistence import TrackingRecorder


class TestPositionTracking(TrackingRecorderTestCase):
    """The library's own conformance suite."""

    @pytest.fixture(autouse=True)
    def _keep(self, datastore: Datastore) -> None:
        self.datastore = datastore

    def create_recorder(self) -> TrackingRecorder:
        """The tracking of the wallets."""
        return PositionTracking(self.datastore, WALLETS.schema)


del TrackingRecorderTestCase  # only its subclass is to be collected


def test_tracking_moves_only_from_where_it_stands(datastore: Datastore) -> None:
    """A batch that was read for another position is refused, before and after the first one."""
    tracking = PositionTracking(datastore, WALLETS.schema)
    with datastore.transaction() as curs:
        tracking.advance(curs, "main", 0, 5)
    for after, last in ((0, 5), (4, 9), (6, 9)):
        with pytest.raises(TrackingMoved), datastore.transaction() as curs:
            tracking.advance(curs, "main", after, last)
    with datastore.transaction() as curs:
        assert tracking.position(curs, "main") == 5
