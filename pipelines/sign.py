"""Pages to keys: sixteen bytes of the address, sixteen of the normalised text, band keys, 8-bit slots, 5-grams.

Everything that later stages compare pages by; a page's text is read once. Text goes from Arrow buffer to Arrow buffer
without a Python object a page, at some 80 thousand pages of 4 KB a second and core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from engine import schema
from engine.errors import ConfigError
from engine.stage import UNKEYED, Output, Unit, Work
from pipelines import minhash, normalise, sketch
from pipelines.urls import url_id

VERSION = 2  # of the code that decides the bytes
COLUMNS = ("row", "doc_id", "url", "items")
BATCH_ROWS = 1024
BATCH_BYTES = 32 << 20  # of text, and at most one page more: what is derived from it takes some four times as much
NO_KEY = bytes(16)
FSS, DATASKETCH = SCHEMES = ("fss", "datasketch")

OUTPUTS = (
    Output(name="signatures", schema=schema.SIGNATURES, sort_by=("row",)),
    # one batch a unit, so that verification reads single slots by their place
    Output(name="slots", schema=schema.SLOTS_8, sort_by=("row",), compression=None, batch_rows=1 << 24),
    Output(name="shingles", schema=schema.SHINGLES, sort_by=("row",), compression=None, located="shingles"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What decides the keys.

    scheme: how 5-grams become slots: "fss", Fast Similarity Sketching, or "datasketch", that library's MinHash.
    bands, rows: pages meet if all `rows` slots of one of `bands` bands are equal; dedupe.num_slots is their product.
    most_images: quality is min(images of the page, most_images), so that of two copies the one with pictures stays.
    decontaminate: whether pages that hold an item of an evaluation set are left out, as stage decontaminate says.
    table, sketch: digests of the Unicode table and of the constants of the sketch; they name what is shipped.
    """

    scheme: str = FSS
    bands: int = sketch.BANDS
    rows: int = sketch.ROWS
    most_images: int = 5  # K keeps at most 5 images of a document
    decontaminate: bool = field(default=False, metadata=UNKEYED)  # the stage that it reads enters the key
    table: str = field(default=normalise.TABLE_DIGEST, init=False)
    sketch: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ConfigError(f"sign.scheme is {self.scheme!r}; set it to {' or '.join(SCHEMES)}")
        sketch.check_shape(self.bands, self.rows)
        if not 0 <= self.most_images < 1 << 16:
            raise ConfigError(f"sign.most_images is {self.most_images}; set it to 0-65535")
        digest = sketch.digest if self.scheme == FSS else minhash.digest
        object.__setattr__(self, "sketch", digest(self.bands, self.rows))

    @property
    def num_slots(self) -> int:
        """Of the sketch of a page."""
        return self.bands * self.rows


def fineweb() -> Config:
    """FineWeb's 14 bands of 8: goes with dedupe.fineweb()."""
    return Config(bands=14, rows=8)


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Sign the pages of one WARC that judge kept."""
    judgements = work.read("judge", "judgements", ("row", "reason"))
    kept = judgements.filter(pc.equal(judgements["reason"], pa.scalar(0, pa.uint16())))["row"].combine_chunks()
    if config.decontaminate:
        held = work.read("decontaminate", "contaminated", ("row", "reason"))
        gone = held.filter(pc.not_equal(held["reason"], pa.scalar(0, pa.uint16())))["row"].combine_chunks()
        kept = kept.filter(pc.invert(pc.is_in(kept, gone)))
    for name in ("documents", "texts"):
        for pages in work.batches("extract", name, COLUMNS):
            for whole in pages.filter(pc.is_in(pages["row"], kept)).to_batches(max_chunksize=BATCH_ROWS):
                for batch in portions(whole, BATCH_BYTES):
                    work.count("signed", batch.num_rows)
                    yield from sign(batch, config)


def portions(pages: pa.RecordBatch, num_bytes: int) -> Iterator[pa.RecordBatch]:
    """Pages with items, cut where their text passes each multiple of `num_bytes`; none is empty."""
    items = pages["items"]
    lengths = pc.binary_length(items.flatten().field("text")).to_numpy(zero_copy_only=False)
    ends = np.cumsum(pc.list_value_length(items).to_numpy(zero_copy_only=False))
    passed = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))[ends] // num_bytes
    cuts = [0, *(np.flatnonzero(np.diff(passed)) + 1).tolist(), len(items)]
    return (pages.slice(start, stop - start) for start, stop in pairwise(cuts) if stop > start)


def sign(pages: pa.RecordBatch, config: Config) -> Iterator[tuple[str, pa.Table]]:
    """Signatures, slots and shingles of pages with COLUMNS, in their order."""
    texts, num_images = page_texts(pages["items"])
    text = normalise.normalise(texts)
    slots, low, found, ends = sketches(text, config)
    keys = np.zeros((len(slots), schema.BANDS), np.uint64)
    keys[:, : config.bands] = sketch.band_keys(slots, config.bands, config.rows)
    bands = pa.FixedSizeListArray.from_arrays(pa.array(keys.reshape(-1)), type=schema.SIGNATURES.field("bands").type)
    columns = {
        "row": pages["row"],
        "doc_id": pages["doc_id"],
        "url_key": pa.array([_url_key(url) for url in pages["url"].to_pylist()], schema.ID16),
        "text_key": pa.array(text_keys(text), schema.ID16),
        "words": pa.array(text.words.astype(np.uint32)),
        "quality": pa.array(np.minimum(num_images, config.most_images).astype(np.uint16)),
        "bands": bands,
    }
    yield "signatures", pa.table([columns[name] for name in schema.SIGNATURES.names], schema=schema.SIGNATURES)
    kind = schema.SLOTS_8.field("slots").type
    short = pa.FixedSizeBinaryArray.from_buffers(kind, len(low), [None, pa.py_buffer(low)])
    yield "slots", pa.table([pages["row"], short], schema=schema.SLOTS_8)
    buffers = [None, pa.py_buffer(ends * found.itemsize), pa.py_buffer(found.astype("<u4", copy=False))]
    grams = pa.LargeBinaryArray.from_buffers(schema.SHINGLES.field("shingles").type, len(low), buffers)
    yield "shingles", pa.table([pages["row"], grams], schema=schema.SHINGLES)


def sketches(
    text: normalise.Normalised, config: Config
) -> tuple[sketch.Hashes, sketch.Bytes, sketch.Shingles, sketch.Counts]:
    """(slots (num, num_slots), 8-bit slots (num, schema.SLOTS) with zeros after the last, shingles, their ends)."""
    if config.scheme == FSS:
        slots, found, ends = sketch.sketch_and_shingles(text.data, text.offsets, config.num_slots)
        short = sketch.low_bytes(slots)
    else:
        slots = minhash.hashvalues(text.data, text.offsets, config.num_slots)
        found, ends = sketch.shingles(text.data, text.offsets)
        short = minhash.low_bytes(slots)
    low = np.zeros((len(slots), schema.SLOTS), np.uint8)
    low[:, : config.num_slots] = short
    return slots, low, found, ends


def page_texts(items: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """(text of each page, number of its images): its text items, a line end after each, as large_string."""
    flat = items.flatten()
    is_text = pc.equal(flat.field("kind"), "text")
    page = np.repeat(np.arange(len(items)), pc.list_value_length(items).to_numpy(zero_copy_only=False))
    num_items = np.bincount(page, minlength=len(items))
    num_texts = np.bincount(page[is_text.to_numpy(zero_copy_only=False)], minlength=len(items))
    empty, line_end = pa.scalar("", schema.TEXT), pa.scalar("\n", schema.TEXT)
    lines = pc.binary_join_element_wise(flat.field("text").filter(is_text), empty, line_end)
    # the lines of a page lie side by side: only the offsets of its first and last one remain
    _, offsets, data = lines.buffers()
    starts = np.frombuffer(offsets, np.int64)[np.concatenate(([0], np.cumsum(num_texts)))]
    texts = pa.LargeStringArray.from_buffers(len(items), pa.py_buffer(starts), data)
    return texts, num_items - num_texts


def text_keys(text: normalise.Normalised) -> list[bytes]:
    """xxh3-128 (canonical byte order) of each normalised text's UTF-8; zeros for an empty one."""
    data, offsets = text.data.data, text.offsets.tolist()
    return [xxhash.xxh3_128_digest(data[start:stop]) if stop > start else NO_KEY for start, stop in pairwise(offsets)]


def _url_key(url: str) -> bytes:
    try:
        return url_id(url)[:16]
    except ValueError:  # no http(s) address: it is compared by its text only
        return NO_KEY
