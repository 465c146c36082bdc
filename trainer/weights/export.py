"""`kosmos export`: a run's checkpoint as one folder that needs neither the run nor, in its second layout, this project.

Weights in one safetensors file, whole, however many processes trained them; the frozen part of the tower with them. The
same checkpoint gives the same bytes. What it holds and how it is read: `exported`; its model card: `card`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from engine.errors import ConfigError
from engine.store import Store
from trainer.checkpoints.run import Checkpoint, Described, Run
from trainer.config import ModelConfig
from trainer.data import order
from trainer.model import Kosmos
from trainer.weights import exported, kosmos2, start
from trainer.weights.card import card
from trainer.weights.exported import CARD, CONFIG, DTYPES, FORMAT, KEY, LAYOUTS, TOKENIZER, Said
from trainer.weights.tensors import FILE, scratch, write
from trainer.words import Words

TORCH = {"float32": torch.float32, "bf16": torch.bfloat16}
HF = {"float32": "float32", "bf16": "bfloat16"}


def export(run: str, out: str, update: int = 0, dtype: str = "float32", layout: str = "kosmos") -> str:
    """Write a checkpoint of a run into a new folder; where that is, as a person types it.

    run, out: folders or store addresses. update: of the checkpoint; 0 for the newest. dtype: "float32" or "bf16".
    layout: "kosmos", this project's names, or "kosmos2", which transformers' Kosmos2ForConditionalGeneration loads.
    ConfigError where there is no such checkpoint, or something at `out` already; StoreError where a store gives out.
    """
    for option, word, words in (("--dtype", dtype, DTYPES), ("--layout", layout, LAYOUTS)):
        if word not in words:
            raise ConfigError(f"{option} is {word!r}; give it {' or '.join(words)}")
    folder, described, checkpoint = found(run, update)
    target = Store(out)
    if not target.absent and next(iter(target.list("")), None) is not None:
        raise ConfigError(f"{target.place} is not empty; give --out a new folder")
    model = described.config.model
    document: dict[str, Any] = kosmos2.config(model) | {"dtype": HF[dtype]} if layout == "kosmos2" else {}
    tokenizer = folder.tokenizer(described)
    tensors = {name: tensor.to(TORCH[dtype]) for name, tensor in start.weights(folder, described, checkpoint).items()}
    with scratch() as local:
        with open(local / FILE, "wb") as sink:
            sha256 = write(sink, kosmos2.renamed(tensors) if layout == "kosmos2" else tensors, {"format": "pt"})
        target.put_file(FILE, local / FILE)
    said = Said(
        format=FORMAT,
        layout=layout,
        dtype=dtype,
        model=model,
        sha256=sha256,
        vocabulary=hashlib.sha256(tokenizer).hexdigest(),
        run=_trained(folder, described, checkpoint, tensors),
    )
    document[KEY] = dataclasses.asdict(said)
    target.put(TOKENIZER, tokenizer)
    target.put(CARD, card(said).encode())
    # last, and once: what has a config is a whole export
    if not target.put_new(CONFIG, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()):
        raise ConfigError(f"another process has exported into {target.place}; give --out a new folder")
    return target.place


def load(place: str) -> tuple[Kosmos, Words]:
    """The model of an export, or of a run's newest checkpoint, on the CPU in float32, and its words.

    ConfigError where there is neither, StoreError where one is damaged.
    """
    export = exported.find(place)
    if export is not None:
        return start.whole(export.said.model, export.tensors()), Words(export.tokenizer())
    run, described, checkpoint = found(place)
    words = Words(run.tokenizer(described))
    return start.whole(described.config.model, start.weights(run, described, checkpoint)), words


def configured(place: str) -> ModelConfig:
    """The shape of what `load` would load, without its weights."""
    export = exported.find(place)
    return export.said.model if export is not None else found(place)[1].config.model


def found(place: str, update: int = 0) -> tuple[Run, Described, Checkpoint]:
    """A run and its checkpoint of an update, 0 for the newest; ConfigError where there is none."""
    run = Run(exported.folder(place), elsewhere="give --run the folder of another run")
    described = run.describe()
    latest = run.latest() if described is not None else None
    if described is None or latest is None:
        raise ConfigError(f"{run.place} holds no checkpoint; run `kosmos train DIGEST.. --out {place}` first")
    checkpoint = run.checkpoint(update) if update else latest
    if checkpoint is None:
        raise ConfigError(
            f"{run.place} holds no checkpoint of update {update}; leave --update out for the newest, of update "
            f"{latest.update}"
        )
    return run, described, checkpoint


def _trained(
    run: Run, described: Described, checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """What the weights have seen: sums over the run's metrics up to the checkpoint, and the last of its losses."""
    seen = {"counted": 0, "positions": 0, "images": 0}
    losses: dict[str, float | None] = {}
    heldout: dict[str, Any] = {}
    for line in run.metrics():
        if int(line.get("update", 0)) > checkpoint.update:
            break
        for name in seen:
            seen[name] += int(line.get(name) or 0)
        losses = line.get("losses") or losses
        if line.get("heldout"):
            heldout = {"update": line["update"], "losses": line["heldout"]}
    orders = [document for first, document in run.orders().items() if first <= checkpoint.update]
    state = order.State.from_json(orders[-1] if orders else described.order)
    return {
        "recipe": described.config.name,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "update": checkpoint.update,
        "updates": described.config.optim.total_updates,
        "seen": seen,
        "loss": checkpoint.loss,
        "losses": losses,
        "heldout": heldout,
        "digests": list(state.digests),
        "sources": {stream.name: [s.name for s in stream.sources] for stream in state.pieces[-1].streams},
        "start": start.what(run.store) if described.start else {},
        "precision": described.config.system.precision,
    }
