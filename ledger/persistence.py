"""The eventsourcing library's persistence module over books in PostgreSQL, on psycopg2.

Plug it in with `PERSISTENCE_MODULE=ledger.persistence` and `TIDEBOOK_DATABASE_URL`; the book is
the environment's `BOOK` or else the application's name. The library's own conformance suite
holds it. This module must define exactly one factory class.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    IntegrityError,
    ListenNotifySubscription,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic

from ledger import appending
from ledger.books import DEFAULT_BOOK, parse_book
from ledger.datastore import CommitUnknown, Datastore, PoolExhausted
from ledger.migrations import migrate

__all__ = ["CommitUnknown", "Datastore", "Factory", "PoolExhausted"]

POLL_S: Final = 0.05
"""How often a subscription looks at the head of its book; one primary-key read each time."""

_SELECT_STREAM: Final = {
    table: f"SELECT originator_id, originator_version, topic, state FROM {table}"  # noqa: S608
    " WHERE book = %s AND originator_id = %s"
    " AND (%s::int IS NULL OR originator_version > %s)"
    " AND (%s::int IS NULL OR originator_version <= %s)"
    for table in ("event", "snapshot")
}
_SELECT_NOTIFICATIONS: Final = (
    "SELECT position, originator_id, originator_version, topic, state FROM event"
    " WHERE book = %s AND position >= %s AND (%s::bigint IS NULL OR position <= %s)"
    " AND (%s::text[] IS NULL OR topic = ANY(%s::text[])) ORDER BY position LIMIT %s"
)
_INSERT_SNAPSHOT: Final = (
    "INSERT INTO snapshot (book, originator_id, originator_version, topic, state)"
    " VALUES (%s, %s, %s, %s, %s)"
)
_ADVANCE_TRACKING: Final = (
    "INSERT INTO tracking AS t (book, application_name, notification_id) VALUES (%s, %s, %s)"
    " ON CONFLICT (book, application_name) DO UPDATE"
    " SET notification_id = excluded.notification_id"
    " WHERE t.notification_id < excluded.notification_id"
)


class BookRecorder:
    """What every recorder has: a datastore and the book that it reads and writes."""

    def __init__(self, datastore: Datastore, book: str) -> None:
        self.datastore = datastore
        self.book = parse_book(book)


RecorderT = TypeVar("RecorderT", bound=BookRecorder)


class BookAggregateRecorder(BookRecorder, AggregateRecorder):
    """Records streams without positions: snapshots, which can be thrown away."""

    TABLE = "snapshot"

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        **_: Any,
    ) -> Sequence[int] | None:
        """Insert rows; raise `IntegrityError` when a stream has the version already."""
        with self.datastore.transaction() as cursor:
            for event in stored_events:
                cursor.execute(
                    _INSERT_SNAPSHOT,
                    (
                        self.book,
                        event.originator_id,
                        event.originator_version,
                        event.topic,
                        event.state,
                    ),
                )
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Return a stream's events, `gt` < version ≤ `lte`, in order or newest first."""
        order = " ORDER BY originator_version " + ("DESC" if desc else "ASC") + " LIMIT %s"
        with self.datastore.transaction() as cursor:
            cursor.execute(
                _SELECT_STREAM[self.TABLE] + order,
                (self.book, originator_id, gt, gt, lte, lte, limit),
            )
            return [
                StoredEvent(stream, version, topic, bytes(state))
                for stream, version, topic, state in cursor.fetchall()
            ]


class BookApplicationRecorder(BookAggregateRecorder, ApplicationRecorder):
    """Records a book's events with dense positions, which are the notification ids."""

    TABLE = "event"

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Append events in one transaction; return one position per event.

        Keyword arguments: `tracking` (a process recorder's), `replies` (`StoredReply`s) and
        `capacity` (pool → `Capacity`) are written in the same transaction.
        """
        with self.datastore.transaction() as cursor:
            first = self._append(cursor, stored_events, **kwargs)
        return list(range(first, first + len(stored_events)))

    def _append(
        self,
        cursor: Any,
        stored_events: Sequence[StoredEvent],
        *,
        replies: Sequence[appending.StoredReply] = (),
        capacity: dict[appending.PoolKey, appending.Capacity] | None = None,
        **_: Any,
    ) -> int:
        head = appending.lock_head(cursor, self.book)
        last = appending.insert_events(cursor, self.book, head.position, stored_events)
        appending.insert_replies(cursor, self.book, replies)
        appending.set_capacity(cursor, self.book, capacity or {})
        if stored_events:
            appending.move_head(cursor, self.book, last, appending.instant(head))
        return head.position + 1

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Return up to `limit` events of the book in order of position, from `start` to `stop`."""
        first = 0 if start is None else start + (not inclusive_of_start)
        wanted = list(topics) or None
        with self.datastore.transaction() as cursor:
            cursor.execute(
                _SELECT_NOTIFICATIONS, (self.book, first, stop, stop, wanted, wanted, limit)
            )
            return [
                Notification(stream, version, topic, bytes(state), position)
                for position, stream, version, topic, state in cursor.fetchall()
            ]

    def max_notification_id(self) -> int | None:
        """Return the book's last position, or None while it is empty."""
        with self.datastore.transaction() as cursor:
            cursor.execute("SELECT position FROM book_head WHERE book = %s", (self.book,))
            row = cursor.fetchone()
        return row[0] or None if row else None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Follow the book from after position `gt` until stopped."""
        return BookSubscription(self, gt=gt, topics=topics)


class BookSubscription(ListenNotifySubscription[BookApplicationRecorder]):
    """Follows a book by looking at its head; needs no LISTEN, so it works on a replica too."""

    def __init__(
        self,
        recorder: BookApplicationRecorder,
        gt: int | None = None,
        topics: Sequence[str] = (),
    ) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll, daemon=True)
        self._poller.start()

    def stop(self) -> None:
        """Stop following; iteration ends."""
        super().stop()
        self._stopping.set()

    def __exit__(self, *args: object, **kwargs: Any) -> None:
        try:
            super().__exit__(*args, **kwargs)
        finally:
            self._poller.join()

    def _poll(self) -> None:
        seen = 0
        while not self._stopping.wait(POLL_S) and self._thread_error is None:
            try:
                head = self._recorder.max_notification_id() or 0
            except BaseException as error:  # noqa: BLE001 - handed to the iterating thread
                self._thread_error = error
                self.stop()
                return
            if head != seen:
                seen = head
                self._has_been_notified.set()


class BookTrackingRecorder(BookRecorder, TrackingRecorder):
    """Records how far a consumer has come in other books' positions; it only moves forward."""

    def insert_tracking(self, tracking: Tracking) -> None:
        """Move the tracking forward; raise `IntegrityError` when it was there already."""
        with self.datastore.transaction() as cursor:
            self.advance(cursor, tracking)

    def advance(self, cursor: Any, tracking: Tracking) -> None:
        """Move the tracking forward in the caller's transaction."""
        cursor.execute(
            _ADVANCE_TRACKING,
            (self.book, tracking.application_name, tracking.notification_id),
        )
        if cursor.rowcount != 1:
            raise IntegrityError(
                f"{tracking.application_name} was tracked to {tracking.notification_id} already"
            )

    def max_tracking_id(self, application_name: str) -> int | None:
        """Return the furthest position tracked, or None."""
        with self.datastore.transaction() as cursor:
            cursor.execute(
                "SELECT notification_id FROM tracking WHERE book = %s AND application_name = %s",
                (self.book, application_name),
            )
            row = cursor.fetchone()
        return row[0] if row else None


class BookProcessRecorder(BookTrackingRecorder, BookApplicationRecorder, ProcessRecorder):
    """Appends events and moves tracking forward in one transaction."""

    def _append(
        self,
        cursor: Any,
        stored_events: Sequence[StoredEvent],
        *,
        tracking: Tracking | None = None,
        **kwargs: Any,
    ) -> int:
        if tracking is not None:
            self.advance(cursor, tracking)
        return super()._append(cursor, stored_events, **kwargs)


class Factory(InfrastructureFactory[BookTrackingRecorder]):
    """Builds the recorders of one book from an environment."""

    DATABASE_URL = "TIDEBOOK_DATABASE_URL"
    BOOK = "BOOK"
    CREATE_TABLE = "CREATE_TABLE"

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        url = self.env.get(self.DATABASE_URL)
        if not url:
            raise OSError(f"{self.DATABASE_URL} says where the event store is, and is not set")
        self.book = self.env.get(self.BOOK) or self.env.name.lower() or DEFAULT_BOOK
        self.datastore = Datastore(url)

    def aggregate_recorder(self, purpose: str = "snapshots") -> BookAggregateRecorder:  # noqa: ARG002
        """Return the recorder of snapshots."""
        return self._made(BookAggregateRecorder)

    def application_recorder(self) -> BookApplicationRecorder:
        """Return the recorder of the book's events."""
        return self._made(BookApplicationRecorder)

    def tracking_recorder(
        self, tracking_recorder_class: type[BookTrackingRecorder] | None = None
    ) -> BookTrackingRecorder:
        """Return a tracking recorder: of the class given, or named in the environment, or ours."""
        topic = self.env.get(self.TRACKING_RECORDER_TOPIC)
        named: type[BookTrackingRecorder] = resolve_topic(topic) if topic else BookTrackingRecorder
        return self._made(tracking_recorder_class or named)

    def process_recorder(self) -> BookProcessRecorder:
        """Return the recorder that appends and tracks at once."""
        return self._made(BookProcessRecorder)

    def close(self) -> None:
        """Close the connections."""
        self.datastore.close()

    def _made(self, recorder_class: type[RecorderT]) -> RecorderT:
        if self.env.get(self.CREATE_TABLE, "y") in {"y", "yes", "t", "true", "on", "1"}:
            migrate(self.datastore.url)
        return recorder_class(self.datastore, self.book)
