"""The five stages of select without a store, and the same rules said as plainly as can be, to hold them against."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from hypothesis import strategies as st

from engine import schema
from engine.stage import Unit
from pipelines import select
from pipelines.coin import stays
from pipelines.reasons import PASSING, Reason
from pipelines.select import Choice, Cut, Rules, choose, frequency, recall, refer, schedule
from tests.offline import OfflineWork, collect

Answers = Callable[[str, int], Reason]  # (address, requests before) -> outcome


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image reference."""

    url: str
    width: int = 0
    height: int = 0


@dataclass(frozen=True, kw_only=True)
class Page:
    """fate: kept (no key shared), best (kept, shares a key), removed by dedupe, or unsigned: judge refused it. prose:
    whether text stands beside an image. quality, words: what makes one page better than another."""

    id: int
    images: tuple[Shown, ...] = ()
    fate: str = "kept"
    prose: bool = True
    quality: int = 0
    words: int = 0

    @property
    def doc_id(self) -> bytes:
        return self.id.to_bytes(16, "big")


def sha(url: str) -> bytes:
    return hashlib.sha256(url.encode()).digest()


def first_bits(digest: bytes, num: int) -> int:
    """Which of `num` (a power of two) equal parts of the space the first 8 bytes lie in."""
    return int.from_bytes(digest[:8], "big") * num >> 64


def references(pages: Sequence[Page], shuffle: random.Random) -> pa.Table:
    rows = [
        {"row": row, "image": i, "url_id": sha(s.url), "url": s.url, "width": s.width, "height": s.height}
        for row, page in enumerate(pages)
        for i, s in enumerate(page.images)
    ]
    shuffle.shuffle(rows)
    return pa.Table.from_pylist(rows, schema.REFERENCES)


def scores(pages: Sequence[Page]) -> pa.Table:
    rows = [{"row": row, "interspersed": page.prose} for row, page in enumerate(pages)]
    return pa.Table.from_pylist(rows, pa.schema([schema.SCORES.field(name) for name in ("row", "interspersed")]))


def signatures(pages: Sequence[Page]) -> pa.Table:
    rows = [
        {"row": row, "doc_id": page.doc_id, "quality": page.quality, "words": page.words}
        for row, page in enumerate(pages)
        if page.fate != "unsigned"
    ]
    columns = ("row", "doc_id", "words", "quality")
    return pa.Table.from_pylist(rows, pa.schema([schema.SIGNATURES.field(name) for name in columns]))


@dataclass
class Chain:
    """The five stages and a fetch by script over generations, without a store: `publish` takes the units of one."""

    config: select.Config = field(default_factory=lambda: select.Config(cut=Cut(partitions=4, domains=2)))
    shuffle: random.Random = field(default_factory=lambda: random.Random(0))
    number: int = 0
    asked: int = 0  # generations of fetch
    frozen: dict[tuple[str, int], list[Any]] = field(default_factory=dict)
    parts: dict[tuple[str, str, int], list[pa.Table]] = field(default_factory=dict)
    outputs: dict[str, dict[str, pa.Table]] = field(default_factory=dict)  # of the generation, over all units
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def publish(self, units: Sequence[Sequence[Page]], answers: Answers | None = None) -> None:
        self.number += 1
        cut = self.config.cut
        self.frozen["extract", 0] = [
            {"references": references(pages, self.shuffle), "scores": scores(pages)} for pages in units
        ]
        self.frozen["sign", 0] = [{"signatures": signatures(pages)} for pages in units]
        self.parts["decide", "verdicts", 0] = [self._verdicts(units, start) for start in range(0, len(units), 256)]
        done = self._stage("refer", refer, refer.Config(cut=cut, rules=self.config.rules))
        self.parts["refer", "pages", 0] = [one["pages"] for one in done]
        for output in ("references", "sets"):
            self.parts["refer", output, 0] = self._split("refer", output, "part", cut.partitions)
        done = self._stage("frequency", frequency, frequency.Config(cut=cut))
        for output in ("counts", "sets"):
            self.parts["frequency", output, self.number] = [one[output] for one in done]
        blocks = -(-len(units) // 256)
        for output in ("images", "twins"):
            self.parts["frequency", output, 0] = self._split("frequency", output, "block", blocks)
        self._stage("select", choose, choose.Config(cut=cut, choice=self.config.choice))
        self.parts["select", "urls", 0] = self._split("select", "urls", "part", cut.partitions)
        self._stage("recall", recall, recall.Config(cut=cut, max_tries=self.config.choice.max_tries))
        self.parts["recall", "urls", 0] = self._split("recall", "urls", "part", cut.domains)
        done = self._stage("schedule", schedule, schedule.Config(cut=cut, schedule=self.config.schedule))
        self.units = [(row, batch(one["urls"], row["batch"])) for one in done for row in one["units"].to_pylist()]
        if answers is not None:
            self.answer({row["url"]: answers(row["url"], row["tries"]) for _, rows in self.units for row in rows})

    def answer(self, outcomes: dict[str, Reason], tries: dict[str, int] | None = None) -> None:
        """Publish a generation of fetch with these outcomes."""
        self.asked += 1
        before = {row["url"]: row["tries"] for _, rows in self.units for row in rows} if tries is None else tries
        rows = [
            {"url_id": sha(url), "reason": int(reason), "tries": before[url] + 1} for url, reason in outcomes.items()
        ]
        self.shuffle.shuffle(rows)
        columns = pa.schema([schema.OUTCOMES.field(name) for name in ("url_id", "reason", "tries")])
        partitions = self.config.cut.partitions
        self.parts["fetch", "outcomes", self.asked] = [
            pa.Table.from_pylist([row for row in rows if first_bits(row["url_id"], partitions) == part], columns)
            for part in range(partitions)
        ]

    def _verdicts(self, units: Sequence[Sequence[Page]], start: int) -> pa.Table:
        rows = [
            (self.doc(ordinal, row), Reason.NEAR_DUPLICATE if page.fate == "removed" else Reason.KEPT)
            for ordinal, pages in enumerate(units[start : start + 256], start)
            for row, page in enumerate(pages)
            if page.fate in ("removed", "best")
        ]
        return pa.table(
            {
                "doc": pa.array([doc for doc, _ in rows], pa.uint64()),
                "reason": pa.array([r for _, r in rows], pa.uint16()),
            }
        )

    def doc(self, ordinal: int, row: int) -> int:
        return self.number << 48 | ordinal << 24 | row

    def _stage(self, name: str, stage: Any, config: Any) -> list[dict[str, pa.Table]]:
        earlier = {"frequency": tuple(range(1, self.number)), "fetch": tuple(range(1, self.asked + 1))}
        self.counts[name] = Counter()
        done = []
        for part, inputs in enumerate(stage.parts(config, lambda upstream: self.frozen[upstream, 0])):
            work = OfflineWork(
                unit=Unit(id=f"{'0' * 12}-{part:06d}", inputs=inputs),
                scratch=Path(),
                frozen=self.frozen,
                parts=self.parts,
                generation=SimpleNamespace(number=self.number, earlier=earlier.__getitem__),
            )
            done.append(collect(stage.process, config, work, stage.OUTPUTS))
            self.counts[name].update(work.counts)
        self.outputs[name] = {o.name: pa.concat_tables([one[o.name] for one in done]) for o in stage.OUTPUTS}
        return done

    def _split(self, stage: str, output: str, column: str, num: int) -> list[pa.Table]:
        table = self.outputs[stage][output]
        parts = table[column].to_numpy()
        assert not len(parts) or parts.max() < num
        return [table.filter(pa.array(parts == part)).drop_columns(column) for part in range(num)]


def batch(urls: pa.Table, number: int) -> list[dict[str, Any]]:
    return [row for row in urls.to_pylist() if row["batch"] == number]


# Worlds to draw -----------------------------------------------------------------------------------------------------

POOL = [
    *(f"https://{host}/{name}.jpg" for host in ("a.example", "img.a.example", "b.example") for name in range(3)),
    "https://c.example/logo.png",
    "https://c.example/drawing.svg",
    "https://c.example/Essex.jpg",
    "https://c.example/sex.jpg",
]
shown = st.builds(
    Shown,
    url=st.sampled_from(POOL),
    width=st.sampled_from([0, 0, 0, 63, 64, 500]),
    height=st.sampled_from([0, 0, 0, 1, 300]),
)


@st.composite
def some_generations(draw: st.DrawFn) -> list[list[list[Page]]]:
    number = iter(range(1, 10_000))
    fate = st.sampled_from(["kept", "kept", "kept", "best", "removed", "unsigned"])
    # pages of the same images, in another order and beside what is refused
    albums = draw(st.lists(st.lists(shown, min_size=2, max_size=4), min_size=1, max_size=2))
    refused = Shown(url="https://c.example/logo.png")
    page = st.builds(
        lambda images, fate, prose, quality, words: Page(
            id=next(number), images=tuple(images), fate=fate, prose=prose, quality=quality, words=words
        ),
        st.one_of(
            st.lists(shown, max_size=6), st.sampled_from(albums).flatmap(lambda a: st.permutations([*a, refused]))
        ),
        fate,
        st.sampled_from([True, True, True, False]),
        st.integers(0, 1),
        st.integers(0, 2),
    )
    return draw(st.lists(st.lists(st.lists(page, max_size=6), min_size=1, max_size=3), min_size=1, max_size=4))


def photos(num: int, host: str = "a.example") -> tuple[Shown, ...]:
    return tuple(Shown(url=f"https://{host}/{i}.jpg") for i in range(num))


def selected(pages: Sequence[Page], choice: Choice) -> dict[int, tuple[int, float]]:
    config = select.Config(cut=Cut(partitions=4, domains=2), choice=choice)
    chain = Chain(config)
    chain.publish([pages])
    return {
        row["doc"] & 0xFFFFFF: (row["reason"], row["value"]) for row in chain.outputs["select"]["verdicts"].to_pylist()
    }


# The same rules, said as plainly as can be ----------------------------------------------------------------------------


def address_verdict(shown: Shown, rules: Rules) -> tuple[Reason, int]:
    path = urlsplit(shown.url).path
    tokens = set(re.split(r"[^a-z0-9]+", unquote(path, "latin-1").lower()))
    if path.lower().endswith((".svg", ".svgz")):
        return Reason.IMAGE_DRAWING, 0
    if tokens & set(rules.adult):
        return Reason.IMAGE_ADULT, 0
    folders, _, file = path.lower().rpartition("/")
    name, _, kind = file.rpartition(".")
    labels = set((urlsplit(shown.url).hostname or "").split(".")[:-2])
    named = kind in ("gif", "png") and name in rules.symbols
    if (
        tokens & set(rules.blocked)
        or set(folders.split("/")) & set(rules.folders)
        or named
        or labels & set(rules.hosts)
    ):
        return Reason.IMAGE_BLOCKED, 0
    declared = [side for side in (shown.width, shown.height) if side > 0]
    if declared and min(declared) < rules.min_side:
        return Reason.IMAGE_DECLARED_SMALL, min(declared)
    return Reason.KEPT, 0


@dataclass
class World:
    """What the slow way remembers between generations."""

    config: select.Config
    docs: Counter[str] = field(default_factory=Counter)
    keepers: dict[frozenset[str], int] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    tries: Counter[str] = field(default_factory=Counter)

    def publish(self, units: Sequence[Sequence[Page]], answers: Answers) -> dict[str, Any]:
        rules, choice = self.config.rules, self.config.choice
        verdicts, choices, wanted = {}, {}, {}
        refused: dict[tuple[int, int], tuple[Reason, int]] = {}
        kept = [page for pages in units for page in pages if page.fate in ("kept", "best")]
        passing: dict[int, list[tuple[int, str]]] = {}
        for page in kept:
            mine: list[tuple[int, str]] = []
            for image, shown in enumerate(page.images):
                reason, value = address_verdict(shown, rules)
                if not reason and shown.url in [url for _, url in mine]:
                    reason = Reason.IMAGE_TWICE
                if reason:
                    refused[page.id, image] = (reason, value)
                else:
                    mine.append((image, shown.url))
            passing[page.id] = mine
            self.docs.update(url for _, url in mine)
        sets = {page.id: frozenset(url for _, url in passing[page.id]) for page in kept if page.prose}
        for page in sorted(kept, key=lambda page: (-page.quality, -page.words, page.id)):
            if page.prose and len(sets[page.id]) > 1:
                self.keepers.setdefault(sets[page.id], page.id)
        for page in kept:
            mine = passing[page.id]
            if not page.images:
                verdicts[page.id] = (Reason.NO_IMAGE, 0)
                continue
            if len(mine) > choice.max_references:
                verdict = Reason.TOO_MANY_REFERENCES if page.prose else Reason.NOT_INTERSPERSED
                verdicts[page.id] = (verdict, len(mine))
                continue
            candidates = []
            for image, url in mine:
                if self.docs[url] > choice.max_docs:
                    refused[page.id, image] = (Reason.IMAGE_FREQUENT, self.docs[url])
                elif len(candidates) == choice.max_candidates:
                    refused[page.id, image] = (Reason.IMAGE_SURPLUS, 0)
                else:
                    candidates.append((image, url))
            if not page.prose:
                verdicts[page.id] = (Reason.NOT_INTERSPERSED, len(candidates))
            elif not candidates:
                verdicts[page.id] = (Reason.NO_CANDIDATE, 0)
            elif len(candidates) == 1 and not stays([page.doc_id], choice.coin)[0]:
                verdicts[page.id] = (Reason.SINGLE_IMAGE, 1)
            elif choice.same_images and len(candidates) > 1 and self.keepers[sets[page.id]] != page.id:
                verdicts[page.id] = (Reason.SAME_IMAGES, len(mine))
            else:
                verdicts[page.id] = (Reason.KEPT, len(candidates))
                for image, url in candidates:
                    choices[page.id, image] = (url, self.docs[url])
                    if url not in self.held and self.tries[url] < choice.max_tries:
                        wanted[url] = self.tries[url]
        for url, before in wanted.items():
            reason = answers(url, before)
            self.tries[url] += 1
            if reason not in PASSING:
                self.held.add(url)
        return {"verdicts": verdicts, "choices": choices, "refused": refused, "wanted": wanted, "docs": dict(self.docs)}


def seen(chain: Chain, units: Sequence[Sequence[Page]]) -> dict[str, Any]:
    """What the stages say of this generation, in the words of `World.publish`."""
    url_of = {sha(shown.url): shown.url for pages in units for page in pages for shown in page.images}
    ids = {chain.doc(ordinal, row): page.id for ordinal, pages in enumerate(units) for row, page in enumerate(pages)}
    out = chain.outputs
    selections = out["select"]["verdicts"].to_pylist()
    assert [row["doc_id"] for row in selections] == [ids[row["doc"]].to_bytes(16, "big") for row in selections]
    refusals = out["refer"]["refused"].to_pylist() + out["select"]["refused"].to_pylist()
    refused = {(ids[row["doc"]], row["image"]): (row["reason"], row["value"]) for row in refusals}
    assert len(refused) == len(refusals)
    choices = {}
    for row in out["select"]["choices"].to_pylist():
        assert row["part"] == first_bits(row["url_id"], chain.config.cut.partitions)
        choices[ids[row["doc"]], row["image"]] = (url_of[row["url_id"]], row["url_docs"])
    assert len(choices) == out["select"]["choices"].num_rows
    wanted = {}
    for unit, rows in chain.units:
        assert unit["urls"] == len(rows) > 0
        for row in rows:
            assert row["url"] not in wanted
            assert sha(row["url"]) == row["url_id"]
            wanted[row["url"]] = row["tries"]
    return {
        "verdicts": {ids[row["doc"]]: (row["reason"], row["value"]) for row in selections},
        "choices": choices,
        "refused": refused,
        "wanted": wanted,
        "counts": {url_of[row["url_id"]]: row["docs"] for row in out["frequency"]["counts"].to_pylist()},
    }
