"""What the page of events says of persons: what fields mean, and one event of each type."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from api.vault.sealing import Place, seal
from campaigns.persons import person as p
from ledger.events import Event

KINDS: Final = p.PERSON_EVENTS

MEANINGS: Final = {
    "person": "pseudonym of the person",
    "sealed": "each particular, sealed under the person's own key: unreadable without it, see "
    "docs/erasure.md",
    "fields": "which particulars may be read",
    "purpose": "what for",
    "until": "end of the time in which the operator may read them, itself outside",
    "basis": "on what an operator asks on behalf of the person; absent where the person did",
    "proposed_by": "pseudonym of the operator who proposed it; absent where the person asked",
}
"""Field of an event of a person → what it means."""

_AT: Final = datetime(2026, 5, 3, 2, 15, tzinfo=UTC)


def story(person: str) -> list[tuple[type[Event], str, UUID, int, dict[str, Any]]]:
    """Return one event of each type: who acts (a role), its stream and version, its own fields."""
    stream, own = p.person_id(person), {"person": person}
    place = Place("main", person, "telephone")
    sealed = seal(sha256(b"an example").digest(), "+8613800000000", place, bytes(16))
    inspected = {"fields": ["telephone"], "purpose": "delivery", "until": _AT}
    return [
        (p.ParticularsKept, "tourist", stream, 1, {**own, "sealed": {"telephone": sealed}}),
        (p.ParticularsInspected, "operator", stream, 2, {**own, **inspected}),
        (p.ErasureProposed, "operator", stream, 3, {**own, "basis": "written_request"}),
        (p.ErasureRequested, "tourist", stream, 4, own),
        (p.PersonErased, "sweeper", stream, 5, own),
    ]
