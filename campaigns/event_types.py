"""Every event type of this version, and the upcasts from older ones."""

from __future__ import annotations

from typing import Final

from campaigns.campaign import CAMPAIGN_EVENTS
from campaigns.corrections.correction import CORRECTION_EVENTS
from campaigns.coupon import COUPON_EVENTS
from campaigns.draws.draw import DRAW_EVENTS
from campaigns.draws.entry import ENTRY_EVENTS
from campaigns.groups.group import GROUP_EVENTS
from campaigns.groups.purse import PURSE_EVENTS
from campaigns.packets.packet import PACKET_EVENTS
from campaigns.persons.person import PERSON_EVENTS
from ledger.events import EventMapper, EventTypes

EVENT_TYPES: Final = EventTypes(
    (
        *CAMPAIGN_EVENTS,
        *COUPON_EVENTS,
        *PACKET_EVENTS,
        *PURSE_EVENTS,
        *GROUP_EVENTS,
        *DRAW_EVENTS,
        *ENTRY_EVENTS,
        *PERSON_EVENTS,
        *CORRECTION_EVENTS,
    )
)
MAPPER: Final = EventMapper(EVENT_TYPES)
