"""Settings: every value that can be chosen from outside, read once, in one place.

Nothing else reads the environment: processes build one `Settings` at their start and pass values
on. The help text of each setting is its reference documentation, so a setting without one does
not exist.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ledger.books import Book, parse_book
from ledger.transparency.cosigning import WitnessAt

PREFIX: Final = "TIDEBOOK_"
KEY_BYTES: Final = 32
"""Length of a generated secret: the block that HMAC-SHA256 and Ed25519 both want."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _split(value: Any) -> Any:
    """A list in one environment variable is separated by commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _split_witnesses(value: Any) -> Any:
    """Witnesses are separated by commas; each is checked when it is read."""
    return tuple(
        WitnessAt.parse(one) if isinstance(one, str) else one for one in _split(value) or ()
    )


def _distinct_books(books: tuple[str, ...]) -> tuple[Book, ...]:
    if not books:
        raise ValueError("at least one book is needed")
    if len(set(books)) != len(books):
        raise ValueError("a book is named twice")
    return tuple(parse_book(book) for book in books)


def _key_bytes(key: SecretStr | None) -> SecretStr | None:
    if key is not None and len(bytes.fromhex(key.get_secret_value())) < KEY_BYTES:
        raise ValueError(f"a key has at least {KEY_BYTES} bytes, in hex")
    return key


def _operator_url(url: str | None) -> str | None:
    """Money is only asked for over TLS, or without it on this very machine."""
    if url is None:
        return None
    parts = urlsplit(url)
    port = parts.port  # raises ValueError for one that is none
    if not parts.hostname or parts.query or parts.fragment or parts.username or port == 0:
        raise ValueError("https://host:port/path is wanted, without a name, query or fragment")
    if parts.scheme == "https":
        return url
    if parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"):
        return url
    raise ValueError("https:// is wanted; http:// only for the loopback address")


class Settings(BaseSettings):
    """What can be set, from the environment (`TIDEBOOK_…`) or by the caller."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    # --- where things live --------------------------------------------------------------------
    home: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        Path("~/.local/share/tidebook"),
        validate_default=True,
        description="Directory of everything this machine keeps: the embedded servers' data and "
        "the generated keys. Back it up; losing the pseudonym key turns every person into a "
        "stranger.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL to use (`postgresql://user:password@host:port/name`). Without it "
        "`tidebook run` starts its own under the home.",
    )
    redis_url: SecretStr | None = Field(
        None,
        description="Valkey or Redis to use (`redis://host:port/0`). Without it `tidebook run` "
        "starts its own under the home.",
    )
    redis_cluster: bool = Field(
        False,
        description="Whether `REDIS_URL` names a node of a cluster. Campaigns are then spread "
        "over its primaries.",
    )

    # --- the HTTP server ----------------------------------------------------------------------
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(
        8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one and prints it."
    )
    workers: int = Field(
        2, ge=1, le=64, description="Server processes that share the port, each with its writers."
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3_600,
        description="Seconds within which a request has to arrive wholly, from its first byte to "
        "its last; later it is answered 408. A caller who does not read is left after as long.",
    )
    idle_timeout_s: float = Field(
        75.0,
        gt=0,
        le=3_600,
        description="Seconds that a connection may wait for its next request. Longer than the "
        "idle time of a proxy in front, so that it is the proxy that hangs up.",
    )
    connections_max: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Connections that one server process keeps; on further ones it answers 503.",
    )
    drain_s: float = Field(
        2.0,
        ge=0,
        le=60,
        description="Seconds that a server process which ends keeps idle connections, so that a "
        "request that is on its way is still answered, with `Connection: close`.",
    )
    trusted_proxies: int = Field(
        0,
        ge=0,
        le=8,
        description="Number of own proxies in front. The caller's address is then taken from "
        "that place, counted from the right, in `X-Forwarded-For`; with 0 the header is ignored.",
    )
    admin_networks: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_split)] = Field(
        (
            ipaddress.ip_network("127.0.0.0/8"),
            ipaddress.ip_network("::1/128"),
            ipaddress.ip_network("10.0.0.0/8"),
            ipaddress.ip_network("172.16.0.0/12"),
            ipaddress.ip_network("192.168.0.0/16"),
            ipaddress.ip_network("fc00::/7"),
        ),
        description="Networks, separated by commas, that may see `/metrics`, `/readyz`, `/docs`, "
        "`/openapi.json` and `/dev`; for all others these pages do not exist.",
    )

    # --- the books ----------------------------------------------------------------------------
    books: Annotated[
        tuple[Book, ...], NoDecode, BeforeValidator(_split), AfterValidator(_distinct_books)
    ] = Field(
        (Book("main"),),
        description="Books that this server writes, separated by commas. The first one takes "
        "campaigns that name none.",
    )
    clock: Literal["database", "request"] = Field(
        "database",
        description="`database`: windows are judged by the database's clock. `request`: by the "
        "`Tidebook-Time` header of each call, for replaying the past into a home made for that.",
    )
    queue_max: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Requests that may wait for one writer; further ones are answered 503.",
    )
    batch_max: int = Field(
        500, ge=1, le=10_000, description="Requests that one transaction may decide."
    )
    commit_timeout_s: float = Field(
        10.0,
        gt=0,
        le=300,
        description="Seconds until a caller who waits for a commit is told that the outcome is "
        "unknown.",
    )
    slow_lane_max: int = Field(
        1_024,
        ge=1,
        le=100_000,
        description="Claims, per server process, that may be with the store while the gate cannot "
        "speak for them; further ones are answered 503.",
    )
    pool_size: int = Field(
        8, ge=2, le=100, description="Database connections for reading, per server process."
    )
    read_wait_s: float = Field(
        5.0,
        ge=0,
        le=60,
        description="Seconds that a read waits for the position named in `Tidebook-Min-Position`.",
    )

    # --- who may call -------------------------------------------------------------------------
    dev_issuer: bool = Field(
        False,
        description="Issue tokens to anybody at `POST /dev/token`. For development only; "
        "`tidebook run` turns it on when no OIDC issuer is set.",
    )
    oidc_issuer: str | None = Field(
        None, description="The `iss` that tokens must carry, for example a sign-in service's URL."
    )
    oidc_jwks_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where the issuer's public keys are (JWKS). Needed with `OIDC_ISSUER`.",
    )
    oidc_audience: str = Field("tidebook", description="The `aud` that tokens must carry.")
    pseudonym_key: Annotated[SecretStr | None, AfterValidator(_key_bytes)] = Field(
        None,
        description="Key of the person pseudonyms, at least 32 bytes in hex, the same on every "
        "server of one ledger. Without it one is made once in the home.",
    )

    persons: Literal["keyed", "vault"] = Field(
        "keyed",
        description="How persons are named in a ledger that is begun, for its whole life. "
        "`keyed`: by a keyed hash of the identity, which whoever has the key can make again. "
        "`vault`: by chance, kept in the vault, so that nobody can tell after an erasure.",
    )
    vault: Path | None = Field(
        None,
        description="Directory of the vault's epoch keys and of the list of the erased, shared by "
        "every process of one ledger; without it `vault` in the home. Never in a backup of the "
        "database, and in its own no longer than [erasure](../erasure.md#backups) says.",
    )
    erasure_after_s: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="Seconds from the request of an erasure until it is done: every server has to "
        "have heard that the person's sessions have ended, which takes up to a minute.",
    )

    session_s: int = Field(
        300,
        ge=10,
        le=3_600,
        description="Seconds for which a session lasts; it never outlasts the token that it was "
        "begun with.",
    )
    session_key: Annotated[SecretStr | None, AfterValidator(_key_bytes)] = Field(
        None,
        description="Key of the session tokens, at least 32 bytes in hex, the same on every "
        "server that callers may reach. Without it one is made once in the home.",
    )
    session_previous_key: Annotated[SecretStr | None, AfterValidator(_key_bytes)] = Field(
        None,
        description="Key that session tokens were made with before, still accepted. To change "
        "keys: first name the new one here on every server, then exchange the two, and take the "
        "old one away when the last session made with it has ended.",
    )

    draw_key: Annotated[SecretStr | None, AfterValidator(_key_bytes)] = Field(
        None,
        description="Key of the lotteries' seeds, at least 32 bytes in hex, the same on every "
        "server of one ledger. Without it one is made once in the home. Keep it secret until the "
        "last lottery is drawn, and do not lose it before: without it no lottery can be drawn.",
    )

    # --- the transparency log -----------------------------------------------------------------
    log_name: str | None = Field(
        None,
        pattern=r"^[^\s+/]+(/[^\s+/]+)*$",
        description="Name of this ledger in the checkpoints of its books, for example "
        "`books.example.com`; a book's log is called by it, `/` and the book. Read when a log is "
        "begun; without it a name is made that nobody else has.",
    )
    log_interval_s: float = Field(
        1.0, gt=0, le=60, description="Seconds between two signed heads of a book that grows."
    )
    log_witnesses: Annotated[tuple[WitnessAt, ...], NoDecode, BeforeValidator(_split_witnesses)] = (
        Field(
            (),
            description="Witnesses that cosign the books' heads, separated by commas: each a "
            "verifier key, a space, and its address. `tidebook run` starts one of its own where "
            "none is named.",
        )
    )
    log_quorum: int | None = Field(
        None,
        ge=0,
        description="How many witnesses must have cosigned a head before it is served; without it "
        "all of them.",
    )

    # --- digital wallets ----------------------------------------------------------------------
    wallet_operator: str = Field(
        "sandbox",
        pattern=r"^[a-z][a-z0-9-]{0,31}$",
        description="Name of the operator of holders' wallets. Wallets are named by a key and "
        "this name, so it stays the same for as long as the operator does.",
    )
    wallet_operator_url: Annotated[str | None, AfterValidator(_operator_url)] = Field(
        None,
        description="Where the wallet operator is (`https://host/path`; `http://` on the loopback "
        "address only). Without it `tidebook run` starts the sandbox operator and asks that.",
    )
    wallet_operator_key: Annotated[SecretStr | None, AfterValidator(_key_bytes)] = Field(
        None,
        description="Key that the wallet operator and we share, at least 32 bytes in hex: each "
        "question and answer carries a MAC made with it. Without it one is made once in the home.",
    )
    wallet_key: Annotated[SecretStr | None, AfterValidator(_key_bytes)] = Field(
        None,
        description="Key of the wallets' names, at least 32 bytes in hex. Without it one is made "
        "once in the home. Do not lose it: without it nobody knows which wallet is whose.",
    )
    wallet_timeout_s: float = Field(
        5.0,
        gt=0,
        le=60,
        description="Seconds for a whole answer of the wallet operator. Later its outcome is "
        "unknown, and it is asked for.",
    )
    wallet_retry_s: float = Field(
        0.5,
        gt=0,
        le=60,
        description="Seconds to the first new try of an instruction without an answer. Each "
        "further pause is twice as long, and a part of it is left to chance.",
    )
    wallet_retry_max_s: float = Field(
        60.0, gt=0, le=86_400, description="Longest pause between two tries of an instruction."
    )
    wallet_connections: int = Field(
        16, ge=1, le=256, description="Connections that a dispatcher keeps to the wallet operator."
    )

    refusal_key: Annotated[SecretStr | None, AfterValidator(_key_bytes)] = Field(
        None,
        description="Seed of the Ed25519 key that void entries of public draws are refused under, "
        "32 bytes in hex, the same on every server of one ledger. Without it one is made once in "
        "the home.",
    )
    beacons: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="Where the public beacon's values come from, comma-separated: addresses of "
        "drand nodes and paths of recorded values, in which `{chain}` and `{round}` are filled in. "
        "All that answer must agree. Without any it is `beacons.jsonl` in the home.",
    )
    beacons_least: int = Field(
        1, ge=1, le=16, description="How many of them must have a value before it is believed."
    )

    # --- how fast may one call ----------------------------------------------------------------
    rate_tourist_per_s: float = Field(
        10.0, ge=0, le=1e6, description="Calls a second that a tourist may keep up; 0: no limit."
    )
    rate_tourist_burst: int = Field(
        40, ge=1, le=1_000_000, description="Calls that a tourist may make at once."
    )
    rate_staff_per_s: float = Field(
        2_000.0,
        ge=0,
        le=1e6,
        description="Calls a second that one merchant, operator or auditor may keep up; 0: no "
        "limit.",
    )
    rate_staff_burst: int = Field(
        4_000,
        ge=1,
        le=1_000_000,
        description="Calls that one merchant, operator or auditor may make at once.",
    )
    rate_missing_per_min: float = Field(
        30.0,
        ge=0,
        le=1e6,
        description="Answers 404 a minute that one caller may collect before everything is "
        "refused for a while (guessing codes); 0: no limit.",
    )
    rate_missing_address_per_min: float = Field(
        300.0,
        ge=0,
        le=1e6,
        description="The same for one network address, whoever calls from it; 0: no limit.",
    )
    rate_device_per_s: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Claims a second, of one campaign, that the sessions of one device may keep "
        "up; 0: no limit. Devices name themselves, so this slows mistakes more than malice.",
    )
    rate_device_burst: int = Field(
        40,
        ge=1,
        le=1_000_000,
        description="Claims that the sessions of one device may make at once.",
    )
    rate_address_per_s: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Claims a second, of one campaign, that one network address may keep up; 0: no "
        "limit. Whole towns may share an address behind their provider: set it with care.",
    )
    rate_address_burst: int = Field(
        2_000, ge=1, le=1_000_000, description="Claims that one network address may make at once."
    )
    rate_timeout_s: float = Field(
        0.25,
        gt=0,
        le=5,
        description="Seconds to wait for Valkey before each server counts on its own.",
    )

    # --- the gate -----------------------------------------------------------------------------
    gate_timeout_s: float = Field(
        0.25,
        gt=0,
        le=5,
        description="Seconds to wait for the gate before claims go to the store without it.",
    )
    gate_sold_out_s: float = Field(
        3.0,
        ge=0.1,
        le=60,
        description="Seconds for which the gate believes «sold out» when nobody renews it. Each "
        "refusal is compared with the store all the same.",
    )
    gate_persons_max: int = Field(
        200_000,
        ge=100,
        le=10_000_000,
        description="Persons remembered in one half of a campaign's memory at the gate, at about "
        "130 bytes each.",
    )
    gate_persons_s: int = Field(
        600,
        ge=10,
        le=86_400,
        description="Seconds after which the older half of these persons is forgotten.",
    )
    waiting_streams_max: int = Field(
        5_000,
        ge=0,
        le=1_000_000,
        description="Places in waiting rooms that may be watched by open streams, per server "
        "process; further callers are answered 503 and can still ask now and then.",
    )
    gate_campaigns_max: int = Field(
        1_024,
        ge=1,
        le=100_000,
        description="Campaigns that one server process keeps up at the gate; the one that was "
        "idle longest falls out.",
    )

    # --- watching -----------------------------------------------------------------------------
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line to write. Every request is one `info` line."
    )
    metrics_dir: Path | None = Field(
        None,
        description="Directory where the server's processes share their metrics. `tidebook "
        "serve` makes one when it starts several workers.",
    )

    def as_environment(self) -> dict[str, str]:
        """Return the variables that give a child process these settings."""
        return {
            setting.variable: _as_text(value)
            for setting in reference()
            if (value := getattr(self, setting.name)) is not None
        }

    def _secret(self, given: SecretStr | None, name: str) -> bytes:
        """Return the key that a setting gives; without it that of the home, made the first time."""
        if given is not None:
            return bytes.fromhex(given.get_secret_value())
        return kept_secret(self.home, name)

    def pseudonym_secret(self) -> bytes:
        """Return the key of the person pseudonyms, making it in the home the first time."""
        return self._secret(self.pseudonym_key, "pseudonym.key")

    def session_secrets(self) -> tuple[bytes, ...]:
        """Return the keys of session tokens, the one to make them with first."""
        previous = self.session_previous_key
        return (
            self._secret(self.session_key, "session.key"),
            *([bytes.fromhex(previous.get_secret_value())] if previous is not None else []),
        )

    def draw_secret(self) -> bytes:
        """Return the key of the lotteries' seeds, making it in the home the first time."""
        return self._secret(self.draw_key, "draw.key")

    def wallet_operator_secret(self) -> bytes:
        """Return the key shared with the wallet operator, making it in the home the first time."""
        return self._secret(self.wallet_operator_key, "wallet-operator.key")

    def wallet_secret(self) -> bytes:
        """Return the key of the wallets' names, making it in the home the first time."""
        return self._secret(self.wallet_key, "wallet.key")

    def refusal_secret(self) -> bytes:
        """Return the seed of the key for signed refusals, making it in the home the first time."""
        return self._secret(self.refusal_key, "refusal.key")[:KEY_BYTES]

    def has_refusal_secret(self) -> bool:
        """Whether there is a key for signed refusals, without making one."""
        return self.refusal_key is not None or is_kept(self.home, "refusal.key")

    def beacon_sources(self) -> tuple[str, ...]:
        """Return where the beacon's values come from."""
        return self.beacons or (str(self.home / "beacons.jsonl"),)

    @property
    def vault_folder(self) -> Path:
        """Where the epoch keys and the list of the erased are."""
        return self.vault or self.home / "vault"

    @property
    def lists(self) -> Path:
        """Where the lists of public draws are kept; they can be made again from the book."""
        return self.home / "lists"

    def issuer_secret(self) -> bytes:
        """Return the development issuer's Ed25519 seed, making it in the home the first time."""
        return kept_secret(self.home, "dev-issuer.key")


class Setting(NamedTuple):
    """One row of the reference table."""

    name: str
    variable: str
    default: str
    help: str


def reference() -> list[Setting]:
    """Return every setting with its variable, its default and its help text."""
    return [
        Setting(name, PREFIX + name.upper(), _as_text(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def _as_text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "1" if value else "0"
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return ",".join(str(part) for part in value)
        case _:
            return str(value)


def is_kept(home: Path, name: str) -> bool:
    """Whether a home has the secret `name` already."""
    return _place_of(home, name).exists()


def _place_of(home: Path, name: str) -> Path:
    return home / "keys" / name


def kept_secret(
    home: Path, name: str, make: Callable[[], bytes] = lambda: secrets.token_bytes(KEY_BYTES)
) -> bytes:
    """Return the secret `name` of a home, made once and readable by its owner only.

    Several processes may ask at the same moment for a secret that does not exist yet: a link is
    made from a finished file, so exactly one of them wins and all read the winner's.
    """
    path = _place_of(home, name)
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(make().hex().encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return bytes.fromhex(path.read_text().strip())
