"""Texts as `sign` publishes them and pairs as `group` does, in a real store: importable by what runs a stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from engine import schema
from engine.attempt import attempt
from engine.ledger import Generation, Ledger
from engine.stage import Stage, Unit, Work
from engine.work import LedgerWork
from pipelines import sign, sketch
from pipelines.dedupe import Config, blocks, group, verify
from pipelines.normalise import normalise

SPACING = 3  # pages that judge removed lie between: a page's row is not its place


def publish(unit: Unit, num_slots: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Sketches and shingles of the texts that are the unit's inputs, in rows 2, 5, 8..."""
    yield from tables(unit.inputs, num_slots).items()


def tables(texts: Sequence[str], num_slots: int = schema.SLOTS) -> dict[str, pa.Table]:
    """`slots` and `shingles` of texts."""
    text = normalise(pa.array(texts, pa.large_string()))
    slots = np.zeros((len(texts), schema.SLOTS), np.uint8)
    slots[:, :num_slots] = sketch.low_bytes(sketch.sketch(text.data, text.offsets, num_slots))
    hashes, ends = sketch.shingles(text.data, text.offsets)
    rows = pa.array(SPACING * np.arange(len(texts)) + 2, pa.uint32())
    sketched = pa.array([slot.tobytes() for slot in slots], schema.SLOTS_8.field("slots").type)
    shingles = pa.array([hashes[start:stop].tobytes() for start, stop in pairwise(ends.tolist())], pa.large_binary())
    return {
        "slots": pa.table([rows, sketched], schema=schema.SLOTS_8),
        "shingles": pa.table([rows, shingles], schema=schema.SHINGLES),
    }


def pair(unit: Unit, config: None, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """The pairs "a b" that are the unit's inputs."""
    yield "pairs", pairs([tuple(int(doc) for doc in text.split()) for text in unit.inputs])


def pairs(found: Sequence[tuple[int, ...]]) -> pa.Table:
    """PAIRS of (a, b)."""
    docs = np.array(found, np.uint64).reshape(-1, 2)
    return pa.table([blocks(docs[:, 1]), docs[:, 0], docs[:, 1]], schema=schema.PAIRS)


class Store:
    """A store with generations of texts; `edges` verifies pairs of the last."""

    def __init__(self, url: str, scratch: str, config: Config) -> None:
        self.url, self.scratch = url, scratch
        here = "tests.pipelines.sketched"
        self.sign = Stage(name="sign", process=f"{here}:publish", config=config.num_slots, outputs=sign.OUTPUTS)
        self.group = Stage(
            name="group", process=f"{here}:pair", config=None, outputs=group.OUTPUTS, reads=(self.sign,), barrier=True
        )
        self.verify = Stage(
            name="verify",
            process="pipelines.dedupe.verify:process",
            config=config,
            outputs=verify.OUTPUTS,
            reads=(self.sign, self.group),
            carries=verify.CARRIES,
            barrier=True,
        )
        self.manifests: dict[int, tuple[str, str]] = {}
        self.ledger = Ledger(url)

    def publish(self, units: Sequence[Sequence[str]]) -> int:
        """One more generation of units of texts; its number."""
        number = len(self.manifests) + 1
        ids = [f"g{number}u{ordinal:03}" for ordinal in range(len(units))]
        for unit, texts in zip(ids, units, strict=True):
            done = attempt(self.url, self.sign, Unit(id=unit, inputs=tuple(texts)), self.scratch)
            assert done.state == "committed", done
        self.manifests[number] = (self.sign.key, self.ledger.freeze(self.sign.key, ids))
        return number

    def claim(self, found: Sequence[Sequence[tuple[int, int]]]) -> Generation:
        """The generation of verify that reads the pairs of so many group units."""
        ids = [f"pairs-{part:06d}" for part in range(len(found))]
        number = max(self.manifests)
        for unit, some in zip(ids, found, strict=True):
            inputs = tuple(f"{a} {b}" for a, b in some)
            done = attempt(self.url, self.group, Unit(id=unit, inputs=inputs, generation=number), self.scratch)
            assert done.state == "committed", done
        return self.ledger.claim(
            Generation(
                stage=self.verify.key,
                number=number,
                parent="",
                manifests={
                    "sign": self.manifests[number],
                    "group": (self.group.key, self.ledger.freeze(self.group.key, ids)),
                },
                carried={"sign": {n: mark for n, mark in self.manifests.items() if n < number}},
            )
        )

    def edges(self, found: Sequence[Sequence[tuple[int, int]]]) -> tuple[pa.Table, dict[str, int]]:
        """The edges of block 0 and what was counted; StoreError or whatever failed as an AssertionError."""
        generation = self.claim(found)
        unit = Unit(id=generation.unit_id(0), inputs=("0", "1"), generation=generation.number)
        done = attempt(self.url, self.verify, unit, self.scratch)
        assert done.state == "committed", done.error
        commit = self.ledger.commit(self.verify.key, unit.id)
        lent: Any = LedgerWork(self.ledger, self.verify, unit, None)  # type: ignore[arg-type]
        return lent.table(commit, "edges"), commit.counts
