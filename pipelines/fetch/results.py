"""What came of the addresses of a unit: a row each, in memory, and the JPEGs in a file on the scratch disk.

Answers come in the order of the network and rows go out in the order of ids, so JPEGs are read back from where they
lie; memory holds some megabytes of them at a time.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.fetch.handover import Rest
from pipelines.fetch.network import Answer
from pipelines.fetch.origins import Origins
from pipelines.images import Measured
from pipelines.reasons import Reason

BATCH_BYTES = 32 << 20  # of JPEGs read back at a time


class Results:
    """One row an address, in order of the addresses' ids; JPEGs lie in a file as they came."""

    def __init__(self, num: int, path: Path) -> None:
        self.reasons = np.full(num, Reason.NOT_ASKED, np.uint16)
        self.values = np.zeros(num, np.float32)
        self.sha256 = [bytes(32)] * num
        self.phash = np.zeros(num, np.uint64)
        self.sizes = np.zeros((num, 4), np.int32)  # width, height, stored_width, stored_height
        self.deviations = np.zeros(num, np.float32)
        self.num_bytes = np.zeros(num, np.uint32)
        self.formats = np.zeros(num, np.uint8)
        self.at_ms = np.zeros(num, np.int64)
        self.seconds = np.zeros(num, np.float32)
        self.moves: dict[int, str] = {}  # where to, of the rows that are MOVED
        self.origins: Origins[Any] | None = None  # set at the end, as is
        self.rest = Rest()
        self.num_written = 0
        self._seen = np.zeros(num, np.bool_)
        self._offsets = np.zeros(num, np.int64)
        self._lengths = np.zeros(num, np.int64)
        self._path = path
        self._file: IO[bytes] = path.open("wb")

    @property
    def complete(self) -> bool:
        """Whether every row was written, once."""
        return bool(self._seen.all()) and self.num_written == len(self._seen)

    def add(self, place: int, answer: Answer, measured: Measured | None, sha256: bytes, num_bytes: int) -> None:
        """Write one row; measured is None where there was no body. OSError if the disk is full."""
        self.reasons[place], self.values[place] = answer.reason, answer.value
        self.at_ms[place], self.seconds[place] = round(answer.at * 1000), answer.seconds
        if answer.reason == Reason.MOVED:
            self.moves[place] = answer.location
        if measured is not None:
            self.reasons[place], self.values[place] = measured.reason, measured.value
            self.sha256[place], self.num_bytes[place] = sha256, num_bytes
            self.phash[place], self.deviations[place] = measured.phash, measured.deviation
            self.sizes[place] = (measured.width, measured.height, measured.stored_width, measured.stored_height)
            self.formats[place] = measured.format
            if not measured.reason:
                self._offsets[place], self._lengths[place] = self._file.tell(), len(measured.body)
                self._file.write(measured.body)
        self._seen[place] = True
        self.num_written += 1

    def share(self, places: npt.NDArray[np.intp]) -> None:
        """Make row i what row places[i] was: for addresses that led to one, which was asked once."""
        for name in ("reasons", "values", "phash", "sizes", "deviations", "num_bytes", "formats", "at_ms", "seconds"):
            setattr(self, name, getattr(self, name)[places])
        self._offsets, self._lengths, self._seen = self._offsets[places], self._lengths[places], self._seen[places]
        self.sha256 = [self.sha256[place] for place in places.tolist()]
        self.moves = {row: self.moves[place] for row, place in enumerate(places.tolist()) if place in self.moves}
        self.num_written = len(places)

    def close(self) -> None:
        """No more rows."""
        self._file.close()

    def images(self) -> Iterator[tuple[npt.NDArray[np.intp], pa.LargeBinaryArray]]:
        """(rows, their JPEGs) of all that have one, in order, some megabytes at a time."""
        places = np.flatnonzero(self.reasons == 0)
        if not len(places):
            return
        piece = np.cumsum(self._lengths[places]) // BATCH_BYTES
        with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
            for run in np.split(places, np.flatnonzero(np.diff(piece)) + 1):
                starts, lengths = self._offsets[run].tolist(), self._lengths[run]
                data = b"".join(
                    body[start : start + size] for start, size in zip(starts, lengths.tolist(), strict=True)
                )
                offsets = pa.py_buffer(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
                buffers = [None, offsets, pa.py_buffer(data)]
                yield run, pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(run), buffers)
