"""A draw's bundle: the files by which anybody draws again. docs/draw-bundle.md describes them.

Everything is written from the draw's events and its list; nothing in it was chosen afterwards.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib.resources import files
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final

from campaigns.draws.announcing import FORMAT, canonical_json
from campaigns.draws.holding import Outcome
from campaigns.draws.listing import LIST, WITHDRAWN, EntryList, ListFiles, numbers
from campaigns.draws.method import draw_key, ranked, result_leaves
from ledger.merkle import root_of

MANIFEST: Final = "draw.json"
RESULTS: Final = "results.csv"
VERIFIER: Final = "verify_draw.py"

Turns = Sequence[tuple[int, ...]]
"""Seats of each tier, for the draw itself and each moving up."""


def write_bundle(
    folder: Path,
    told: dict[str, Any],
    seed: bytes,
    signature: bytes,
    listed: EntryList,
    turns: Turns,
) -> Outcome:
    """Write a draw's bundle into a folder; return what was drawn.

    `told` is the announcement. `turns` may be short of what is still to come, but not empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed.flush()
    shutil.copyfile(listed.folder / LIST, folder / LIST)
    taken_back = listed.withdrawn()
    (folder / WITHDRAWN).write_bytes(numbers(taken_back))
    randomness = sha256(signature).digest()
    key = draw_key(canonical_json(told), seed, randomness)
    ranks = ranks_of(told, key, taken_back)
    table = "".join(_rows(told, listed.leaves_at(ranks), ranks, turns)).encode()
    (folder / RESULTS).write_bytes(table)
    winners = min(len(ranks), sum(tier["winners"] for tier in told["tiers"]))
    outcome = Outcome(winners, len(ranks) - winners, root_of(result_leaves(ranks)).hex())
    manifest = {
        "announcement": told,
        "disclosure": {
            "seed": seed.hex(),
            "signature": signature.hex(),
            "randomness": randomness.hex(),
            "key": key.hex(),
        },
        "moves": [list(seats) for seats in turns[1:]],
        "results": {**outcome._asdict(), "sha256": sha256(table).hexdigest()},
    }
    (folder / MANIFEST).write_bytes(canonical_json(manifest))
    verifier = files("campaigns.draws").joinpath(VERIFIER).read_bytes()
    (folder / VERIFIER).write_bytes(verifier)
    return outcome


def ranks_of(told: dict[str, Any], key: bytes, taken_back: Sequence[int]) -> list[int]:
    """Return the index of each rank of an announced draw."""
    wanted = sum(tier["winners"] for tier in told["tiers"]) + told["runners_up"]
    return ranked(key, told["list"]["entries"], frozenset(taken_back), wanted)


def proof_document(listed: ListFiles, index: int, size: int) -> bytes:
    """Return the proof that an entry was in the list of `size`, as the verifier reads it."""
    return canonical_json(
        {
            "format": FORMAT,
            "index": index,
            "leaf": listed.leaves_at([index])[0].hex(),
            "path": [sibling.hex() for sibling in listed.proof(index, size)],
            "root": listed.root(size).hex(),
            "size": size,
        }
    )


def _rows(
    told: dict[str, Any], leaves: Sequence[bytes], ranks: Sequence[int], turns: Turns
) -> Iterator[str]:
    yield "rank,index,entry,turn,tier,amount_minor\n"
    amounts = [tier["amount_minor"] for tier in told["tiers"]]
    seats = (
        f"{turn},{tier},{amounts[tier - 1]}"
        for turn, counts in enumerate(turns)
        for tier, count in enumerate(counts, 1)
        for _ in range(count)
    )
    for rank, (index, leaf, seat) in enumerate(
        zip(ranks, leaves, chain(seats, repeat(",,")), strict=False)
    ):
        yield f"{rank},{index},{leaf.hex()},{seat}\n"
