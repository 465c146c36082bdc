"""Micro-batches: what stands in them, that they depend on the update alone, and what a bad image costs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, StoreError
from engine.vocab import IMAGE_SLOTS, PAD, Vocab
from tests.trainer.shards import VOCAB, Sample, caption, interleaved, jpeg, pack, rows_of, text
from trainer.batch import MicroBatch, Update
from trainer.config import DataConfig, Quotas
from trainer.config import MicroBatch as Rows
from trainer.data.images import decode
from trainer.data.loader import AHEAD, Loader, prefetch
from trainer.data.order import State, extend, picks, start
from trainer.data.rows import Sources, sources

SIZE = 28
CONFIG = DataConfig(
    quotas=Quotas(text=3, caption=7, interleaved=2), micro_batch=Rows(text=2, caption=3, interleaved=1), seed=4
)
DOCUMENTS = [interleaved(*[5] * (i % 7), jpeg(i), 6, jpeg(i + 50), *[7] * (i * 40 % 900)) for i in range(40)]
CAPTIONS = [caption(jpeg(i), *[8 + i % 80] * (1 + i * 5 % 70)) for i in range(150)]
TEXTS = rows_of(90)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    url = str(tmp_path_factory.mktemp("rows"))
    mark = pack(url, [{"text": [TEXTS], "caption": [CAPTIONS[:100], CAPTIONS[100:]], "interleaved": [DOCUMENTS]}])
    with sources(url, [mark]) as found:
        yield found


def state_of(opened: Sources, config: DataConfig = CONFIG) -> State:
    return start(opened.listing, opened.digests, config)


def loader_of(opened: Sources, config: DataConfig = CONFIG, rank: int = 0, world: int = 1, threads: int = 2) -> Loader:
    state = state_of(opened, config)
    return Loader(opened, state, config, opened.vocab, 2048, rank, world, image_size=SIZE, threads=threads)


def sample_of(pick: tuple[str, int]) -> Sample:
    return {"text": TEXTS, "caption": CAPTIONS, "interleaved": DOCUMENTS}[pick[0].split("/")[1]][pick[1]]


def equal(one: Update, other: Update) -> bool:
    def batches(a: MicroBatch, b: MicroBatch) -> bool:
        tensors = ("tokens_BT", "counted_BT", "pixels_NCHW", "slots_N2")
        same = all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)
        return same and (a.stream, a.rows, a.bad_images) == (b.stream, b.rows, b.bad_images)

    pairs = zip(one.micro_batches, other.micro_batches, strict=True)
    return one.number == other.number and all(batches(a, b) for a, b in pairs)


def one_batch(stream: str, samples: Sequence[Sample], tmp_path: Path, max_length: int = 2048) -> MicroBatch:
    """All samples as the one micro-batch of an update."""
    url = str(tmp_path / f"{len(list(tmp_path.iterdir()))}")
    mark = pack(url, [{stream: [samples]}])
    num = {name: len(samples) if name == stream else 0 for name in ("text", "caption", "interleaved")}
    config = DataConfig(quotas=Quotas(**num), micro_batch=Rows(**{stream: len(samples)}))
    with sources(url, [mark]) as found:
        state = start(found.listing, found.digests, config)
        with Loader(found, state, config, found.vocab, max_length, image_size=SIZE, threads=2) as loader:
            (batch,) = loader.update(1).micro_batches
    return batch


# what stands in a micro-batch ---------------------------------------------------------------------------------------
def test_an_update_holds_its_rows_as_they_were_packed(opened: Sources) -> None:
    with loader_of(opened) as loader:
        updates = [loader.update(number) for number in (1, 2, 30)]
    for update in updates:
        wanted = picks(state_of(opened), update.number)
        for stream in ("text", "caption", "interleaved"):
            mine = [batch for batch in update.micro_batches if batch.stream == stream]
            assert sorted(row for batch in mine for row in batch.rows if row) == sorted(wanted[stream])
            lengths = [len(sample_of(row).tokens) for batch in mine for row in batch.rows if row]
            assert lengths == sorted(lengths)
        for batch in update.micro_batches:
            slots = []
            for index, row in enumerate(batch.rows):
                sample = sample_of(row) if row else Sample(tokens=())
                tokens, counted = batch.tokens_BT[index], batch.counted_BT[index]
                assert tuple(tokens[: len(sample.tokens)].tolist()) == sample.tokens
                assert (tokens[len(sample.tokens) :] == PAD).all()
                places = {place for first, last in sample.loss for place in range(first, last)}
                assert set(counted.nonzero().flatten().tolist()) == places
                slots += [[index, place] for place in sample.starts]
            assert batch.slots_N2.tolist() == slots
            images = [image for row in batch.rows if row for image in sample_of(row).images]
            assert len(images) == len(batch.pixels_NCHW)
            for pixels_CHW, image in zip(batch.pixels_NCHW, images, strict=True):
                expected = decode(image, SIZE)
                assert expected is not None and torch.equal(pixels_CHW, expected)
            assert batch.tokens_BT.dtype == batch.slots_N2.dtype == torch.int64
            assert batch.counted_BT.dtype == torch.bool and batch.pixels_NCHW.dtype == torch.uint8
            assert batch.bad_images == 0


def test_the_streams_come_in_a_fixed_order(opened: Sources) -> None:
    with loader_of(opened) as loader:
        streams = [batch.stream for batch in loader.update(1).micro_batches]
    assert streams == ["text"] * 2 + ["caption"] * 3 + ["interleaved"] * 2


@pytest.mark.parametrize(
    ("stream", "tokens", "max_length", "positions"),
    [
        ("text", 5, 2048, 2048),
        ("text", 5, 256, 256),
        ("caption", 96, 2048, 96),
        ("caption", 97, 2048, 128),
        ("caption", 129, 2048, 192),
        ("caption", 193, 2048, 256),
        ("caption", 257, 2048, 384),
        ("caption", 385, 2048, 512),
        ("caption", 513, 2048, 2048),
        ("caption", 97, 100, 100),
        ("interleaved", 512, 2048, 512),
        ("interleaved", 513, 2048, 1024),
        ("interleaved", 1025, 2048, 2048),
        ("interleaved", 513, 700, 700),
    ],
)
def test_lengths_are_few(stream: str, tokens: int, max_length: int, positions: int, tmp_path: Path) -> None:
    words = [5] * (tokens - (2 if stream == "text" else 4 + IMAGE_SLOTS))
    sample = text(*words) if stream == "text" else caption(jpeg(), *words)
    assert len(sample.tokens) == tokens
    assert one_batch(stream, [sample], tmp_path, max_length).tokens_BT.shape == (1, positions)


def test_a_row_too_long_for_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"101 tokens and model.max_length is 100"):
        one_batch("text", [text(*[5] * 99)], tmp_path, max_length=100)


# a pure function of the update --------------------------------------------------------------------------------------
def test_an_update_is_the_same_alone_after_others_and_by_any_threads(opened: Sources) -> None:
    with loader_of(opened, threads=1) as loader:
        straight = [loader.update(number) for number in range(1, 9)]
    with loader_of(opened, threads=3) as resumed:
        assert all(equal(resumed.update(update.number), update) for update in reversed(straight))
        assert all(equal(one, other) for one, other in zip(prefetch(resumed, 5, 8), straight[4:], strict=True))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_an_update_and_run_as_many_micro_batches(opened: Sources, world: int) -> None:
    with loader_of(opened) as single:
        whole = single.update(3)
    ranks = []
    for rank in range(world):
        with loader_of(opened, rank=rank, world=world) as loader:
            ranks.append(loader.update(3))
    assert len({tuple(batch.stream for batch in update.micro_batches) for update in ranks}) == 1
    wanted = picks(state_of(opened), 3)
    for stream in wanted:
        mine = [
            [row for batch in update.micro_batches if batch.stream == stream for row in batch.rows if row]
            for update in ranks
        ]
        sizes = [len(rows) for rows in mine]
        firsts = [sum(sizes[:rank]) for rank in range(world)]
        for rows, first in zip(mine, firsts, strict=True):
            assert sorted(rows) == sorted(wanted[stream][first : first + len(rows)])
        assert sum(sizes) == len(wanted[stream]) and max(sizes) - min(sizes) <= 1
    assert sum(update.counted for update in ranks) == whole.counted


def test_missing_rows_are_padding_that_counts_nothing(opened: Sources) -> None:
    with loader_of(opened, rank=1, world=4) as loader:
        batches = loader.update(1).micro_batches
    missing = [(batch, index) for batch in batches for index, row in enumerate(batch.rows) if row is None]
    assert missing
    for batch, index in missing:
        assert (batch.tokens_BT[index] == PAD).all() and not batch.counted_BT[index].any()
        assert index not in batch.slots_N2[:, 0].tolist()


@pytest.mark.parametrize("order", ["blocks", "rows"])
def test_every_row_is_loaded_once_an_epoch_over_files_with_short_tails(order: str, tmp_path: Path) -> None:
    samples = rows_of(240)
    units = [{"text": [samples[:100], samples[100:101]]}, {"text": [samples[101:165], samples[165:]]}]
    mark = pack(str(tmp_path), units)
    config = DataConfig(quotas=Quotas(text=24, caption=0, interleaved=0), micro_batch=Rows(text=8), order=order)
    with sources(str(tmp_path), [mark]) as found:
        state = start(found.listing, found.digests, config)
        with Loader(found, state, config, VOCAB, 2048) as loader:
            batches = [batch for update in prefetch(loader, 1, 20) for batch in update.micro_batches]
    rows = [tuple(row[row != PAD].tolist()) for batch in batches for row in batch.tokens_BT]
    epochs = [rows[:240], rows[240:]]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(sample.tokens for sample in samples)
    assert epochs[0] != epochs[1]


def test_an_extended_run_reads_the_new_manifest(tmp_path: Path) -> None:
    config = DataConfig(quotas=Quotas(text=10, caption=0, interleaved=0), micro_batch=Rows(text=10))
    old = pack(str(tmp_path), [{"text": [rows_of(30)]}])
    new = pack(str(tmp_path), [{"text": [[text(60, 61, 62)] * 20]}])
    with sources(str(tmp_path), [old]) as before:
        state = start(before.listing, before.digests, config)
    with sources(str(tmp_path), [old, new]) as after:
        grown = extend(state, 4, after.listing, after.digests, config)
        with Loader(after, grown, config, VOCAB, 2048) as loader:
            starts = [loader.update(number).micro_batches[0].tokens_BT[:, 1].tolist() for number in (3, 4, 5)]
    assert 60 not in starts[0] and starts[1:] == [[60] * 10] * 2


def test_an_object_store_gives_the_same_updates(opened: Sources, tmp_path: Path) -> None:
    url = f"memory:///{tmp_path.name}"
    mark = pack(url, [{"text": [TEXTS], "caption": [CAPTIONS[:100], CAPTIONS[100:]], "interleaved": [DOCUMENTS]}])
    assert mark == opened.digests[0]
    with sources(url, [mark]) as far, loader_of(far) as loader, loader_of(opened) as near:
        assert all(equal(loader.update(number), near.update(number)) for number in (1, 2))


# bad images ---------------------------------------------------------------------------------------------------------
def test_a_bad_image_masks_its_caption_alone(tmp_path: Path) -> None:
    batch = one_batch("caption", [caption(jpeg(1), 5, 6), caption(b"bad", 7, 8), caption(jpeg(2), 9, 9)], tmp_path)
    assert batch.bad_images == 1
    assert [int(row.sum()) for row in batch.counted_BT] == [3, 0, 3]
    assert [bool(image.any()) for image in batch.pixels_NCHW] == [True, False, True]
    assert batch.slots_N2.tolist() == [[0, 2], [1, 2], [2, 2]]


def test_a_bad_image_masks_a_document_up_to_the_next_image(tmp_path: Path) -> None:
    sample = interleaved(5, b"bad", 6, 7, jpeg(1), 8, b"worse", b"worst", 9)
    batch = one_batch("interleaved", [sample], tmp_path)
    assert batch.bad_images == 3
    assert batch.tokens_BT[batch.counted_BT].tolist() == [5, 8]
    assert [bool(image.any()) for image in batch.pixels_NCHW] == [False, True, False, False]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["word", "good", "bad"]), max_size=12))
def test_what_counts_is_what_no_bad_image_stands_before(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str]
) -> None:
    items: list[int | bytes] = [{"word": 5 + i, "good": jpeg(i), "bad": b"bad"}[kind] for i, kind in enumerate(kinds)]
    expected, seeing = [], True
    for item in (*items, 2):
        if isinstance(item, bytes):
            seeing = item != b"bad"
        elif seeing:
            expected.append(item)
    batch = one_batch("interleaved", [interleaved(*items)], tmp_path_factory.mktemp("bad"))
    assert batch.tokens_BT[batch.counted_BT].tolist() == expected
    assert batch.bad_images == kinds.count("bad")


# refused ------------------------------------------------------------------------------------------------------------
def test_another_vocabulary_is_refused(opened: Sources) -> None:
    with pytest.raises(ConfigError, match="vocabulary of 100 and the model has 64007"):
        Loader(opened, state_of(opened), CONFIG, Vocab(), 2048)


def test_a_state_of_other_manifests_is_refused(opened: Sources, tmp_path: Path) -> None:
    mark = pack(str(tmp_path), [{"text": [TEXTS], "caption": [CAPTIONS[:5]], "interleaved": [DOCUMENTS]}])
    with sources(str(tmp_path), [mark]) as other:
        with pytest.raises(ConfigError, match="--extend"):
            Loader(other, state_of(opened), CONFIG, VOCAB, 2048)
        body = state_of(opened).to_json()
        body["pieces"][0]["digests"] = [mark]
        with pytest.raises(ConfigError, match=r"rows of pack-0/caption that its manifests do not hold"):
            Loader(other, State.from_json(body), CONFIG, VOCAB, 2048)


# prefetch -----------------------------------------------------------------------------------------------------------
class Watched(Loader):
    """Notes what it is asked for."""

    def update(self, number: int) -> Update:
        self.__dict__.setdefault("asked", []).append(number)
        return super().update(number)


def watched(opened: Sources) -> Watched:
    return Watched(opened, state_of(opened), CONFIG, VOCAB, 2048, image_size=SIZE, threads=1)


def loading() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_updates_come_in_order_and_only_a_few_ahead(opened: Sources) -> None:
    with watched(opened) as loader:
        for update in prefetch(loader, 3, 12):
            assert update.number <= max(loader.__dict__["asked"]) <= update.number + AHEAD
        assert loader.__dict__["asked"] == list(range(3, 13))
    assert not loading()


@pytest.mark.parametrize(("most", "ahead"), [(0, 1), (1, 1), (2, 2), (3, AHEAD)])
def test_updates_that_are_large_are_fewer_ahead(
    opened: Sources, most: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(opened) as loader:
        num_bytes = sum(batch.pixels_NCHW.nbytes for batch in loader.update(1).micro_batches)
        monkeypatch.setattr("trainer.data.loader.AHEAD_BYTES", most * num_bytes)
        loader.__dict__["asked"].clear()
        for update in prefetch(loader, 1, 10):
            assert max(loader.__dict__["asked"]) <= update.number + ahead
        assert loader.__dict__["asked"] == list(range(1, 11))


@pytest.mark.parametrize(("first", "last"), [(1, 1), (4, 5), (2, 1), (9, 3)])
def test_short_ranges_end(opened: Sources, first: int, last: int) -> None:
    with watched(opened) as loader:
        assert [update.number for update in prefetch(loader, first, last)] == list(range(first, last + 1))
    assert not loading()


def test_leaving_early_ends_the_thread(opened: Sources) -> None:
    with watched(opened) as loader:
        ahead = prefetch(loader, 1, 1000)
        assert isinstance(ahead, Iterator)
        assert next(ahead).number == 1
        assert loading()
        ahead.close()  # type: ignore[attr-defined]
        assert not loading()
        assert max(loader.__dict__["asked"]) <= 2 + AHEAD
        with pytest.raises(KeyError):
            for _ in prefetch(loader, 1, 1000):
                raise KeyError
        assert not loading()


def test_what_loading_raises_comes_in_place_of_its_update(tmp_path: Path) -> None:
    config = DataConfig(quotas=Quotas(text=16, caption=0, interleaved=0), micro_batch=Rows(text=16))
    mark = pack(str(tmp_path), [{"text": [rows_of(64), rows_of(64, 1)]}])
    with sources(str(tmp_path), [mark]) as found:
        state = start(found.listing, found.digests, config)
        first_rows = [picks(state, number)["text"][0][1] for number in (1, 5)]
        damaged = sorted((tmp_path / "pack-0/data").glob("*.text.*.arrow"))[first_rows[1] // 64]
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
        got = []
        with Loader(found, state, config, VOCAB, 2048) as loader, pytest.raises(StoreError, match=damaged.name):
            for update in prefetch(loader, 1, 8):
                got.append(update.number)
        assert got == [1, 2, 3, 4] and {row // 64 for row in first_rows} == {0, 1}
    assert not loading()
