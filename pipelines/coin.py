"""The coin: half of the documents with a single image go (KOSMOS-1 section 3.1), the same half whenever it is asked.

It is tossed before the download, since a document with one candidate can never get more images, and again after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Coin:
    """seed: another seed keeps another half. keep_single: share of single-image documents that stay."""

    seed: int = 0
    keep_single: float = 0.5  # K section 3.1: half of the documents with one image are dropped

    def __post_init__(self) -> None:
        if not 0 <= self.keep_single <= 1:
            raise ConfigError(f"coin.keep_single is {self.keep_single}; set it to 0-1")


def stays(doc_ids: Iterable[bytes], coin: Coin) -> npt.NDArray[np.bool_]:
    """Which documents would stay with a single image: the first 8 bytes of BLAKE2b(seed, doc_id) as a share of 2^64."""
    bound = int(coin.keep_single * 2.0**64)
    salt = coin.seed.to_bytes(16, "little", signed=True)
    tossed = [int.from_bytes(hashlib.blake2b(doc_id, digest_size=8, key=salt).digest(), "little") for doc_id in doc_ids]
    return np.array([value < bound for value in tossed], np.bool_)
