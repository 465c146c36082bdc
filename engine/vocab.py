"""Token ids: the one map between SentencePiece pieces and the model's vocabulary, shared by pack and generate.

fairseq's order, as the released KOSMOS dictionary has it: four controls, the pieces shifted by one, then the added
symbols. With the 64,000 pieces of KOSMOS-1 that makes 64,007 entries (table 17 of the paper).
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ConfigError

BOS, PAD, EOS, UNK = 0, 1, 2, 3
CONTROLS = 3  # <unk>, <s>, </s>: SentencePiece ids 0-2, which have ids of their own here
IMAGE_SLOTS = 64  # soft tokens an image
KOSMOS_PIECES = 64_000
STREAMS = ("text", "caption", "interleaved")  # kinds of training rows, each with a number of rows in every update
HELDOUT = "heldout"  # the stage whose rows no model is trained on


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocab:
    """Ids for a SentencePiece model of `pieces` entries, its three controls included.

    piece i >= 3 has id i + 1; <mask> </doc> <image> </image> </chunk> </line> follow; `size` is one past the last.
    """

    pieces: int = KOSMOS_PIECES

    def __post_init__(self) -> None:
        if self.pieces <= CONTROLS:
            raise ConfigError(f"a vocabulary of {self.pieces} pieces holds nothing but its controls; train a tokenizer")

    @property
    def mask(self) -> int:
        """<mask>, never used."""
        return self.pieces + 1

    @property
    def doc(self) -> int:
        """</doc>, unused by the released text loader."""
        return self.pieces + 2

    @property
    def image(self) -> int:
        """<image>: an image begins; also the placeholder of its 64 slots."""
        return self.pieces + 3

    @property
    def image_end(self) -> int:
        """</image>"""
        return self.pieces + 4

    @property
    def chunk(self) -> int:
        """</chunk>, unused."""
        return self.pieces + 5

    @property
    def line(self) -> int:
        """</line>: stands for a newline, which SentencePiece would drop."""
        return self.pieces + 6

    @property
    def size(self) -> int:
        """Entries of the embedding."""
        return self.pieces + 7

    def from_piece(self, piece: int) -> int:
        """The id of a SentencePiece id; its controls map to ours."""
        if not 0 <= piece < self.pieces:
            raise ValueError(f"piece {piece} is not in 0-{self.pieces - 1}")
        return (UNK, BOS, EOS)[piece] if piece < CONTROLS else piece + 1

    def to_piece(self, token: int) -> int:
        """The SentencePiece id of a token; -1 for tokens that have none (<pad> and the added symbols)."""
        if token in (BOS, EOS, UNK):
            return {UNK: 0, BOS: 1, EOS: 2}[token]
        return token - 1 if UNK < token <= self.pieces else -1
