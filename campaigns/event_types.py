"""Every event type of this version, and the upcasts from older ones."""

from __future__ import annotations

from typing import Final

from campaigns.campaign import CAMPAIGN_EVENTS
from campaigns.coupon import COUPON_EVENTS
from ledger.events import EventMapper, EventTypes

EVENT_TYPES: Final = EventTypes((*CAMPAIGN_EVENTS, *COUPON_EVENTS))
MAPPER: Final = EventMapper(EVENT_TYPES)
