"""Is the database safe to keep promises on? Checked at start; an unsafe one is refused.

A 2xx means committed and flushed. A server that does not flush, or that may tear pages, would
make that a lie which no test on a healthy machine shows.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

REQUIRED: Final[dict[str, tuple[frozenset[str], str]]] = {
    "fsync": (frozenset({"on"}), "a commit must reach the disk before it is answered"),
    "full_page_writes": (frozenset({"on"}), "a page torn by a crash must be repairable"),
    "synchronous_commit": (
        frozenset({"on", "remote_apply", "remote_write", "local"}),
        "a commit must be flushed before it is answered",
    ),
    "data_checksums": (frozenset({"on"}), "a flipped bit must be seen, not served"),
    "wal_level": (frozenset({"replica", "logical"}), "the log must allow recovery and replicas"),
    "data_sync_retry": (
        frozenset({"off"}),
        "a failed flush must stop the server, not be forgotten",
    ),
    "server_encoding": (frozenset({"UTF8"}), "text is stored as UTF-8"),
}
"""Setting → allowed values and the reason. Source: PostgreSQL manual, chapters 19.5 and 29."""

VERSION_MIN: Final = 14_00_00


class UnsafeDatabase(Exception):
    """The database's settings cannot keep what a 2xx promises."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("; ".join(str(finding) for finding in findings))
        self.findings = findings


class Finding(NamedTuple):
    """One setting that is not as it must be."""

    setting: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.value!r}: {self.reason}"


def check_settings(cursor: Any) -> list[Finding]:
    """Return what is unsafe about the server behind `cursor`; an empty list means safe."""
    cursor.execute(
        "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)",
        ([*REQUIRED, "server_version_num"],),
    )
    found: dict[str, str] = dict(cursor.fetchall())
    findings = [
        Finding(name, found.get(name, "unknown"), reason)
        for name, (allowed, reason) in REQUIRED.items()
        if found.get(name) not in allowed
    ]
    version = int(found["server_version_num"])
    if version < VERSION_MIN:
        findings.append(Finding("server_version_num", str(version), "PostgreSQL 14 or newer"))
    return findings


def require_safe(cursor: Any) -> None:
    """Raise `UnsafeDatabase` naming every unsafe setting, or return."""
    findings = check_settings(cursor)
    if findings:
        raise UnsafeDatabase(findings)
