"""The id map agrees with the released KOSMOS dictionary."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from engine.vocab import BOS, EOS, PAD, UNK, Vocab


def test_ids_are_those_of_the_released_dictionary() -> None:
    vocab = Vocab()
    assert (BOS, PAD, EOS, UNK) == (0, 1, 2, 3)
    assert (vocab.from_piece(3), vocab.from_piece(4), vocab.from_piece(63_999)) == (4, 5, 64_000)
    assert (vocab.mask, vocab.doc, vocab.image, vocab.image_end) == (64_001, 64_002, 64_003, 64_004)
    assert (vocab.chunk, vocab.line, vocab.size) == (64_005, 64_006, 64_007)


@pytest.mark.parametrize("pieces", [4, 4_000, 64_000])
def test_every_piece_has_an_id_of_its_own_and_back(pieces: int) -> None:
    vocab = Vocab(pieces=pieces)
    ids = [vocab.from_piece(piece) for piece in range(pieces)]
    assert len(set(ids)) == pieces and PAD not in ids and max(ids) < vocab.mask
    assert [vocab.to_piece(token) for token in ids] == list(range(pieces))
    assert {vocab.to_piece(token) for token in (PAD, vocab.image, vocab.line, vocab.size)} == {-1}


def test_what_is_not_in_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="not in 0-99"):
        Vocab(pieces=100).from_piece(100)
    with pytest.raises(ConfigError):
        Vocab(pieces=3)
