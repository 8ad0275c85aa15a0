"""What is shown of persons: their particulars opened for whoever may read them, and who did."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Final

import msgspec

from api.vault.sealing import Place, Unsealable, unseal
from campaigns.persons.person import FIELDS, Field, Inspection, Person
from campaigns.persons.replies import person_name
from ledger.books import Book


class InspectionView(msgspec.Struct, frozen=True):
    """That an operator was allowed to read particulars."""

    by: str
    fields: list[str]
    purpose: str
    at: datetime
    until: datetime


class ParticularsView(msgspec.Struct, frozen=True):
    """What is kept of a person. What one may not read, or what was erased, is null."""

    person: str
    state: str
    kept: list[str]
    telephone: str | None
    address: str | None
    payee_name: str | None
    inspections: list[InspectionView]


PERSON_VIEWS: Final[tuple[type[msgspec.Struct], ...]] = (ParticularsView, InspectionView)


def particulars_view(
    book: Book, name: str, person: Person | None, key: bytes | None, readable: AbstractSet[str]
) -> ParticularsView:
    """Return what somebody may read of a person; without the key there is nothing to read."""
    sealed: Mapping[Field, str] = {} if person is None else person.sealed
    opened = {
        field: None
        if key is None or field not in readable or field not in sealed
        else _opened(key, sealed[field], Place(book, name, field))
        for field in FIELDS
    }
    return ParticularsView(
        person=person_name(book, name),
        state="known" if person is None else person.state,
        kept=[field for field in FIELDS if field in sealed] if key is not None else [],
        inspections=[] if person is None else [_inspection(one) for one in person.inspections],
        **opened,
    )


def _opened(key: bytes, sealed: str, place: Place) -> str | None:
    try:
        return unseal(key, sealed, place)
    except Unsealable:
        return None


def _inspection(one: Inspection) -> InspectionView:
    return InspectionView(one.by, list(one.fields), one.purpose, one.at, one.until)
