"""What deduplication gets right, on planted pairs and on real pages: python -m tests.benchmarks.dedupe_accuracy DATA

    python -m tests.benchmarks.dedupe_accuracy ../shared/data [--pairs 24000] [--only planted,margins,real,speed]

DATA holds text/gutenberg-books.jsonl.gz, text/near-duplicates and crawl. All through the stages themselves, without a
store; the truth by counting (near_duplicates, similar_pages).

planted  share of pairs that meet in a band, and that verification links, by exact similarity and kind of edit; of what
         is linked, the share that is alike; beside them bands of datasketch's MinHash, which nobody verifies
margins  the same for several dedupe.margin, with the share of pairs that are counted
real     pages removed that are like no kept page, and pages kept beside one that is like them: ours, and one page a
         component of band collisions (18 x 7, FineWeb's 14 x 8) and of verified links
speed    text to verdicts, MB a CPU second of one core
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasketch import MinHash
from xxhash import xxh32_intdigest

from engine import schema
from engine.stage import Output, Unit
from engine.writer import OutputWriter
from pipelines import dedupe, extract, judge, sign
from tests.benchmarks import near_duplicates, similar_pages
from tests.benchmarks.near_duplicates import Pair
from tests.offline import OfflineCommit, OfflineWork, collect
from tests.pipelines.dedupe_chain import Chain
from tests.pipelines.dedupe_chain import signed as committed

THRESHOLD = 0.8
BINS = (0.0, 0.6, 0.7, 0.75, 0.79, 0.8, 0.81, 0.85, 0.9, 1.01)
MARGINS = (0.03, 0.05, 0.08, 0.1)
UNIT_PAGES = 2000
DATASKETCH_EACH = 4  # one pair in so many is signed by datasketch

Signed = list[dict[str, pa.Table]]
Marks = npt.NDArray[np.bool_]
Shares = npt.NDArray[np.float64]


def batches(texts: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Pages as extract has them, one text item and an address of its own each, UNIT_PAGES a unit."""
    for first in range(0, len(texts), UNIT_PAGES):
        part = texts[first : first + UNIT_PAGES]
        fixed = {"kind": "text", "block": "p", "level": 0, "image": -1}
        columns = [
            pa.array(range(len(part)), pa.uint32()),
            pa.array([(first + place).to_bytes(16, "big") for place in range(len(part))], schema.ID16),
            pa.array([f"https://example.org/{first + place}" for place in range(len(part))], schema.TEXT),
            pa.array([[{**fixed, "text": text}] for text in part], schema.DOCUMENTS.field("items").type),
        ]
        yield pa.RecordBatch.from_arrays(columns, names=list(sign.COLUMNS))


def signed(pages: Iterator[pa.RecordBatch], config: sign.Config) -> Signed:
    """A signed unit a batch."""
    return [dict(sign.sign(batch, config)) for batch in pages]


def places(docs: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Which text a doc number of `signed(batches(texts))` stands for."""
    ordinals = (docs >> dedupe.ORDINAL_SHIFT) & np.uint64(dedupe.MAX_ORDINAL - 1)
    return (ordinals * np.uint64(UNIT_PAGES) + (docs & np.uint64(dedupe.MAX_ROW - 1))).astype(np.int64)


def numbers(num: int) -> npt.NDArray[np.uint64]:
    """The doc numbers of texts in order, in the first generation."""
    units = [np.arange(min(UNIT_PAGES, num - first), dtype=np.uint32) for first in range(0, num, UNIT_PAGES)]
    return np.concatenate([dedupe.pack(1, ordinal, rows) for ordinal, rows in enumerate(units)])


def band_keys(units: Signed) -> npt.NDArray[np.uint64]:
    """(num, BANDS) keys of all pages."""
    flat = np.concatenate([unit["signatures"]["bands"].combine_chunks().flatten().to_numpy() for unit in units])
    return flat.reshape(-1, schema.BANDS)


def text_keys(units: Signed) -> npt.NDArray[np.uint64]:
    """(num, 1) first halves of the text keys of all pages."""
    body = b"".join(key for unit in units for key in unit["signatures"]["text_key"].to_pylist())
    return np.frombuffer(body, np.uint64)[::2].reshape(-1, 1)


# planted pairs ----------------------------------------------------------------------------------------------------
def planted(data: Path, num: int) -> list[Pair]:
    """Pairs planted in the books."""
    with gzip.open(data / "text/gutenberg-books.jsonl.gz", "rt", encoding="utf-8") as lines:
        source = near_duplicates.prose([json.loads(line)["text"] for line in lines])
    return list(near_duplicates.plant(source, num))


def verified(units: Signed, met: Marks, config: dedupe.Config) -> tuple[Marks, dict[str, int]]:
    """(which pairs of pages 2i and 2i + 1 verify links, of those that met; what it counted)."""
    docs = numbers(2 * len(met))
    a, b = docs[::2][met], docs[1::2][met]
    chain = Chain(config)
    begin(chain, units)
    columns = [dedupe.blocks(b), a, b]
    chain.frozen["group", 0] = [OfflineCommit({"pairs": pa.table(columns, schema=schema.PAIRS)})]
    chain.run("verify")
    linked = np.zeros(len(met), np.bool_)
    linked[places(dedupe.column(chain.table("verify", "edges"), "a")) // 2] = True
    return linked, dict(chain.counts["verify"])


def meet(keys: npt.NDArray[np.uint64]) -> Marks:
    """Which pairs of rows 2i and 2i + 1 share a key."""
    met: Marks = ((keys[::2] == keys[1::2]) & (keys[::2] != 0)).any(axis=1)
    return met


def datasketch_meets(pairs: Sequence[Pair], shapes: Sequence[tuple[int, int]]) -> list[Marks]:
    """Which pairs datasketch's MinHash of the same 5-grams would put into one bucket, by (bands, rows)."""
    texts = [text for pair in pairs for text in (pair.left, pair.right)]
    words = [normalised.split() for normalised in similar_pages.normalised(texts)]
    shingles = [[" ".join(one[i : i + 5]).encode() for i in range(max(1, len(one) - 4))] for one in words]
    num = max(bands * rows for bands, rows in shapes)
    values = np.stack([one.hashvalues for one in MinHash.generator(shingles, num_perm=num, hashfunc=xxh32_intdigest)])
    equal = values[::2] == values[1::2]
    return [equal[:, : bands * rows].reshape(len(pairs), bands, rows).all(axis=2).any(axis=1) for bands, rows in shapes]


def rates(name: str, chosen: Marks, truth: Shares) -> str:
    """Shares chosen in each bin of similarity."""
    number = np.digitize(truth, BINS) - 1
    shares = [f"{chosen[number == place].mean():7.3f}" for place in range(len(BINS) - 1)]
    return f"{name:34}" + "".join(shares) + f"{chosen[truth >= THRESHOLD].mean():9.4f}"


def show_planted(pairs: list[Pair], units: Signed) -> None:
    """Recall by similarity and kind, and precision."""
    truth = np.array([pair.jaccard for pair in pairs])
    kinds = np.array([pair.kind for pair in pairs])
    met = meet(band_keys(units))
    linked, counted = verified(units, met, dedupe.Config())
    print(f"{len(pairs):,} planted pairs; share of pairs in a bin of exact similarity, and of all >= {THRESHOLD}")
    print(f"{'similarity from':34}" + "".join(f"{edge:7.2f}" for edge in BINS[:-1]) + f"{'>= .8':>9}")
    print(f"{'pairs':34}" + "".join(f"{num:7}" for num in np.histogram(truth, BINS)[0]))
    print(rates("ours: share a band", met, truth))
    print(rates("ours: linked", linked, truth))
    for kind in near_duplicates.KINDS:
        one = kinds == kind
        print(rates(f"ours: linked, {kind}", linked[one], truth[one]))
    few = slice(None, None, DATASKETCH_EACH)
    shapes = ((18, 7), (14, 8))
    for (bands, rows), chosen in zip(shapes, datasketch_meets(pairs[few], shapes), strict=True):
        print(rates(f"datasketch: share a band, {bands} x {rows}", chosen, truth[few]))
        right = (truth[few] >= THRESHOLD)[chosen].mean()
        print(f"  of its pairs {right:.4f} are alike")
    even = np.array([not pair.focused for pair in pairs])
    alike = truth >= THRESHOLD
    print(
        f"precision of ours: {alike[linked].mean():.4f}; of the evenly spread pairs {alike[linked & even].mean():.4f}"
    )
    print(counted)
    about = (truth >= 0.79) & (truth < 0.81)
    print(f"share a band at similarity .79-.81: {met[about].mean():.4f} of {about.sum():,}")


def show_margins(pairs: list[Pair], units: Signed) -> None:
    """Precision, recall and cost of several margins, on all pairs and on those that are evenly spread."""
    truth = np.array([pair.jaccard for pair in pairs])
    even = np.array([not pair.focused for pair in pairs])
    met, alike = meet(band_keys(units)), truth >= THRESHOLD
    print("          all pairs                                          evenly spread")
    print("margin" + "   counted  precision  recall of met  recall" * 2)
    for margin in MARGINS:
        shown = f"{margin:6}"
        for some in (np.ones(len(pairs), np.bool_), even):
            linked, counts = verified(units, met & some, dedupe.Config(margin=margin))
            found = (linked & alike).sum()
            shown += f"{counted_share(counts):10.3f}{found / linked.sum():11.4f}"
            shown += f"{found / (met & alike & some).sum():15.4f}{found / (alike & some).sum():8.4f}"
        print(shown)


def num_met(counts: Mapping[str, int]) -> int:
    """Pairs that verify looked at."""
    return sum(num for name, num in counts.items() if name.startswith("pairs:"))


def counted_share(counts: dict[str, int]) -> float:
    """The share of pairs whose 5-grams were counted."""
    counted = sum(num for name, num in counts.items() if name.endswith("_counted"))
    return counted / max(num_met(counts), 1)


# real pages -------------------------------------------------------------------------------------------------------
def real_sets(data: Path) -> Iterator[tuple[str, list[str]]]:
    """Named sets of pages."""
    folder = data / "text/near-duplicates"
    with gzip.open(folder / "debian-copyright-a-l.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield "licences", [json.loads(line)["text"] for line in lines]
    with gzip.open(folder / "gutenberg-editions.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield "editions", [piece for line in lines for piece in pieces(json.loads(line)["text"])]
    with open(folder / "chrisjmccormick-MinHash/articles_1000.train", encoding="utf-8") as lines:
        yield "articles", [line.split(" ", 1)[1] for line in lines]
    yield "crawl", crawl_texts(data / "crawl")
    with gzip.open(data / "text/gutenberg-books.jsonl.gz", "rt", encoding="utf-8") as lines:
        source = near_duplicates.prose([json.loads(line)["text"] for line in lines])
    yield "planted families", [text for one in near_duplicates.families(source, 400) for text in one]


def pieces(text: str, words: int = 300) -> Iterator[str]:
    """A book cut before paragraphs that their own words choose, so that editions are cut alike."""
    held: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        chosen = zlib.crc32(" ".join(re.findall(r"\w+", paragraph.lower())).encode()) % 8 == 0
        if chosen and sum(len(one.split()) for one in held) >= words:
            yield "\n\n".join(held)
            held = []
        held.append(paragraph)
    yield "\n\n".join(held)


def crawl_texts(folder: Path) -> list[str]:
    """The text of pages that extract and judge keep."""
    texts: list[str] = []
    for path in sorted(folder.glob("*.warc.gz")):
        unit = Unit(id="unit", inputs=(path.name, str(path), "crawl"))
        tables = collect(extract.process, extract.Config(), OfflineWork(unit, folder), extract.OUTPUTS)
        reasons, _ = judge.verdicts(tables["scores"], judge.Config())
        kept = tables["scores"]["row"].filter(pa.array(reasons == 0)).combine_chunks()
        for name in ("documents", "texts"):
            pages = tables[name].filter(pc.is_in(tables[name]["row"], kept))
            for batch in pages.select(["items"]).to_batches():
                texts += sign.page_texts(batch["items"])[0].to_pylist()
    return texts


def show_real(data: Path) -> None:
    """Faults of ours and of components, a line each."""
    print("pages removed; of these like no kept page; kept beside a kept page that is like them")
    for name, texts in real_sets(data):
        units = signed(batches(texts), sign.Config())
        alike = similar_pages.similarity(similar_pages.gram_sets(texts)) >= THRESHOLD
        words = np.concatenate([unit["signatures"]["words"].to_numpy() for unit in units]).astype(np.int64)
        rank = np.argsort(np.lexsort((np.arange(len(texts)), -words)))
        chain = Chain(dedupe.Config(partitions=4))
        verdicts = chain.publish(units)
        kept = np.ones(len(texts), np.bool_)
        kept[places(dedupe.column(verdicts.filter(pc.not_equal(verdicts["reason"], 0)), "doc"))] = False
        edges = chain.table("verify", "edges")
        a, b = (places(dedupe.column(edges, name)) for name in ("a", "b"))
        same = similar_pages.collisions(text_keys(units))
        fine = band_keys(signed(batches(texts), sign.fineweb()))
        links = {
            "components, 18 x 7 unverified": similar_pages.collisions(band_keys(units)),
            "components, 14 x 8 unverified": similar_pages.collisions(fine),
            "components, verified": (np.concatenate([a, same[0]]), np.concatenate([b, same[1]])),
        }
        print(f"{name}: {len(texts):,} pages of {words.mean():,.0f} words")
        print(line("ours", alike, kept))
        for method, (left, right) in links.items():
            component = similar_pages.components(len(texts), left, right)
            print(line(method, alike, similar_pages.keep_first(component, rank)))
        show_links(chain, alike)


def show_links(chain: Chain, alike: Marks) -> None:
    """How right the links between pages that stand for their text are, for several margins."""
    stands = np.ones(len(alike), np.bool_)
    stands[places(dedupe.column(chain.table("exact", "twins"), "doc"))] = False
    truth = np.triu(alike & stands[:, None] & stands[None, :], 1)
    for margin in MARGINS:
        chain.config = replace(chain.config, margin=margin)
        chain.run("verify")
        edges = chain.table("verify", "edges")
        right = truth[tuple(places(dedupe.column(edges, name)) for name in ("a", "b"))].sum()
        counts = dict(chain.counts["verify"])
        print(
            f"    margin {margin}: {num_met(counts):,} pairs met, {counted_share(counts):.3f} counted; of "
            f"{len(edges):,} links {right / max(len(edges), 1):.4f} right; of {truth.sum():,} alike "
            f"{right / max(truth.sum(), 1):.4f} linked"
        )


def line(method: str, alike: Marks, kept: Marks) -> str:
    """A line of faults."""
    wrong, left = similar_pages.faults(alike, kept)
    removed = int((~kept).sum())
    return f"  {method:32}{removed:7,}{wrong:7,} ({wrong / max(removed, 1):6.1%}){left:7,}"


# speed ------------------------------------------------------------------------------------------------------------
def show_speed(texts: list[str]) -> None:
    """Text to verdicts by stage, with what each writes; not what it reads, which lies in memory."""
    num_bytes = sum(len(text.encode()) for text in texts)
    Chain().publish(signed(batches(texts[:256]), sign.Config()))  # compiles the kernels
    pages = list(batches(texts))
    started = time.process_time()
    units = signed(iter(pages), sign.Config())
    written(units, sign.OUTPUTS)
    spent = {"sign": time.process_time() - started}
    chain = Chain(dedupe.Config(partitions=4))
    begin(chain, units)
    for stage in chain.stages:
        started = time.process_time()
        chain.run(stage)
        written(chain.frozen[stage, 0], importlib.import_module(f"pipelines.dedupe.{stage}").OUTPUTS)
        spent[stage] = time.process_time() - started
    whole = sum(spent.values())
    print(f"{len(texts):,} pages of {num_bytes / len(texts):,.0f} bytes: {chain.verdicts()}")
    print(f"text to verdicts and index: {num_bytes / whole / 1e6:.1f} MB, {len(texts) / whole:,.0f} pages a CPU second")
    print(", ".join(f"{name} {seconds / whole:.1%}" for name, seconds in spent.items()))


def written(commits: Sequence[Mapping[str, pa.Table]], outputs: Sequence[Output]) -> None:
    """Write the tables of a stage as an attempt would, and forget them."""
    for commit in commits:
        with tempfile.TemporaryDirectory() as folder:
            for output in outputs:
                writer = OutputWriter(output, Path(folder))
                writer.add(commit[output.name])
                writer.finish()
                writer.sidecar()


def begin(chain: Chain, units: Signed) -> None:
    """The first generation, of which nothing has run but sign."""
    chain.number = 1
    commits = [committed(unit, f"{place:024x}") for place, unit in enumerate(units)]
    chain.frozen["sign", 0] = chain.frozen["sign", 1] = commits


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=int, default=24_000)
    parser.add_argument("--only", default="planted,margins,real,speed")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    asked = arguments.only.split(",")
    if {"planted", "margins", "speed"} & set(asked):
        pairs = planted(arguments.data, arguments.pairs)
        texts = [text for pair in pairs for text in (pair.left, pair.right)]
        units = signed(batches(texts), sign.Config())
        if "planted" in asked:
            show_planted(pairs, units)
        if "margins" in asked:
            show_margins(pairs, units)
        if "speed" in asked:
            show_speed(texts)
    if "real" in asked:
        show_real(arguments.data)


if __name__ == "__main__":
    main()
