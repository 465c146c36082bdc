"""Images of evaluation sets among candidates: found in each disguise, told by set; what may stand for a set."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import schema
from engine.config import override
from engine.errors import ConfigError
from engine.stage import canonical
from engine.store import Store
from pipelines import decontaminate
from pipelines.images import Encode, evaluation, listing, nearest
from pipelines.images.decode import cv2, measure
from pipelines.kosmos import interleaved, small
from pipelines.reasons import Reason
from tests.pipelines.image_bodies import Pixels, coded, other

GONE = int(Reason.IMAGE_CONTAMINATED)
Row = dict[str, Any]
SEEDS = range(1, 7)


def folder(tmp_path: Path, name: str = "coco", seeds: Sequence[int] = SEEDS) -> Path:
    """PNGs of unlike pictures, in two folders, and what is no picture beside them."""
    place = tmp_path / name
    for seed in seeds:
        path = place / ("train" if seed % 2 else "val") / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(coded(".png", other(seed)))
    (place / "captions.json").write_text("{}")
    return place


def images(*sets: str, **more: Any) -> evaluation.Config:
    given = {f"image_{name}": value for name, value in more.items()}
    return decontaminate.images(decontaminate.Config(images=sets, **given))


def candidates(*bodies: bytes, reasons: Sequence[int] = ()) -> pa.Table:
    """MATCHED of bodies as fetch measures them, doc by doc; a reason that is given stands before."""
    rows = []
    for doc, body in enumerate(bodies):
        found = measure(body, Encode())
        row: Row = {f.name: 0 for f in schema.MATCHED} | {"doc": doc, "url_id": bytes(32), "followed": False}
        row |= {"reason": reasons[doc] if reasons else int(found.reason), "sha256": hashlib.sha256(body).digest()}
        rows.append(row | {"phash": found.phash, "value": 0.5 if reasons and reasons[doc] else 0.0})
    return pa.Table.from_pylist(rows, schema.MATCHED)


def told(config: evaluation.Config, found: pa.Table) -> tuple[list[tuple[int, float]], list[tuple[int, ...]]]:
    """((reason, value) of each candidate, all leaks)."""
    marked, leaks = evaluation.contaminated(found, config)
    assert marked.schema == schema.MATCHED and leaks.schema == schema.IMAGE_LEAKS
    same = [name for name in schema.MATCHED.names if name not in ("reason", "value")]
    assert marked.select(same) == found.select(same)
    rows = [tuple(row.values()) for row in leaks.to_pylist()]
    return list(zip(marked["reason"].to_pylist(), marked["value"].to_pylist(), strict=True)), sorted(rows)


# what is found -----------------------------------------------------------------------------------------------------
DISGUISES: dict[str, Callable[[Pixels], bytes]] = {
    "JPEG": lambda p: coded(".jpg", p, cv2.IMWRITE_JPEG_QUALITY, 60),
    "WebP": lambda p: coded(".webp", p, cv2.IMWRITE_WEBP_QUALITY, 60),
    "half": lambda p: coded(".png", cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    "larger": lambda p: coded(".jpg", cv2.resize(p, (1000, 750), interpolation=cv2.INTER_CUBIC)),
    "grey": lambda p: coded(".jpg", cv2.cvtColor(p, cv2.COLOR_BGR2GRAY)),
    "brighter": lambda p: coded(".jpg", np.clip(p * 1.15, 0, 255).astype(np.uint8)),
    "mirrored": lambda p: coded(".jpg", np.ascontiguousarray(p[:, ::-1])),
    "thumbnail": lambda p: coded(".jpg", cv2.resize(p[:, 50:350], (96, 96), interpolation=cv2.INTER_AREA)),
    "mirrored thumbnail": lambda p: coded(".jpg", np.ascontiguousarray(p[:, 349:49:-1])),
    "blurred": lambda p: coded(".jpg", cv2.GaussianBlur(p, (5, 5), 0)),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_an_image_is_found_in_disguise(tmp_path: Path, disguise: str) -> None:
    config = images(str(folder(tmp_path)))
    # of the odd pictures, which stand first in the order of names; and of as many that are in no set
    bodies = [DISGUISES[disguise](other(seed)) for seed in (1, 3, 5, 101, 103, 105)]
    found, leaks = told(config, candidates(*bodies))
    assert [reason for reason, _ in found] == [GONE] * 3 + [0] * 3
    assert [leak[:4] for leak in leaks] == [(doc, 0, 0, doc) for doc in range(3)]
    assert [leak[4] for leak in leaks] == [value for _, value in found[:3]]
    assert {leak[5] for leak in leaks} == {GONE} and all(leak[4] <= evaluation.DISTANCE for leak in leaks)


def test_the_nearest_decides_and_each_set_tells_one(tmp_path: Path) -> None:
    body = coded(".png", other(1))
    marked = coded(".png", cv2.putText(other(1), "net", (330, 290), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255), 2))
    near = (measure(body, Encode()).phash ^ measure(marked, Encode()).phash).bit_count()
    assert 0 < near <= 6
    place = folder(tmp_path, "a", (1,))
    (place / "train" / "2.png").write_bytes(marked)
    again = tmp_path / "b"
    again.mkdir()
    (again / "x.png").write_bytes(marked)
    config = images(f"first={again}", str(place), distance=near)
    broken = coded(".png", other(2))[:300]
    found, leaks = told(config, candidates(broken, body, marked, coded(".png", other(9))))
    assert found == [(Reason.UNDECODABLE, 0.0), (GONE, 0.0), (GONE, 0.0), (0, 0.0)]
    assert leaks == [(1, 0, 0, 0, near, GONE), (1, 0, 1, 0, 0, GONE), (2, 0, 0, 0, 0, GONE), (2, 0, 1, 1, 0, GONE)]
    found, leaks = told(replace(config, distance=near - 1), candidates(body))
    assert leaks == [(0, 0, 1, 0, 0, GONE)]
    # the same bytes are nearer than what looks alike, wherever they stand
    lines = (f"{measure(marked, Encode()).phash:016x}", hashlib.sha256(body).hexdigest())
    (tmp_path / "c.txt").write_text("\n".join(lines))
    assert told(images(f"{tmp_path}/c.txt"), candidates(body)) == ([(GONE, 0.0)], [(0, 0, 0, 1, 0, GONE)])


def test_what_was_refused_before_is_told_with_its_reason(tmp_path: Path) -> None:
    config = images(str(folder(tmp_path)))
    body = coded(".jpg", other(1))
    found, leaks = told(config, candidates(body, body, reasons=(int(Reason.ASPECT), 0)))
    assert found[0] == (Reason.ASPECT, 0.5) and found[1][0] == GONE
    assert [(leak[0], leak[5]) for leak in leaks] == [(0, Reason.ASPECT), (1, GONE)]
    without = pa.Table.from_pylist(
        [
            {f.name: 0 for f in schema.MATCHED}
            | {"reason": 180, "sha256": bytes(32), "url_id": bytes(32), "followed": False}
        ],
        schema.MATCHED,
    )
    assert told(config, without) == ([(180, 0.0)], []), "what was not fetched looks like nothing"
    assert told(evaluation.Config(), candidates(body))[1] == []


def test_flat_pictures_are_found_as_the_same_bytes_only(tmp_path: Path) -> None:
    flat = np.full((300, 400, 3), 200, np.uint8)
    flat[:150] += 1
    place = folder(tmp_path, seeds=(1,))
    (place / "0.png").write_bytes(coded(".png", flat))
    (place / "broken.png").write_bytes(coded(".png", other(2))[:300])
    config = images(str(place))
    known = evaluation.known(config)
    assert (known.items.tolist(), known.findable.tolist()) == ([3], [1])
    found, leaks = told(config, candidates(coded(".png", flat), coded(".webp", flat), coded(".png", other(2))[:300]))
    assert [reason for reason, _ in found] == [GONE, 0, Reason.UNDECODABLE]
    assert leaks == [(0, 0, 0, 0, 0, GONE), (2, 0, 0, 1, 0, Reason.UNDECODABLE)]


def test_without_a_distance_only_bytes_count(tmp_path: Path) -> None:
    config = images(str(folder(tmp_path)), distance=-1)
    found, _ = told(config, candidates(coded(".png", other(1)), coded(".jpg", other(1))))
    assert [reason for reason, _ in found] == [GONE, 0]


LOOKS = st.lists(st.tuples(st.integers(0, (1 << 64) - 1), st.integers(0, 2)), max_size=30)


@given(LOOKS, st.lists(st.tuples(st.integers(0, 40), st.lists(st.integers(0, 63), max_size=14)), max_size=12))
@pytest.mark.parametrize("bound", [-1, 0, 1, 2, 3, 6, 11, 16])
def test_all_that_is_near_is_found(
    bound: int, known: list[tuple[int, int]], wanted: list[tuple[int, list[int]]]
) -> None:
    """Against every pair; what is wanted is what is known with some bits turned."""
    hashes = np.array([look for look, _ in known], np.uint64)
    asked = []
    for place, bits in wanted:
        look = known[place % len(known)][0] if known else 0
        for bit in bits:
            look ^= 1 << bit
        asked.append(look)
    sets = np.array([number for _, number in known], np.int64)
    index = nearest.index(hashes, sets, np.arange(len(known), dtype=np.uint32), 3)
    hits = nearest.nearest(index, np.array(asked, np.uint64), bound)
    found = list(zip(*(column.tolist() for column in (hits.row, hits.set, hits.distance, hits.item)), strict=True))
    expected = []
    for row, look in enumerate(asked):
        for number in range(3):
            near = [((look ^ one).bit_count(), item) for item, (one, of) in enumerate(known) if of == number]
            expected += [(row, number, *min(near))] if near and min(near)[0] <= bound else []
    assert found == expected


# what stands for a set ---------------------------------------------------------------------------------------------
def listed(place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints of a folder."""
    assert evaluation.main([str(place)]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("6 pictures; known by their bytes only: 0 that are flat, 0 that ")
    return said.out


def test_a_list_says_what_its_folder_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder(tmp_path)
    lines = listed(place, capsys)
    assert lines.splitlines()[1].endswith("\ttrain/1.png")
    rows = [dict(zip(lines.split("\n")[0].split("\t"), line.split("\t"), strict=True)) for line in lines.splitlines()]
    objects = "".join(json.dumps(row) + "\n" for row in rows[1:])
    files = {
        "coco.tsv": lines.encode(),
        "coco.tsv.gz": gzip.compress(lines.encode()),
        "coco.csv": b"\xef\xbb\xbf" + lines.replace("\t", ",").replace("\n", "\r\n").encode(),
        "coco.jsonl": objects.encode(),
        "COCO.ndjson.GZ": gzip.compress(b"\n" + objects.upper().lower().encode()),
    }
    whole = images(f"coco={place}")
    for name, body in files.items():
        (tmp_path / name).write_bytes(body)
        assert images(f"coco={tmp_path / name}") == replace(whole, sets=(f"coco=file://{tmp_path / name}",)), name
    # one column of them
    looks = "\n".join(row["phash"] for row in rows[1:])
    sums = "\n".join(row["sha256"] for row in rows[1:])
    (tmp_path / "looks.txt").write_text(looks)
    (tmp_path / "sums.txt").write_text(sums)
    (tmp_path / "only.csv").write_text("name,PHASH\n" + "".join(f'"a, b",{look}\n' for look in looks.splitlines()))
    candidate = candidates(coded(".jpg", other(5)), coded(".png", other(3)))
    assert [leak[:4] for leak in told(images(str(tmp_path / "looks.txt")), candidate)[1]] == [
        (0, 0, 0, 2),
        (1, 0, 0, 1),
    ]
    assert [leak[:4] for leak in told(images(str(tmp_path / "only.csv")), candidate)[1]] == [(0, 0, 0, 2), (1, 0, 0, 1)]
    assert [leak[:4] for leak in told(images(str(tmp_path / "sums.txt")), candidate)[1]] == [(1, 0, 0, 1)]


def test_a_folder_of_a_store_is_a_folder(tmp_path: Path) -> None:
    store = Store(f"memory:///{tmp_path.name}/coco")
    for path in folder(tmp_path).rglob("*.*"):
        store.put(path.relative_to(tmp_path / "coco").as_posix(), path.read_bytes())
    assert images(f"{store.url}/").digest == images(str(tmp_path / "coco")).digest
    assert images(f"{store.url}/").sets == (f"coco={store.url}",)


def test_hashes_travel_and_are_read_again_only_where_they_did_not(tmp_path: Path) -> None:
    place = folder(tmp_path)
    config = images(str(place))
    pinned = decontaminate.Config(images=(str(place),))
    words = decontaminate.pinned(pinned)
    assert words == (f"decontaminate.images=coco=file://{place}", f"decontaminate.image_digest={config.digest}")
    later = override(small(), words).decontaminate
    assert decontaminate.images(later) == replace(config, table=b"")
    candidate = candidates(coded(".jpg", other(1)))
    assert told(replace(config, table=b""), candidate) == told(config, candidate)
    (place / "val" / "2.png").unlink()
    evaluation.known.cache_clear()
    assert len(told(config, candidate)[1]) == 1
    with pytest.raises(ConfigError, match=r"are not what they were .* leave out decontaminate.image_digest"):
        told(replace(config, table=b""), candidate)
    (place / "train" / "1.png").write_bytes(coded(".png", other(50)))
    assert told(images(str(place)), candidate)[1] == [], "a file that was written anew is read anew"


HASH = "8" * 15 + "1"
BAD: list[tuple[str, str, str, str]] = [
    ("no column", "a.tsv", "name\tpath\nx\ty\n", r"a.tsv, line 1 names no column sha256 or phash; .*makes lists"),
    ("half a sum", "a.csv", "sha256\nabc\n", r"a.csv, line 2: 'abc' is no sha256, 64 hex digits"),
    ("no hex", "a.txt", "zz" * 8, r"line 1: .* is no phash, 16 hex digits"),
    ("spaces in a sum", "a.csv", "sha256\n" + "a " * 32 + "\n", r"is no sha256"),
    ("another hash", "a.txt", f"{HASH}\n{'8' * 16}\n", r"line 2: 8{16} is no perceptual hash of this program"),
    ("too many bits", "a.txt", "f" * 16, r"is no perceptual hash of this program"),
    ("neither", "a.tsv", f"sha256\tphash\tname\n\t{HASH}\n\n\t\tx\n", r"line 4: it has neither sha256 nor phash"),
    ("a number", "a.jsonl", '{"phash": 5}', r"line 1: its phash is no text"),
    ("a list of things", "a.jsonl", "[1]", r"a.jsonl, line 1 is no object"),
    ("many", "a.txt", f"{HASH} " * 17, r"line 1: it has over 16 perceptual hashes"),
    ("bytes", "a.tsv", "phash\n\udcff\n", r"line 2 is not UTF-8"),
    ("nothing", "a.csv", "sha256\n", r"a.csv holds no image; take it out of decontaminate.images"),
    ("a wide line", "a.csv", "sha256\n" + "a" * 200_000, r"line 2 is no CSV"),
    ("no gzip", "a.tsv.gz", "phash\n", r"a.tsv.gz is damaged"),
]


@pytest.mark.parametrize(("name", "body", "sentence"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_lists_that_are_none(tmp_path: Path, name: str, body: str, sentence: str) -> None:
    (tmp_path / name).write_bytes(body.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=sentence) as error:
        images(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_folders_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(ConfigError, match=r"holds no image; take it out of decontaminate.images"):
        images(str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    with pytest.raises(ConfigError, match=r"none of its 1 images can be decoded"):
        images(f"broken={tmp_path}")
    for address in ("{0}/none", "{0}/notes.md", "{0}/none.tsv", "memory:///nothing/here"):
        with pytest.raises(ConfigError, match=r"decontaminate.images"):
            images(f"a={address.format(tmp_path)}")
    assert evaluation.main([str(tmp_path / "none")]) == 2
    assert "is neither a folder nor a list" in capsys.readouterr().err


def test_settings_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, sentence in (
        ({"images": ("a/x", "b/x")}, r"two sets of images are named x; give decontaminate.images name=path"),
        ({"images": ("a b/",)}, r"'a b' cannot name a set"),
        ({"images": ("x=a,b",)}, r"a comma ends an address in decontaminate.images"),
        ({"image_distance": 17}, r"image_distance is 17; set it to 0-16, or to -1"),
        ({"image_digest": "abc"}, r"image_digest is 'abc', no sha256"),
        ({"images": tuple(f"s{n}=a" for n in range(257))}, r"names 257 sets; name 256 or fewer"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            decontaminate.Config(**settings)
    monkeypatch.setattr(listing, "MAX_IMAGES", 5)
    with pytest.raises(ConfigError, match=r"holds over 5 images; cut it into sets"):
        images(str(folder(tmp_path)))
    monkeypatch.setattr(listing, "MAX_FILE_BYTES", 100)
    listing._picture.cache_clear()
    with pytest.raises(ConfigError, match=r"holds no image"):
        images(str(folder(tmp_path)))


# keys --------------------------------------------------------------------------------------------------------------
def keys(*settings: str) -> dict[str, str]:
    recipe = interleaved(override(small(), settings))
    return {step.stage.name: step.stage.key for step in recipe.steps}


def test_images_change_what_follows_the_images_and_nothing_before(tmp_path: Path) -> None:
    plain, place = keys(), folder(tmp_path)
    assert keys("decontaminate.image_distance=3") == plain, "without sets nothing of it counts"
    given = f"decontaminate.images=coco={place}"
    first = keys(given)
    assert first.keys() == plain.keys(), "there is no stage that compares texts"
    changed = {name for name in plain if first[name] != plain[name]}
    assert {"match", "repeats", "assemble"} <= changed
    assert not changed & {"extract", "judge", "sign", "decide", "select", "schedule", "fetch", "follow"}
    config = decontaminate.Config(images=(str(place),), image_distance=3)
    assert canonical(config) == canonical(decontaminate.Config())
    assert keys(given, "decontaminate.image_distance=3")["match"] != first["match"]
    moved = place.rename(tmp_path / "moved")
    assert keys(f"decontaminate.images=other={moved}") == first, "it is what they hold that counts"
    (moved / "val" / "2.png").unlink()
    assert keys(f"decontaminate.images=coco={moved}")["match"] != first["match"]
