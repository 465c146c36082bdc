"""From curated shards to training shards: tokenise, lay, pack.

tokenise  a block of documents -> captions and interleaved documents as rows, texts as lines, a verdict for each
lay       a partition of lines -> text rows, filled with whole lines (RoBERTa's full sentences)
shards    an output shard      -> its training rows in their order; once more, for what is held out

A row goes to the shard that the top bits of its rank say, and its rank is a hash of what it is: the global shuffle
costs no pass of its own, and equal documents give equal shards however they were cut into files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import ConfigError
from engine.spread import check_partitions
from engine.stage import UNKEYED
from engine.store import absolute
from engine.vocab import IMAGE_SLOTS, STREAMS
from pipelines.pack.tokenizer import body, parsed

if TYPE_CHECKING:
    from engine.ledger import Commit

IMAGE_TOKENS = IMAGE_SLOTS + 2  # <image>, the slots, </image>
LEAST = IMAGE_TOKENS + 3  # <s>, an image, one id of text, </s>
MAX_PARTITIONS = 1 << 15  # one more number is for what is held out, and all are uint16
MAX_SHARDS = 1 << 14
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of the three stages; each stage is keyed on its own.

    tokenizer: path or address of a SentencePiece model; "" is the bundled one. digest: hex sha256 of its bytes; ""
    takes it from the file. seed: of every order. max_length: tokens a row. max_caption: ids of a caption.
    context_sentences: of an interleaved document's text before its first and after its last image; 0 is all.
    partitions: of the order of documents, in which text is laid out. shard_bytes: of curated files, for one output
    shard. heldout: share of documents. source: what the rows say they come from. streams: those that are written.
    """

    tokenizer: str = field(default="", metadata=UNKEYED)
    digest: str = ""
    seed: int = 0
    max_length: int = 2048  # K table 17
    max_caption: int = 444  # with <s>, image and </s> the widest batch of captions, 512
    context_sentences: int = 0  # K2's wild_loader: 3
    partitions: int = 512  # 0.4 GB of lines each at the paper's 71 M documents of 700 tokens
    shard_bytes: int = 256 << 20
    heldout: float = 0.001
    source: str = "commoncrawl"
    streams: tuple[str, ...] = STREAMS

    def __post_init__(self) -> None:
        if self.digest and not SHA256.fullmatch(self.digest):
            raise ConfigError(f"pack.digest is {self.digest!r}, no sha256 in hex; leave it out")
        check_partitions(self.partitions)
        if self.partitions > MAX_PARTITIONS:
            raise ConfigError(f"pack.partitions is {self.partitions}; set it to {MAX_PARTITIONS} or less")
        if not LEAST <= self.max_length <= 1 << 20:
            raise ConfigError(f"pack.max_length is {self.max_length}; set it to {LEAST}-{1 << 20}")
        longest = self.max_length - LEAST + 1
        if not 1 <= self.max_caption <= longest:
            raise ConfigError(f"pack.max_caption is {self.max_caption}; set it to 1-{longest}, what fits in a row")
        if self.context_sentences < 0:
            raise ConfigError(f"pack.context_sentences is {self.context_sentences}; set it to 0 or more")
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"pack.seed is {self.seed}; set it to 0-{(1 << 63) - 1}")
        if self.shard_bytes < 1:
            raise ConfigError(f"pack.shard_bytes is {self.shard_bytes}; set it to 1 or more")
        if not 0 <= self.heldout < 1:
            raise ConfigError(f"pack.heldout is {self.heldout}; set it to 0 or more and under 1")
        unknown = [stream for stream in self.streams if stream not in STREAMS]
        if unknown or not self.streams or len(set(self.streams)) != len(self.streams):
            raise ConfigError(
                f"pack.streams is {', '.join(self.streams)!r}; name some of {', '.join(STREAMS)}, each once"
            )


def digest(config: Config) -> str:
    """Hex sha256 of the tokenizer's bytes; ConfigError if they cannot be read or are no tokenizer."""
    if config.digest:
        return config.digest
    proto = body(config.tokenizer)
    if config.tokenizer:
        parsed(proto, config.tokenizer)
    return hashlib.sha256(proto).hexdigest()


def pinned(config: Config) -> tuple[str, ...]:
    """The settings that stand for the tokenizer's file where it is not at hand."""
    if not config.tokenizer:
        return ()
    return f"pack.tokenizer={absolute(config.tokenizer)}", f"pack.digest={digest(config)}"


def num_shards(assembled: Sequence[Commit], shard_bytes: int) -> int:
    """Output shards of a generation: a power of two, by the bytes of its curated record batches.

    A function of the frozen commits alone, so all stages agree on it without telling one another. A file's header does
    not count, a batch's does, some kilobytes: only beside a power of two does it matter how documents were cut.
    """
    files = [file for commit in assembled for file in commit.outputs["curated"]]
    total = sum(batch.length for file in files for batch in file.batches)
    wanted = max(1, -(-total // shard_bytes))
    return min(1 << (wanted - 1).bit_length(), MAX_SHARDS)


def rank(seed: int, *words: bytes) -> int:
    """Eight bytes of BLAKE2b over the words, each with its length, keyed by the seed: a place in an order of 2^64."""
    framed = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    key = seed.to_bytes(16, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(framed, digest_size=8, key=key).digest(), "little")


def part(place: int, partitions: int) -> int:
    """The partition of a place in the order: its top bits."""
    return place * partitions >> 64


def is_heldout(seed: int, doc_id: bytes, share: float) -> bool:
    """Whether a document is held out.

    By its own id: kept pages share no key with one another, and the number of a cluster says how a crawl was cut.
    """
    return rank(seed, b"heldout", doc_id) < int(share * 2.0**64)
