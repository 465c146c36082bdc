"""Pages that hold items of evaluation sets: told by set, item and share, and out where an item is half there.

Runs of 13 words of the normalised text, as GPT-3 compared (Brown et al. 2020, appendix C); an item of 8-12 words counts
as a whole, a shorter one says too little. GPT-3 took one shared run for a leak, PaLM 70 % of the 8-grams, Llama 2 80 %
of the tokens, Tulu 3 half of the tokens: a page goes from half of an item's runs on, and every smaller share is told.

    --set decontaminate.sets=piqa=eval/piqa.jsonl,sst2=s3://bucket/sst2.tsv.gz

Images of evaluation sets are settings here too, and are told by the match stage: `pipelines.images.evaluation`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine import schema
from engine.errors import ConfigError
from engine.stage import UNKEYED, Output, Unit, Work
from engine.store import absolute
from pipelines import evalsets, normalise, overlaps, sketch
from pipelines.evalsets import Source
from pipelines.images import evaluation
from pipelines.reasons import Reason
from pipelines.sign import page_texts

Counts = npt.NDArray[np.int64]

VERSION = 1  # of the code that decides the bytes
COLUMNS = ("row", "items")
BATCH_ROWS = 256  # a megabyte or two of text, and its hits, at a time
MAX_SETS = 1 << 16
MAX_TEXT = 128 << 20  # characters of all readings: 6 bytes of table each, and 28 while it is made
SHA256 = re.compile("[0-9a-f]{64}")

OUTPUTS = (Output(name="contaminated", schema=schema.CONTAMINATED, sort_by=("row", "set", "item")),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Which sets, and when a page goes. Without sets there is no such stage.

    sets: addresses of .jsonl and .tsv files, .gz too, as name=address or named by the file; a set is known by its
    place. fields: of their lines, in the order in which they read; none: all that are text, answers last. allow:
    addresses of lists of phrases, one a line, whose runs never count. digest: hex sha256 of all these files; "" takes
    it from them. ngram: words of a run. min_words: of an item that is compared. min_covered: share of an item's runs
    from which a page goes. max_items: a run in more items of a set is a template, and does not count. max_told: items
    that are told of a page, those first of which it has most. images, image_digest, image_distance: sets of images, as
    sets, digest and distance of `evaluation.Config`; no text is compared with them.
    """

    sets: tuple[str, ...] = field(default=(), metadata=UNKEYED)
    fields: tuple[str, ...] = ()
    allow: tuple[str, ...] = field(default=(), metadata=UNKEYED)
    digest: str = ""
    ngram: int = 13
    min_words: int = 8  # the least that GPT-3 compared
    min_covered: float = 0.5
    max_items: int = 64  # questions about one passage share its runs: 16 in DROP on average
    max_told: int = 64
    table: str = normalise.TABLE_DIGEST
    sketch: str = sketch.DIGEST
    # of another stage, whose key they enter
    images: tuple[str, ...] = field(default=(), metadata=UNKEYED)
    image_digest: str = field(default="", metadata=UNKEYED)
    image_distance: int = field(default=evaluation.DISTANCE, metadata=UNKEYED)

    def __post_init__(self) -> None:
        if (self.table, self.sketch) != (normalise.TABLE_DIGEST, sketch.DIGEST):
            raise ConfigError("decontaminate.table and decontaminate.sketch name what is shipped; leave them out")
        if self.digest and not SHA256.fullmatch(self.digest):
            raise ConfigError(f"decontaminate.digest is {self.digest!r}, no sha256 in hex; leave it out")
        if not 2 <= self.ngram <= 64:
            raise ConfigError(f"decontaminate.ngram is {self.ngram}; set it to 2-64")
        if not 1 <= self.min_words <= self.ngram:
            raise ConfigError(f"decontaminate.min_words is {self.min_words}; set it to 1-{self.ngram}, the ngram")
        if not 0 < self.min_covered <= 1:
            raise ConfigError(f"decontaminate.min_covered is {self.min_covered}; set it to more than 0 and up to 1")
        if not 1 <= self.max_items <= 1 << 16:
            raise ConfigError(f"decontaminate.max_items is {self.max_items}; set it to 1-65536")
        if not 1 <= self.max_told <= 1 << 16:
            raise ConfigError(f"decontaminate.max_told is {self.max_told}; set it to 1-65536")
        if len(self.sets) > MAX_SETS:
            raise ConfigError(f"decontaminate.sets names {len(self.sets)} files; name {MAX_SETS} or fewer")
        comma = [address for address in (*self.sets, *self.allow) if "," in address]
        if comma:
            raise ConfigError(f"{comma[0]}: a comma ends an address in decontaminate.sets; give the file another name")
        evalsets.sources(self.sets)
        _images(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """The items of all sets, ready to be found. Arrays ascend by set, then line.

    names: of the sets. item_sets, item_lines: of each item. reading_items: the item of each reading; totals: its
    distinct runs, without those that do not count. words: of an item's longest reading.
    """

    names: tuple[str, ...]
    item_sets: npt.NDArray[np.uint16]
    item_lines: npt.NDArray[np.uint32]
    reading_items: Counts
    totals: Counts
    words: Counts
    templates: int  # runs of a set that are in too many of its items
    table: overlaps.Table

    @property
    def findable(self) -> npt.NDArray[np.bool_]:
        """Which items have a run that counts."""
        found = np.zeros(len(self.item_sets), np.bool_)
        found[self.reading_items[self.totals > 0]] = True
        return found


def digest(config: Config) -> str:
    """Hex sha256 of what the files of sets and allow lists hold, "" without sets; ConfigError if they cannot be read
    or are damaged."""
    if config.digest or not config.sets:
        return config.digest
    sets, allow = _contents(config)
    for source, body in sets:
        for _ in evalsets.items(source, body, config.fields):
            pass
    for source, body in allow:
        evalsets.phrases(source.uri, body)
    return evalsets.digest([*sets, *allow])


def resolved(config: Config) -> Config:
    """The stage's config: addresses that mean the same wherever a worker runs, and the digest of what is there."""
    sets = tuple(f"{one.name}={absolute(one.uri)}" for one in evalsets.sources(config.sets))
    return replace(config, sets=sets, allow=tuple(map(absolute, config.allow)), digest=digest(config))


def images(config: Config) -> evaluation.Config:
    """The images that are to be found, as `resolved`: addresses that mean the same everywhere, hashes, their digest."""
    return evaluation.resolved(_images(config))


def pinned(config: Config) -> tuple[str, ...]:
    """The settings that stand for the files where they are not at hand."""
    pictures = evaluation.pinned(_images(config))
    if not config.sets:
        return pictures
    full = resolved(config)
    allow = (f"decontaminate.allow={','.join(full.allow)}",) if full.allow else ()
    return f"decontaminate.sets={','.join(full.sets)}", *allow, f"decontaminate.digest={full.digest}", *pictures


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Look for the items in the pages of one WARC that judge kept. Counts kept and contaminated pages, which are all,
    and beside them pages with a hit and what was left out of the table."""
    items = known(config)
    judgements = work.read("judge", "judgements", ("row", "reason"))
    kept = judgements.filter(pc.equal(judgements["reason"], pa.scalar(0, pa.uint16())))["row"].combine_chunks()
    for name in ("documents", "texts"):
        for pages in work.batches("extract", name, COLUMNS):
            for batch in pages.filter(pc.is_in(pages["row"], kept)).to_batches(max_chunksize=BATCH_ROWS):
                if not batch.num_rows:
                    continue
                found, cut = contaminated(batch, items, config)
                gone = len(pc.unique(found["row"].filter(pc.greater(found["reason"], 0))))
                for word, num in (
                    (Reason.KEPT.word, batch.num_rows - gone),
                    (Reason.CONTAMINATED.word, gone),
                    ("hit:pages", len(pc.unique(found["row"]))),
                    ("hit:items_cut", cut),
                ):
                    if num:
                        work.count(word, num)
                yield "contaminated", found


def contaminated(pages: pa.RecordBatch, items: Known, config: Config) -> tuple[pa.Table, int]:
    """(rows of CONTAMINATED for pages with COLUMNS, how many rows were cut)."""
    texts, _ = page_texts(pages["items"])
    hits = overlaps.find(items.table, normalise.normalise(texts))
    rows = pages["row"].to_numpy(zero_copy_only=False)
    made: dict[str, list[npt.NDArray[np.generic]]] = {name: [] for name in schema.CONTAMINATED.names}
    cut = 0
    # one page at a time: what the hits of one grow to is bounded by its words and by max_items
    edges = np.append(np.flatnonzero(np.diff(hits[:, 0], prepend=-1)), len(hits))
    for start, stop in pairwise(edges):
        item, counts, covered = told(items, overlaps.distinct(hits[start:stop, 1]))
        best = np.lexsort((item, -counts, -covered))[: config.max_told]
        cut += len(item) - len(best)
        item, counts, covered = item[best], counts[best], covered[best]
        bad = covered >= np.float32(config.min_covered)
        made["row"].append(np.full(len(item), rows[hits[start, 0]], np.uint32))
        made["set"].append(items.item_sets[item])
        made["item"].append(items.item_lines[item])
        made["grams"].append(counts.astype(np.uint32))
        made["covered"].append(covered)
        made["reason"].append(np.where(bad, int(Reason.CONTAMINATED), 0).astype(np.uint16))
    if not len(hits):
        return schema.CONTAMINATED.empty_table(), 0
    columns = [np.concatenate(made[name]) for name in schema.CONTAMINATED.names]
    return pa.table(columns, schema=schema.CONTAMINATED), cut


def told(items: Known, grams: Counts) -> tuple[Counts, Counts, npt.NDArray[np.float32]]:
    """(items, runs, share covered) of what has these distinct grams; of each item the reading that is covered most."""
    places = items.table.grams.places
    firsts, ends = (np.searchsorted(places[:, 0], grams, side) for side in ("left", "right"))
    lengths = ends - firsts
    # the ranges one after another
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    reading, counts = np.unique(places[np.repeat(firsts, lengths) + within, 1], return_counts=True)
    covered = (counts / items.totals[reading]).astype(np.float32)
    item = items.reading_items[reading]
    order = np.lexsort((-counts, -covered, item))
    order = order[np.flatnonzero(np.diff(item[order], prepend=-1))]
    return item[order], counts[order], covered[order]


@lru_cache(maxsize=1)  # a process works on many units of one run
def known(config: Config) -> Known:
    """The items of the files of a resolved config; ConfigError if they are not those of its digest."""
    if not config.digest:
        raise ConfigError("a stage needs decontaminate.digest in its key; make its config with decontaminate.resolved")
    sets, allow = _contents(config)
    found = evalsets.digest([*sets, *allow])
    if found != config.digest:
        raise ConfigError(
            f"the evaluation sets have changed since the run began (sha256 {found[:12]}, not {config.digest[:12]}); "
            "put the old files back or run again with the new ones"
        )
    item_sets: list[int] = []
    item_lines: list[int] = []
    reading_items: list[int] = []
    texts: list[str] = []
    room = MAX_TEXT
    for number, (source, body) in enumerate(sets):
        for item in evalsets.items(source, body, config.fields):
            reading_items += [len(item_sets)] * len(item.readings)
            texts += item.readings
            room -= sum(map(len, item.readings))
            if room < 0:
                raise ConfigError(f"the evaluation sets read as over {MAX_TEXT >> 20} MiB of text; name fewer of them")
            item_sets.append(number)
            item_lines.append(item.line)
    phrases = [text for source, body in allow for text in evalsets.phrases(source.uri, body)]
    return _known(
        tuple(source.name for source, _ in sets),
        np.array(item_sets, np.uint16),
        np.array(item_lines, np.uint32),
        np.array(reading_items, np.int64),
        texts,
        phrases,
        config,
    )


def _known(
    names: tuple[str, ...],
    item_sets: npt.NDArray[np.uint16],
    item_lines: npt.NDArray[np.uint32],
    reading_items: Counts,
    texts: list[str],
    phrases: list[str],
    config: Config,
) -> Known:
    text = normalise.normalise(pa.array(texts, schema.TEXT))
    grams = overlaps.grams(text, config.ngram, config.min_words)
    kept = ~_templates(grams.places, reading_items, item_sets, config.max_items)
    templates = int(np.count_nonzero(~kept))
    if phrases:
        allowed = overlaps.find(overlaps.table(grams), normalise.normalise(pa.array(phrases, schema.TEXT)))[:, 1]
        kept &= ~np.isin(grams.places[:, 0], allowed)
    grams = grams.only(kept)
    words = np.zeros(len(item_sets), np.int64)
    np.maximum.at(words, reading_items, text.words)
    return Known(
        names=names,
        item_sets=item_sets,
        item_lines=item_lines,
        reading_items=reading_items,
        totals=np.bincount(grams.places[:, 1], minlength=len(texts)),
        words=words,
        templates=templates,
        table=overlaps.table(grams),
    )


def _templates(
    places: Counts, reading_items: Counts, item_sets: npt.NDArray[np.uint16], most: int
) -> npt.NDArray[np.bool_]:
    """Which places are of a gram that more than `most` items of their set have."""
    num_items = max(len(item_sets), 1)
    item = reading_items[places[:, 1]]
    once = overlaps.distinct(places[:, 0] * num_items + item)
    num_sets = int(item_sets.max(initial=0)) + 1
    of_set, items = np.unique(once // num_items * num_sets + item_sets[once % num_items], return_counts=True)
    found: npt.NDArray[np.bool_] = np.isin(places[:, 0] * num_sets + item_sets[item], of_set[items > most])
    return found


def _images(config: Config) -> evaluation.Config:
    return evaluation.Config(sets=config.images, digest=config.image_digest, distance=config.image_distance)


def _contents(config: Config) -> tuple[list[tuple[Source, bytes]], list[tuple[Source, bytes]]]:
    sets = [(source, evalsets.body(source.uri)) for source in evalsets.sources(config.sets)]
    # a list of phrases is known by what it says, wherever it lies
    allow = [(Source(name="allow", uri=uri, kind="text"), evalsets.body(uri)) for uri in config.allow]
    return sets, allow
