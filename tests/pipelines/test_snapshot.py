"""Listings: what is found, how it is named, and what a person is told when nothing is."""

from __future__ import annotations

import gzip
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from engine.crawls import LISTED
from engine.errors import ConfigError
from engine.ledger import Ledger
from engine.work import read_rows
from pipelines.snapshot import STAGE, Inputs, listing, named, units

CRAWL = "CC-TEST-2026-01"
PATHS = [f"crawl-data/{CRAWL}/segments/1/warc/{CRAWL}-{n:05d}.warc.gz" for n in range(3)]


def mirror(root: Path, paths: list[str], name: str = CRAWL) -> Path:
    folder = root / "crawl-data" / name
    folder.mkdir(parents=True)
    (folder / "warc.paths.gz").write_bytes(gzip.compress("\n".join(paths).encode() + b"\n"))
    return root


def test_a_crawl_is_named_by_paths_that_do_not_depend_on_the_mirror(tmp_path: Path) -> None:
    one, two = mirror(tmp_path / "one", PATHS), mirror(tmp_path / "two", PATHS)
    first = listing(Inputs(crawl=CRAWL, mirror=str(one)))
    second = listing(Inputs(crawl=CRAWL, mirror=f"file://{two}"))
    assert [warc.identity for warc in first] == PATHS
    assert [warc.uri for warc in first] == [f"file://{one}/{path}" for path in PATHS]
    assert [warc.unit.id for warc in first] == [warc.unit.id for warc in second]
    assert first[0].unit.inputs == (PATHS[0], f"file://{one}/{PATHS[0]}", CRAWL)


def test_a_file_rewritten_in_place_is_a_new_input(tmp_path: Path) -> None:
    path = tmp_path / "a b%.warc.gz"
    path.write_bytes(b"one")
    before = listing(Inputs(files=(str(path),)))
    path.write_bytes(b"two")
    after = listing(Inputs(files=(str(path),)))
    assert before[0].uri == after[0].uri and before[0].unit.id != after[0].unit.id


def test_globs_folders_and_lists_name_the_same_files(tmp_path: Path) -> None:
    for name in ("b.warc.gz", "a.warc.gz", "notes.txt"):
        (tmp_path / name).write_text(name)
    names = tmp_path / "names"
    names.write_text(f"# two files\n{tmp_path}/a.warc.gz\n\n{tmp_path}/b.warc.gz\n")
    by_glob = listing(Inputs(files=(f"{tmp_path}/*.warc.gz",)))
    assert [Path(warc.uri).name for warc in by_glob] == ["a.warc.gz", "b.warc.gz"]
    assert listing(Inputs(files=(str(tmp_path),))) == by_glob
    assert listing(Inputs(files=(f"@{names}",))) == by_glob
    assert listing(Inputs(files=(f"@{names}", str(tmp_path)))) == by_glob, "each file once"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: Inputs(), "no input"),
        (lambda root: Inputs(files=(f"{root}/craw/*.warc.gz",)), "did you mean .*/crawl"),
        (lambda root: Inputs(files=(f"{root}/crawl",)), "give --input a glob"),
        (lambda root: Inputs(files=(f"@{root}/none",)), "cannot be read"),
        (lambda root: Inputs(crawl="CC-TEST-2026-02", mirror=str(root)), f"it has {CRAWL}"),
        (lambda root: Inputs(crawl="../crawl-data/EVIL", mirror=str(root)), f"it has .*{CRAWL}"),
        (lambda root: Inputs(crawl=CRAWL, mirror=f"{root}/none"), "is not a folder"),
        (lambda root: Inputs(crawl="latest", mirror=f"{root}/none"), "is not a folder"),
        (lambda root: Inputs(crawl="latest", mirror=f"{root}/crawl"), "offers no crawl"),
        (lambda root: Inputs(crawl=CRAWL, mirror="ftp://host/"), "scheme"),
        (lambda root: Inputs(crawl="BAD", mirror=str(root)), "is damaged"),
        (lambda root: Inputs(crawl="EVIL", mirror=str(root)), "no path of a WARC"),
    ],
)
def test_a_missing_input_is_one_sentence_that_names_near_misses(tmp_path: Path, make, says: str) -> None:  # type: ignore[no-untyped-def]
    mirror(tmp_path, PATHS)
    mirror(tmp_path, ["../../etc/passwd.warc.gz"], "EVIL")
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl-data/BAD").mkdir()
    (tmp_path / "crawl-data/BAD/warc.paths.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(ConfigError, match=says):
        listing(make(tmp_path))


def test_a_mirror_on_the_web_is_read_as_a_folder_is(tmp_path: Path) -> None:
    web = mirror(tmp_path / "web", PATHS)
    (web / PATHS[0]).parent.mkdir(parents=True)
    (web / PATHS[0]).write_bytes(b"a WARC")
    handler = partial(SimpleHTTPRequestHandler, directory=str(web))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = listing(Inputs(crawl=CRAWL, mirror=address))
        assert [warc.unit.id for warc in found] == [w.unit.id for w in listing(Inputs(crawl=CRAWL, mirror=str(web)))]
        assert found[0].uri == f"{address}/{PATHS[0]}"
        (one,) = listing(Inputs(files=(found[0].uri,)))
        assert (one.size, one.uri) == (6, found[0].uri)
        with pytest.raises(ConfigError, match="has no crawl"):
            listing(Inputs(crawl="CC-NONE", mirror=address))
        with pytest.raises(ConfigError, match="does not exist"):
            listing(Inputs(files=(f"{address}/none.warc.gz",)))
        server.shutdown()


def test_the_listing_is_committed_once_under_its_digest(tmp_path: Path) -> None:
    inputs = Inputs(crawl=CRAWL, mirror=str(mirror(tmp_path / "web", PATHS)))
    ledger = Ledger(str(tmp_path / "store"))
    ledger.check(create=True)
    assert units(inputs, ledger) == units(inputs, ledger) == units(inputs, None)
    (commit,) = ledger.commits(STAGE.key)
    rows = read_rows(ledger.store, commit.outputs["warcs"]).to_pylist()
    assert [row["identity"] for row in rows] == PATHS
    assert [row["unit"] for row in rows] == [unit.id for unit in units(inputs, None)]


def test_latest_is_recorded_under_the_name_that_it_stands_for(tmp_path: Path) -> None:
    newer = "CC-TEST-2026-05"
    web = mirror(mirror(tmp_path / "web", PATHS), [path.replace(CRAWL, newer) for path in PATHS], newer)
    asked = Inputs(crawl="latest", mirror=str(web))
    assert named(asked) == Inputs(crawl=newer, mirror=str(web)) == named(named(asked))
    ledger = Ledger(str(tmp_path / "store"))
    ledger.check(create=True)
    found = units(asked, ledger)
    assert found == units(named(asked), ledger) and {unit.inputs[2] for unit in found} == {newer}
    (commit,) = ledger.commits(STAGE.key)
    assert commit.inputs == ("crawl", newer, str(web))
    with pytest.raises(ConfigError, match="offers no crawl"):
        named(Inputs(crawl="latest", mirror=str(tmp_path / "store")))


def test_a_listing_counts_the_files_of_each_crawl(tmp_path: Path) -> None:
    web = mirror(tmp_path / "web", PATHS)
    (tmp_path / "a.warc.gz").write_bytes(b"a WARC")
    ledger = Ledger(str(tmp_path / "store"))
    ledger.check(create=True)
    both = Inputs(crawl=CRAWL, mirror=str(web), files=(str(tmp_path / "a.warc.gz"),))
    units(both, ledger)
    units(Inputs(crawl=CRAWL, mirror=str(web)), ledger)
    counts = sorted((commit.inputs[0], commit.counts) for commit in ledger.commits(STAGE.key))
    assert counts == [
        ("crawl", {"warcs": 3, f"{LISTED}{CRAWL}": 3}),
        ("files", {"warcs": 4, f"{LISTED}{CRAWL}": 3, LISTED: 1}),
    ]
