"""Crawl listings -> WARC units: Common Crawl by name, local globs, lists of addresses.

A unit is named by what its file IS: the crawl-relative path for Common Crawl, whose files never change; elsewhere the
address, size and sha256 (for objects behind a URL their entity tag), so that a file rewritten in place is a new input.
"""

from __future__ import annotations

import dataclasses
import difflib
import glob
import gzip
import hashlib
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import pyarrow as pa

from engine.crawls import LISTED
from engine.errors import ConfigError, Missing
from engine.ledger import Ledger
from engine.schema import WARCS
from engine.stage import Output, Stage, Unit, Work, digest
from engine.store import Store, absolute, local_path
from pipelines.offers import LATEST, MIRROR, NAME, latest, offered, open_mirror

MAX_LISTING_BYTES = 256 << 20  # CC-MAIN listings are about 15 MB unpacked
SUFFIXES = (".warc", ".warc.gz", ".warc.zst", ".arc.gz")
OUTPUTS = (Output(name="warcs", schema=WARCS),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What the person asked for: a crawl's name or 'latest', and / or files: globs, addresses, '@list' for a file of
    addresses."""

    crawl: str = ""
    files: tuple[str, ...] = ()
    mirror: str = MIRROR


@dataclass(frozen=True, slots=True)
class Warc:
    """One WARC file; fields as in `engine.schema.WARCS` without the unit, which they give."""

    identity: str
    uri: str
    crawl: str
    size: int = 0

    @property
    def unit(self) -> Unit:
        """Its extract unit: inputs are identity, address, crawl."""
        name = hashlib.sha256(self.identity.encode()).hexdigest()[:24]
        return Unit(id=name, inputs=(self.identity, self.uri, self.crawl), size=self.size)


def named(inputs: Inputs) -> Inputs:
    """The inputs with the name of a crawl: for 'latest' that of the mirror's newest, looked up once for all that a run
    does. ConfigError if the mirror offers none."""
    return dataclasses.replace(inputs, crawl=latest(inputs.mirror)) if inputs.crawl == LATEST else inputs


def listing(inputs: Inputs) -> list[Warc]:
    """The WARC files behind the inputs, in order, each once. ConfigError names near misses of what is missing."""
    inputs = named(inputs)
    if not inputs.crawl and not inputs.files:
        raise ConfigError("no input: give --crawl CC-MAIN-2024-22, --crawl latest or --input 'crawl/*.warc.gz'")
    found = _crawl(inputs.crawl, inputs.mirror) if inputs.crawl else []
    for pattern in inputs.files:
        found += _expand(pattern)
    return list({warc.identity: warc for warc in found}.values())


def units(inputs: Inputs, ledger: Ledger | None) -> list[Unit]:
    """Extract units of the inputs; with a ledger the listing is committed first, and the units are those it holds."""
    inputs = named(inputs)
    warcs = listing(inputs)
    if ledger is None:
        return [warc.unit for warc in warcs]
    from engine.attempt import attempt

    spec = ["crawl", inputs.crawl, inputs.mirror] if inputs.crawl and not inputs.files else ["files"]
    if spec == ["files"]:
        spec += [json.dumps(astuple(warc)) for warc in warcs]
    unit = Unit(id=_name(warcs), inputs=tuple(spec))
    ledger.open(STAGE)
    outcome = attempt(ledger.store.url, STAGE, unit)
    if outcome.error:
        raise ConfigError(f"the listing cannot be kept: {outcome.error}")
    return [warc.unit for warc in warcs]


def process(unit: Unit, config: None, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Write the listing that the unit names."""
    if unit.inputs[0] == "crawl":
        warcs = _crawl(unit.inputs[1], unit.inputs[2])
    else:
        warcs = [Warc(*json.loads(line)) for line in unit.inputs[1:]]
    if _name(warcs) != unit.id:
        raise ConfigError("the listing changed while it was read; run the same command again")
    work.count("warcs", len(warcs))
    for crawl, num in Counter(warc.crawl for warc in warcs).items():
        work.count(LISTED + crawl, num)
    rows = [(warc.unit.id, warc.identity, warc.uri, warc.crawl, warc.size) for warc in warcs]
    arrays = [pa.array([row[i] for row in rows], f.type) for i, f in enumerate(WARCS)]
    yield "warcs", pa.Table.from_arrays(arrays, schema=WARCS)


STAGE = Stage(
    name="snapshot", process="pipelines.snapshot:process", config=None, outputs=OUTPUTS, version=2, recorded=True
)


def _name(warcs: list[Warc]) -> str:
    return digest([warc.identity for warc in warcs])[:24]


def _crawl(name: str, mirror: str) -> list[Warc]:
    store = open_mirror(mirror)
    mirror = store.url
    path = f"crawl-data/{name}/warc.paths.gz"
    if not NAME.fullmatch(name):
        raise ConfigError(f"{mirror} has no crawl {name!r}{_near(store, name)}")
    try:
        packed = store.get(path)
    except Missing:
        raise ConfigError(f"{mirror} has no crawl {name!r}{_near(store, name)}") from None
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            text = file.read(MAX_LISTING_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{mirror}/{path} is damaged: {error}; download it again") from None
    if len(text) > MAX_LISTING_BYTES:
        raise ConfigError(f"{mirror}/{path} unpacks to more than {MAX_LISTING_BYTES >> 20} MiB: not a listing of WARCs")
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines()]
    paths = [line for line in lines if line]
    bad = next((line for line in paths if ".." in line.split("/") or not line.endswith(SUFFIXES)), None)
    if bad is not None:
        raise ConfigError(f"{mirror}/{path} names {bad[:200]!r}, which is no path of a WARC file")
    return [Warc(line, f"{mirror}/{line}", name) for line in paths]


def _near(store: Store, name: str) -> str:
    if store.url.startswith(("http://", "https://")):
        return "; crawls are named as CC-MAIN-2024-22, `kosmos crawls` lists them"
    names = [offer.name for offer in offered(store.url)]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    return f"; it has {', '.join(close)}" if close else "; it holds no crawl-data/"


def _expand(pattern: str) -> list[Warc]:
    if pattern.startswith("@"):
        return _list_file(pattern[1:])
    if urlsplit(pattern).scheme not in ("", "file"):
        return [_remote(pattern)]
    path = str(local_path(pattern) or os.path.expanduser(pattern))
    if os.path.isdir(path):
        names = sorted(str(p) for p in Path(path).rglob("*") if p.name.endswith(SUFFIXES) and p.is_file())
        if not names:
            raise ConfigError(f"no {' or '.join(SUFFIXES[:2])} file below {path}; give --input a glob")
    else:
        names = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
    if not names:
        raise ConfigError(f"no file matches {pattern}{_near_files(path)}")
    return [_local(name) for name in names]


def _near_files(path: str) -> str:
    folder = os.path.dirname(path)
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    below = os.listdir(folder or ".")
    tried = os.path.relpath(path, folder or ".")
    close = difflib.get_close_matches(tried.replace("*", ""), below, n=3, cutoff=0.3) or sorted(below)[:3]
    if not close:
        return f"; {folder or '.'} is empty"
    return "; did you mean " + ", ".join(os.path.join(folder, name) for name in close) + "?"


def _list_file(name: str) -> list[Warc]:
    try:
        lines = Path(name).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the list {name} cannot be read ({error}); it is one address a line") from None
    entries = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not entries:
        raise ConfigError(f"the list {name} names no file; it is one address a line")
    return [warc for entry in entries for warc in _expand(entry)]


def _local(name: str) -> Warc:
    path = os.path.abspath(name)
    uri = "file://" + quote(path)
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror or error}") from None
    return Warc(f"{uri}|{size}|{sha256}", uri, "", size)


def _remote(uri: str) -> Warc:
    root, _, name = absolute(uri).rpartition("/")
    head = Store(root).head(name)
    if head is None:
        raise ConfigError(f"{uri} does not exist; check the address")
    return Warc(f"{uri}|{head.size}|{head.etag}", uri, "", head.size)
