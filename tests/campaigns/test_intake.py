"""The intake of campaigns: how claims are taken in, and the lottery that draws the first of them.

Goal: the pure rules, each with its refusal, and the bytes of what is stored.
Method: examples, and properties over any entrants.
"""

from __future__ import annotations

import msgspec

from campaigns.campaign import Intake, Terms
from tests.support.desk import terms_of

OLD_TERMS = (
    b'{"kind":"fixed","face_minor":500,"threshold_minor":500,"currency":"CNY",'
    b'"per_person_limit":1,"claim_from":"2026-05-01T11:00:00Z",'
    b'"claim_until":"2026-05-02T00:00:00Z","valid_from":"2026-05-01T11:00:00Z",'
    b'"valid_until":"2026-05-03T12:00:00Z","zone":"Asia/Shanghai","merchants":null,'
    b'"restock":false}'
)


def test_terms_without_an_intake_have_the_bytes_that_they_always_had() -> None:
    """Bytes of before there were intakes decode and encode to themselves."""
    assert msgspec.json.decode(OLD_TERMS, type=Terms) == terms_of()
    assert msgspec.json.encode(terms_of()) == OLD_TERMS


def test_an_intake_says_only_what_its_kind_needs() -> None:
    """The seconds of a lottery, the rate of a waiting room."""
    lottery = terms_of(intake=Intake(kind="lottery", seconds=30))
    stored = msgspec.json.encode(lottery)
    assert stored == OLD_TERMS[:-1] + b',"intake":{"kind":"lottery","seconds":30}}'
    assert msgspec.json.decode(stored, type=Terms) == lottery
    room = Intake(kind="waiting_room", rate_per_s=500)
    assert msgspec.json.encode(room) == b'{"kind":"waiting_room","rate_per_s":500}'
