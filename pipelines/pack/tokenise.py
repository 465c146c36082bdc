"""Documents of one block to rows: captions and interleaved documents laid out, texts as lines for `lay`.

Curated files are read a record batch at a time, 64 documents with their images, so a block of any size takes the
writer's memory and no more. Rows carry their JPEG bytes along: from here on nobody asks where an image came from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine import schema
from engine.arrow import read_batch
from engine.errors import StoreError
from engine.stage import SIDE, UNKEYED, Output, Place, Unit, Work
from engine.vocab import STREAMS, Vocab
from pipelines.pack import is_heldout, num_shards, part, rank
from pipelines.pack.layout import Block, Ids, Placed, Row, caption, closed, interleaved, lists, samples
from pipelines.pack.tokenizer import Tokenizer, fetched, load
from pipelines.reasons import Reason

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
SAMPLES = Output(
    name="samples", schema=schema.SAMPLES, partition_by="part", sort_by=("stream", "rank"), compression=None
)
LINES = Output(name="lines", schema=schema.LINES, partition_by="part", sort_by=("order", "doc_id"))
OUTPUTS = (
    SAMPLES,
    LINES,
    Output(name="verdicts", schema=schema.PACKED, sort_by=("doc", "stream", "index"), batch_rows=1 << 16),
)
TEXT, CAPTION, INTERLEAVED = range(len(STREAMS))

MIN_CHARACTERS, MIN_WORDS, MAX_WORDS = 5, 2, 256  # bounds of a caption
PICTURE = re.compile(r"\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|svg|ico|avif|heic|raw)(\Z)?", re.IGNORECASE)
ADDRESS = re.compile(r"https?://|www\.", re.IGNORECASE)
# what a camera or an editor calls a file before anybody has given it a name
UNNAMED = re.compile(
    r"(?:img|dsc[nf]?|pict?|pxl|image|photo|picture|screen ?shot|untitled)[\W\d_]*",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"[.!?…][\"'\u201d\u2019)\]]*\s+(?=\S)")

Words = int | list[str]  # an image by its index, or the lines of a block of text


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What of pack.Config decides the rows; digest: hex sha256 of the tokenizer's bytes."""

    digest: str
    tokenizer: str = field(default="", metadata=UNKEYED)
    seed: int = 0
    max_length: int = 2048
    max_caption: int = 444
    context_sentences: int = 0
    partitions: int = 512
    shard_bytes: int = 256 << 20
    heldout: float = 0.001
    source: str = "commoncrawl"
    streams: tuple[str, ...] = STREAMS


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A curated document: blocks in reading order, (caption, alternative text) of each image; `first` is the number of
    its first image in its record batch."""

    doc: int
    doc_id: bytes
    heldout: bool
    blocks: list[Words]
    captions: list[tuple[str, str]]
    first: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A row of PACKED."""

    doc: int
    doc_id: bytes
    stream: int
    index: int
    reason: Reason
    value: float


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """The number of each commit of assemble in its manifest."""
    return [(str(number),) for number in range(len(commits("assemble")))]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Tokenise the documents of one block."""
    assembled = work.commits("assemble")
    shards = num_shards(assembled, config.shard_bytes)
    commit = assembled[int(unit.inputs[0])]
    tokenizer = load(fetched(work, config.tokenizer, config.digest))
    verdicts = work.table(commit, "verdicts", ("doc", "doc_id", "reason"))
    kept = verdicts.filter(pa.array(verdicts["reason"].to_numpy() == 0))
    counts: Counter[str] = Counter()
    start = 0
    for batch in batches(commit, work):
        docs = kept.slice(start, batch.num_rows)
        start += batch.num_rows
        if docs["doc_id"].to_pylist() != batch.column("doc_id").to_pylist():
            raise StoreError(f"the documents of unit {commit.unit} are not those of its verdicts; run `kosmos verify`")
        given = _laid(documents(batch, docs["doc"].to_pylist(), config), tokenizer, config, shards, counts)
        yield "samples", samples(given.placed, images(batch), config.source)
        yield "lines", _lines(given.lines, config)
        yield "verdicts", _verdicts(given.verdicts)
    if start != kept.num_rows:
        raise StoreError(f"unit {commit.unit} has {start} documents of {kept.num_rows}; run `kosmos verify`")
    for word, num in sorted(counts.items()):
        work.count(word, num)


def batches(commit: Commit, work: Work) -> Iterator[pa.RecordBatch]:
    """The record batches of a commit's curated documents, one in memory at a time."""
    for number, file in enumerate(commit.outputs["curated"]):
        for batch in file.batches:
            (message,) = work.pieces([Place(commit, "curated", number, batch.offset, batch.length)])
            yield read_batch(schema.CURATED, message, file.path)


def images(batch: pa.RecordBatch) -> pa.Array:
    """The JPEG bytes of all images of a batch, document by document."""
    return batch.column("images").flatten().field("bytes")


def documents(batch: pa.RecordBatch, docs: Sequence[int], config: Config) -> list[Document]:
    """The rows of a record batch of CURATED, whose numbers are `docs`; lines without text are left out."""
    items, shown = batch.column("items").flatten(), batch.column("images").flatten()
    places = items.field("image").to_pylist()
    texts = items.field("text").to_pylist()
    blocks: list[Words] = [
        place if place >= 0 else [line for line in text.split("\n") if line.strip()]
        for place, text in zip(places, texts, strict=True)
    ]
    captions = list(zip(shown.field("caption").to_pylist(), shown.field("alt").to_pylist(), strict=True))
    item_ends = list(accumulate(batch.column("items").value_lengths().to_pylist(), initial=0))
    image_ends = list(accumulate(batch.column("images").value_lengths().to_pylist(), initial=0))
    return [
        Document(
            doc=doc,
            doc_id=doc_id,
            heldout=is_heldout(config.seed, doc_id, config.heldout),
            blocks=[block for block in blocks[items_of[0] : items_of[1]] if block != []],
            captions=captions[images_of[0] : images_of[1]],
            first=images_of[0],
        )
        for doc, doc_id, items_of, images_of in zip(
            docs, batch.column("doc_id").to_pylist(), pairwise(item_ends), pairwise(image_ends), strict=True
        )
    ]


def named(text: str) -> bool:
    """Whether a text is a file's name or an address, in time linear in its length."""
    if UNNAMED.fullmatch(text) or any(match[1] is not None for match in PICTURE.finditer(text)):
        return True
    one = len(text.split()) == 1
    return one and (ADDRESS.match(text) is not None or ("/" in text and PICTURE.search(text) is not None))


def unusable(text: str) -> tuple[Reason, float]:
    """Why a text is no caption, and the number that decided; KEPT if it is one."""
    words = len(text.split())
    if not words:
        return Reason.CAPTION_NONE, 0
    if named(text.strip()):
        return Reason.CAPTION_NAME, words
    if len(text.strip()) < MIN_CHARACTERS or words < MIN_WORDS:
        return Reason.CAPTION_SHORT, words
    if words > MAX_WORDS:
        return Reason.CAPTION_LONG, words
    return Reason.KEPT, words


def chosen(captions: tuple[str, str]) -> tuple[str, Reason, float]:
    """(text, reason, number of words) of an image: its caption if that is usable, else its alternative text.

    Where neither is, the reason is that of the last one there is.
    """
    last: tuple[str, Reason, float] = ("", Reason.CAPTION_NONE, 0)
    for text in captions:
        reason, value = unusable(text)
        if not reason:
            return text, reason, value
        if reason != Reason.CAPTION_NONE:
            last = text, reason, value
    return last


def nearby(blocks: Sequence[Words], num_sentences: int) -> list[Words]:
    """The blocks with the last sentences before the first image and the first ones after the last; 0 is all."""
    places = [place for place, block in enumerate(blocks) if isinstance(block, int)]
    if not num_sentences or not places:
        return list(blocks)
    before = [block for block in blocks[: places[0]] if isinstance(block, list)]
    after = [block for block in blocks[places[-1] + 1 :] if isinstance(block, list)]
    backwards = _within([block[::-1] for block in reversed(before)], num_sentences, last=True)
    head = [block[::-1] for block in reversed(backwards)]
    return [*head, *blocks[places[0] : places[-1] + 1], *_within(after, num_sentences, last=False)]


def _within(blocks: list[list[str]], num: int, last: bool) -> list[list[str]]:
    """The first `num` sentences of the blocks; with `last` each line gives its last ones first."""
    taken: list[list[str]] = []
    for block in blocks:
        lines: list[str] = []
        for line in block:
            if not num:
                break
            starts = [0, *(match.end() for match in SENTENCE.finditer(line))]
            use = min(num, len(starts))
            num -= use
            if last:
                lines.append(line[starts[-use] :])
            else:
                lines.append(line[: [*starts, len(line)][use]].rstrip())
        if lines:
            taken.append(lines)
    return taken


class _Batch:
    """Rows, lines and verdicts of the documents of a record batch, under way."""

    def __init__(self, config: Config, vocab: Vocab, shards: int, ids: dict[str, Ids], counts: Counter[str]) -> None:
        self.placed: list[Placed] = []
        self.lines: list[tuple[Document, Ids, list[int]]] = []
        self.verdicts: list[Verdict] = []
        self._config, self._vocab, self._shards, self._ids, self._counts = config, vocab, shards, ids, counts

    def text(self, document: Document) -> None:
        """All the text of a document, as lines."""
        said = [self._ids[line] for block in document.blocks if isinstance(block, list) for line in block]
        tokens, ends, cut = closed(self._vocab, [ids for ids in said if ids], self._config.max_length)
        self._counts[f"line{SIDE}cut"] += cut
        if tokens:
            self.lines.append((document, tokens, ends))
        self._settle(document, TEXT, 0, Reason.KEPT if tokens else Reason.NO_TEXT, len(tokens))

    def captions(self, document: Document, texts: Sequence[tuple[str, Reason, float]]) -> None:
        """A row for each image that has a caption."""
        most = self._config.max_caption
        for index, (words, reason, value) in enumerate(texts):
            ids = [] if reason else self._ids[words]
            if ids:
                self._counts[f"caption{SIDE}cut"] += len(ids) > most
                self._place(document, CAPTION, index, caption(self._vocab, ids[:most], document.first + index))
            else:
                # a usable text without ids is of characters that are never written
                self._settle(document, CAPTION, index, reason or Reason.CAPTION_SHORT, value)

    def interleaved(self, document: Document, blocks: Sequence[Words]) -> None:
        """The blocks of a document in as many rows as it takes."""
        whole: list[Block] = [
            document.first + block if isinstance(block, int) else [self._ids[line] for line in block if self._ids[line]]
            for block in blocks
        ]
        for index, row in enumerate(interleaved(self._vocab, whole, self._config.max_length)):
            if row.images:
                self._place(document, INTERLEAVED, index, row)
            else:
                self._settle(document, INTERLEAVED, index, Reason.PART_WITHOUT_IMAGE, len(row.tokens))

    def _place(self, document: Document, stream: int, index: int, row: Row) -> None:
        words = (STREAMS[stream].encode(), document.doc_id, index.to_bytes(4, "little"))
        where = rank(self._config.seed, *words)
        shard = self._shards if document.heldout else part(where, self._shards)
        self.placed.append(Placed(part=shard, stream=stream, rank=where, docs=document.doc_id, row=row))
        self._settle(document, stream, index, Reason.KEPT, row.counted)

    def _settle(self, document: Document, stream: int, index: int, reason: Reason, value: float) -> None:
        self._counts[f"{STREAMS[stream]}{SIDE}{reason.word}"] += 1
        doc, doc_id = document.doc, document.doc_id
        self.verdicts.append(Verdict(doc=doc, doc_id=doc_id, stream=stream, index=index, reason=reason, value=value))


def _laid(found: Sequence[Document], tokenizer: Tokenizer, config: Config, shards: int, counts: Counter[str]) -> _Batch:
    """All that the documents of a record batch give."""
    shown = [nearby(document.blocks, config.context_sentences) for document in found]
    texts = [[chosen(captions) for captions in document.captions] for document in found]
    # each line is encoded once: the streams say the same words
    said = dict.fromkeys(
        line
        for blocks in (*(document.blocks for document in found), *shown)
        for block in blocks
        if isinstance(block, list)
        for line in block
    )
    said |= dict.fromkeys(words for captions in texts for words, reason, _ in captions if not reason)
    ids = dict(zip(said, tokenizer.encode(list(said)), strict=True))
    given = _Batch(config, tokenizer.vocab, shards, ids, counts)
    for document, captions, blocks in zip(found, texts, shown, strict=True):
        counts[f"documents{SIDE}heldout"] += document.heldout
        if STREAMS[TEXT] in config.streams:
            given.text(document)
        if STREAMS[CAPTION] in config.streams:
            given.captions(document, captions)
        if STREAMS[INTERLEAVED] in config.streams:
            given.interleaved(document, blocks)
    return given


def _lines(found: Sequence[tuple[Document, Ids, list[int]]], config: Config) -> pa.Table:
    orders = [rank(config.seed, b"order", document.doc_id) for document, _, _ in found]
    tokens = np.array([token for _, own, _ in found for token in own], np.int32)
    ends = np.array([end for _, _, own in found for end in own], np.int32)
    columns = [
        pa.array(
            [
                config.partitions if document.heldout else part(order, config.partitions)
                for (document, _, _), order in zip(found, orders, strict=True)
            ],
            pa.uint16(),
        ),
        pa.array(orders, pa.uint64()),
        pa.array([document.doc_id for document, _, _ in found], schema.ID16),
        lists(schema.LINES.field("tokens").type, [len(own) for _, own, _ in found], pa.array(tokens)),
        lists(schema.LINES.field("ends").type, [len(own) for _, _, own in found], pa.array(ends)),
    ]
    return pa.table(columns, schema=schema.LINES)


def _verdicts(verdicts: Sequence[Verdict]) -> pa.Table:
    columns = [
        pa.array([getattr(one, name) for one in verdicts], schema.PACKED.field(name).type)
        for name in schema.PACKED.names
    ]
    return pa.table(columns, schema=schema.PACKED)
