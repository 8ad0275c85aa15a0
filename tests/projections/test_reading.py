"""What read models read of the events, and how rows become text and back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaigns.campaign import CAMPAIGN_EVENTS
from campaigns.corrections.correction import CORRECTION_EVENTS
from campaigns.coupon import COUPON_EVENTS
from campaigns.draws.draw import DRAW_EVENTS
from campaigns.draws.entry import ENTRY_EVENTS
from campaigns.event_types import EVENT_TYPES
from campaigns.groups.group import GROUP_EVENTS
from campaigns.groups.purse import PURSE_EVENTS
from campaigns.packets.packet import PACKET_EVENTS
from campaigns.persons.person import PERSON_EVENTS
from ledger.datastore import Datastore
from ledger.events import Event
from projections.projection import Projection, View
from projections.registry import PROJECTIONS
from projections.rows import copy_rows
from tests.projections.histories import histories, small_history

EVENTS: tuple[type[Event], ...] = (
    *CAMPAIGN_EVENTS,
    *COUPON_EVENTS,
    *PACKET_EVENTS,
    *DRAW_EVENTS,
    *ENTRY_EVENTS,
    *PURSE_EVENTS,
    *GROUP_EVENTS,
    *PERSON_EVENTS,
    *CORRECTION_EVENTS,
)
PLACE = {"position", "stream", "version"}

by_name = pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda one: one.name)


@by_name
def test_every_read_model_says_of_every_event_whether_it_needs_it(projection: Projection) -> None:
    """A new event type cannot be forgotten: this test and the runner both stop."""
    assert set(projection.reads) == {event.TOPIC for event in EVENTS}


@by_name
def test_a_view_has_fields_of_its_event_only(projection: Projection) -> None:
    """What is read is there to be read, and the place does not hide a field of the event."""
    fields = {e.TOPIC: {f.name for f in msgspec.structs.fields(e)} for e in EVENTS}
    for topic, view in projection.reads.items():
        assert not fields[topic] & PLACE
        if view is not None:
            own = {f.name for f in msgspec.structs.fields(view)} - PLACE
            assert own <= fields[topic]


@by_name
@settings(max_examples=30, deadline=None)
@given(history=histories())
def test_a_view_reads_what_the_event_says(projection: Projection, history: Any) -> None:
    """Field by field, a view has the event's own values in their stored form."""
    for event in [*history.events, *small_history().events]:
        view = projection.reads[event.TOPIC]
        if view is not None:
            read = msgspec.json.decode(EVENT_TYPES.encode(event), type=view)
            check_values(read, event)


def check_values(read: View, event: Event) -> None:
    """Compare a view with its event."""
    for field in msgspec.structs.fields(read):
        if getattr(event, field.name, None) is msgspec.UNSET:
            assert not getattr(read, field.name)
        elif field.name not in PLACE:
            value = msgspec.to_builtins(getattr(event, field.name))
            seen = msgspec.to_builtins(getattr(read, field.name))
            if isinstance(seen, dict):
                assert {k: v for k, v in value.items() if k in seen} == seen
            else:
                assert value == seen


# PostgreSQL's text knows no NUL, and UTF-8 no lone surrogates.
_text = st.text(
    st.characters(exclude_characters="\0", codec="utf-8"), max_size=20
) | st.sampled_from(
    ["null", "\\N", "\\.", '"', '""', "\\", '\\"', "a\nb", "\r\n", "\t", "]\n[", "\x01", ""]
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(st.tuples(_text, st.none() | _text, st.integers(-(2**62), 2**62)), max_size=8))
def test_copied_rows_come_back_as_they_were(
    datastore: Datastore, rows: list[tuple[str, str | None, int]]
) -> None:
    """Quotes, backslashes, control characters, the word null and nothing at all survive COPY."""
    with datastore.transaction() as curs:
        curs.execute("SET LOCAL search_path TO pg_temp")
        curs.execute("CREATE TEMP TABLE IF NOT EXISTS t (a text, b text, c bigint)")
        curs.execute("TRUNCATE t")
        copy_rows(curs, "t", ("a", "b", "c"), rows)
        curs.execute("SELECT a, b, c FROM t")
        assert sorted(curs.fetchall(), key=repr) == sorted(rows, key=repr)
