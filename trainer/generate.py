"""A trained model's words: greedy decoding behind a prompt of images and text.

Promises the argmax of the whole sequence at every step, for the price of one position (keys and values are cached). An
image is 66 positions of the prompt: `<image>`, 64 slots, `</image>`; no model says them, nor <s>, <pad> or <unk>.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from engine.errors import ConfigError
from engine.vocab import BOS, IMAGE_SLOTS, PAD, UNK, Vocab
from trainer.model import Kosmos


def prompt(vocab: Vocab, text_ids: Sequence[int], num_images: int = 1) -> tuple[list[int], torch.Tensor]:
    """Lay out `<s>`, the images, then the text; gives the tokens and slots_N2, as `greedy` takes them."""
    image = [vocab.image] * (1 + IMAGE_SLOTS) + [vocab.image_end]
    starts = [2 + number * len(image) for number in range(num_images)]  # behind <s> and <image>
    slots_N2 = torch.tensor([(0, start) for start in starts], dtype=torch.int64).reshape(-1, 2)
    return [BOS, *image * num_images, *text_ids], slots_N2


def unspoken(vocab: Vocab) -> tuple[int, ...]:
    """List the tokens that are no words, for `banned`: never targets in training, but for <unk>, which names none."""
    return (BOS, PAD, UNK, vocab.mask, vocab.doc, vocab.image, vocab.image_end, vocab.chunk)


@torch.inference_mode()
def greedy(
    model: Kosmos,
    tokens: Sequence[int],
    pixels_NCHW: torch.Tensor,
    slots_N2: torch.Tensor,
    max_new: int,
    stop: int,
    banned: tuple[int, ...],
) -> list[int]:
    """Continue `tokens` by the likeliest token, again and again; gives the new ones, `stop` left out.

    pixels_NCHW, slots_N2: the prompt's images, as in `trainer.batch.MicroBatch`. max_new: at most so many. The model is
    left in the mode, train or eval, in which it was. Raises ConfigError where prompt and answer exceed max_length.
    """
    if not tokens:
        raise ValueError("a prompt holds at least <s>")
    limit = model.config.max_length
    if len(tokens) > limit or (max_new and len(tokens) == limit):
        raise ConfigError(
            f"a prompt of {len(tokens):,} tokens leaves no room for an answer in the model's {limit:,} positions (an "
            f"image takes {IMAGE_SLOTS + 2}); shorten the text or give fewer images"
        )
    if len(tokens) + max_new > limit:
        raise ConfigError(
            f"a prompt of {len(tokens):,} tokens and {max_new:,} new ones do not fit in the model's {limit:,} "
            f"positions; ask for {limit - len(tokens):,} new tokens at most, or shorten the prompt"
        )
    device = model.decoder.embed_tokens.weight.device
    tokens_BT = torch.tensor([list(tokens)], device=device)
    pixels_NCHW, slots_N2 = pixels_NCHW.to(device), slots_N2.to(device)
    no_pixels, no_slots = pixels_NCHW[:0], slots_N2[:0]
    cache = model.cache(len(tokens) + max_new)
    was_training = model.training
    model.eval()
    new: list[int] = []
    try:
        while len(new) < max_new:
            x_BTD = model.hidden(tokens_BT, pixels_NCHW, slots_N2, cache)
            logits_V = model.head(x_BTD[0, -1]).float()
            logits_V[list(banned)] = -math.inf
            token = int(logits_V.argmax())
            if token == stop:
                break
            new.append(token)
            tokens_BT, pixels_NCHW, slots_N2 = torch.tensor([[token]], device=device), no_pixels, no_slots
    finally:
        model.train(was_training)
    return new
