"""Images in too many documents: cumulative over generations, whatever the partitions and the order."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.errors import ConfigError
from engine.stage import Unit
from pipelines.assemble import match, repeats
from pipelines.select import Cut
from tests.offline import OfflineWork, collect
from tests.pipelines.test_match import UNIT, doc

Shown = tuple[int, int, int, int]  # document, image, bytes, looks


class Repeats:
    """The stage over generations; `publish` gives what is over the bound as {(doc, image): documents}."""

    def __init__(self, max_docs: int, partitions: int = 4) -> None:
        self.config = repeats.Config(cut=Cut(partitions=partitions), max_docs=max_docs)
        self.number = 0
        self.parts: dict[tuple[str, str, int], list[pa.Table]] = {}

    def publish(self, images: Sequence[Shown]) -> dict[tuple[int, int], int]:
        self.number += 1
        partitions = self.config.cut.partitions
        table = pa.Table.from_pylist(
            [
                {
                    **dict.fromkeys(schema.MATCHED.names, 0),
                    "url_id": bytes(32),
                    "followed": False,
                    "doc": doc(number, generation=self.number),
                    "image": image,
                    "sha256": hashlib.sha256(b"%d" % body).digest(),
                    "phash": looks,
                }
                for number, image, body, looks in images
            ],
            schema.MATCHED,
        )
        keyed = match.keyed(table)
        of = [key * partitions >> 64 for key in keyed["key"].to_pylist()]
        self.parts["match", "hashes", 0] = [
            keyed.filter(pa.array([part == wanted for part in of], pa.bool_())) for wanted in range(partitions)
        ]
        done = []
        for inputs in repeats.parts(self.config, lambda name: []):
            work = OfflineWork(
                unit=Unit(id=UNIT, inputs=inputs),
                scratch=Path(),
                parts=self.parts,
                generation=SimpleNamespace(number=self.number, earlier=lambda name: tuple(range(1, self.number))),
            )
            done.append(collect(repeats.process, self.config, work, repeats.OUTPUTS))
        self.parts["repeats", "counts", self.number] = [tables["counts"] for tables in done]
        found: dict[tuple[int, int], int] = {}
        for tables in done:
            places = tables["images"].select(["doc", "image"]).to_pylist()
            assert places == [dict(row) for row in sorted({tuple(row.items()) for row in places})], "once, in order"
            for row in tables["images"].to_pylist():
                assert row["block"] == (row["doc"] >> 24 & 0xFFFFFF) // 256
                place = row["doc"] & 0xFFFFFF, row["image"]
                found[place] = max(found.get(place, 0), row["docs"])
        return found


def test_a_document_counts_once_and_the_bound_itself_passes() -> None:
    shown = [(number, image, 7, 70) for number in range(3) for image in range(2)]
    assert Repeats(max_docs=3).publish(shown) == {}
    assert Repeats(max_docs=2).publish(shown) == {(number, image): 3 for number, image, *_ in shown}


def test_equal_looks_are_enough_and_the_larger_number_is_told() -> None:
    shown = [(number, 0, number % 2, 5) for number in range(5)]
    assert Repeats(max_docs=2).publish(shown) == {(number, 0): 5 for number in range(5)}
    # not decoded to anything that could be compared: only the bytes count
    shown = [(number, 0, number, 0) for number in range(5)]
    assert Repeats(max_docs=2).publish(shown) == {}


def test_documents_add_up_over_generations_and_only_new_images_are_judged() -> None:
    chain = Repeats(max_docs=4)
    assert chain.publish([(number, 0, 1, 1) for number in range(2)]) == {}
    assert chain.publish([(number, 0, 2, 2) for number in range(2)]) == {}
    assert chain.publish([(number, 0, 1, 1) for number in range(2)]) == {}
    assert chain.publish([(0, 0, 1, 1), (1, 0, 2, 2)]) == {(0, 0): 5}
    # counts of the second generation stand beside newer ones
    assert chain.publish([(0, 3, 2, 2), (1, 1, 2, 9)]) == {(0, 3): 5, (1, 1): 5}


some_shown = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(0, 5), st.integers(0, 3)),
    max_size=25,
    unique_by=lambda shown: shown[:2],
)


@given(st.lists(some_shown, min_size=1, max_size=3), st.integers(1, 5), st.sampled_from([1, 4, 16]), st.randoms())
@settings(max_examples=50, deadline=None)
def test_repeats_are_the_rule(
    generations: list[list[Shown]], max_docs: int, partitions: int, order: random.Random
) -> None:
    chain = Repeats(max_docs, partitions)
    docs: dict[tuple[str, int], set[tuple[int, int]]] = defaultdict(set)
    for generation, shown in enumerate(generations):
        for number, _, body, looks in shown:
            docs["body", body].add((generation, number))
            docs["looks", looks].add((generation, number))
        docs["looks", 0] = set()
        expected = {
            (number, image): most
            for number, image, body, looks in shown
            if (most := max(len(docs["body", body]), len(docs["looks", looks]))) > max_docs
        }
        assert chain.publish(order.sample(shown, len(shown))) == expected


def test_a_bound_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError):
        repeats.Config(max_docs=0)
