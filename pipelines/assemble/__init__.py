"""From fetched images to curated shards: match, repeats, assemble.

match    an address partition -> the outcome of every candidate, judged by the image gate; the hashes of what passed
repeats  a hash partition     -> images whose bytes or looks stand in too many documents, over all generations
assemble a block of units     -> the fate of every candidate and every document; the shards (module `shards`)

The gate and the bounds are asked here, on stored measures, so moving them never asks a server again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of the three stages; each stage is keyed on its own. max_docs: documents that may show an image.
    max_images: images that a document keeps."""

    max_docs: int = 10  # OB, MI: images that appear more than ten times go
    max_images: int = 5  # K section 3.1: at most five images a document
