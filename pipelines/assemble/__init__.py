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
    max_images: images that a document keeps. pick: which of more than that: "first", or "spread" evenly over those that
    passed, first and last among them. near: bits in which perceptual hashes of one document's images may differ for the
    later one to go; -1 compares no hashes."""

    max_docs: int = 10  # OB, MI: images that appear more than ten times go
    max_images: int = 5  # K section 3.1: at most five images a document
    pick: str = "first"
    # Measured: what is coded or resized anew differs in at most two of 64 bits (.95-1.00 of photos). Of pairs in one
    # real document, those at two or less are one picture in two tones, those at six and more two steps of one work.
    near: int = 2
