"""SentencePiece behind the ids of `engine.vocab`: load a model, encode lines, decode ids.

SentencePiece drops newlines, so lines are encoded one by one and `</line>` stands between them. The bundled model has
4,000 pieces, trained on the bundled web's prose by `pipelines.smallweb.tokenizer`; the released KOSMOS model (64,000)
loads as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError, StoreError
from engine.store import Store, local_path
from engine.vocab import CONTROLS, Vocab

if TYPE_CHECKING:
    from engine.stage import Work

MAX_BYTES = 16 << 20  # the released model has 1.4 MB
CONTROL_PIECES = ("<unk>", "<s>", "</s>")
UNKNOWN = 0  # the piece of what the model has no piece for


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenizer:
    """A loaded model; `ids` maps its pieces to ids of `vocab`."""

    vocab: Vocab
    model: Any
    ids: npt.NDArray[np.int32]

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """The ids of each line, each encoded on its own; none for a line of spaces."""
        # one thread: a unit has one core, and SentencePiece would take them all
        pieces = self.model.encode(list(lines), num_threads=1)
        ends = list(accumulate(map(len, pieces), initial=0))
        flat = np.fromiter(chain.from_iterable(pieces), np.int64, ends[-1])
        ids = self.ids[flat].tolist()
        return [ids[start:end] for start, end in pairwise(ends)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ids: `</line>` is a newline, images and controls are nothing."""
        lines: list[list[int]] = [[]]
        for token in tokens:
            piece = self.vocab.to_piece(token)
            if token == self.vocab.line:
                lines.append([])
            elif piece == UNKNOWN or piece >= CONTROLS:
                lines[-1].append(piece)
        return "\n".join(map(self.model.decode, lines))


def bundled() -> Path:
    """The model that the project carries."""
    return Path(__file__).with_name("bundled.model")


def body(uri: str) -> bytes:
    """The bytes of the model at a path or address, "" for the bundled one; ConfigError if they cannot be read."""
    what = uri or "the bundled tokenizer"
    path = (Path(uri).expanduser() if "://" not in uri else local_path(uri)) if uri else bundled()
    try:
        if path is None:
            root, _, name = uri.rpartition("/")
            store = Store(root)
            head = store.head(name)
            if head is None:
                raise ConfigError(f"{uri} is not there; give pack.tokenizer the address of a SentencePiece model")
            found = store.get(name) if head.size <= MAX_BYTES else bytes(MAX_BYTES + 1)
        elif path.exists() and not path.is_file():
            raise ConfigError(f"{uri} is no file; give pack.tokenizer a SentencePiece model")
        else:
            with open(path, "rb") as file:
                found = file.read(MAX_BYTES + 1)
    except (OSError, StoreError) as error:
        raise ConfigError(f"{what} cannot be read ({error}); give pack.tokenizer a SentencePiece model") from None
    if len(found) > MAX_BYTES:
        raise ConfigError(f"{uri} is over {MAX_BYTES} bytes, no tokenizer; give pack.tokenizer a SentencePiece model")
    return found


def load(path: Path) -> Tokenizer:
    """The tokenizer in a file; ConfigError if it is no SentencePiece model or its ids 0-2 are not <unk>, <s>, </s>."""
    return parsed(body(str(path)), str(path))


def parsed(proto: bytes, what: str) -> Tokenizer:
    """The tokenizer of a model's bytes, as `load`; what: their name for people."""
    import sentencepiece

    try:
        if not proto:
            raise RuntimeError("it is empty")
        model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        pieces = model.get_piece_size()
    except RuntimeError:
        raise ConfigError(f"{what} is no SentencePiece model; give pack.tokenizer one, or leave it empty") from None
    found = tuple(model.id_to_piece(piece) for piece in range(min(CONTROLS, pieces)))
    if found != CONTROL_PIECES:
        raise ConfigError(
            f"{what} begins with {' '.join(found)}; pack.tokenizer needs a model whose ids 0-2 are "
            f"{' '.join(CONTROL_PIECES)}, SentencePiece's default"
        )
    vocab = Vocab(pieces=pieces)
    ids = np.array([vocab.from_piece(piece) for piece in range(pieces)], np.int32)
    return Tokenizer(vocab=vocab, model=model, ids=ids)


def fetched(work: Work, uri: str, digest: str) -> Path:
    """A local path of the model at the address, "" for the bundled one; ConfigError unless it has the digest."""
    path = work.local(uri) if uri else bundled()
    found = hashlib.sha256(body(str(path))).hexdigest()
    if found != digest:
        raise ConfigError(
            f"the tokenizer {uri or path} has changed since the run began (sha256 {found[:12]}, not {digest[:12]}); "
            "put the old one back or run again with the new one"
        )
    return path
