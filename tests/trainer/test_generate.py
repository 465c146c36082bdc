"""Greedy decoding against the whole sequence computed again at every step; what it never says; what it refuses."""

from __future__ import annotations

import pytest
import torch

from engine.errors import ConfigError
from engine.vocab import BOS, EOS, PAD, UNK, Vocab
from trainer.config import ModelConfig, TowerConfig
from trainer.generate import greedy, prompt, unspoken
from trainer.model import Kosmos

VOCAB = Vocab(pieces=93)
CONFIG = ModelConfig(
    vocab_size=VOCAB.size,
    dim=32,
    layers=2,
    heads=2,
    ffn_dim=64,
    max_length=160,
    connector_heads=2,
    tower=TowerConfig(image_size=28, patch=14, width=16, layers=1, heads=2, ffn_dim=32),
)


@pytest.fixture(scope="module")
def model() -> Kosmos:
    torch.manual_seed(7)
    return Kosmos(CONFIG)


def images(number: int) -> torch.Tensor:
    return torch.randint(0, 256, (number, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def again(
    model: Kosmos, tokens: list[int], num_images: int, slots: torch.Tensor, max_new: int, banned: set[int]
) -> list[int]:
    """Greedy by its definition: the whole sequence, from the start, for every token."""
    new: list[int] = []
    model.eval()
    while len(new) < max_new:
        scores = model.logits(torch.tensor([tokens + new]), images(num_images), slots)[0, -1].tolist()
        allowed = [token for token in range(VOCAB.size) if token not in banned]
        best = max(allowed, key=lambda token: scores[token])
        if best == EOS:
            break
        new.append(best)
    model.train()
    return new


@pytest.mark.parametrize("num_images", [0, 1, 2])
@pytest.mark.parametrize("text", [[], [5], [9, 30, 12, 44]])
def test_greedy_is_the_argmax_of_the_whole_at_every_step(model: Kosmos, num_images: int, text: list[int]) -> None:
    tokens, slots = prompt(VOCAB, text, num_images)
    banned = unspoken(VOCAB)
    got = greedy(model, tokens, images(num_images), slots, 20, EOS, banned)
    assert got == again(model, tokens, num_images, slots, 20, set(banned))
    assert got
    assert not set(got) & {*banned, EOS}


def test_banned_tokens_are_never_said(model: Kosmos) -> None:
    tokens, slots = prompt(VOCAB, [5], 0)
    first = greedy(model, tokens, images(0), slots, 12, EOS, ())
    assert first
    without = greedy(model, tokens, images(0), slots, 12, EOS, (first[0],))
    assert first[0] not in without
    only = 17
    everything = tuple(token for token in range(VOCAB.size) if token != only)
    assert greedy(model, tokens, images(0), slots, 3, EOS, everything) == [only] * 3


def test_it_ends_before_the_stop(model: Kosmos) -> None:
    tokens, slots = prompt(VOCAB, [9, 30], 1)
    free = greedy(model, tokens, images(1), slots, 12, EOS, unspoken(VOCAB))
    stop = free[-1]
    assert greedy(model, tokens, images(1), slots, 12, stop, unspoken(VOCAB)) == free[: free.index(stop)]


def test_the_mode_is_left_as_it_was(model: Kosmos) -> None:
    tokens, slots = prompt(VOCAB, [5], 0)
    for training in (True, False):
        model.train(training)
        # dropout is 0.1 in this config: in training mode two answers of 40 tokens would differ
        first = greedy(model, tokens, images(0), slots, 40, EOS, unspoken(VOCAB))
        assert first == greedy(model, tokens, images(0), slots, 40, EOS, unspoken(VOCAB))
        assert model.training is training


def test_what_does_not_fit_is_refused_in_one_sentence(model: Kosmos) -> None:
    tokens, slots = prompt(VOCAB, [5] * 3, 2)
    assert len(tokens) == 136
    assert greedy(model, tokens, images(2), slots, 0, EOS, ()) == []
    with pytest.raises(ConfigError, match="ask for 24 new tokens at most"):
        greedy(model, tokens, images(2), slots, 25, EOS, ())
    assert len(greedy(model, tokens, images(2), slots, 24, EOS, (EOS,))) == 24
    long, slots = prompt(VOCAB, [5] * 27, 2)
    assert len(long) == 160
    assert greedy(model, long, images(2), slots, 0, EOS, ()) == []
    for tokens in (long, [*long, 5]):
        with pytest.raises(ConfigError, match=r"leaves no room for an answer .*shorten the text") as error:
            greedy(model, tokens, images(2), slots, 1, EOS, ())
        assert "ask for" not in str(error.value) and "--max-tokens" not in str(error.value)
    with pytest.raises(ValueError, match="at least <s>"):
        greedy(model, [], images(0), slots[:0], 1, EOS, ())


def test_a_prompt_is_laid_out_as_a_caption_is() -> None:
    tokens, slots = prompt(VOCAB, [8, 9])
    assert tokens == [BOS, VOCAB.image, *[VOCAB.image] * 64, VOCAB.image_end, 8, 9]
    assert slots.tolist() == [[0, 2]]
    tokens, slots = prompt(VOCAB, [8], 3)
    assert len(tokens) == 1 + 3 * 66 + 1
    assert slots.tolist() == [[0, 2], [0, 68], [0, 134]]
    assert all(tokens[start - 1 : start + 64] == [VOCAB.image] * 65 for _, start in slots.tolist())
    assert prompt(VOCAB, [8], 0)[1].shape == (0, 2)
    never = {BOS, PAD, UNK, VOCAB.mask, VOCAB.doc, VOCAB.image, VOCAB.image_end, VOCAB.chunk}
    assert set(unspoken(VOCAB)) == never
