"""Every wanted address asked for once, politely and safely: an outcome for each, and a JPEG for each image.

A unit's fetch is recorded, not computed: servers answer differently tomorrow, so its commits are inputs of all that
follows. One dead resolver must fail the unit and not write ten thousand outcomes: see `dead`.

__init__  settings, units, `process`
egress    which addresses may be connected to
network   one request, typed outcomes
lines     kept connections
frontier  whose turn it is: the pace of each domain
robots    what a robots.txt means
origins   what each origin's robots.txt said
asking    the course of an address: robots.txt, request, redirects, repeats
pause     how long a busy server asks to be left alone
handover  where a unit leaves the domain of its lane to the next
results   rows and JPEGs of a unit
shard     img2dataset's Downloader as the loop over a unit, with our fetch, decoder and writer in its seams
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine import schema
from engine.errors import ConfigError
from engine.spread import check_partitions
from engine.stage import UNKEYED, Output, Unit, Work
from pipelines import ids, rights, urls
from pipelines.images import Encode
from pipelines.reasons import Reason

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.ledger import Commit
    from pipelines.fetch.results import Results

VERSION = 2
OUTPUTS = (
    Output(name="outcomes", schema=schema.OUTCOMES, partition_by="part", sort_by=("url_id",)),
    # yielded in order of url_id, so that nothing is sorted
    Output(
        name="images",
        schema=schema.IMAGE_BYTES,
        batch_rows=64,
        compression=None,
        file_bytes=512 << 20,
        located="bytes",
    ),
    Output(name="times", schema=schema.FETCH_TIMES, sort_by=("url_id",), volatile=True),
    Output(name="moves", schema=schema.MOVES, partition_by="part", sort_by=("url_id",)),
    Output(name="rests", schema=schema.RESTS, volatile=True),
    Output(name="robots", schema=schema.ROBOTS, sort_by=("origin",), volatile=True),
)
PUBLIC, LOOPBACK = "public", "loopback_only"
OUTAGE_DOMAINS = 20  # fewer may well be down by themselves
MOST_S = 3300  # of a unit's requests: the engine's watchdog ends it after 3,600 s
# What our own network, resolver or clock may cause.
NOWHERE = (Reason.DNS, Reason.CONNECT, Reason.TLS, Reason.TIMEOUT, Reason.PRIVATE_ADDRESS, Reason.DOMAIN_DOWN)
# Outcomes of addresses that no request was made for: for robots.txt, at most.
UNASKED = (Reason.DOMAIN_DOWN, Reason.DEFERRED, Reason.ROBOTS_UNREACHABLE)


def libraries() -> tuple[str, ...]:
    """Versions of what asks and loops, for the stage key."""
    return tuple(f"{name} {version(name)}" for name in ("img2dataset", "pycurl"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Limits of a request, who asks, and whom.

    egress: "public", or "loopback_only" for a server on this machine that stands for all hosts; corpus: digest of what
    that one serves. agent, contact: the User-Agent; contact is an http(s) or mailto: address where a site's owner
    learns what we do. low_speed: fewer bytes a second for so many seconds end a request. control: a public name that
    answers https if the network is well ("": no check). respect_robots: whether robots.txt is asked, and holds.
    Unkeyed, because they are pace: serving, the JSON file of the loopback server ({"port", "ca_file", "corpus"}); rate,
    requests a second and domain (0: no limit); per_domain, requests in flight; threads; max_delay_s, of a Crawl-delay
    what is kept to; max_unanswered, requests in a row without an answer, or with "later", after which a domain is left
    alone for this unit (0: never); pause_s, the first pause of a domain that is busy and does not say how long;
    max_pause_s, all pauses of a domain in a unit; unit_s, after which no request begins. What these leave unasked is
    DEFERRED or DOMAIN_DOWN: asked for again when a later generation shows it.
    """

    egress: str = PUBLIC
    corpus: str = ""
    # unkeyed: a new contact address must not ask the whole web again
    contact: str = field(default="", metadata=UNKEYED)
    agent: str = rights.AGENT  # pages are read under the same name
    respect_opt_out: bool = True
    respect_robots: bool = True
    max_bytes: int = 20 << 20
    max_header_bytes: int = 64 << 10
    max_redirects: int = 5
    connect_s: float = 5.0
    total_s: float = 20.0
    low_speed_bytes: int = 512
    low_speed_s: float = 5.0
    encode: Encode = field(default_factory=Encode)
    # unkeyed: who cannot reach the one must not ask the whole web again for naming another
    control: str = field(default="data.commoncrawl.org", metadata=UNKEYED)
    partitions: int = 256
    libraries: tuple[str, ...] = field(default_factory=libraries)
    serving: str = field(default="", metadata=UNKEYED)
    rate: float = field(default=2.0, metadata=UNKEYED)
    per_domain: int = field(default=2, metadata=UNKEYED)
    threads: int = field(default=64, metadata=UNKEYED)
    max_delay_s: float = field(default=30.0, metadata=UNKEYED)
    max_unanswered: int = field(default=10, metadata=UNKEYED)
    pause_s: float = field(default=5.0, metadata=UNKEYED)
    max_pause_s: float = field(default=120.0, metadata=UNKEYED)
    unit_s: float = field(default=2400.0, metadata=UNKEYED)

    def __post_init__(self) -> None:
        if self.egress not in (PUBLIC, LOOPBACK):
            raise ConfigError(f"fetch.egress is {self.egress!r}; set it to {PUBLIC} or {LOOPBACK}")
        check_partitions(self.partitions)
        if self.rate < 0 or self.per_domain < 1 or self.threads < 1:
            raise ConfigError("fetch: rate is 0 or more, per_domain and threads are 1 or more")
        if min(self.max_delay_s, self.pause_s, self.max_pause_s) < 0 or self.unit_s <= 0:
            raise ConfigError("fetch: max_delay_s, pause_s and max_pause_s are 0 or more, unit_s is over 0")
        if self.unit_s > MOST_S:
            raise ConfigError(f"fetch.unit_s is {self.unit_s:g}; a unit is ended after an hour: set it to 1-{MOST_S}")
        if self.max_unanswered < 0:
            raise ConfigError(f"fetch.max_unanswered is {self.max_unanswered}; set it to 0 or more")
        if self.max_bytes < 1 or self.max_redirects < 0 or min(self.connect_s, self.total_s, self.low_speed_s) <= 0:
            raise ConfigError("fetch: max_bytes is 1 or more, max_redirects 0 or more, and seconds are over 0")
        if not self.agent.isascii() or not self.agent.isprintable() or not self.agent.strip():
            raise ConfigError(f"fetch.agent is {self.agent!r}; it is a word for the User-Agent")

    def ready(self) -> None:
        """ConfigError if nothing may be asked yet: no contact in public, or no server on loopback."""
        if self.egress == LOOPBACK:
            if not self.corpus or not self.serving:
                raise ConfigError(
                    "fetch.egress=loopback_only needs --set fetch.corpus=DIGEST and --set fetch.serving=FILE, as the "
                    "server prints them when it starts"
                )
        elif self.corpus:
            raise ConfigError("fetch.corpus belongs to --set fetch.egress=loopback_only; leave it empty for the web")
        elif not self.contact.startswith(("http://", "https://", "mailto:")):
            raise ConfigError(
                "sites must be able to learn who asks: --set fetch.contact=https://example.org/bot with an address of "
                "yours (or mailto:...)"
            )
        if not self.contact.isascii() or not self.contact.isprintable() or " " in self.contact:
            raise ConfigError(f"fetch.contact is {self.contact!r}; write the address in ASCII, without spaces")


def binds(config: Config) -> str:
    """What a store is bound to by its first fetch, lest images of the bundled web mix with those of the web."""
    return f"egress {config.egress}"


def listed(
    config: Config,
    commits: list[Commit],
    table: Callable[[Commit, str], pa.Table],
    mark: str,
) -> list[Unit]:
    """The units of one generation of `schedule`, in the order of its commits; mark: the digest of that manifest."""
    units = []
    for commit in commits:
        for row in table(commit, "units").to_pylist():
            inputs = (mark, commit.unit, str(row["batch"]))
            units.append(Unit(id=row["unit"], inputs=inputs, lane=row["lane"], size=row["urls"]))
    return units


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Ask for the addresses of one unit. RuntimeError if the network is down, or if an outcome is missing."""
    from pipelines.fetch import handover, shard
    from pipelines.select.schedule import OUTPUTS as LISTS

    mark, name, batch = unit.inputs
    commit = {commit.unit: commit for commit in work.manifest(mark)}[name]
    declared = next(output for output in LISTS if output.name == "urls")
    rows = work.part(commit, declared, int(batch)).sort_by("url_id")
    policy = shard.policy(config, work.scratch)
    # many addresses of pages may have moved to one, such as a picture that says that there is none
    places = rows["url"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(places, return_index=True)
    results = shard.fetch(rows.take(pa.array(first)), policy, work, handover.found(unit, commit, work))
    if len(results.reasons) != len(first) or not results.complete:
        raise RuntimeError(f"{len(first)} addresses went in and {results.num_written} outcomes came out")
    results.share(places)
    if config.egress == PUBLIC and dead(rows["domain"].to_pylist(), results.reasons) and config.control:
        shard.check_control(config.control, policy)
    for reason, num in sorted(Counter(results.reasons.tolist()).items()):
        work.count(Reason(reason).word, num)
    url_ids = ids.ids(rows["url_id"])
    yield "outcomes", _outcomes(rows, url_ids, config, results)
    for places, bodies in results.images():
        columns = [ids.arrow(url_ids[places]), bodies]
        yield "images", pa.Table.from_arrays(columns, schema=schema.IMAGE_BYTES)
    if results.moves:
        yield "moves", _moves(url_ids, config, results)
    if results.origins is not None:
        for word, num in sorted(results.origins.counts().items()):
            work.count(word, num)
        yield "robots", results.origins.rows()
    yield "rests", handover.table(results.rest)
    times = [ids.arrow(url_ids), pa.array(results.at_ms, pa.timestamp("ms", tz="UTC")), pa.array(results.seconds)]
    yield "times", pa.Table.from_arrays(times, schema=schema.FETCH_TIMES)


def dead(domains: list[str], reasons: npt.NDArray[np.uint16]) -> bool:
    """Whether most requests to many domains got nowhere: it may be us. Not only names and connections: a resolver that
    leads all to a private address, or a clock that is wrong, would refuse whatever a unit asks for, and for good."""
    lost = np.isin(reasons, list(map(int, NOWHERE)))
    return len(set(domains)) >= OUTAGE_DOMAINS and 2 * int(lost.sum()) > len(reasons)


def server(config: Config) -> tuple[int, str]:
    """(port, CA file) of the loopback server. ConfigError if it serves something else."""
    config.ready()
    try:
        told = json.loads(Path(config.serving).read_text())
        port, ca_file, corpus = int(told["port"]), str(told["ca_file"]), str(told["corpus"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"fetch.serving={config.serving} tells of no server ({error}); start it again") from None
    if corpus != config.corpus:
        raise ConfigError(f"the server serves {corpus} and fetch.corpus is {config.corpus}; set the one it prints")
    return port, ca_file


def _outcomes(rows: pa.Table, url_ids: ids.Ids, config: Config, results: Results) -> pa.Table:
    num = len(url_ids)
    stored = np.asarray(results.reasons) == 0
    places = np.where(stored, np.cumsum(stored) - 1, -1)
    columns = {
        "part": ids.partitions(url_ids, config.partitions),
        "url_id": ids.arrow(url_ids),
        "reason": results.reasons,
        "value": results.values,
        "sha256": pa.array(results.sha256, pa.binary(32)),
        "phash": results.phash,
        "width": results.sizes[:, 0],
        "height": results.sizes[:, 1],
        "stored_width": results.sizes[:, 2],
        "stored_height": results.sizes[:, 3],
        "deviation": results.deviations,
        "num_bytes": results.num_bytes,
        "format": results.formats,
        "tries": _tries(rows, results),
        "row": places,
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(np.ascontiguousarray(column), f.type, safe=False)
        for f, column in ((f, columns[f.name]) for f in schema.OUTCOMES)
    ]
    assert all(len(array) == num for array in arrays)
    return pa.Table.from_arrays(arrays, schema=schema.OUTCOMES)


def _tries(rows: pa.Table, results: Results) -> npt.NDArray[np.int64]:
    """What was not asked is no try; 255 says something else."""
    asked = ~np.isin(results.reasons, list(map(int, UNASKED)))
    tries: npt.NDArray[np.int64] = rows["tries"].to_numpy().astype(np.int64) + asked
    return np.minimum(tries, 254)


def _moves(url_ids: ids.Ids, config: Config, results: Results) -> pa.Table:
    """Where the addresses went that left their domain."""
    from pipelines.select import domains

    places = np.array(sorted(results.moves), np.int64)
    found = [results.moves[place] for place in places.tolist()]
    columns = [
        pa.array(ids.partitions(url_ids[places], config.partitions), pa.uint16()),
        ids.arrow(url_ids[places]),
        pa.array(found, schema.MOVES.field("url").type),
        pa.array([domains.key(urls.host(url)) for url in found], schema.MOVES.field("domain").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema.MOVES)
