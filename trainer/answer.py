"""`kosmos generate`: what a run's newest checkpoint, or an export, says to images and a text.

The prompt is laid out as the training rows are: without a text, an image alone asks for its caption. Greedy decoding:
the same weights, image and prompt give the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from engine.errors import ConfigError
from engine.vocab import EOS
from trainer.data.images import decode
from trainer.generate import greedy, prompt, unspoken
from trainer.weights.export import configured, load

MAX_IMAGE_BYTES = 64 << 20
MAX_NAME = 200  # letters of a file's name in a sentence


def answer(run: str, images: Sequence[str], text: str, max_tokens: int = 64, square: bool = False) -> str:
    """The words that follow the images and the text.

    run: the address that `kosmos train` had as --out, or `kosmos export`. images: local files; square: the whole of
    each, its sides drawn to one length, instead of its middle. ConfigError for a run without a checkpoint, a file that
    is no image, images for a model of text alone, a prompt that does not fit.
    """
    if max_tokens < 1:
        raise ConfigError(f"--max-tokens is {max_tokens}; give it 1 or more")
    if not images and not text.strip():
        raise ConfigError("there is nothing to go on from; give --image FILE, --prompt TEXT, or both")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigError("the prompt is not UTF-8; give --prompt a text that is")
    config = configured(run)
    if images and not config.images:
        raise ConfigError(f"{run} holds a model of text alone (model.images is false); leave --image out")
    size = config.tower.image_size
    pixels = [_pixels(file, size, square) for file in images]
    pixels_NCHW = torch.stack(pixels) if pixels else torch.zeros((0, 3, size, size), dtype=torch.uint8)
    model, words = load(run)
    tokens, slots_N2 = prompt(words.vocab, words.encode(text), len(images))
    new = greedy(model, tokens, pixels_NCHW, slots_N2, max_tokens, EOS, unspoken(words.vocab))
    return words.decode(new)


def _pixels(file: str, size: int, square: bool) -> torch.Tensor:
    path = Path(file)
    try:
        if not path.is_file():
            raise ConfigError(f"{file} is not a file; give --image the path of an image")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ConfigError(f"{file} is over {MAX_IMAGE_BYTES >> 20} MiB; give --image a smaller one")
        body = path.read_bytes()
    except OSError as error:
        named = file if len(file) <= MAX_NAME else file[:MAX_NAME] + "..."
        raise ConfigError(f"{named} cannot be read ({error.strerror}); give --image the path of an image") from None
    pixels = decode(body, size, foreign=True, square=square)
    if pixels is None:
        raise ConfigError(f"{file} cannot be decoded; give --image a JPEG, PNG or WebP file")
    return pixels
