"""An export: a trained model in a folder by itself, at any store address, as `export` writes and others load it.

<out>/model.safetensors     all weights, float32 or bf16
<out>/config.json           last: the model's shape, what it was trained on; under "kosmos_engine" in either layout
<out>/tokenizer.model       the SentencePiece model of its words
<out>/README.md             its card
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.errors import ConfigError, Missing, StoreError
from engine.store import Store
from trainer.checkpoints.plain import built
from trainer.config import ModelConfig
from trainer.weights import kosmos2
from trainer.weights.shapes import of_model
from trainer.weights.tensors import FILE, digest, laid, local, opened

CONFIG, TOKENIZER, CARD, KEY = "config.json", "tokenizer.model", "README.md", "kosmos_engine"
FORMAT = 1
LAYOUTS, DTYPES = ("kosmos", "kosmos2"), ("float32", "bf16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What config.json says under KEY. sha256: of the weights; vocabulary: of the tokenizer. run: what was trained."""

    format: int
    layout: str
    dtype: str
    model: ModelConfig
    sha256: str
    vocabulary: str
    run: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """An export that was found."""

    store: Store
    said: Said

    @property
    def place(self) -> str:
        """Where it is, as a person types it."""
        return self.store.place

    def tensors(self) -> dict[str, torch.Tensor]:
        """All weights by our names, float32, on the CPU; StoreError if they are not what was written."""
        try:
            with local(self.store, FILE) as path:
                if digest(path) != self.said.sha256:
                    raise StoreError(f"{FILE} in {self.place} is damaged; export the run again into a new folder")
                if self.said.layout == "kosmos2":
                    return kosmos2.read(path, self.said.model)
                with opened(path) as file:
                    return laid(file, of_model(self.said.model), lambda name: (name,), file.shapes, "the model")
        except Missing:
            raise StoreError(f"{FILE} is not in {self.place}; export the run again into a new folder") from None

    def tokenizer(self) -> bytes:
        """The SentencePiece model; StoreError if it is not the one that was written."""
        body = self.store.get(TOKENIZER) if self.store.exists(TOKENIZER) else b""
        if hashlib.sha256(body).hexdigest() != self.said.vocabulary:
            raise StoreError(f"{TOKENIZER} in {self.place} is gone or damaged; export the run again into a new folder")
        return body


def folder(place: str) -> str:
    """The folder that is meant where one of its files is named: `out/model.safetensors`."""
    if not place.endswith(".safetensors") and not Path(place).is_file():
        return place
    return place.rpartition("/")[0] or "."


def find(place: str) -> Export | None:
    """The export at an address, or that a file is of; None if there is none, StoreError if its config is damaged."""
    store = Store(folder(place))
    if store.absent or not store.exists(CONFIG):
        return None
    try:
        document = json.loads(store.get(CONFIG))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or KEY not in document:
        return None
    if isinstance(document[KEY], dict) and document[KEY].get("format") != FORMAT:
        raise ConfigError(
            f"{store.place} is an export of format {document[KEY].get('format')!r:.100}, this version reads {FORMAT}; "
            "export the run again with this version"
        )
    try:
        said: Said = built(Said, document[KEY])
    except (KeyError, TypeError, ValueError, RecursionError, ConfigError) as error:
        raise StoreError(
            f"{CONFIG} in {store.place} is damaged ({error!r:.200}); export the run again into a new folder"
        ) from None
    return Export(store=store, said=said)
