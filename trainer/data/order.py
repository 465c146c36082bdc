"""Which rows an update reads: a pure function of the recorded state and the update's number, in O(1), for any world.

Nothing is shuffled in memory or remembered between updates: a Feistel network of 8 rounds permutes 0..n-1 for every
(seed, source, epoch), so update 300,000 costs what update 1 costs, and a resumed run reads what an undisturbed one
would. Rows of a source are numbered over all manifests of the run, in order: new manifests change no number.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError, StoreError
from engine.vocab import STREAMS
from trainer.config import DataConfig

CYCLE = 1000  # draws after which the sources of a stream repeat in the same order: the grain of their weights
RUN = 64  # rows that stay together in the order "blocks": a record batch of a training shard
ROUNDS = 8  # 4 make a pseudorandom permutation of large domains (Luby and Rackoff 1988); small ones want more

Words = npt.NDArray[np.uint64]
Pick = tuple[str, int]  # (source, row)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Rows first .. first + rows - 1 of what the run's manifests hold of one stage and stream.

    name: "<stage key>/<stream>". first: above 0 where a piece leaves out what earlier pieces had.
    """

    name: str
    rows: int
    first: int = 0

    @property
    def stream(self) -> str:
        """The stream that its rows are of."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """Sources that are drawn from by their weights (any scale, each above 0), `quota` rows an update."""

    name: str
    sources: tuple[Source, ...]
    weights: tuple[float, ...]
    quota: int

    @property
    def rows(self) -> int:
        """Rows of all sources."""
        return sum(source.rows for source in self.sources)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """The order from an update on, until the next piece. digests: all manifests that row numbers count over, in order.

    seed, order: as in trainer.config.DataConfig.
    """

    first_update: int
    digests: tuple[str, ...]
    streams: tuple[Stream, ...]
    seed: int
    order: str

    def stream(self, name: str) -> Stream | None:
        """The named stream, None if the piece draws nothing of it."""
        return next((stream for stream in self.streams if stream.name == name), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """All that decides the order of a run: its pieces by first update, the first from update 1."""

    pieces: tuple[Piece, ...]

    @property
    def digests(self) -> tuple[str, ...]:
        """The manifests to open, in order."""
        return self.pieces[-1].digests

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is legal in the last piece and worth a line to whoever starts the run."""
        found = []
        for stream in self.pieces[-1].streams:
            if stream.rows < stream.quota:
                found.append(
                    f"stream {stream.name} has {stream.rows} rows and draws {stream.quota} an update: "
                    "it passes its rows more than once within an update"
                )
            for source, num in zip(stream.sources, cycle_counts(stream.weights), strict=True):
                if not num:
                    found.append(f"source {source.name} weighs less than 1 draw in {CYCLE} and is never drawn")
        return tuple(found)

    def piece(self, update: int) -> Piece:
        """The piece that an update, counted from 1, belongs to."""
        if update < 1:
            raise ValueError(f"updates count from 1, not {update}")
        return next(piece for piece in reversed(self.pieces) if piece.first_update <= update)

    def to_json(self) -> dict[str, Any]:
        """The state as plain JSON values."""
        return {"pieces": [_plain(piece) for piece in self.pieces]}

    @staticmethod
    def from_json(body: Any) -> State:
        """The state from its JSON values; StoreError if they are not one."""
        try:
            pieces = tuple(_piece(raw) for raw in body["pieces"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the order of the run is not readable ({error!r}); start a new run with --out") from None
        firsts = [piece.first_update for piece in pieces]
        if firsts[:1] != [1] or sorted(set(firsts)) != firsts:
            raise StoreError(f"the pieces of the run begin at updates {firsts}; start a new run with --out")
        return State(pieces=pieces)


def start(sources: Sequence[Source], digests: Sequence[str], config: DataConfig) -> State:
    """The state of a new run over sources as opened; ConfigError for weights or quotas that they cannot meet."""
    return State(pieces=(_new_piece(1, sources, digests, config),))


def extend(
    state: State, first_update: int, sources: Sequence[Source], digests: Sequence[str], config: DataConfig
) -> State:
    """The state with a piece from `first_update` that draws only rows that no earlier piece could draw.

    sources, digests: of everything, the run's manifests first. ConfigError if nothing is new.
    """
    _check_grown(state, first_update, digests)
    seen = _ends(state)
    unseen = [Source(name=s.name, rows=s.rows - seen.get(s.name, 0), first=seen.get(s.name, 0)) for s in sources]
    if not any(source.rows for source in unseen):
        raise ConfigError("these manifests hold no row that the run has not; give --extend the digest of newer ones")
    return State(pieces=(*state.pieces, _new_piece(first_update, unseen, digests, config)))


def union(
    state: State, first_update: int, sources: Sequence[Source], digests: Sequence[str], config: DataConfig
) -> State:
    """The state with a piece from `first_update` that draws from old and new rows alike; as `extend` otherwise."""
    _check_grown(state, first_update, digests)
    return State(pieces=(*state.pieces, _new_piece(first_update, sources, digests, config)))


def epochs(state: State, last_update: int) -> dict[str, float]:
    """How often a row of each source is drawn on average in updates 1 .. last_update, over all its rows."""
    draws: dict[str, int] = {}
    for piece, end in zip(state.pieces, [*(p.first_update for p in state.pieces[1:]), last_update + 1], strict=True):
        updates = max(0, min(end, last_update + 1) - piece.first_update)
        for stream in piece.streams:
            whole, rest = divmod(updates * stream.quota, CYCLE)
            partly = np.bincount(_cycle(piece, stream)[:rest], minlength=len(stream.sources))
            for source, num, more in zip(stream.sources, cycle_counts(stream.weights), partly.tolist(), strict=True):
                draws[source.name] = draws.get(source.name, 0) + whole * num + more
    rows = _ends(state)
    return {name: num / rows[name] for name, num in draws.items()}


# which rows ---------------------------------------------------------------------------------------------------------
def picks(state: State, update: int) -> dict[str, list[Pick]]:
    """The rows of an update, counted from 1, of each stream, over all ranks in order."""
    piece = state.piece(update)
    return {stream.name: drawn(piece, stream, update, 0, stream.quota) for stream in piece.streams}


def drawn(piece: Piece, stream: Stream, update: int, first: int, last: int) -> list[Pick]:
    """Rows first .. last - 1 among those that an update draws of a stream."""
    begin = (update - piece.first_update) * stream.quota
    numbers = np.arange(begin + first, begin + last, dtype=np.uint64)
    which, of_source = draw(piece, stream, numbers)
    rows = np.zeros(len(numbers), np.uint64)
    for index, source in enumerate(stream.sources):
        mine = which == index
        if mine.any():
            rows[mine] = row_of(piece, source, of_source[mine])
    names = [source.name for source in stream.sources]
    return [(names[index], row) for index, row in zip(which.tolist(), rows.tolist(), strict=True)]


def draw(piece: Piece, stream: Stream, numbers: Words) -> tuple[npt.NDArray[np.int64], Words]:
    """Of the k-th draws of a stream: (index of the source, which draw of that source it is)."""
    cycle = _cycle(piece, stream)
    before = np.zeros(CYCLE, np.uint64)  # draws of the same source earlier in the cycle
    for index in range(len(stream.sources)):
        mine = cycle == index
        before[mine] = np.arange(mine.sum(), dtype=np.uint64)
    counts = np.array(cycle_counts(stream.weights), np.uint64)
    place = numbers % np.uint64(CYCLE)
    which = cycle[place]
    return which, numbers // np.uint64(CYCLE) * counts[which] + before[place]


def row_of(piece: Piece, source: Source, numbers: Words) -> Words:
    """The rows that the k-th draws of a source are: every row once an epoch."""
    epoch, place = numbers // np.uint64(source.rows), numbers % np.uint64(source.rows)
    if piece.order == "rows":
        row = permute(piece.seed, source.name, epoch, place, source.rows)
    else:
        num_runs = source.rows // RUN
        row = place.copy()
        whole = place < np.uint64(num_runs * RUN)  # the short run at the end stays there
        run = permute(piece.seed, source.name, epoch[whole], place[whole] // np.uint64(RUN), num_runs)
        row[whole] = run * np.uint64(RUN) + place[whole] % np.uint64(RUN)
    return row + np.uint64(source.first)


def cycle_counts(weights: Sequence[float]) -> list[int]:
    """Draws of each source in a cycle: proportional, the rest to the largest remainders (the earlier one if equal)."""
    total = sum(Fraction(weight) for weight in weights)
    shares = [Fraction(weight) * CYCLE / total for weight in weights]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for index in by_remainder[: CYCLE - sum(counts)]:
        counts[index] += 1
    return counts


def _cycle(piece: Piece, stream: Stream) -> npt.NDArray[np.int64]:
    """The index of the source of each draw of a cycle."""
    slots = np.repeat(np.arange(len(stream.sources)), cycle_counts(stream.weights))
    zeros = np.zeros(CYCLE, np.uint64)
    return slots[permute(piece.seed, f"cycle/{stream.name}", zeros, np.arange(CYCLE, dtype=np.uint64), CYCLE)]


# the permutation ----------------------------------------------------------------------------------------------------
def permute(seed: int, name: str, epochs: Words, indices: Words, num: int) -> Words:
    """Where each index in 0 .. num - 1 goes, in the permutation of its (seed, name, epoch).

    The network works on the next power of two; what falls outside goes through again until it is inside, which takes
    less than two rounds on average and makes a bijection of any size.
    """
    if num <= 1 or not len(indices):
        return indices.copy()
    mark = hashlib.blake2b(f"{seed}\n{name}".encode(), digest_size=8).digest()
    base = _mix(epochs ^ np.uint64(int.from_bytes(mark, "little")))
    keys = np.stack([_mix(base + np.uint64(number + 1)) for number in range(ROUNDS)])
    bits = (num - 1).bit_length()
    values = _feistel(indices, keys, bits)
    outside = np.flatnonzero(values >= num)
    while len(outside):
        values[outside] = _feistel(values[outside], keys[:, outside], bits)
        outside = outside[values[outside] >= num]
    return values


def _feistel(values: Words, keys: Words, bits: int) -> Words:
    low_bits = np.uint64((bits + 1) // 2)
    low_mask, high_mask = np.uint64((1 << (bits + 1) // 2) - 1), np.uint64((1 << bits // 2) - 1)
    low, high = values & low_mask, values >> low_bits
    for number in range(0, ROUNDS, 2):
        high = high ^ (_mix(low ^ keys[number]) & high_mask)
        low = low ^ (_mix(high ^ keys[number + 1]) & low_mask)
    return high << low_bits | low


def _mix(words: Words) -> Words:
    """SplitMix64 (Steele, Lea and Flood 2014); arithmetic modulo 2^64."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return words ^ words >> np.uint64(31)


# ranks --------------------------------------------------------------------------------------------------------------
def slice_of(quota: int, rank: int, world: int) -> tuple[int, int]:
    """[first, last) of an update's rows that a rank reads: slices in rank order, their sizes at most one apart."""
    return quota * rank // world, quota * (rank + 1) // world


def num_micro_batches(quota: int, world: int, micro_batch_rows: int) -> int:
    """Micro-batches of a stream in an update: the same on every rank, so that all issue the same collectives."""
    rows = math.ceil(Fraction(quota, world))
    return math.ceil(Fraction(rows, micro_batch_rows))


# new pieces ---------------------------------------------------------------------------------------------------------
def _new_piece(first_update: int, sources: Sequence[Source], digests: Sequence[str], config: DataConfig) -> Piece:
    given = _given(config.weights, [source.name for source in sources])
    streams = []
    for name in STREAMS:
        quota = config.quota(name)
        if not quota:
            continue
        mine = sorted((s for s in sources if s.stream == name), key=lambda s: s.name)
        weights = _weights(mine, given)
        drawn_from = [(source, weight) for source, weight in zip(mine, weights, strict=True) if weight]
        if not drawn_from:
            raise ConfigError(
                f"there are no rows to draw for the stream {name}; add a manifest that has some, or leave the stream "
                f"out with `--set data.quotas.{name}=0`"
            )
        chosen, of_each = zip(*drawn_from, strict=True)
        streams.append(Stream(name=name, sources=chosen, weights=of_each, quota=quota))
    return Piece(
        first_update=first_update, digests=tuple(digests), streams=tuple(streams), seed=config.seed, order=config.order
    )


def _given(words: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    given: dict[str, float] = {}
    for word in words:
        name, equals, number = word.rpartition("=")
        if not equals:
            raise ConfigError(f"data.weights: {word!r} is not a source and its weight; write it as {names[0]}=0.5")
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.0)
            raise ConfigError(f"data.weights: there is no source {name!r}; did you mean {near[0] if near else names}?")
        if name in given:
            raise ConfigError(f"data.weights names {name} twice; name it once")
        try:
            given[name] = float(number)
        except ValueError:
            given[name] = math.nan
        if not 0 <= given[name] < math.inf:
            raise ConfigError(f"data.weights: {number!r} is no weight; give {name} a number of 0 or more")
    return given


def _weights(sources: Sequence[Source], given: dict[str, float]) -> list[float]:
    """The weights of a stream's sources: as given, else as many as they have rows."""
    named = [source.name for source in sources if source.name in given]
    for source in sources:
        if named and source.name not in given:
            raise ConfigError(
                f"data.weights names {named[0]} and not {source.name}: weights of one stream are given for all of its "
                f"sources or for none; add {source.name}=WEIGHT"
            )
        if given.get(source.name) and not source.rows:
            raise ConfigError(f"source {source.name} has a weight and no rows; set its weight to 0, or add rows to it")
    return [given.get(source.name, float(source.rows)) for source in sources]


def _check_grown(state: State, first_update: int, digests: Sequence[str]) -> None:
    last = state.pieces[-1]
    if first_update <= last.first_update:
        raise ConfigError(
            f"the run has a piece from update {last.first_update} on, and the new one would begin at {first_update}; "
            "train further before you add data"
        )
    if tuple(digests[: len(last.digests)]) != last.digests:
        raise ConfigError("a run keeps the manifests that it has: give only the digests of new ones to --extend")


def _ends(state: State) -> dict[str, int]:
    """One past the last row that a run can draw of each source."""
    ends: dict[str, int] = {}
    for piece in state.pieces:
        for source in (source for stream in piece.streams for source in stream.sources):
            ends[source.name] = max(ends.get(source.name, 0), source.first + source.rows)
    return ends


# JSON ---------------------------------------------------------------------------------------------------------------
def _plain(piece: Piece) -> dict[str, Any]:
    streams = [
        {
            "name": stream.name,
            "quota": stream.quota,
            "sources": [
                {"name": source.name, "rows": source.rows, "first": source.first, "weight": weight}
                for source, weight in zip(stream.sources, stream.weights, strict=True)
            ],
        }
        for stream in piece.streams
    ]
    head = {"first_update": piece.first_update, "seed": piece.seed, "order": piece.order}
    return {**head, "digests": list(piece.digests), "streams": streams}


def _piece(raw: Any) -> Piece:
    if raw["order"] not in ("blocks", "rows"):
        raise ValueError(f"order {raw['order']!r}")
    streams = tuple(
        Stream(
            name=str(stream["name"]),
            quota=int(stream["quota"]),
            sources=tuple(
                Source(name=str(s["name"]), rows=int(s["rows"]), first=int(s["first"])) for s in stream["sources"]
            ),
            weights=tuple(float(s["weight"]) for s in stream["sources"]),
        )
        for stream in raw["streams"]
    )
    return Piece(
        first_update=int(raw["first_update"]),
        digests=tuple(str(mark) for mark in raw["digests"]),
        streams=streams,
        seed=int(raw["seed"]),
        order=str(raw["order"]),
    )
