"""Events as the feed gives them: what they are about, and their names and instants in one form."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadtest.client import Json


def plain_id(public_id: str) -> str:
    """The 32 hex digits by which a thing is the same in answers and in events."""
    return public_id.replace("-", "").rpartition("_")[2]


def instant(text: str) -> datetime:
    """An instant as events and answers write it."""
    return datetime.fromisoformat(text).astimezone(UTC)


def flat(event: Json) -> Json:
    """An event of the feed with what its state says beside its place in the book."""
    state: Json = event["state"]
    return {**state, **event}


def stream_of(event: Json) -> str:
    """The stream that an event is in."""
    return plain_id(event["stream"])


def campaign_of(event: Json) -> str:
    """The campaign that an event is about."""
    return plain_id(event["campaign"]) if "campaign" in event else stream_of(event)


def pot_of(event: Json) -> str:
    """The account of that campaign's pot."""
    return f"campaign:{campaign_of(event)}"
