"""img2dataset's Downloader as the loop over the addresses of a unit, with four of its seams replaced.

Its own fetch reads file:// and private addresses and loads the CA bundle for every request, its Resizer takes 10 GB
for a small PNG, its loop prints what goes wrong and forgets it. Kept: reading the shard, threads, statistics, and its
bound on bodies that wait for the decoder; but a thread is not held by the address that it was given, and answers for
whichever has its turn. An exception that leaves the fetch function would hang the loop for ever, and one that leaves
the writer would lose the row: so the first is caught, and rows are counted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import certifi
import pyarrow as pa

from engine.ledger import code_version
from engine.stage import Work
from pipelines.fetch import LOOPBACK, Config, server
from pipelines.fetch.asking import Asking, caught
from pipelines.fetch.egress import Egress, Loopback, Public
from pipelines.fetch.handover import Rest
from pipelines.fetch.network import Answer, Line, Policy
from pipelines.fetch.results import Results
from pipelines.images import Measured
from pipelines.images.decode import measure
from pipelines.reasons import Reason

STORED_BYTES = 8 << 10  # of an address at least, whatever became of it


class Shard:
    """One unit in work: what its seams share."""

    def __init__(self, rows: pa.Table, policy: Policy, work: Work, results: Results, rest: Rest) -> None:
        self.policy = policy
        self.results = results
        self.urls: list[str] = rows["url"].to_pylist()
        self.asking = Asking(self.urls, rows["domain"].to_pylist(), policy)
        self._lane = work.unit.lane
        if self._lane:
            self.asking.resume(self._lane, rest)
        self.answers: list[Answer | None] = [None] * rows.num_rows
        self.fault: OSError | None = None  # of our disk, not of a server
        self._work = work
        self._measured: tuple[Measured, bytes, int] | None = None

    def seam_fetch(self, row: tuple[int, str]) -> tuple[int, Stream | None, str | None]:
        """Ask until some address has its answer, in any of the loop's threads: the loop counts its keys, and does not
        mind which of them it is told of."""
        found = caught(self.asking.next)
        if isinstance(found, Exception):
            return row[0], None, str(found)  # one key too many: the row will be missing
        place, answer = found
        self.answers[place] = answer
        stream = None if answer.body is None else Stream(place, answer.body)
        return place, stream, answer.reason.word if answer.reason else None

    def seam_decode(self, stream: Stream, boxes: object) -> tuple[Any, ...]:
        """Measure one body, in the loop's own thread, just before its row is written: (JPEG or None, its width, its
        height, width, height, what is wrong or None)."""
        if not self._work.enter(stream.place):
            return self._refused(stream, Answer(reason=Reason.CRASHED, at=time.time()))
        found = caught(self._measure, stream)
        if isinstance(found, Exception):
            return self._refused(stream, self._broken(found))
        self._measured = found
        image = found[0]
        word = image.reason.word if image.reason else None
        return image.body, image.stored_width, image.stored_height, image.width, image.height, word

    def seam_write(self, key: int) -> None:
        """Write one row; key: its number in the loop, which is its place."""
        place, answer = key, self.answers[key]
        assert answer is not None, "a row is written after its answer"
        measured, sha256, num_bytes = self._measured or (None, b"", 0)
        self._measured = None
        self.answers[place] = None
        try:
            self.results.add(place, answer, measured, sha256, num_bytes)
        except OSError as error:
            self.fault = error  # the loop prints it and goes on
            raise

    def seam_writer(self, *arguments: object) -> Writer:
        """What the loop takes for the class of its writer."""
        return Writer(self)

    def close(self) -> None:
        """Close all connections; what robots.txt said, and where the unit leaves its lane, goes with the results."""
        self.asking.close()
        self.fault = self.fault or self.asking.fault
        self.results.origins = self.asking.origins
        self.results.rest = self.asking.rest(self._lane) if self._lane else Rest()

    def _measure(self, stream: Stream) -> tuple[Measured, bytes, int]:
        body = stream.read()
        return measure(body, self.policy.config.encode), hashlib.sha256(body).digest(), len(body)

    def _refused(self, stream: Stream, answer: Answer) -> tuple[Any, ...]:
        self.answers[stream.place] = answer  # in the place of the one that led to the body
        return None, 0, 0, 0, 0, answer.reason.word

    def _broken(self, error: Exception) -> Answer:
        if isinstance(error, OSError):
            self.fault = error
        return Answer(reason=Reason.FETCHER, at=time.time())


class Stream:
    """A body on its way to the decoder: the file that the loop expects, and the row that it belongs to."""

    def __init__(self, place: int, body: IO[bytes]) -> None:
        self.place = place
        self._body = body

    def seek(self, offset: int) -> int:
        """As of a file."""
        return self._body.seek(offset)

    def read(self) -> bytes:
        """All of it."""
        self._body.seek(0)
        return self._body.read()

    def close(self) -> None:
        """Free its memory or its file."""
        self._body.close()


class Writer:
    """The loop's writer of samples."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def write(self, image: bytes | None, key: str, caption: object, meta: dict[str, Any]) -> None:
        """Write one row, whatever became of it."""
        self._shard.seam_write(int(key))

    def close(self) -> None:
        """Nothing: the rows are closed by whoever opened them."""


class Chatter(io.TextIOBase):
    """What a library prints, kept from the terminal: its beginning, for the sentence of a fault."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        """Keep some thousands of characters."""
        self.text += text[: max(0, 4000 - len(self.text))]
        return len(text)


def policy(config: Config, scratch: Path) -> Policy:
    """What the requests of a unit keep to. ConfigError if the config is not ready, or the server is another."""
    config.ready()
    who = f" (+{config.contact})" if config.contact else ""
    egress: Egress = Public()
    ca_file, connect_to = certifi.where(), ""
    if config.egress == LOOPBACK:
        port, ca_file = server(config)
        egress, connect_to = Loopback(port), f"127.0.0.1:{port}"
    return Policy(
        config=config,
        egress=egress,
        agent=f"{config.agent}/{code_version()}{who}",
        ca_file=ca_file,
        connect_to=connect_to,
        scratch=scratch,
    )


def fetch(rows: pa.Table, policy: Policy, work: Work, rest: Rest) -> Results:
    """Ask for all rows (schema.FETCH_URLS, by url_id) and measure what comes; rest: where the last unit left the lane.
    RuntimeError if the loop fails, OSError if the scratch disk does."""
    # better now than after the last request: a unit that fails asks all of them again
    free, needed = shutil.disk_usage(work.scratch).free, rows.num_rows * STORED_BYTES
    if free < needed:
        told = f"a unit of {rows.num_rows} addresses wants {needed >> 20} MB of scratch, and {free >> 20} are free"
        raise OSError(errno.ENOSPC, f"{told}; give --scratch a larger disk")
    results = Results(rows.num_rows, work.scratch / "images")
    if not rows.num_rows:
        return results
    shard = Shard(rows, policy, work, results, rest)
    path = work.scratch / "shard.arrow"
    table = pa.table({"url": shard.urls})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    chatter = Chatter()
    try:
        with seams() as downloader, contextlib.redirect_stdout(chatter), contextlib.redirect_stderr(chatter):
            loop = downloader(
                sample_writer_class=shard.seam_writer,
                resizer=shard.seam_decode,
                thread_count=policy.config.threads,
                save_caption=False,
                extract_exif=False,
                output_folder=str(work.scratch),
                column_list=["url"],
                timeout=shard,  # handed to the fetch seam as it is: it is how that finds its unit
                number_sample_per_shard=rows.num_rows,
                oom_shard_count=5,
                compute_hash=None,
                verify_hash_type=None,
                encode_format="jpg",
                retries=0,
                user_agent_token=None,
                disallowed_header_directives=None,
            )
            ok, _ = loop((0, str(path)))
    finally:
        results.close()
        shard.close()
    if shard.fault is not None:
        raise shard.fault
    if not ok:
        raise RuntimeError(f"img2dataset gave up on the unit: {chatter.text.strip() or 'it did not say why'}")
    return results


@contextlib.contextmanager
def seams() -> Iterator[Any]:
    """img2dataset's Downloader, whose fetch is ours for as long as this holds."""
    # both ask the network when they are imported or used, unless told not to
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    os.environ.setdefault("WANDB_MODE", "disabled")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports imghdr
        from img2dataset import downloader
    before = downloader.download_image_with_retry
    downloader.download_image_with_retry = _download
    try:
        yield downloader.Downloader
    finally:
        downloader.download_image_with_retry = before


def check_control(host: str, policy: Policy) -> None:
    """RuntimeError if a name that answers in public cannot be reached either: the fault is on our side."""
    line = Line(policy)
    try:
        if not line.reaches(host):
            raise RuntimeError(
                f"most names of this unit cannot be resolved or connected to, and {host} cannot either: check the "
                "network, the resolver and the clock of this machine, then retry the unit"
            )
    finally:
        line.close()


def _download(
    row: tuple[int, str],
    timeout: Shard,
    retries: int,
    user_agent_token: str | None,
    disallowed_header_directives: set[str] | None,
) -> tuple[int, Stream | None, str | None]:
    return timeout.seam_fetch(row)
