"""Sorted rows of many commits, a range of keys at a time: what keeps `group` and `index` within their memory.

A commit's rows of a partition are ascending by key, so what lies below a bound is where its stream stands. A piece is
read when it is wanted, some at once because a request waits long, and the rows that were read too far are held. It
checks as it goes that keys ascend: what is not sorted would silently lose duplicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine import schema
from engine.errors import StoreError
from engine.stage import Output
from pipelines.dedupe import column
from pipelines.dedupe.radix import ascending

if TYPE_CHECKING:
    from engine.ledger import Commit
    from engine.stage import Work

PIECE_ROWS = 1 << 17  # read by one request: 2.6 MB of rows of the index
AT_ONCE_ROWS = 1 << 20  # under way at once
Wanted = tuple["Commit", int, int, int]  # commit, record batch, first row, number of rows


class Stream:
    """One commit's rows of an output, or of one partition of it, and how far they have been read."""

    def __init__(self, commit: Commit, declared: Output, part: int = -1) -> None:
        batches = [batch for file in commit.outputs.get(declared.name, ()) for batch in file.batches]
        own = [(number, batch.rows) for number, batch in enumerate(batches) if part in (-1, batch.part)]
        self.commit = commit
        self.whole = declared.compression is not None  # of what is compressed a part costs as much as all
        self.rows = sum(rows for _, rows in own)
        self.numbers = [number for number, _ in own]
        self.ends = np.cumsum([rows for _, rows in own], dtype=np.int64)
        self.next = 0  # the row that is to be read next
        self.last = 0  # the last key read
        self.held: pa.Table | None = None
        self.first_doc: int | None = None

    def cut(self, first: int, num: int) -> list[Wanted]:
        """What to ask for to get rows first..first+num, by batches and by pieces."""
        wanted = []
        while num > 0:
            batch = int(np.searchsorted(self.ends, first, "right"))
            at = first - (int(self.ends[batch - 1]) if batch else 0)
            step = min(num, int(self.ends[batch]) - first)
            step = step if self.whole else min(step, PIECE_ROWS)
            wanted.append((self.commit, self.numbers[batch], at, step))
            first, num = first + step, num - step
        return wanted

    def take(self, num: int) -> list[Wanted]:
        """What to ask for to get the next `num` rows, or as many as there are."""
        num = min(num, self.rows - self.next)
        if num and self.whole:
            num = int(self.ends[np.searchsorted(self.ends, self.next + num)]) - self.next
        self.next += num
        return self.cut(self.next - num, num)


class Streams:
    """The streams of many commits that are read together."""

    def __init__(
        self,
        work: Work,
        declared: Output,
        commits: Sequence[Commit],
        part: int = -1,
        least: int = 0,
        first_docs: Sequence[int] = (),
    ) -> None:
        """part: of a partitioned output. least: no key is smaller. first_docs: the doc of page 0 of each commit, of an
        output that has "page" and gets "doc" in its place."""
        self._work, self._declared = work, declared
        self._streams = [Stream(commit, declared, part) for commit in commits]
        for stream in self._streams:
            stream.last = least
        for stream, doc in zip(self._streams, first_docs, strict=bool(first_docs)):
            stream.first_doc = doc

    @property
    def rows(self) -> int:
        """All rows, read or not."""
        return sum(stream.rows for stream in self._streams)

    def below(self, bound: int, share: float) -> Iterator[pa.Table]:
        """All rows of keys below `bound` that were not given before, as pieces that are each ascending.

        share: how much of what is left they will about be, so that little is read too far; from 1 it must be all.
        StoreError for keys that do not ascend, or that are out of bounds.
        """
        for stream in self._streams:
            if stream.held is not None:
                table, stream.held = stream.held, None
                yield from self._split(stream, table, bound)
        ready = [stream for stream in self._streams if stream.held is None]
        yield from self._read([(s, one) for s in ready for one in s.take(int((s.rows - s.next) * share))], bound)
        # a little at a time of many, for what is read too far is held
        step = max(1, min(PIECE_ROWS, AT_ONCE_ROWS // max(1, len(ready))))
        while behind := [stream for stream in ready if stream.held is None and stream.next < stream.rows]:
            yield from self._read([(stream, one) for stream in behind for one in stream.take(step)], bound)
        for stream in self._streams if share >= 1 else ():
            if stream.held is not None:
                raise self._fault(stream)

    def _fault(self, stream: Stream) -> StoreError:
        what = f"{self._declared.name} of {stream.commit.unit}"
        return StoreError(f"{what} is not in order of keys, or of another partition; run `kosmos verify`")

    def _read(self, wanted: list[tuple[Stream, Wanted]], bound: int) -> Iterator[pa.Table]:
        tables = read(self._work, self._declared, [one for _, one in wanted])
        for (stream, _), table in zip(wanted, tables, strict=True):
            keys = column(table, "key")
            if not ascending(keys, stream.last):
                raise self._fault(stream)
            stream.last = int(keys[-1])
            if stream.first_doc is not None:
                table = with_docs(table, stream.first_doc)
            yield from self._split(stream, table, bound)

    def _split(self, stream: Stream, table: pa.Table, bound: int) -> Iterator[pa.Table]:
        """The rows below the bound; the others are held."""
        keys = column(table, "key")
        num = len(keys) if bound >= 1 << 64 else int(np.searchsorted(keys, np.uint64(bound)))
        if num < len(keys):
            rest = table.slice(num)
            stream.held = rest if stream.held is None else pa.concat_tables([stream.held, rest])
        if num:
            yield table.slice(0, num)


def read(work: Work, declared: Output, wanted: Sequence[Wanted]) -> Iterator[pa.Table]:
    """What `work.slices` gives, no more than AT_ONCE_ROWS under way."""
    start = 0
    while start < len(wanted):
        end, rows = start, 0
        while end < len(wanted) and (end == start or rows + wanted[end][3] <= AT_ONCE_ROWS):
            rows += wanted[end][3]
            end += 1
        yield from work.slices(declared, wanted[start:end])
        start = end


def with_docs(table: pa.Table, first: int) -> pa.Table:
    """The rows with the docs of their pages in place of them; `first` is the doc of page 0."""
    docs = table["page"].to_numpy() | np.uint64(first)
    place = table.schema.get_field_index("page")
    return table.set_column(place, schema.INDEX_BANDS.field("doc"), pa.array(docs))


def least(part: int, partitions: int) -> int:
    """The smallest key of a partition."""
    return (1 << 64) // partitions * part


def bounds(part: int, partitions: int, num: int) -> list[int]:
    """Where `num` passes over a partition's range of keys end; the last one is where the partition ends."""
    width = (1 << 64) // partitions
    return [least(part, partitions) + width * (i + 1) // num for i in range(num)]
