"""Check a public draw of Tidebook again, with nothing but Python's standard library.

    python3 verify_draw.py FOLDER                       the whole draw, from its bundle
    python3 verify_draw.py FOLDER --announced SHA256    and that it was announced like this
    python3 verify_draw.py FOLDER --entry LEAF          and what became of one entry (40 hex digits)
    python3 verify_draw.py --proof FILE                 that an entry was in the frozen list

The bundle's format and the method are in docs/draw-bundle.md. This file stands alone, so that it
can be read in one sitting and run anywhere: it takes nothing from the rest of Tidebook, and
whatever a bundle holds, its answer is yes or no. It ends with status 0 only when all is as it must
be. The beacon's own signature is not checked, see the page.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

FORMAT = "tidebook-draw/1"
LEAF = 20
"""Bytes of an entry in the list: its id, and the version of its stream that it was made with."""
CHUNK = LEAF * 4096
ENTRIES_MAX = 2**40
DRAWN_MAX = 5_000_000
FILE_MAX = 1 << 30
"""Bytes of the files that are read whole."""


class Refused(Exception):
    """Something in the bundle is not as it must be."""


def require(holds: bool, what: str) -> None:
    """Go on only if something holds."""
    if not holds:
        raise Refused(what)


# --- the form: every byte has its place, so that none can be changed unseen -----------------------


def sha256(data: bytes) -> bytes:
    """Return the hash that everything here is made of."""
    return hashlib.sha256(data).digest()


def canonical(value: Any) -> bytes:
    """Return the one form of a JSON value: names sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def parsed(data: bytes) -> Any:
    """Return a JSON value that is written in its one form."""
    value = json.loads(data)
    require(canonical(value) == data, "JSON that is not in its canonical form")
    return value


def fields(value: Any, form: dict[str, Any], where: str) -> dict[str, Any]:
    """Return an object that has these names and no others, each of its type or form."""
    require(isinstance(value, dict) and set(value) == set(form), f"other fields in {where}")
    for name, kind in form.items():
        item = value[name]
        if isinstance(kind, re.Pattern):
            require(isinstance(item, str) and bool(kind.fullmatch(item)), f"{where}.{name}")
        else:
            require(type(item) is kind, f"{where}.{name}")
        require(kind is not int or 0 <= item < 2**63, f"{where}.{name}")
    return dict(value)


HASH = re.compile(r"[0-9a-f]{64}")
BYTES = re.compile(r"([0-9a-f]{2}){32,512}")
CAMPAIGN = re.compile(r"cmp_[a-z][a-z0-9]{0,15}_[0-9a-f]{32}")
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)
CURRENCY = re.compile(r"[A-Z]{3}")
ANNOUNCEMENT = {
    "format": re.compile(re.escape(FORMAT)),
    "campaign": CAMPAIGN,
    "name": str,
    "register_from": INSTANT,
    "register_until": INSTANT,
    "draw_at": INSTANT,
    "beacon": dict,
    "seed_commitment": HASH,
    "tiers": list,
    "currency": CURRENCY,
    "runners_up": int,
    "claim_s": int,
    "list": dict,
}
BEACON = {"chain": HASH, "genesis": int, "period_s": int, "round": int}
TIER = {"amount_minor": int, "winners": int}
LIST = {"entries": int, "root": HASH, "withdrawn": int, "withdrawn_sha256": HASH}
DISCLOSURE = {"seed": HASH, "signature": BYTES, "randomness": HASH, "key": HASH}
RESULTS = {"winners": int, "runners_up": int, "root": HASH, "sha256": HASH}
PROOF = {"format": str, "index": int, "leaf": str, "path": list, "root": HASH, "size": int}


def announcement_of(value: Any) -> dict[str, Any]:
    """Return an announcement whose parts fit together."""
    told = fields(value, ANNOUNCEMENT, "announcement")
    told["beacon"] = fields(told["beacon"], BEACON, "beacon")
    told["list"] = fields(told["list"], LIST, "list")
    told["tiers"] = [fields(tier, TIER, "tier") for tier in told["tiers"]]
    require(bool(told["tiers"]), "no tier")
    require(all(min(tier.values()) > 0 for tier in told["tiers"]), "an empty tier")
    require(
        sum(tier["winners"] for tier in told["tiers"]) + told["runners_up"] <= DRAWN_MAX,
        "more are drawn than this file holds",
    )
    require(told["list"]["entries"] <= ENTRIES_MAX, "a longer list than there can be")
    require(told["list"]["withdrawn"] <= told["list"]["entries"], "more withdrawn than entered")
    check_round(told)
    return told


def check_round(told: dict[str, Any]) -> None:
    """The round is the first that is not emitted before `draw_at`, and the list was closed."""
    since = (instant(told["draw_at"]) - instant("1970-01-01T00:00:00Z")).total_seconds()
    beacon = told["beacon"]
    require(beacon["period_s"] > 0, "a beacon without a period")
    emitted = beacon["genesis"] + (beacon["round"] - 1) * beacon["period_s"]
    is_first = emitted - beacon["period_s"] < since or beacon["round"] == 1
    require(beacon["round"] > 0 and since <= emitted and is_first, "another round than announced")
    in_order = instant(told["register_from"]) < instant(told["register_until"])
    require(in_order and instant(told["register_until"]) < instant(told["draw_at"]), "the windows")


def instant(text: str) -> datetime:
    """Return the instant that a text in the form of INSTANT names."""
    return datetime.fromisoformat(text[:-1] + "+00:00")  # noqa: FURB162 - older Pythons lack Z


# --- the list's tree: RFC 6962 --------------------------------------------------------------------


def leaf_hash(leaf: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\x00" + leaf)


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node."""
    return sha256(b"\x01" + left + right)


def tree_root(leaves: Iterable[bytes]) -> tuple[int, bytes]:
    """Return size and root of the tree over leaves: complete subtrees are joined as they come."""
    size, stack = 0, list[bytes]()
    for leaf in leaves:
        size += 1
        value, done = leaf_hash(leaf), size
        while done % 2 == 0:
            value, done = node_hash(stack.pop(), value), done // 2
        stack.append(value)
    if not stack:
        return 0, sha256(b"")
    root = stack.pop()
    while stack:
        root = node_hash(stack.pop(), root)
    return size, root


def root_from_path(index: int, size: int, leaf: bytes, path: list[bytes]) -> bytes:
    """Return the root that a path leads to (RFC 9162, 2.1.3.2)."""
    require(0 <= index < size, "the index is not in the list")
    value, last = leaf_hash(leaf), size - 1
    for sibling in path:
        require(last > 0, "the path is too long")
        if index % 2 or index == last:
            value = node_hash(sibling, value)
            while not index % 2 and index:
                index, last = index // 2, last // 2
        else:
            value = node_hash(value, sibling)
        index, last = index // 2, last // 2
    require(last == 0, "the path is too short")
    return value


# --- the method -----------------------------------------------------------------------------------


def number_below(key: bytes, step: int, bound: int) -> int:
    """Return a number below `bound`: the first attempt that favours none."""
    fair = 2**256 - 2**256 % bound
    attempt = 0
    while True:
        told = b"pick\0" + step.to_bytes(8, "big") + attempt.to_bytes(4, "big")
        number = int.from_bytes(hmac.digest(key, told, "sha256"), "big")
        if number < fair:
            return number % bound
        attempt += 1


def drawn(key: bytes, entries: int, withdrawn: set[int], count: int) -> list[int]:
    """Return the indices of the first `count` picks that were not withdrawn."""
    found: list[int] = []
    moved: dict[int, int] = {}
    step = 0
    while step < entries and len(found) < count:
        other = step + number_below(key, step, entries - step)
        index = moved.get(other, other)
        moved[other] = moved.pop(step, step)
        if index not in withdrawn:
            found.append(index)
        step += 1
    return found


def seats(tiers: list[dict[str, Any]], counts: list[int]) -> Iterator[tuple[int, int]]:
    """Yield tier and amount of one place after the other."""
    for number, (tier, count) in enumerate(zip(tiers, counts, strict=True), 1):
        for _ in range(count):
            yield number, tier["amount_minor"]


def moved_up(told: dict[str, Any], winners: int, moves: Any) -> Iterator[tuple[int, int, int]]:
    """Yield turn, tier and amount of those who moved up, in order of rank."""
    require(isinstance(moves, list), "moves")
    tiers = told["tiers"]
    held = [tier["winners"] for tier in tiers]
    for turn, vacant in enumerate(moves, 1):
        require(isinstance(vacant, list) and len(vacant) == len(tiers), "a move")
        require(
            all(type(n) is int and 0 <= n <= most for n, most in zip(vacant, held, strict=True)),
            "more places are vacant than were held",
        )
        require(0 < sum(vacant) <= winners, "an empty move")
        held = vacant
        for tier, amount in seats(tiers, vacant):
            yield turn, tier, amount


# --- the bundle -----------------------------------------------------------------------------------


def read(path: Path) -> bytes:
    """Return a file that is read whole."""
    require(path.stat().st_size <= FILE_MAX, f"{path.name} is too large")
    return path.read_bytes()


def leaves_in(file: BinaryIO) -> Iterator[bytes]:
    """Yield the entries of a list."""
    while chunk := file.read(CHUNK):
        require(len(chunk) % LEAF == 0, "list.bin ends within an entry")
        for at in range(0, len(chunk), LEAF):
            yield chunk[at : at + LEAF]


def check_list(folder: Path, told: dict[str, Any]) -> set[int]:
    """Check the frozen list against the announcement; return which entries were withdrawn."""
    with (folder / "list.bin").open("rb") as file:
        size, root = tree_root(leaves_in(file))
    require(size == told["entries"], "list.bin has another number of entries than announced")
    require(root.hex() == told["root"], "list.bin is not the list that was announced")
    data = read(folder / "withdrawn.bin")
    require(sha256(data).hex() == told["withdrawn_sha256"], "other entries were withdrawn")
    require(len(data) == 8 * told["withdrawn"], "another number of entries was withdrawn")
    found = [int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 8)]
    require(found == sorted(set(found)), "withdrawn.bin is not in order")
    require(not found or found[-1] < size, "withdrawn.bin names an entry that is not there")
    return set(found)


def check_seed(announcement: bytes, told: dict[str, Any], shown: Any) -> bytes:
    """Check seed and beacon's value; return the key of the picks."""
    disclosure = fields(shown, DISCLOSURE, "disclosure")
    seed, randomness = bytes.fromhex(disclosure["seed"]), bytes.fromhex(disclosure["randomness"])
    require(sha256(seed).hex() == told["seed_commitment"], "not the seed that was committed to")
    signature = bytes.fromhex(disclosure["signature"])
    require(sha256(signature) == randomness, "the randomness is not that of the signature")
    key = sha256(b"tidebook public draw 1\0" + sha256(announcement) + seed + randomness)
    require(key.hex() == disclosure["key"], "the key does not follow from seed and beacon")
    return key


def rows(folder: Path, told: dict[str, Any], ranks: list[int], moves: Any) -> Iterator[str]:
    """Yield the lines of results.csv as they must be."""
    yield "rank,index,entry,turn,tier,amount_minor\n"
    wanted = sum(tier["winners"] for tier in told["tiers"])
    winners = min(wanted, len(ranks))
    places = [(0, *seat) for seat in seats(told["tiers"], [t["winners"] for t in told["tiers"]])]
    places = places[:winners] + list(moved_up(told, winners, moves))
    require(len(places) <= len(ranks), "more moved up than there are runners-up")
    with (folder / "list.bin").open("rb") as file:
        for rank, index in enumerate(ranks):
            file.seek(index * LEAF)
            place = ",".join(map(str, places[rank])) if rank < len(places) else ",,"
            yield f"{rank},{index},{file.read(LEAF).hex()},{place}\n"


def check_bundle(folder: Path, announced: str | None = None) -> dict[str, Any]:
    """Check a bundle; return what was found. Raises `Refused` at the first thing that is wrong."""
    manifest = fields(
        parsed(read(folder / "draw.json")),
        {"announcement": dict, "disclosure": dict, "moves": list, "results": dict},
        "draw.json",
    )
    announcement = canonical(manifest["announcement"])
    told = announcement_of(manifest["announcement"])
    digest = sha256(announcement).hex()
    require(announced in (None, digest), "this is not what was announced")
    withdrawn = check_list(folder, told["list"])
    key = check_seed(announcement, told, manifest["disclosure"])
    wanted = sum(tier["winners"] for tier in told["tiers"])
    ranks = drawn(key, told["list"]["entries"], withdrawn, wanted + told["runners_up"])
    winners = min(wanted, len(ranks))
    _, root = tree_root(
        rank.to_bytes(4, "big") + index.to_bytes(8, "big") for rank, index in enumerate(ranks)
    )
    table = "".join(rows(folder, told, ranks, manifest["moves"])).encode()
    require(read(folder / "results.csv") == table, "results.csv is not what was drawn")
    expected = {
        "winners": winners,
        "runners_up": len(ranks) - winners,
        "root": root.hex(),
        "sha256": sha256(table).hex(),
    }
    require(fields(manifest["results"], RESULTS, "results") == expected, "other results")
    known = {"draw.json", "list.bin", "withdrawn.bin", "results.csv", "verify_draw.py"}
    others = {path.name for path in folder.iterdir()} - known
    require(not others, "files that are no part of a bundle")
    return {
        "campaign": told["campaign"],
        "announcement": digest,
        "entries": told["list"]["entries"],
        "withdrawn": len(withdrawn),
        **expected,
    }


def what_became_of(folder: Path, leaf: str) -> str:
    """Say what became of one entry, in a bundle that was checked."""
    for line in (folder / "results.csv").read_text().splitlines()[1:]:
        rank, _, entry, turn, tier, _ = line.split(",")
        if entry == leaf:
            when = "was drawn" if turn == "0" else f"moved up in turn {turn}"
            return f"{when}, rank {rank}, tier {tier}" if tier else f"runner-up, rank {rank}"
    with (folder / "list.bin").open("rb") as file:
        for index, found in enumerate(leaves_in(file)):
            if found.hex() == leaf:
                return f"in the list, number {index}; not drawn"
    return "not in the list"


def check_proof(data: bytes) -> dict[str, Any]:
    """Check that an entry is in the list of a root. Raises `Refused`."""
    told = fields(parsed(data), PROOF, "proof")
    require(told["format"] == FORMAT, "another format")
    require(bool(re.fullmatch(r"[0-9a-f]{40}", told["leaf"])), "leaf")
    require(all(isinstance(x, str) and HASH.fullmatch(x) for x in told["path"]), "path")
    path = [bytes.fromhex(sibling) for sibling in told["path"]]
    root = root_from_path(told["index"], told["size"], bytes.fromhex(told["leaf"]), path)
    require(root.hex() == told["root"], "the path does not lead to the root")
    return {name: told[name] for name in ("leaf", "index", "size", "root")}


def main(arguments: list[str] | None = None) -> int:
    """Check what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description="Check a public draw of Tidebook again.")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--announced", metavar="SHA256")
    parser.add_argument("--entry", metavar="LEAF")
    parser.add_argument("--proof", metavar="FILE", type=Path)
    options = parser.parse_args(arguments)
    if (options.folder is None) == (options.proof is None):
        parser.error("name the folder of a bundle, or --proof FILE")
    try:
        if options.proof is not None:
            found = check_proof(read(options.proof))
        else:
            found = check_bundle(options.folder, options.announced)
            if options.entry is not None:
                found[options.entry] = what_became_of(options.folder, options.entry)
    except Refused as refused:
        say(f"REFUSED: {refused}")
        return 1
    except (ValueError, OSError, RecursionError, MemoryError) as error:
        say(f"REFUSED: {type(error).__name__}: {error}")
        return 1
    for name, value in found.items():
        say(f"{name:14} {value}")
    say("OK")
    return 0


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
