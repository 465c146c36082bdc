"""What a sheet says of the whole: how many pages and images each step left, why images went, what documents hold.

Steps are counted by the rows that stand in manifests, reasons by what commits of a block count; sums over documents
come from the last two columns of record batches, of a sample of those where there are many.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from engine.ledger import Commit
from engine.stage import SIDE, Place
from pipelines.reasons import Reason
from pipelines.sheet.documents import CURATED
from pipelines.sheet.frozen import Frozen

IMAGE = f"image{SIDE}"
MOST_BATCHES = 2048  # a range read each; a batch has 64 documents
REASONS = {reason.word: reason for reason in Reason}


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """documents: in the shards. images, words, histogram (images a document -> documents): of them, estimated from
    some record batches if `about`. pages, pictures: (step, number that it left). refused: images a reason; dropped:
    documents that had images a reason."""

    documents: int
    images: int
    words: int
    histogram: dict[int, int]
    about: bool
    pages: tuple[tuple[str, int], ...]
    pictures: tuple[tuple[str, int], ...]
    refused: dict[Reason, int]
    dropped: dict[Reason, int]


def totals(found: Frozen, seed: int) -> Totals:
    """Count it all."""
    counts = {name: _counts(found, name) for name in ("refer", "select", "match", "assemble")}
    documents = sum(block.commit.rows(CURATED) for block in found.blocks)
    histogram, words, about = _summed(found, seed)
    return Totals(
        documents=documents,
        images=sum(number * num for number, num in histogram.items()),
        words=words,
        histogram=histogram,
        about=about,
        pages=_pages(found, documents),
        pictures=_pictures(found, counts),
        refused=_reasons(counts[name] for name in ("refer", "select", "assemble")),
        dropped=_reasons((counts["select"], counts["assemble"]), images=False),
    )


def _commits(found: Frozen, name: str) -> list[Commit]:
    """What all generations of the sheet read of a stage: commits of manifests, which have rows and no counts."""
    works = found.works.values() if name != "refer" else [found.selecting(number) for number in found.works]
    return [commit for work in works for commit in work.commits(name)]


def _counts(found: Frozen, name: str) -> Counter[str]:
    """The sum of what the units of a stage counted; of stages with a unit a block or a partition."""
    own = [block.commit for block in found.blocks] if name == found.stage.name else _commits(found, name)
    counts: Counter[str] = Counter()
    for commit in found.ledger.commits(found.recipe.stage(name).key, [commit.unit for commit in own]):
        counts.update(commit.counts)
    return counts


def _rows(commits: Iterable[Commit], output: str) -> int:
    return sum(commit.rows(output) for commit in commits)


def _pages(found: Frozen, documents: int) -> tuple[tuple[str, int], ...]:
    extracted, signed = _commits(found, "extract"), _rows(_commits(found, "sign"), "signatures")
    return (
        ("records of WARC files", _rows(extracted, "verdicts")),
        ("pages with text", _rows(extracted, "scores")),
        ("pass the rules for documents", signed),
        ("are like no other page", signed - _rows(_commits(found, "decide"), "gone")),
        ("have images worth a request", _rows((block.commit for block in found.blocks), "verdicts")),
        ("are in the shards", documents),
    )


def _pictures(found: Frozen, counts: dict[str, Counter[str]]) -> tuple[tuple[str, int], ...]:
    return (
        ("references of pages with text", _rows(_commits(found, "extract"), "references")),
        ("pass the rules for addresses, on pages that are kept", _rows(_commits(found, "refer"), "references")),
        ("are candidates of their documents", _rows((block.commit for block in found.blocks), "fates")),
        ("are fetched and pass the image gate", counts["match"][IMAGE + Reason.KEPT.word]),
        ("are in the shards", counts["assemble"][IMAGE + Reason.KEPT.word]),
    )


def _reasons(counts: Iterable[Counter[str]], images: bool = True) -> dict[Reason, int]:
    """Numbers a reason, of images or of documents, the most frequent first."""
    found: Counter[Reason] = Counter()
    for words in counts:
        for word, num in words.items():
            reason = REASONS.get(word.removeprefix(IMAGE))
            if word.startswith(IMAGE) == images and reason not in (None, Reason.KEPT):
                found[reason] += num
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _summed(found: Frozen, seed: int) -> tuple[dict[int, int], int, bool]:
    """(images a document -> documents, words, whether these are estimates)."""
    places = []
    for block in found.blocks:
        for number, file in enumerate(block.commit.outputs.get(CURATED, ())):
            for batch in file.batches:
                # num_images int16 and num_words int32 are the last buffers of a batch, each padded to 8 bytes
                length = _padded(2 * batch.rows) + _padded(4 * batch.rows)
                end = batch.offset + batch.length
                place = Place(block.commit, CURATED, number, end - length, length)
                places.append((block.generation, batch.rows, place))
    read = places
    if len(places) > MOST_BATCHES:
        read = random.Random(f"sheet {seed}").sample(places, MOST_BATCHES)
    images: Counter[int] = Counter()
    words = 0
    for generation, work in found.works.items():
        mine = [(rows, place) for number, rows, place in read if number == generation]
        for (rows, _), tail in zip(mine, work.pieces([place for _, place in mine]), strict=True):
            images.update(np.frombuffer(tail, "<i2", rows).tolist())
            words += int(np.frombuffer(tail, "<i4", rows, _padded(2 * rows)).astype(np.int64).sum())
    share = sum(rows for _, rows, _ in places) / max(1, sum(rows for _, rows, _ in read))
    histogram = {number: round(num * share) for number, num in sorted(images.items())}
    return histogram, round(words * share), len(read) < len(places)


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // 8) * 8
