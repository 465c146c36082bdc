"""Pages to keys: sixteen bytes of the address, sixteen of the normalised text, 18 band keys, 126 8-bit slots a page.

Everything that later stages compare pages by; a page's text is read once. Text goes from Arrow buffer to Arrow buffer
without a Python object a page, at some 50 thousand pages of 4 KB a second and core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from engine import schema
from engine.errors import ConfigError
from engine.stage import Output, Unit, Work
from pipelines import normalise, sketch
from pipelines.urls import url_id

VERSION = 1  # of the code that decides the bytes
COLUMNS = ("row", "doc_id", "url", "items")
BATCH_ROWS = 1024  # some megabytes of text at a time
NO_KEY = bytes(16)

OUTPUTS = (
    Output(name="signatures", schema=schema.SIGNATURES, sort_by=("row",)),
    Output(name="slots", schema=schema.SLOTS_8, sort_by=("row",), compression=None),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What decides the keys.

    most_images: quality is min(images of the page, most_images), so that of two copies the one with pictures stays.
    table, sketch: digests of the Unicode table and of the constants of the sketch; they name what is shipped and
    cannot be chosen.
    """

    most_images: int = 5  # K keeps at most 5 images of a document
    table: str = normalise.TABLE_DIGEST
    sketch: str = sketch.DIGEST

    def __post_init__(self) -> None:
        if (self.table, self.sketch) != (normalise.TABLE_DIGEST, sketch.DIGEST):
            raise ConfigError("sign.table and sign.sketch name what this version ships; leave them out")
        if not 0 <= self.most_images < 1 << 16:
            raise ConfigError(f"sign.most_images is {self.most_images}; set it to 0-65535")


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Sign the pages of one WARC that judge kept."""
    judgements = work.read("judge", "judgements", ("row", "reason"))
    kept = judgements.filter(pc.equal(judgements["reason"], pa.scalar(0, pa.uint16())))["row"].combine_chunks()
    for name in ("documents", "texts"):
        for pages in work.batches("extract", name, COLUMNS):
            for batch in pages.filter(pc.is_in(pages["row"], kept)).to_batches(max_chunksize=BATCH_ROWS):
                if batch.num_rows:
                    work.count("signed", batch.num_rows)
                    yield from sign(batch, config)


def sign(pages: pa.RecordBatch, config: Config) -> Iterator[tuple[str, pa.Table]]:
    """Signatures and slots of pages with COLUMNS, in their order."""
    texts, num_images = page_texts(pages["items"])
    text = normalise.normalise(texts)
    slots = sketch.sketch(text.data, text.offsets)
    bands = pa.FixedSizeListArray.from_arrays(pa.array(sketch.band_keys(slots).reshape(-1)), type=_band_type())
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
    low = pa.py_buffer(np.ascontiguousarray(sketch.low_bytes(slots)))
    low_bytes = pa.FixedSizeBinaryArray.from_buffers(schema.SLOTS_8.field("slots").type, len(slots), [None, low])
    yield "slots", pa.table([pages["row"], low_bytes], schema=schema.SLOTS_8)


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


def _band_type() -> pa.DataType:
    return schema.SIGNATURES.field("bands").type
