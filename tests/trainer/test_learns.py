"""That it learns: 64 pictures and what they show, through shards, loader, loop and checkpoint, and back by decoding.

No two captions are alike and no word of one is known before its picture is seen, so a model that ignores pictures says
none of the 64 but by chance, and one that is shown another picture tells of that. Minutes: `make learn` runs it and
prints the figures.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.vocab import BOS, EOS, IMAGE_SLOTS
from pipelines.pack.tokenizer import bundled
from tests.trainer import shards
from trainer.config import Config, DataConfig, MicroBatch, Quotas, tiny
from trainer.data.images import decode
from trainer.fit import fit
from trainer.generate import greedy, prompt, unspoken
from trainer.weights.export import load
from trainer.words import Words

UPDATES = 240
SIDE = 160  # pixels of a picture
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 72, 200),
    "yellow": (240, 220, 40),
    "purple": (128, 40, 150),
    "orange": (255, 127, 14),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
}
GROUNDS = {"grey": (128, 128, 128), "brown": (120, 80, 50), "pink": (240, 170, 200), "dark": (40, 50, 60)}
PLACES = {"upper left": (50, 50), "upper right": (110, 50), "lower left": (50, 110), "lower right": (110, 110)}
SHAPES = ("circle", "square", "triangle", "bar", "cross", "ring", "frame", "diamond")

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A picture and what it shows."""

    picture: bytes
    words: str


def draw(shape: str, colour: str, place: str, ground: str) -> bytes:
    """A JPEG of one shape."""
    canvas: Pixels = np.full((SIDE, SIDE, 3), GROUNDS[ground][::-1], np.uint8)
    (x, y), paint, r = PLACES[place], COLOURS[colour][::-1], 44
    corners: dict[str, list[tuple[int, int]]] = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "triangle": [(0, -r), (r, r), (-r, r)],
        "diamond": [(0, -r), (r, 0), (0, r), (-r, 0)],
        "bar": [(-r, -14), (r, -14), (r, 14), (-r, 14)],
    }
    if shape in corners:
        cv2.fillPoly(canvas, [np.array([(x + dx, y + dy) for dx, dy in corners[shape]])], paint)
    elif shape == "cross":
        cv2.line(canvas, (x - r, y - r), (x + r, y + r), paint, 18)
        cv2.line(canvas, (x - r, y + r), (x + r, y - r), paint, 18)
    elif shape == "frame":
        cv2.rectangle(canvas, (x - r, y - r), (x + r, y + r), paint, 14)
    else:
        cv2.circle(canvas, (x, y), r, paint, -1 if shape == "circle" else 14)
    done, coded = cv2.imencode(".jpg", canvas)
    assert done
    return coded.tobytes()


def pairs() -> list[Pair]:
    """64: every shape in every colour; place and ground follow neither of the two alone."""
    found = []
    for i, shape in enumerate(SHAPES):
        for j, colour in enumerate(COLOURS):
            place, ground = (
                list(PLACES)[(i % 4 + j) % 4 if i < 4 else 3 - (i % 4 + j) % 4],
                list(GROUNDS)[(i + 3 * j) % 4],
            )
            words = f"a {colour} {shape} in the {place} corner on a {ground} ground"
            found.append(Pair(picture=draw(shape, colour, place, ground), words=words))
    return found


def row(words: Words, pair: Pair) -> shards.Sample:
    """The pair as pack lays it out."""
    head = (BOS, *[words.vocab.image] * (1 + IMAGE_SLOTS), words.vocab.image_end)
    tokens = (*head, *words.encode(pair.words), EOS)
    return shards.Sample(tokens=tokens, starts=(2,), images=(pair.picture,), loss=((len(head), len(tokens)),))


def config() -> Config:
    """The recipe `tiny` on captions alone, all 64 in every update, its learning rate down to 0 at the last."""
    recipe = tiny()
    return replace(
        recipe,
        data=DataConfig(quotas=Quotas(text=0, caption=64, interleaved=0), micro_batch=MicroBatch(caption=16)),
        optim=replace(recipe.optim, total_updates=UPDATES),
        checkpoint_every=UPDATES,
    )


def test_no_two_pictures_or_captions_are_alike() -> None:
    shown = pairs()
    assert len(shown) == len({pair.words for pair in shown}) == len({pair.picture for pair in shown}) == 64
    pixels = [decode(pair.picture) for pair in shown]
    assert all(pixels_CHW is not None and pixels_CHW.shape == (3, 224, 224) for pixels_CHW in pixels)


@pytest.mark.learn
@pytest.mark.timeout(3600)
def test_it_tells_what_64_pictures_show(tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str]) -> None:
    shown = pairs()
    body = bundled().read_bytes()
    words = Words(body)
    store, out = str(tmp_path / "store"), str(tmp_path / "run")
    rows = [row(words, pair) for pair in shown]
    digest = shards.pack(store, [{"caption": [rows]}], model=body, pieces=words.vocab.pieces)
    losses: list[float] = []
    began = time.process_time()
    fit(config(), [digest], store, out, report=lambda metrics: losses.append(metrics.loss))
    took = time.process_time() - began
    model, words = load(out)
    tokens, slots_N2 = prompt(words.vocab, [], 1)

    def told(picture: bytes) -> str:
        pixels_CHW = decode(picture)
        assert pixels_CHW is not None
        new = greedy(model, tokens, pixels_CHW[None], slots_N2, 48, EOS, unspoken(words.vocab))
        return words.decode(new)

    said = [told(pair.picture) for pair in shown]
    own = sum(text == pair.words for text, pair in zip(said, shown, strict=True))
    # every picture in the place of another
    other = sum(said[(number + 27) % 64] == pair.words for number, pair in enumerate(shown))
    below = next((number for number, loss in enumerate(losses, 1) if loss < 0.1), None)
    with capsys.disabled():
        print(
            f"\nlearn: loss {losses[0]:.2f} to {losses[-1]:.4f} in {UPDATES} updates, below 0.1 at {below}; {own} of "
            f"64 captions told from their pictures, {other} from others'; {took:.0f} s of CPU"
        )
    assert losses[-1] < 0.1
    assert own >= 60
    assert other <= 5
