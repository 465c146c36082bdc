"""Images of evaluation sets, which stay out of the shards: named as folders of pictures, or as lists of their hashes.

    --set decontaminate.images=coco=/data/coco/val2014,flickr=flickr30k.tsv,s3://bucket/nocaps/
    python -m pipelines.images.evaluation /data/flickr30k > flickr30k.tsv

A list is a .tsv, .csv or .jsonl file with `sha256`, `phash` or both among its columns, or a .txt file of such hashes,
one a line; .gz may follow. The list of a folder says what the folder says, so that a folder whose licence binds it
stays where it is, and its pictures are decoded once, 250 a second and core. The driver reads the sets, and their hashes
travel with the stage's config, 184 bytes an image: workers need not see the files.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.errors import ConfigError, StoreError
from engine.stage import UNKEYED
from engine.store import absolute
from pipelines.dedupe import column
from pipelines.evalsets import Source
from pipelines.ids import Ids, first_of_runs, ids
from pipelines.images import listing, nearest
from pipelines.images.listing import ROW, SETTING
from pipelines.images.nearest import MAX_DISTANCE, Hashes, Hits
from pipelines.reasons import Reason

MAX_SETS = 256
# 95 to 100 % of the copies of a photograph that are coded anew, resized, grey, tinted or blurred lie within 6 bits. So
# does a pair of different ones in 50 million: 100,000 images of four hashes take 0.8 % of innocent photographs, and 6 %
# at 8 bits. Drawings and screenshots are more alike.
DISTANCE = 6
SHA256 = re.compile("[0-9a-f]{64}")
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Which sets of images, and how near an image is one of theirs.

    sets: as `decontaminate.images` names them; a set is known by its place. digest: hex sha256 of all hashes; "" takes
    it from them. distance: bits of the perceptual hash that may differ; -1: only the same bytes count. table: the
    hashes as bytes of listing.ROW, b"" where they have not been read.
    """

    sets: tuple[str, ...] = field(default=(), metadata=UNKEYED)
    digest: str = ""
    distance: int = DISTANCE
    table: bytes = field(default=b"", metadata=UNKEYED, repr=False)

    def __post_init__(self) -> None:
        if self.digest and not SHA256.fullmatch(self.digest):
            raise ConfigError(f"decontaminate.image_digest is {self.digest!r}, no sha256 in hex; leave it out")
        if not -1 <= self.distance <= MAX_DISTANCE:
            raise ConfigError(
                f"decontaminate.image_distance is {self.distance}; set it to 0-{MAX_DISTANCE}, or to -1 to compare "
                "bytes only"
            )
        if len(self.sets) > MAX_SETS:
            raise ConfigError(f"{SETTING} names {len(self.sets)} sets; name {MAX_SETS} or fewer")
        comma = [address for address in self.sets if "," in address]
        if comma:
            raise ConfigError(f"{comma[0]}: a comma ends an address in {SETTING}; give the folder another name")
        listing.sources(self.sets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """The hashes of all sets, ready to be found. sha256: ascending, with the set and item of each.

    items: images of each set; findable: those with a perceptual hash.
    """

    names: tuple[str, ...]
    items: Counts
    findable: Counts
    sha256: Ids
    sha256_sets: Counts
    sha256_items: npt.NDArray[np.uint32]
    looks: nearest.Index


def resolved(config: Config) -> Config:
    """The config of a stage: addresses that mean the same everywhere, the hashes, and the digest of these.

    Hashes are not read where the digest is given: whoever looks into a store has no such files. Without sets nothing
    of the config counts.
    """
    if not config.sets:
        return Config()
    named = listing.sources(config.sets)
    config = replace(config, sets=tuple(f"{one.name}={absolute(one.uri)}" for one in named))
    if config.digest:
        return config
    table = listing.rows(named).tobytes()
    return replace(config, digest=hashlib.sha256(table).hexdigest(), table=table)


def pinned(config: Config) -> tuple[str, ...]:
    """The settings that stand for the sets where their files are not at hand."""
    if not config.sets:
        return ()
    full = resolved(config)
    return f"{SETTING}={','.join(full.sets)}", f"decontaminate.image_digest={full.digest}"


@lru_cache(maxsize=1)  # a process works on many units of one run
def known(config: Config) -> Known:
    """The hashes of a resolved config, read now if they did not travel with it; ConfigError if those are not what its
    digest says."""
    named = listing.sources(config.sets)
    table = config.table or listing.rows(named).tobytes()
    rows, found = np.frombuffer(table, ROW), hashlib.sha256(table).hexdigest()
    if found != config.digest:
        raise ConfigError(
            f"the sets of {SETTING} are not what they were (sha256 {found[:12]}, not {config.digest[:12]}); leave out "
            "decontaminate.image_digest to compare with what they hold now, or put the old files back"
        )
    sets, items = rows["set"].astype(np.int64), rows["item"].astype(np.uint32)
    exact = _order(rows["sha256"], sets, items)
    exact = exact[rows["sha256"][exact] != b""]
    seen = np.flatnonzero(rows["phash"] != 0)
    first = first_of_runs(sets, items)
    return Known(
        names=tuple(one.name for one in named),
        items=np.bincount(sets[first], minlength=len(named)),
        findable=np.bincount(sets[first & (rows["phash"] != 0)], minlength=len(named)),
        sha256=rows["sha256"][exact],
        sha256_sets=sets[exact],
        sha256_items=items[exact],
        looks=nearest.index(rows["phash"][seen].astype(np.uint64), sets[seen], items[seen], len(named)),
    )


def contaminated(images: pa.Table, config: Config) -> tuple[pa.Table, pa.Table]:
    """(images (MATCHED), those refused that the gate had let pass and that are of a set; IMAGE_LEAKS of all that are).

    config: resolved.
    """
    if not config.sets:
        return images, schema.IMAGE_LEAKS.empty_table()
    hits = found(known(config), ids(images["sha256"]), column(images, "phash"), config.distance)
    reasons, values = images["reason"].to_numpy().copy(), images["value"].to_numpy().copy()
    first = np.flatnonzero(first_of_runs(hits.row))
    # of several sets the nearest decides
    least = np.minimum.reduceat(hits.distance, first) if len(first) else hits.distance
    gone = reasons[hits.row[first]] == Reason.KEPT
    reasons[hits.row[first[gone]]] = Reason.IMAGE_CONTAMINATED
    values[hits.row[first[gone]]] = least[gone]
    rows = images.take(pa.array(hits.row))
    columns = [rows["doc"], rows["image"], hits.set.astype(np.uint16), hits.item, hits.distance, reasons[hits.row]]
    leaks = pa.table(columns, schema=schema.IMAGE_LEAKS)
    for name, changed in (("reason", reasons), ("value", values)):
        place = images.schema.get_field_index(name)
        images = images.set_column(place, images.schema.field(name), pa.array(changed))
    return images, leaks


def found(known: Known, sha256: Ids, phash: Hashes, distance: int) -> Hits:
    """Of each image and set the nearest item: 0 bits for the same bytes, else within `distance` bits.

    sha256, phash: of the images; b"" and 0 if there is none, which no item has.
    """
    looks, which = np.unique(phash, return_inverse=True)
    near = nearest.nearest(known.looks, looks[looks != 0], distance)
    near_row = near.row + np.count_nonzero(looks == 0)
    image, at = _each(near_row, which)
    same_image, same_at = _each(known.sha256, sha256)
    row = np.concatenate([same_image, image])
    number = np.concatenate([known.sha256_sets[same_at], near.set[at]])
    item = np.concatenate([known.sha256_items[same_at], near.item[at]])
    bits = np.concatenate([np.zeros(len(same_at), np.uint8), near.distance[at]])
    order = np.lexsort((item, bits, number, row))
    order = order[first_of_runs(row[order], number[order])]
    return Hits(row=row[order], set=number[order], item=item[order], distance=bits[order])


def _order(sha256: Ids, sets: Counts, items: npt.NDArray[np.uint32]) -> Counts:
    """By hash, and of equal hashes of a set only the smallest item."""
    order = np.lexsort((items, sets, sha256))
    return order[first_of_runs(sha256[order], sets[order])]


def _each(ascending: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> tuple[Counts, Counts]:
    """(i, j) of all pairs in which wanted[i] == ascending[j]."""
    first, end = (np.searchsorted(ascending, wanted, side) for side in ("left", "right"))
    num = end - first
    within = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num)
    return np.repeat(np.arange(len(wanted)), num), np.repeat(first, num) + within


def main(arguments: list[str]) -> int:
    """Print the list of a folder; what it holds is told on the error output."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.images.evaluation",
        description="Print the hashes of the pictures below a folder, for --set decontaminate.images=name=hashes.tsv.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="a folder, or the address of one in a store")
    uri = parser.parse_args(arguments).folder
    try:
        flat = unreadable = num = 0
        for picture in listing.pictures(Source(name="", uri=uri, kind="folder")):
            if not num:
                print("sha256\tphash\tname")
            num += 1
            unreadable += picture.reason != Reason.KEPT
            flat += picture.reason == Reason.KEPT and not picture.looks
            print(listing.described(picture))
    except (ConfigError, StoreError) as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{num:,} pictures; known by their bytes only: {flat:,} that are flat, {unreadable:,} that are too small or "
        "cannot be decoded",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
