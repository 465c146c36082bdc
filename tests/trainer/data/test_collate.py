"""Micro-batches of rows: a blank image where none stands, one by one or all at once, and little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from engine.errors import ConfigError
from tests.trainer.shards import Sample, caption, interleaved, jpeg, text
from trainer.batch import MicroBatch
from trainer.data.collate import Collator, Drawn
from trainer.data.rows import Row


def drawn(sample: Sample | None, number: int = 0) -> Drawn:
    if sample is None:
        return None, None
    row = Row(
        tokens=np.array(sample.tokens, np.int32),
        image_starts=np.array(sample.starts, np.int32),
        images=tuple(np.frombuffer(image, np.uint8) for image in sample.images),
        loss=np.array(sample.loss, np.int32).reshape(-1, 2),
    )
    return ("test", number), row


@pytest.fixture
def collator() -> Iterator[Collator]:
    found = Collator(256, 28, threads=2)
    yield found
    found.close()


def batches(collator: Collator, stream: str, samples: Sequence[Sample | None], size: int) -> list[MicroBatch]:
    rows = [drawn(sample, number) for number, sample in enumerate(samples)]
    return [started.result() for started in collator.start(stream, rows, size)]


@pytest.mark.parametrize(
    ("stream", "samples"),
    [
        ("caption", [None, None]),
        ("interleaved", [text(5, 6), None]),
        ("interleaved", [text(5, 6), text(7)]),
    ],
)
def test_where_no_image_stands_there_is_a_blank_one_without_slots(
    collator: Collator, stream: str, samples: list[Sample | None]
) -> None:
    (batch,) = batches(collator, stream, samples, 2)
    assert batch.pixels_NCHW.shape == (1, 3, 28, 28) and not batch.pixels_NCHW.any()
    assert batch.slots_N2.shape == (0, 2) and batch.bad_images == 0


def test_where_an_image_stands_there_is_no_other(collator: Collator) -> None:
    for stream, sample in (("caption", caption(jpeg(1), 5)), ("interleaved", interleaved(5, b"bad", 6))):
        (batch,) = batches(collator, stream, [sample, None], 2)
        assert len(batch.pixels_NCHW) == len(batch.slots_N2) == 1


def test_text_has_no_image(collator: Collator) -> None:
    (batch,) = batches(collator, "text", [text(5), None], 2)
    assert batch.pixels_NCHW.shape == (0, 3, 28, 28)


def test_one_by_one_they_are_the_same(collator: Collator) -> None:
    samples = [interleaved(*[5] * (i % 7), *[jpeg(i)] * (i % 3), 6) for i in range(11)]
    rows = [drawn(sample, number) for number, sample in enumerate(samples)]
    at_once = batches(collator, "interleaved", samples, 3)
    singly = list(collator.batches("interleaved", rows, 3))
    assert [len(batch.rows) for batch in singly] == [3, 3, 3, 2]
    for one, other in zip(at_once, singly, strict=True):
        assert one.rows == other.rows and torch.equal(one.pixels_NCHW, other.pixels_NCHW)
        assert torch.equal(one.tokens_BT, other.tokens_BT) and torch.equal(one.counted_BT, other.counted_BT)


def test_one_by_one_no_rows_are_no_batch(collator: Collator) -> None:
    assert list(collator.batches("caption", [], 3)) == []


def test_a_row_too_long_is_named(collator: Collator) -> None:
    with pytest.raises(ConfigError, match=r"row \('test', 0\) has 257 tokens and model.max_length is 256"):
        batches(collator, "text", [text(*[5] * 255)], 1)
