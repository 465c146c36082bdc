"""A small maker of training stores: rows as tests write them, shards, commits and manifests as `pack` leaves them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from engine import schema
from engine.arrow import File, FileWriter
from engine.ledger import Commit, Ledger
from engine.stage import Output
from engine.vocab import BOS, EOS, IMAGE_SLOTS, STREAMS, Vocab

VOCAB = Vocab(pieces=93)  # ids 0-99
MODEL = b"a tokenizer's model"
BATCH_ROWS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row: tokens, where its images' slots begin, their bytes, and its loss spans."""

    tokens: tuple[int, ...]
    starts: tuple[int, ...] = ()
    images: tuple[bytes, ...] = ()
    loss: tuple[tuple[int, int], ...] = ()


def jpeg(seed: int = 0, width: int = 32, height: int = 32) -> bytes:
    """A JPEG of one colour, which depends on the seed."""
    colour = np.random.default_rng(seed).integers(30, 226, 3, dtype=np.uint8)
    done, coded = cv2.imencode(".jpg", np.broadcast_to(colour, (height, width, 3)).copy())
    assert done
    return coded.tobytes()


def text(*words: int) -> Sample:
    """`<s>` words `</s>`, all counted."""
    tokens = (BOS, *words, EOS)
    return Sample(tokens=tokens, loss=((1, len(tokens)),))


def caption(image: bytes, *words: int) -> Sample:
    """`<s> <image> [64] </image>` words `</s>`; the words and `</s>` count."""
    head = (BOS, *[VOCAB.image] * (1 + IMAGE_SLOTS), VOCAB.image_end)
    tokens = (*head, *words, EOS)
    return Sample(tokens=tokens, starts=(2,), images=(image,), loss=((len(head), len(tokens)),))


def interleaved(*items: int | bytes) -> Sample:
    """`<s>` items `</s>`: words, and images where there are bytes; words and `</s>` count."""
    tokens, starts, images, loss = [BOS], [], [], []
    for item in (*items, EOS):
        if isinstance(item, bytes):
            starts.append(len(tokens) + 1)
            images.append(item)
            tokens += [*[VOCAB.image] * (1 + IMAGE_SLOTS), VOCAB.image_end]
        else:
            loss.append((len(tokens), len(tokens) + 1))
            tokens.append(item)
    return Sample(tokens=tuple(tokens), starts=tuple(starts), images=tuple(images), loss=tuple(loss))


def table(samples: Sequence[Sample]) -> pa.Table:
    """The samples as schema.TRAINING."""
    rows = [
        {
            "rank": number,
            "tokens": sample.tokens,
            "image_starts": sample.starts,
            "images": sample.images,
            "loss": [{"start": start, "end": end} for start, end in sample.loss],
            "length": len(sample.tokens),
            "counted": sum(end - start for start, end in sample.loss),
            "num_images": len(sample.images),
            "source": "test",
            "docs": [number.to_bytes(16, "little")],
        }
        for number, sample in enumerate(samples)
    ]
    return pa.Table.from_pylist(rows, schema=schema.TRAINING)


def write(ledger: Ledger, path: str, rows: pa.Table, sums: bool = True) -> File:
    """Put a table as a file of the store, in batches of 64 rows."""
    output = Output(name="rows", schema=rows.schema, batch_rows=BATCH_ROWS, compression=None, sums=sums)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "file.arrow"
        writer = FileWriter(local, output)
        for start in range(0, rows.num_rows, BATCH_ROWS):
            writer.write(rows.slice(start, BATCH_ROWS))
        file = writer.finish()
        ledger.store.put_file(path, local)
    return replace(file, path=path)


def pack(
    url: str,
    units: Sequence[dict[str, Sequence[Sequence[Sample] | pa.Table]]],
    key: str = "pack-0",
    model: bytes = MODEL,
    pieces: int = VOCAB.pieces,
    sums: bool = True,
) -> str:
    """A manifest of units, each of files of samples by stream (an empty one if none); the first has the tokenizer.

    sums: of the record batches, which packs of earlier versions lack.
    """
    ledger = Ledger(url)
    ledger.check(create=True)
    ids = []
    for number, streams in enumerate(units):
        unit = f"{hashlib.sha256(repr((key, number, sorted(streams))).encode()).hexdigest()[:12]}-{number:06d}"
        while ledger.is_committed(key, unit):
            unit = f"{hashlib.sha256(unit.encode()).hexdigest()[:12]}-{number:06d}"
        outputs = {}
        for stream in STREAMS:
            files = []
            for index, rows in enumerate(streams.get(stream) or [[]]):
                rows = rows if isinstance(rows, pa.Table) else table(rows)
                files.append(write(ledger, f"{key}/data/{unit}.a.{stream}.{index}.arrow", rows, sums))
            outputs[stream] = tuple(files)
        vocabulary = [{"sha256": hashlib.sha256(model).digest(), "pieces": pieces, "model": model}][: number == 0]
        rows = pa.Table.from_pylist(vocabulary, schema=schema.VOCABULARY)
        outputs["vocabulary"] = (write(ledger, f"{key}/data/{unit}.a.vocabulary.0.arrow", rows),)
        ledger.put_commit(Commit(stage=key, unit=unit, attempt="a", outputs=outputs))
        ids.append(unit)
    return ledger.freeze(key, ids)


def rows_of(num: int, seed: int = 0) -> list[Sample]:
    """Rows of text that tell themselves apart by their tokens, of various lengths."""
    return [text(4 + i % 90, 4 + i // 90 % 90, *[5] * ((i * 7 + seed) % 11), 4 + i // 8100) for i in range(num)]
