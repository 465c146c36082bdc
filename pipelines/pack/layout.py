"""How sequences are laid out: lines and text rows, captions, interleaved documents. Pure functions over ids.

The formats are KOSMOS-1's (table 21 and the released loaders). What counts in the loss is text, `</line>` and `</s>`;
`<s>`, `<image>`, the slots and `</image>` never do. Slots hold the id of `<image>`; the model puts vectors there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.vocab import BOS, EOS, IMAGE_SLOTS, Vocab
from pipelines.pack import IMAGE_TOKENS

Ids = list[int]
Tokens = npt.NDArray[np.int32]
Block = int | list[Ids]  # an image by its index, or the lines of a block of text


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A sequence: its tokens, where the slots of its images begin, which images, [start, end) of what counts."""

    tokens: Tokens
    loss: tuple[tuple[int, int], ...]
    image_starts: tuple[int, ...] = ()
    images: tuple[int, ...] = ()

    @property
    def counted(self) -> int:
        """Tokens that count."""
        return sum(end - start for start, end in self.loss)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A row on its way: its shard, its stream's number, its place in the shard, the doc_ids in it one after another."""

    part: int
    stream: int
    rank: int
    docs: bytes
    row: Row


class _Sequence:
    """A sequence under way: `<s>`, then text and images, then `close`."""

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab
        self.tokens: Ids = [BOS]
        self.after_text = False
        self._loss: list[tuple[int, int]] = []
        self._starts: list[int] = []
        self._images: list[int] = []

    def text(self, ids: Ids) -> None:
        """Append what counts."""
        start = len(self.tokens)
        self.tokens += ids
        if self._loss and self._loss[-1][1] == start:
            start = self._loss.pop()[0]
        self._loss.append((start, len(self.tokens)))
        self.after_text = True

    def image(self, index: int) -> None:
        """Append an image."""
        self.tokens.append(self.vocab.image)
        self._starts.append(len(self.tokens))
        self._images.append(index)
        self.tokens += [self.vocab.image] * IMAGE_SLOTS
        self.tokens.append(self.vocab.image_end)
        self.after_text = False

    def close(self) -> Row:
        """Append `</s>`; the row."""
        self.text([EOS])
        return Row(
            tokens=np.array(self.tokens, np.int32),
            loss=tuple(self._loss),
            image_starts=tuple(self._starts),
            images=tuple(self._images),
        )


def caption(vocab: Vocab, ids: Ids, image: int) -> Row:
    """An image and its caption: `<s>` image ids `</s>`; len(ids) + 1 tokens count."""
    sequence = _Sequence(vocab)
    sequence.image(image)
    sequence.text(ids)
    return sequence.close()


def interleaved(vocab: Vocab, blocks: Sequence[Block], max_length: int) -> list[Row]:
    """A document in reading order as rows of at most max_length tokens, also those without an image.

    `</line>` stands between neighbouring lines of text. A row ends at the border of a block where the next one does not
    fit; a block that fits in no row is cut at its lines, and a line that does not at its ids. Images stay whole.
    """
    sequences: list[_Sequence] = []
    for atom, begins_line in _atoms(vocab, blocks, max_length - 2):
        size = len(atom) if isinstance(atom, list) else IMAGE_TOKENS
        joint = bool(sequences) and begins_line and sequences[-1].after_text
        if not sequences or len(sequences[-1].tokens) + joint + size + 1 > max_length:
            sequences.append(_Sequence(vocab))
            joint = False
        if isinstance(atom, list):
            sequences[-1].text([vocab.line, *atom] if joint else atom)
        else:
            sequences[-1].image(atom)
    return [sequence.close() for sequence in sequences]


def _atoms(vocab: Vocab, blocks: Sequence[Block], room: int) -> Iterator[tuple[int | Ids, bool]]:
    """(image or ids, whether a line begins there) of what is never cut: each fits in `room` tokens."""
    for block in blocks:
        if isinstance(block, int):
            yield block, False
            continue
        whole = [token for line in block for token in (vocab.line, *line)][1:]
        if len(whole) <= room:
            if whole:
                yield whole, True
            continue
        for line in block:
            for start in range(0, len(line), room):
                yield line[start : start + room], start == 0


def closed(vocab: Vocab, lines: Sequence[Ids], max_length: int) -> tuple[Ids, list[int], int]:
    """(tokens, end of each line, lines that were cut) of a document's lines, `</line>` after each, `</s>` at the end.

    A line that has max_length tokens or more with its end is cut to max_length - 1, the end included: it fills a row
    behind `<s>` (K2, spm_lm_loader).
    """
    tokens: Ids = []
    ends: list[int] = []
    cut = 0
    for line in lines:
        cut += len(line) > max_length - 2
        tokens += line[: max_length - 2]
        tokens.append(vocab.line)
        ends.append(len(tokens))
    if tokens:
        tokens[-1] = EOS
    return tokens, ends, cut


def packed(ends: npt.NDArray[np.int64], max_length: int) -> Iterator[tuple[int, int]]:
    """[first, last) lines of each text row: as many whole lines as fit behind `<s>` (RoBERTa's full sentences).

    ends: past the last token of each line, ascending from the first line, which begins at 0.
    """
    first, begin = 0, 0
    while first < len(ends):
        last = int(np.searchsorted(ends, begin + max_length - 1, side="right"))
        yield first, last
        first, begin = last, int(ends[last - 1])


def text(tokens: Tokens) -> Row:
    """A text row of the tokens of its lines; all of them count."""
    return Row(tokens=np.concatenate([np.array([BOS], np.int32), tokens]), loss=((1, len(tokens) + 1),))


def samples(placed: Sequence[Placed], images: pa.Array, source: str) -> pa.Table:
    """SAMPLES of the rows; images: large_binary, what the rows' image numbers index."""
    rows = [one.row for one in placed]
    lengths = [len(row.tokens) for row in rows]
    starts = list(chain.from_iterable(row.image_starts for row in rows))
    shown = list(chain.from_iterable(row.images for row in rows))
    spans = np.array([span for row in rows for span in row.loss], np.int32).reshape(-1, 2)
    num_images = [len(row.images) for row in rows]
    docs = b"".join(one.docs for one in placed)
    fields = {field.name: field.type for field in schema.SAMPLES}
    tokens = np.concatenate([np.empty(0, np.int32), *(row.tokens for row in rows)])
    ids = pa.Array.from_buffers(schema.ID16, len(docs) // 16, [None, pa.py_buffer(docs)])
    loss = pa.StructArray.from_arrays([spans[:, 0], spans[:, 1]], fields=list(schema.SPAN))
    columns = {
        "part": pa.array([one.part for one in placed], pa.uint16()),
        "stream": pa.array([one.stream for one in placed], pa.uint8()),
        "rank": pa.array([one.rank for one in placed], pa.uint64()),
        "tokens": lists(fields["tokens"], lengths, pa.array(tokens)),
        "image_starts": lists(fields["image_starts"], num_images, pa.array(starts, pa.int32())),
        "images": lists(fields["images"], num_images, images.take(pa.array(shown, pa.int64()))),
        "loss": lists(fields["loss"], [len(row.loss) for row in rows], loss),
        "length": pa.array(lengths, pa.int32()),
        "counted": pa.array([row.counted for row in rows], pa.int32()),
        "num_images": pa.array(num_images, pa.int16()),
        "source": pa.array([source] * len(rows), schema.TEXT),
        "docs": lists(fields["docs"], [len(one.docs) // 16 for one in placed], ids),
    }
    return pa.table([columns[name] for name in schema.SAMPLES.names], schema=schema.SAMPLES)


def lists(kind: pa.DataType, lengths: Sequence[int], values: pa.Array) -> pa.Array:
    """The values as lists of these lengths."""
    ends = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(ends), values, type=kind)
