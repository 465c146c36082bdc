"""An output shard: its rows of all streams in the order of their ranks, with their images.

The attempt sorts by rank and spills to disk, so a shard's memory is the writer's; files hold record batches of 64 rows,
uncompressed, which a trainer maps into memory and reads where it likes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from engine import schema
from engine.stage import SIDE, UNKEYED, Output, Unit, Work
from engine.vocab import STREAMS
from pipelines.pack import num_shards
from pipelines.pack.tokenise import SAMPLES
from pipelines.pack.tokenizer import fetched, load

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
VOCABULARY = "vocabulary"  # the second input of the unit that writes it
OUTPUTS = (
    *(
        Output(
            name=stream,
            schema=schema.TRAINING,
            sort_by=("rank",),
            batch_rows=64,
            compression=None,
            file_bytes=1 << 30,
            sums=True,
        )
        for stream in STREAMS
    ),
    Output(name=VOCABULARY, schema=schema.VOCABULARY, compression=None),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """heldout: write what is held out, as one shard, and nothing else. digest: hex sha256 of the tokenizer's bytes."""

    digest: str
    tokenizer: str = field(default="", metadata=UNKEYED)
    shard_bytes: int = 256 << 20
    heldout: bool = False


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """(shard, VOCABULARY or "") of each output shard; of what is held out, the one behind the last."""
    shards = num_shards(commits("assemble"), config.shard_bytes)
    if config.heldout:
        return [(str(shards), VOCABULARY)]
    return [(str(shard), "" if shard else VOCABULARY) for shard in range(shards)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Gather the rows of one shard."""
    shard, extra = int(unit.inputs[0]), unit.inputs[1]
    if extra == VOCABULARY:
        yield VOCABULARY, vocabulary(work, config)
    commits = (work.commits(name) for name in ("lay", "tokenise"))
    for rows in chain.from_iterable(work.each_part(own, SAMPLES, shard) for own in commits):
        for number, stream in enumerate(STREAMS):
            own_rows = rows.filter(pc.equal(rows["stream"], number)).select(schema.TRAINING.names)
            work.count(f"{stream}{SIDE}rows", own_rows.num_rows)
            for word, column in (("tokens", "counted"), ("positions", "length"), ("images", "num_images")):
                work.count(f"{stream}{SIDE}{word}", pc.sum(own_rows[column], min_count=0).as_py())
            yield stream, own_rows.cast(schema.TRAINING)


def vocabulary(work: Work, config: Config) -> pa.Table:
    """The model itself: whoever trains on the rows or decodes them needs no other file."""
    path = fetched(work, config.tokenizer, config.digest)
    body = path.read_bytes()
    columns = [
        pa.array([hashlib.sha256(body).digest()], pa.binary(32)),
        pa.array([load(path).vocab.pieces], pa.int32()),
        pa.array([body], pa.large_binary()),
    ]
    return pa.table(columns, schema=schema.VOCABULARY)
