"""The ledger: what a store holds of each stage, in create-only objects. The commit object is the truth.

    <root>/kosmos.json                                  this is a store of ours; its format
    <root>/<stage key>/stage.json                       config in full, schemas, upstream keys
    <root>/<stage key>/data/<unit>.<attempt>.<output>.<k>.arrow
    <root>/<stage key>/commits/<unit>.json              create-only; names files, rows, sums, counts a reason
    <root>/<stage key>/failures/<unit>.<attempt>.json   3 of these = quarantined
    <root>/<stage key>/generations/<n>.json             create-only; what generation n of a barrier stage reads
    <root>/<stage key>/published/<n>.json               create-only; "published" with its manifests, or "abandoned"
    <root>/manifests/<digest>.parquet                   a frozen list of the commits of one stage
    <root>/bound/<name>.json                            create-only; what the store is bound to, as its kind of egress
    <root>/runs/<time>-<id>.json, .end.json             who ran what, and what came of it

A crash leaves garbage, never a lie; nothing here deletes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.arrow import Batch, File
from engine.errors import ConfigError, Missing, StoreError
from engine.stage import Stage, Unit, canonical, digest
from engine.store import Store

FORMAT = 1
PUBLISHED, ABANDONED = "published", "abandoned"  # what becomes of a generation
QUARANTINE = 3  # failures of one unit before a run leaves it alone (house rule; `--retry-failed` asks again)


def code_version() -> str:
    """The installed version of the project."""
    try:
        return version("kosmos-engine")
    except PackageNotFoundError:
        return "uninstalled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """What one attempt wrote for a unit: files by output, exact counts a reason, cost.

    inputs, generation: the unit's, so that it can be computed again from its commit. crashed: record offsets that were
    skipped because they crashed the worker twice.
    """

    stage: str
    unit: str
    attempt: str
    outputs: dict[str, tuple[File, ...]]
    inputs: tuple[str, ...] = ()
    generation: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    crashed: tuple[int, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    host: str = ""
    code: str = ""

    def rows(self, output: str) -> int:
        """Rows of one output."""
        return sum(file.rows for file in self.outputs.get(output, ()))

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for files in self.outputs.values() for file in files)

    def to_json(self) -> bytes:
        """The commit object's bytes."""
        body = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        body["outputs"] = {name: [_plain(file) for file in files] for name, files in self.outputs.items()}
        return json.dumps(body, separators=(",", ":")).encode()

    @staticmethod
    def from_json(body: bytes, where: str) -> Commit:
        """A commit from its object; StoreError if it is not one."""
        try:
            raw = json.loads(body)
            raw["outputs"] = {
                name: tuple(
                    File(path, rows, size, sha256, tuple(Batch(*b) for b in batches), *map(tuple, sums))
                    for path, rows, size, sha256, batches, *sums in files
                )
                for name, files in raw["outputs"].items()
            }
            raw["inputs"], raw["crashed"] = tuple(raw["inputs"]), tuple(raw["crashed"])
            return Commit(**raw)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{where} is not a commit ({error}); run `kosmos verify`") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """Generation n of a barrier stage: what exactly it reads.

    manifests: upstream stage name -> (stage key, manifest digest). carried: stage name -> {earlier generation ->
    (stage key, manifest digest)}. quarantined: units left out, by stage name. partitions: as the config had it.
    """

    stage: str
    number: int
    parent: str
    manifests: dict[str, tuple[str, str]]
    carried: dict[str, dict[int, tuple[str, str]]] = field(default_factory=dict)
    quarantined: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hex sha256 of the body; its first 12 digits name the generation's units."""
        return digest(self)

    def earlier(self, name: str) -> tuple[int, ...]:
        """Numbers of the generations of a carried stage that may be read, ascending."""
        return tuple(sorted(self.carried.get(name, {})))

    def unit_id(self, part: int) -> str:
        """Id of the unit that computes part `part`."""
        return f"{self.digest[:12]}-{part:06d}"

    @staticmethod
    def from_json(body: bytes, where: str) -> Generation:
        """A generation from its object; StoreError if it is not one."""
        try:
            raw = json.loads(body)
            raw["manifests"] = {name: (key, mark) for name, (key, mark) in raw["manifests"].items()}
            raw["carried"] = {
                name: {int(n): (key, mark) for n, (key, mark) in numbers.items()}
                for name, numbers in raw["carried"].items()
            }
            raw["quarantined"] = {name: tuple(units) for name, units in raw["quarantined"].items()}
            return Generation(**raw)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{where} is not a generation ({error}); run `kosmos verify`") from None


MANIFEST = pa.schema(
    [
        pa.field("stage", pa.large_string(), nullable=False),
        pa.field("unit", pa.large_string(), nullable=False),
        pa.field("output", pa.large_string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("path", pa.large_string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.large_string(), nullable=False),
        pa.field("batches", pa.large_list(pa.int64()), nullable=False),  # offset, length, body, rows, part; repeated
        pa.field("sums", pa.large_list(pa.uint64())),  # of the batches; null where the output has none
    ]
)


class Ledger:
    """The protocol over one store. Reads and create-only puts; picklable."""

    def __init__(self, store: Store | str) -> None:
        self.store = store if isinstance(store, Store) else Store(store)

    def __reduce__(self) -> tuple[type[Ledger], tuple[str]]:
        return Ledger, (self.store.url,)

    # the store ------------------------------------------------------------------------------------------------
    def check(self, create: bool) -> bool:
        """Whether the store is one of ours (made so if empty and `create`); ConfigError for a foreign one."""
        if not create and self.store.absent:
            return False
        head = self.store.head("kosmos.json")
        if head is None:
            # looked at once more: another driver may have founded the store between our look and our list
            if any(True for _ in self.store.list("")) and not self.store.exists("kosmos.json"):
                raise ConfigError(
                    f"{self.store.url} holds other things and no kosmos.json; give --store an empty or new place"
                )
            if not create:
                return False
            self.store.put_new("kosmos.json", canonical({"format": FORMAT}).encode())
        try:
            found = json.loads(self.store.get("kosmos.json"))["format"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{self.store.url}/kosmos.json is not readable; give another --store") from None
        if found != FORMAT:
            raise ConfigError(
                f"{self.store.url} has format {found}, this version writes {FORMAT}; give another --store"
            )
        return True

    def bind(self, name: str, word: str) -> None:
        """Bind the store to a word under a name; ConfigError if it is bound to another."""
        path = f"bound/{name}.json"
        if not self.store.put_new(path, canonical({name: word}).encode()):
            self.check_bound(name, word)

    def check_bound(self, name: str, word: str) -> None:
        """ConfigError if the store is bound to another word under this name."""
        path = f"bound/{name}.json"
        found = self._fields(path, name)[0] if self.store.exists(path) else word
        if found != word:
            raise ConfigError(
                f"{self.store.url} belongs to runs with {name} {found!r}, and this one has {word!r}: what the two "
                "find must never mix; give another --store"
            )

    def open(self, stage: Stage) -> None:
        """Write the stage's description if it is not there."""
        body = json.dumps({**json.loads(canonical(stage.description())), "code": code_version()}, indent=1)
        self.store.put_new(f"{stage.key}/stage.json", body.encode())

    # runs, which are stories and no promises ------------------------------------------------------------------
    def tell(self, recipe: str, settings: tuple[str, ...]) -> str:
        """Note that a run of a recipe begins; the path that its objects start with."""
        started = datetime.now(UTC)
        path = f"runs/{started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        body = {"recipe": recipe, "settings": settings, "host": os.uname().nodename, "code": code_version()}
        self.store.put_new(f"{path}.json", json.dumps(body, indent=1).encode())
        return path

    def told(self, recipe: str) -> tuple[str, ...]:
        """The settings of the last run of a recipe; () if there was none."""
        paths = [head.path for head in self.store.list("runs/") if not head.path.endswith(".end.json")]
        for path in sorted(paths, reverse=True):
            try:
                body = json.loads(self.store.get(path))
                if body["recipe"] == recipe:
                    return tuple(str(word) for word in body["settings"])
            except (ValueError, KeyError, TypeError):
                continue
        return ()

    # commits --------------------------------------------------------------------------------------------------
    def committed(self, key: str) -> set[str]:
        """Ids of the committed units of a stage key."""
        return {_unit(head.path) for head in self.store.list(f"{key}/commits/") if head.path.endswith(".json")}

    def is_committed(self, key: str, unit: str) -> bool:
        """Whether the unit has a commit."""
        return self.store.exists(f"{key}/commits/{unit}.json")

    def commit(self, key: str, unit: str) -> Commit:
        """The unit's commit; Missing if there is none."""
        path = f"{key}/commits/{unit}.json"
        return Commit.from_json(self.store.get(path), path)

    def commits(self, key: str, units: Iterable[str] | None = None) -> Iterator[Commit]:
        """Commits of the units (default: all), in order of unit ids, read 16 at a time."""
        ids = sorted(self.committed(key) if units is None else units)
        with ThreadPoolExecutor(16) as pool:
            # bounded: a map over 90 thousand ids must not hold 90 thousand bodies
            for start in range(0, len(ids), 256):
                yield from pool.map(lambda unit: self.commit(key, unit), ids[start : start + 256])

    def put_commit(self, commit: Commit) -> bool:
        """Publish the commit; False if another attempt was first.

        A put that timed out may have succeeded: then the commit found there is ours.
        """
        path = f"{commit.stage}/commits/{commit.unit}.json"
        if self.store.put_new(path, commit.to_json()):
            return True
        return Commit.from_json(self.store.get(path), path).attempt == commit.attempt

    def replaced(self, frozen: Commit, output: str) -> tuple[File, ...]:
        """Files of an output that a manifest names under an attempt that is gone: those of the unit's commit of now.

        A lost file is computed again under another attempt's name, and the manifest still names the first. Missing
        unless rows and sums are the frozen ones.
        """
        files = self.commit(frozen.stage, frozen.unit).outputs.get(output, ())
        before = frozen.outputs[output]
        if files == before or [(f.rows, f.sha256) for f in files] != [(f.rows, f.sha256) for f in before]:
            raise Missing(
                f"{before[0].path} is not in {self.store.url}; run `kosmos verify`, which says how it is made again"
            )
        return files

    # failures -------------------------------------------------------------------------------------------------
    def put_failure(self, key: str, unit: Unit, attempt: str, error: str, **more: Any) -> None:
        """Record that an attempt failed."""
        body = {"unit": dataclasses.asdict(unit), "attempt": attempt, "error": error, "code": code_version(), **more}
        self.store.put_new(f"{key}/failures/{unit.id}.{attempt}.json", json.dumps(body, indent=1).encode())

    def failures(self, key: str) -> dict[str, int]:
        """Failures a unit, of uncommitted and committed units alike."""
        counts: dict[str, int] = {}
        for head in self.store.list(f"{key}/failures/"):
            unit = _unit(head.path)
            counts[unit] = counts.get(unit, 0) + 1
        return counts

    def failure_bodies(self, key: str, unit: str) -> list[dict[str, Any]]:
        """The failure objects of a unit, oldest first."""
        heads = [h for h in self.store.list(f"{key}/failures/") if _unit(h.path) == unit]
        return [json.loads(self.store.get(h.path)) for h in sorted(heads, key=lambda h: (h.modified, h.path))]

    def quarantined(self, key: str) -> set[str]:
        """Units with QUARANTINE failures or more and no commit."""
        bad = {unit for unit, num in self.failures(key).items() if num >= QUARANTINE}
        return bad - self.committed(key) if bad else bad

    # manifests ------------------------------------------------------------------------------------------------
    def freeze(self, key: str, units: Iterable[str] | None = None) -> str:
        """Freeze the commits of the units (default: all) as a manifest; its digest.

        The digest covers (stage key, unit, output, file index, rows, sha256), sorted: never attempt names, bytes of
        the Parquet file, or volatile outputs. Freezing the same commits twice is one manifest.
        """
        volatile = self._volatile(key)
        rows = []
        for commit in self.commits(key, units):
            for output, files in sorted(commit.outputs.items()):
                for index, file in enumerate(files):
                    flat = [number for batch in file.batches for number in dataclasses.astuple(batch)]
                    head = (key, commit.unit, output, index, file.path, file.rows, file.bytes, file.sha256)
                    rows.append((*head, flat, file.sums or None))
        rows.sort(key=lambda row: row[:4])
        sha256 = hashlib.sha256()
        for row in rows:
            if row[2] not in volatile:
                sha256.update(canonical([*row[:4], row[5], row[7]]).encode() + b"\n")
        mark = sha256.hexdigest()
        path = f"manifests/{mark}.parquet"
        if not self.store.exists(path):
            arrays = [pa.array([row[i] for row in rows], f.type) for i, f in enumerate(MANIFEST)]
            sink = io.BytesIO()
            table = pa.Table.from_arrays(arrays, schema=MANIFEST)
            pq.write_table(table, sink, compression="zstd", row_group_size=1 << 16)
            self.store.put_new(path, sink.getvalue())
        return mark

    def _volatile(self, key: str) -> set[str]:
        """Names of a stage's outputs that no two runs agree on, from its description."""
        path = f"{key}/stage.json"
        (outputs,) = self._fields(path, "outputs") if self.store.exists(path) else ([],)
        return {output["name"] for output in outputs if output.get("volatile")}

    def _fields(self, path: str, *names: str) -> list[Any]:
        """Fields of a JSON object of ours; StoreError if it is not one or lacks them."""
        try:
            body = json.loads(self.store.get(path))
            return [body[name] for name in names]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is not readable ({error}); run `kosmos verify`") from None

    def manifest(self, mark: str) -> list[Commit]:
        """The frozen commits behind a digest (files only, no counts), by unit id; ConfigError if there is none."""
        if len(mark) != 64 or set(mark) - set("0123456789abcdef"):
            near = self.find_manifest(mark)
            raise ConfigError(f"{mark!r} is not a manifest digest{near}; `kosmos freeze STAGE` prints one")
        return list(_manifest(self.store.url, mark))

    def find_manifest(self, start: str) -> str:
        """' (did you mean <digest>?)' for manifests that start so, else ''."""
        hits = [h.path[10:74] for h in self.store.list("manifests/") if start and h.path[10:].startswith(start)]
        return f" (did you mean {hits[0]}?)" if hits else ""

    # generations ----------------------------------------------------------------------------------------------
    def generation(self, key: str, number: int) -> Generation | None:
        """Generation `number` of a barrier stage, None if it was not claimed."""
        path = f"{key}/generations/{number}.json"
        return Generation.from_json(self.store.get(path), path) if self.store.exists(path) else None

    def generations(self, key: str) -> list[int]:
        """Numbers of the claimed generations, ascending."""
        return sorted(int(_unit(head.path)) for head in self.store.list(f"{key}/generations/"))

    def claim(self, generation: Generation) -> Generation:
        """Put the generation if its number is free; the one that stands there, ours or the winner's."""
        path = f"{generation.stage}/generations/{generation.number}.json"
        if self.store.put_new(path, canonical(generation).encode()):
            return generation
        return Generation.from_json(self.store.get(path), path)

    def settled(self, key: str) -> dict[int, dict[str, Any]]:
        """Generations that are published or abandoned: number -> {"state": ..., "manifest": ...}."""
        heads = list(self.store.list(f"{key}/published/"))
        return {int(_unit(head.path)): self._settlement(head.path) for head in heads}

    def _settlement(self, path: str) -> dict[str, Any]:
        state, manifest = self._fields(path, "state", "manifest")
        return {"state": str(state), "manifest": str(manifest)}

    def settle(self, key: str, number: int, state: str, manifest: str = "") -> str:
        """Publish or abandon a generation; the state that holds (another driver may have settled it before)."""
        path = f"{key}/published/{number}.json"
        body: Mapping[str, Any] = {"state": state, "manifest": manifest}
        if self.store.put_new(path, canonical(body).encode()):
            return state
        return str(self._settlement(path)["state"])


def _plain(file: File) -> list[Any]:
    head = [file.path, file.rows, file.bytes, file.sha256, [dataclasses.astuple(batch) for batch in file.batches]]
    return [*head, file.sums] if file.sums else head


def _unit(path: str) -> str:
    # unit ids hold no dots
    return path.rsplit("/", 1)[-1].split(".", 1)[0]


@lru_cache(maxsize=32)
def _manifest(url: str, mark: str) -> tuple[Commit, ...]:
    # immutable, and read by every unit of a generation that the same worker computes
    try:
        # read_table goes through threads of Arrow's that let go of the bytes late: a process that ends then aborts
        body = pa.BufferReader(Store(url).get(f"manifests/{mark}.parquet"))
        table = pq.ParquetFile(body, pre_buffer=False).read(use_threads=False)
    except Missing:
        raise ConfigError(f"no manifest {mark} in {url}; `kosmos freeze STAGE` prints one") from None
    except pa.ArrowInvalid as error:
        raise StoreError(f"manifest {mark} is damaged: {error}") from None
    outputs: dict[tuple[str, str], dict[str, list[File]]] = {}
    for row in table.to_pylist():
        flat = row["batches"]
        batches = tuple(Batch(*flat[i : i + 5]) for i in range(0, len(flat), 5))
        # those of earlier versions lack the column
        file = File(row["path"], row["rows"], row["bytes"], row["sha256"], batches, tuple(row.get("sums") or ()))
        outputs.setdefault((row["stage"], row["unit"]), {}).setdefault(row["output"], []).append(file)
    return tuple(
        Commit(stage=stage, unit=unit, attempt="", outputs={name: tuple(files) for name, files in files_by.items()})
        for (stage, unit), files_by in sorted(outputs.items())
    )
