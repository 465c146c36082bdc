"""The model card of an export: what the model is, what it has seen, how it did, how it is used."""

from __future__ import annotations

from typing import Any

from trainer.weights.exported import Said

STARTS = {"clip": "image tower: a CLIP file", "init_from": "weights"}

BODY = """\
---
library_name: {library}
pipeline_tag: {task}
tags: [{tags}]
---

# {recipe}, after update {update:,}

A causal language model{reads}: the architecture of KOSMOS-1 (arXiv 2302.14045), trained with kosmos-engine.

| | |
|---|---|
| parameters | {parameters:,} |
| decoder | {layers} layers, width {dim}, {heads} heads, FFN {ffn_dim}, {max_length:,} positions ({position}) |
| images | {images} |
| words | {vocab_size:,} |
| weights | {dtype}, sha256 `{sha256}` |
| updates | {update:,} of {updates:,} |
| tokens seen | {positions:,} positions, of them {counted:,} counted in the loss |
| images seen | {num_images:,} |
| loss of the last update | {loss} |
| held out | {heldout} |
| began with | {start} |
| trained in | {precision} |

Losses are means in nats over the tokens that count.

## Data

Frozen manifests, each by its digest, which names every row; `kosmos why` tells what became of a page.

{digests}

{sources}

## Use

{use}

## Limits and licence

Nothing here was tuned to follow instructions or to refuse any. It says what is likely after what it was shown, and the
web that it was trained on is often wrong, unfair or rude. Look at what it says before others do.

The texts and images belong to their authors, and this card grants nothing for them: whoever passes the weights on
chooses a licence for them, and minds the terms of what they began with, named above.
"""

OURS = """\
```sh
{see}kosmos generate --run FOLDER --prompt "The capital of France is"
kosmos train DIGEST.. --store URL --recipe {recipe} --init-from FOLDER --out NEW
```

```python
from trainer.weights.export import load

model, words = load("FOLDER")
```
"""

SEE = "kosmos generate --run FOLDER --image photo.jpg\n"

THEIRS = """\
```python
from transformers import Kosmos2ForConditionalGeneration

model = Kosmos2ForConditionalGeneration.from_pretrained("FOLDER")
```

Ids are those of `trainer.words.Words`: SentencePiece's of `tokenizer.model`, moved by one; an image is `<image>`, 64
slots, `</image>`.
"""


def card(said: Said) -> str:
    """Write README.md for an export: the same text for the same export."""
    run, model = said.run, said.model
    tower = model.tower
    images = (
        f"ViT {tower.layers} x {tower.width}, {tower.image_size} x {tower.image_size} pixels in patches of "
        f"{tower.patch}, 64 slots an image"
    )
    return BODY.format(
        task="image-to-text" if model.images else "text-generation",
        tags="kosmos, multimodal" if model.images else "kosmos",
        reads=" that reads images" if model.images else "",
        library="transformers" if said.layout == "kosmos2" else "kosmos-engine",
        recipe=run["recipe"],
        update=run["update"],
        parameters=run["parameters"],
        layers=model.layers,
        dim=model.dim,
        heads=model.heads,
        ffn_dim=model.ffn_dim,
        max_length=model.max_length,
        position=model.position,
        images=images if model.images else "none: a model of text alone",
        vocab_size=model.vocab_size,
        dtype=said.dtype,
        sha256=said.sha256,
        updates=run["updates"],
        positions=run["seen"]["positions"],
        counted=run["seen"]["counted"],
        num_images=run["seen"]["images"],
        loss=_losses({"all": run["loss"], **run["losses"]}),
        heldout=_heldout(run["heldout"]),
        start=_start(run["start"]),
        precision=run["precision"],
        digests="\n".join(f"- `{digest}`" for digest in run["digests"]),
        sources="\n".join(f"- {stream}: {', '.join(names)}" for stream, names in sorted(run["sources"].items())),
        use=(THEIRS if said.layout == "kosmos2" else "")
        + OURS.format(recipe=run["recipe"], see=SEE if model.images else ""),
    )


def _losses(losses: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None) or "none"


def _heldout(heldout: dict[str, Any]) -> str:
    return f"{_losses(heldout['losses'])} (update {heldout['update']:,})" if heldout else "not looked at"


def _start(what: dict[str, str]) -> str:
    told = [f"{words} (sha256 `{what[key]}`)" for key, words in STARTS.items() if key in what]
    return "; ".join(told) or "random weights"
