"""Text to tokens and back, by the SentencePiece model of the training rows: a run carries its bytes."""

from __future__ import annotations

from collections.abc import Sequence

import sentencepiece

from engine.errors import ConfigError
from engine.vocab import Vocab


class Words:
    """The pieces of one model and the ids that they have in ours."""

    def __init__(self, model: bytes) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ConfigError(f"the run's tokenizer.model is no SentencePiece model ({error}); train again") from None
        self.vocab = Vocab(pieces=self._pieces.GetPieceSize())

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; lines are joined by </line>, as in the training rows."""
        encoded = (self._pieces.EncodeAsIds(line) for line in text.split("\n"))
        lines = [[self.vocab.from_piece(piece) for piece in pieces] for pieces in encoded if pieces]
        tokens = [token for line in lines for token in [*line, self.vocab.line]]
        return tokens[:-1]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; what stands for no text is left out, </line> is a new line."""
        lines: list[list[int]] = [[]]
        for token in tokens:
            if token == self.vocab.line:
                lines.append([])
            elif (piece := self.vocab.to_piece(token)) >= 0:
                lines[-1].append(piece)
        return "\n".join(self._pieces.DecodeIds(line) for line in lines)
