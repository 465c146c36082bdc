"""Pairs that share a band to pairs that are alike, checked against sets of 5-grams in Python."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine import schema
from engine.errors import ConfigError, StoreError
from engine.stage import Unit
from pipelines.dedupe import Config, candidates, sketches, verify
from tests.offline import OfflineCommit, OfflineWork, collect
from tests.pipelines import sketched
from tests.pipelines.dedupe_chain import signed

WORDS = 124  # a page, 120 5-grams
Pairs = list[tuple[int, int]]


def doc(generation: int, ordinal: int, place: int) -> int:
    return generation << 48 | ordinal << 24 | (sketched.SPACING * place + 2)


def family(number: int, size: int, rng: random.Random) -> list[str]:
    """Texts of one family: the end of each differs, so that every similarity from 1 to .5 occurs."""
    base = [f"f{number}w{word}" for word in range(WORDS)]
    texts = []
    for member in range(size):
        same = WORDS - rng.choice((0, 3, 6, 8, 10, 12, 14, 16, 18, 24, 36))
        texts.append(" ".join(base[:same] + [f"f{number}m{member}w{word}" for word in range(WORDS - same)]))
    return texts


class Pages:
    """Texts by doc number over units of generations, and what is true of them."""

    def __init__(self, generations: int = 2, families: int = 40, size: int = 4, num_slots: int = 126) -> None:
        rng = random.Random(7)
        self.num_slots = num_slots
        # the members of a family are spread over units and generations
        self.units: list[list[list[str]]] = [[[], [], []] for _ in range(generations)]
        self.texts: dict[int, str] = {}
        self.pairs: Pairs = []
        for number in range(families):
            members = []
            for text in family(number, size, rng):
                generation, ordinal = rng.randrange(generations), rng.randrange(3)
                unit = self.units[generation][ordinal]
                members.append(doc(generation + 1, ordinal, len(unit)))
                self.texts[members[-1]] = text
                unit.append(text)
            self.pairs += itertools.combinations(sorted(members), 2)
        everyone = sorted(self.texts)
        self.pairs += [(a, b) for a, b in zip(everyone, everyone[7:], strict=False) if (a, b) not in set(self.pairs)]
        self.pairs = [(a, b) for a, b in self.pairs if b >> 48 == generations]

    def true(self, a: int, b: int) -> float:
        """Similarity by sets of 5-grams."""
        grams = []
        for text in (self.texts[a], self.texts[b]):
            words = text.split()
            grams.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
        return len(grams[0] & grams[1]) / len(grams[0] | grams[1])

    def estimated(self, a: int, b: int) -> float:
        """Similarity by slots."""
        slots = sketched.tables([self.texts[a], self.texts[b]], self.num_slots)["slots"]["slots"].to_pylist()
        equal = sum(x == y for x, y in zip(*slots, strict=True)) - (schema.SLOTS - self.num_slots)
        return max(0.0, (equal / self.num_slots - 1 / 256) / (255 / 256))

    def expected(self, config: Config) -> dict[tuple[int, int], tuple[float, bool]]:
        """(similarity, counted) of each link."""
        found = {}
        for pair in self.pairs:
            similarity = self.estimated(*pair)
            near = abs(similarity - config.threshold) < config.margin
            if near:
                similarity = self.true(*pair)
            if similarity >= config.threshold:
                found[pair] = (np.float32(similarity).item(), near)
        return found


PAGES = Pages()


def links(edges: pa.Table) -> dict[tuple[int, int], tuple[float, bool]]:
    assert (
        edges.select(("a", "b")).to_pylist()
        == edges.select(("a", "b")).sort_by([("a", "ascending"), ("b", "ascending")]).to_pylist()
    )
    columns = [edges[name].to_pylist() for name in schema.EDGES.names]
    found = {(a, b): (similarity, counted) for a, b, similarity, counted in zip(*columns, strict=True)}
    assert len(found) == edges.num_rows, "each pair once"
    return found


def same(found: dict[Any, tuple[float, bool]], expected: dict[Any, tuple[float, bool]]) -> bool:
    return found.keys() == expected.keys() and all(
        found[pair][1] == counted and abs(found[pair][0] - similarity) < 1e-6
        for pair, (similarity, counted) in expected.items()
    )


def offline(
    pages: Pages, found: list[Pairs], config: Config, folder: Path
) -> tuple[dict[tuple[int, int], tuple[float, bool]], OfflineWork]:
    """The links of pairs of so many partitions, without a store."""
    number = len(pages.units)
    frozen: dict[tuple[str, int], list[Any]] = {
        ("sign", n): [signed(sketched.tables(texts, pages.num_slots), f"u{i}") for i, texts in enumerate(units)]
        for n, units in enumerate(pages.units, 1)
    }
    frozen["sign", 0] = frozen["sign", number]
    frozen["group", 0] = [OfflineCommit({"pairs": sketched.pairs(some)}) for some in found]
    unit = Unit(id="g-000000", inputs=("0", "3"), generation=number)
    work = OfflineWork(unit, folder, frozen=frozen, generation=SimpleNamespace(number=number))
    return links(collect(verify.process, config, work, verify.OUTPUTS)["edges"]), work


def test_a_unit_is_a_block_of_signed_units() -> None:
    commits: Any = lambda name: [None] * 300  # noqa: E731
    assert verify.parts(Config(), commits) == [("0", "256"), ("256", "44")]


def test_links_are_the_alike_pairs_of_a_real_store(memory: str, tmp_path: Path) -> None:
    config = Config()
    store = sketched.Store(memory, str(tmp_path), config)
    for units in PAGES.units:
        store.publish(units)
    pairs = sorted(PAGES.pairs, key=lambda pair: (pair[1], pair[0]))
    elsewhere = [(5, doc(2, 256, 0))]  # of another block
    edges, counts = store.edges([pairs[::2], pairs[1::2] + pairs[::3], [], elsewhere])
    expected = PAGES.expected(config)
    assert same(links(edges), expected)
    assert {a >> 48 for a, _ in expected} == {1, 2}
    numbers = {name: counts[f"pairs:{name}"] for name in ("alike_estimated", "alike_counted")}
    apart = {name: counts[f"pairs:{name}"] for name in ("apart_estimated", "apart_counted")}
    assert min(*numbers.values(), *apart.values()) > 5, "every way to decide occurs"
    assert sum(numbers.values()) == len(expected) and sum(apart.values()) == len(pairs) - len(expected)
    assert sum(counts.values()) == len(pairs)
    # an estimate that is believed is wrong by no more than what it can be
    wrong = [pair for pair in expected if PAGES.true(*pair) < config.threshold]
    assert all(PAGES.true(*pair) > config.threshold - 0.1 for pair in wrong) and len(wrong) < 0.05 * len(expected)


def test_neither_portions_nor_order_nor_repetition_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config()
    expected, _ = offline(PAGES, [PAGES.pairs], config, tmp_path)
    assert same(expected, PAGES.expected(config))
    rng = random.Random(1)
    places = (
        (candidates, "CHUNK", (1, 7, 50)),
        (candidates, "HELD", (3, 40, 1000)),
        (verify, "SHINGLE_BYTES", (1, 2000, 9000)),
        (sketches, "ROWS_AT_ONCE", (1, 30, 90)),
        (sketches, "NEAR_ROWS", (0, 1, 4)),
        (sketches, "NEAR_BYTES", (0, 500, 1 << 20)),
        (sketches, "READ_BYTES", (1, 1000, 5000)),
    )
    for turn in range(3):
        for module, name, values in places:
            monkeypatch.setattr(module, name, values[turn])
        shuffled = rng.sample(PAGES.pairs, len(PAGES.pairs)) + rng.sample(PAGES.pairs, 50)
        folder = tmp_path / str(turn)
        folder.mkdir()
        found, work = offline(PAGES, [shuffled[::2], shuffled[1::2]], config, folder)
        assert found == expected
        assert sum(work.counts.values()) == len(PAGES.pairs)


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_margin_says_what_is_counted(margin: float, tmp_path: Path) -> None:
    config = Config(margin=margin)
    found, work = offline(PAGES, [PAGES.pairs], config, tmp_path)
    assert {counted for _, counted in found.values()} == {margin == 1}
    if margin:
        assert found.keys() == {pair for pair in PAGES.pairs if PAGES.true(*pair) >= config.threshold}
        assert work.counts["pairs:alike_counted"] + work.counts["pairs:apart_counted"] == len(PAGES.pairs)
    else:
        assert work.counts["pairs:alike_counted"] == work.counts["pairs:apart_counted"] == 0


def test_a_pair_at_the_threshold_is_a_link(tmp_path: Path) -> None:
    pages = Pages(generations=1, families=0)
    base = [f"w{word}" for word in range(94)]  # 90 5-grams: 80 of 100 are common, 79 of 101, 0.8 and less
    pages.units = [[[" ".join(base), " ".join(base[:84] + ["x"] * 10), " ".join(base[:83] + ["y"] * 11)], [], []]]
    docs = [doc(1, 0, place) for place in range(3)]
    pages.texts = dict(zip(docs, pages.units[0][0], strict=True))
    grams = [len(set(zip(*(text.split()[i:] for i in range(5)), strict=False))) for text in pages.texts.values()]
    threshold = pages.true(docs[0], docs[1])
    assert grams[0] == 90 and pages.true(docs[0], docs[2]) < threshold
    config = Config(threshold=threshold, margin=1)
    found, _ = offline(pages, [[(docs[0], docs[1]), (docs[0], docs[2])]], config, tmp_path)
    assert found == {(docs[0], docs[1]): (np.float32(threshold).item(), True)}


def test_without_verification_every_pair_is_a_link(tmp_path: Path) -> None:
    pairs = [*PAGES.pairs, PAGES.pairs[0], (4, doc(2, 1, 900))]  # a page that is not there is not asked for
    found, work = offline(PAGES, [pairs], Config(verify=False), tmp_path)
    assert found == dict.fromkeys(pairs, (-1.0, False))
    assert work.counts == {"pairs:believed": len(set(pairs))}


def test_nothing_to_look_at_is_no_edge(tmp_path: Path) -> None:
    for config in (Config(), Config(verify=False)):
        assert offline(PAGES, [[], []], config, tmp_path)[0] == {}
        assert offline(PAGES, [], config, tmp_path)[0] == {}


def test_fewer_slots_are_compared_among_themselves(tmp_path: Path) -> None:
    pages = Pages(num_slots=112)
    config = Config(num_slots=112)
    found, _ = offline(pages, [pages.pairs], config, tmp_path)
    assert same(found, pages.expected(config)) and len(found) > 20
    for wrong, right in ((126, 112), (112, 126)):
        signed_with = Pages(num_slots=right)
        with pytest.raises(ConfigError, match=rf"num_slots is {wrong}.*have {right}; set it to sign\.bands"):
            offline(signed_with, [signed_with.pairs], Config(num_slots=wrong), tmp_path)


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (doc(2, 1, 0) - 1, "not signed"),  # a row that judge removed
        (doc(2, 1, 5000), "not signed"),
        (doc(2, 9, 0), "has 3 signed units, not unit 9"),
    ],
)
def test_a_page_that_is_not_signed_is_a_fault_of_the_store(missing: int, told: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{told}.*kosmos verify"):
        offline(PAGES, [[(doc(1, 0, 0), missing)]], Config(), tmp_path)


def test_the_pages_of_a_family_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Pages(generations=1, families=6, size=12)
    asked: list[int] = []
    pieces = OfflineWork.pieces
    monkeypatch.setattr(
        OfflineWork,
        "pieces",
        lambda work, places: asked.append(len(places)) or pieces(work, places),  # type: ignore[func-returns-value]
    )
    # room for one family, of six that are spread over all units: in order of docs nearly every pair would be read anew
    monkeypatch.setattr(verify, "SHINGLE_BYTES", 12 * 4 * (WORDS - 4))
    pairs = [pair for pair in pages.pairs if pages.true(*pair) > 0.3]
    offline(pages, [pairs], Config(margin=1), tmp_path)
    assert len(pairs) == 6 * 66 and sum(asked) <= 2 * 72
