"""The bundled crawl: the same bytes every time, a valid mirror of Common Crawl's layout, and a truth that is true."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter, defaultdict
from io import BytesIO
from itertools import groupby
from pathlib import Path
from urllib.robotparser import RobotFileParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from engine.stage import Unit
from pipelines import extract, judge
from pipelines.reasons import Reason
from pipelines.rights import AGENT
from pipelines.select import domains
from pipelines.smallweb import CRAWLS, Record, Truth, expected_dedupe, load, write
from pipelines.smallweb.page import jaccard
from pipelines.smallweb.pictures import KINDS
from pipelines.smallweb.prose import Dice, Writer, doing, past, plural, topics
from tests.offline import OfflineWork, collect

WORD = re.compile(r"\w+")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled crawl on disk."""
    directory = tmp_path_factory.mktemp("smallweb")
    write(directory)
    return directory


@pytest.fixture(scope="module")
def truth(web: Path) -> Truth:
    """Its truth, as read back."""
    return load(web)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file under a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def text_of(record: Record) -> str:
    """The text of a record's stream."""
    return "\n".join(item[2] for item in record.stream if item[0] == "text")


def shingles(record: Record) -> frozenset[tuple[str, ...]]:
    """Distinct word 5-grams of the text."""
    words = WORD.findall(text_of(record).lower())
    return frozenset(tuple(words[start : start + 5]) for start in range(len(words) - 4))


def captures(truth: Truth) -> list[Record]:
    """The records that answer a request."""
    return [record for record in truth.records if record.type in ("response", "revisit")]


def test_same_seed_same_bytes(web: Path, tmp_path: Path) -> None:
    write(tmp_path)
    assert contents(tmp_path) == contents(web)


def test_another_seed_is_another_web(truth: Truth, tmp_path: Path) -> None:
    other = write(tmp_path, seed=2)
    assert {record.text for record in other.kept()}.isdisjoint(record.text for record in truth.kept())
    assert Counter(record.reason for record in other.records) == Counter(record.reason for record in truth.records)


def test_listings_name_the_files(web: Path, truth: Truth) -> None:
    for crawl in CRAWLS:
        listing = gzip.decompress((web / "crawl-data" / crawl / "warc.paths.gz").read_bytes()).decode().splitlines()
        assert listing == truth.files(crawl)
        assert len(listing) >= 4
        for path in listing:
            assert re.fullmatch(
                rf"crawl-data/{crawl}/segments/\d{{13}}\.\d+/warc/SMALL-\d{{14}}-\d{{14}}-\d{{5}}\.warc\.gz", path
            )
            assert (web / path).is_file()


def test_records_are_gzip_members_end_to_end(web: Path, truth: Truth) -> None:
    for file, records in groupby(truth.records, key=lambda record: record.file):
        end = 0
        for ordinal, record in enumerate(records):
            assert (record.ordinal, record.offset) == (ordinal, end)
            end += record.length
        assert end == (web / file).stat().st_size


def test_warcio_reads_every_record_but_the_damaged(web: Path, truth: Truth) -> None:
    for file, records in groupby(truth.records, key=lambda record: record.file):
        content = (web / file).read_bytes()
        kinds = []
        for record in records:
            member = content[record.offset : record.offset + record.length]
            if record.reason == "corrupt":
                with pytest.raises((gzip.BadGzipFile, zlib.error, EOFError)):
                    gzip.decompress(member)
                continue
            read = [(one.rec_type, one.rec_headers, one.content_stream().read()) for one in checked(member)]
            assert len(read) == 1
            kinds.append(read[0][0])
            assert read[0][0] == record.type
            assert (read[0][1].get_header("WARC-Target-URI") or "") == record.url
        assert kinds[:4] == ["warcinfo", "request", "response", "metadata"]


def checked(content: bytes) -> ArchiveIterator:
    """The records of some bytes, digests checked."""
    return ArchiveIterator(BytesIO(content), check_digests="raise")


def test_whole_files_are_valid(web: Path, truth: Truth) -> None:
    damaged = {record.file for record in truth.records if record.reason == "corrupt"}
    assert len(damaged) == 2
    for file in truth.files():
        if file not in damaged:
            with (web / file).open("rb") as stream:
                ids = [one.rec_headers.get_header("WARC-Record-ID") for one in ArchiveIterator(stream)]
            assert len(ids) == len(set(ids)) == sum(record.file == file for record in truth.records)


def test_it_is_large_and_varied_enough(web: Path, truth: Truth) -> None:
    pages = [record for record in captures(truth) if record.reason not in ("not_html", "http_status", "empty")]
    assert len(truth.files()) >= 8
    assert len(pages) >= 400
    assert len({record.url.split("/")[2] for record in truth.kept()}) >= 30
    assert all(".example/" in record.url for record in captures(truth))
    kinds = Counter(record.kind for record in captures(truth))
    for kind in ("article", "blog", "gallery", "forum", "shop", "docs", "recipe", "news", "base_href", "cp1252_meta"):
        assert kinds[kind] >= 3, kind
    assert {0, 1, 2, 3, 5, 8} <= {record.images for record in truth.kept()}
    assert sum(len(content) for content in contents(web).values()) < 4 << 20


def test_every_reason_is_one(truth: Truth) -> None:
    words = {reason.word for reason in Reason}
    assert {record.reason for record in truth.records} <= words
    assert all((record.reason == "kept") == (record.stage == "") for record in truth.records)
    planted = {record.strict or record.reason for record in captures(truth)}
    assert len(planted) >= 26


def test_the_language_is_rich_and_long_enough(truth: Truth) -> None:
    counts = [len(WORD.findall(text_of(record))) for record in truth.kept()]
    assert min(counts) >= 120
    assert sorted(counts)[int(len(counts) * 0.95)] <= 600
    words = {word for record in truth.kept() for word in re.findall(r"[a-z]+", text_of(record).lower())}
    assert len(words) > 2500


def test_streams_agree_with_their_counts(truth: Truth) -> None:
    for record in truth.records:
        if record.stage == "extract":
            assert record.stream == ()
        else:
            assert record.images == sum(item[0] == "image" for item in record.stream)
            assert record.words == len(WORD.findall(text_of(record).lower()))


def test_every_picture_has_its_specification(truth: Truth) -> None:
    pictures = {picture.url: picture for picture in truth.pictures}
    assert len(pictures) == len(truth.pictures)
    for record in truth.records:
        for item in record.stream:
            if item[0] == "image":
                shown = pictures[item[1]]
                assert shown.colour in item[2]
                assert shown.thing in item[2]
    shown_by = Counter(
        url for record in truth.kept() for url in {item[1] for item in record.stream if item[0] == "image"}
    )
    assert max(shown_by.values()) > 10
    kinds = Counter(picture.kind for picture in truth.pictures)
    assert set(kinds) == set(KINDS)
    assert kinds["photo"] + kinds["drawing"] > 0.7 * sum(kinds.values())


def test_robots_txt_forbids_what_is_closed_and_nothing_else(truth: Truth) -> None:
    """As a parser reads it that is not ours."""
    sites = {}
    for site in truth.robots:
        sites[site.host] = RobotFileParser()
        sites[site.host].parse(site.text.splitlines())
    closed: Counter[str] = Counter()
    for shown in truth.pictures:
        host = shown.place.split("/")[2]
        forbidden = host in sites and not sites[host].can_fetch(AGENT, shown.place)
        assert forbidden == (shown.kind == "disallowed"), shown.place
        closed[host] += forbidden
        if shown.moved:
            assert shown.url.split("/")[2] not in sites, "what redirects says nothing"
    assert sum(num > 0 for num in closed.values()) == 2
    reserved = {shown.place.split("/")[2] for shown in truth.pictures if shown.kind == "reserved"}
    assert reserved == {site.host for site in truth.robots if "ai-train=no" in site.text}
    used = {shown.place.split("/")[2] for shown in truth.pictures if shown.kind == "photo"}
    assert used & set(sites), "and something is left open"


def test_pictures_move_within_their_site_and_out_of_it(truth: Truth) -> None:
    moved = [shown for shown in truth.pictures if shown.moved]
    places = [shown.place for shown in truth.pictures]
    assert len(places) == len(set(places)), "where it lies it is asked for once"
    assert {shown.kind for shown in moved} == {"photo", "missing", "disallowed"}
    away = Counter(domains.key(shown.url.split("/")[2]) != domains.key(shown.place.split("/")[2]) for shown in moved)
    assert min(away[True], away[False]) >= 2


def test_pairs_are_near_or_far_and_nothing_between(truth: Truth) -> None:
    """At least 0.88 within a cluster of one text, under 0.25 otherwise: banding can neither miss nor err."""
    kept = truth.kept()
    sets = [shingles(record) for record in kept]
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, members in enumerate(sets):
        for shingle in sorted(members):
            holders[shingle].append(number)
    pairs = Counter((a, b) for numbers in holders.values() for spot, b in enumerate(numbers) for a in numbers[:spot])
    linked = set()
    for (a, b), shared in pairs.items():
        similarity = shared / (len(sets[a]) + len(sets[b]) - shared)
        assert similarity < 0.25 or similarity >= 0.88
        if similarity >= 0.88:
            assert kept[a].cluster == kept[b].cluster != ""
            linked.add((a, b))
    clusters = defaultdict(list)
    for number, record in enumerate(kept):
        if record.cluster:
            clusters[record.cluster].append(number)
    for members_of in clusters.values():
        for spot, b in enumerate(members_of):
            for a in members_of[:spot]:
                assert (a, b) in linked or kept[a].url == kept[b].url


def test_stored_jaccard_is_exact(truth: Truth) -> None:
    originals = {record.cluster: record for record in truth.kept() if record.cluster and not record.relation}
    relations = Counter(record.relation for record in truth.kept() if record.relation)
    assert min(relations[name] for name in ("url", "exact", "near")) >= 15
    for record in truth.kept():
        if record.relation:
            exact = jaccard(shingles(record), shingles(originals[record.cluster]))
            assert record.jaccard == pytest.approx(exact, abs=1e-6)
            if record.relation == "exact":
                assert record.text == originals[record.cluster].text
                assert record.url != originals[record.cluster].url
            if record.relation == "near":
                assert 0.9 <= record.jaccard < 1.0


@given(st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_of_a_cluster_one_page_stays_whatever_the_generations(truth: Truth, numbers: list[int]) -> None:
    files = truth.files()
    generations = [{file for file, at in zip(files, numbers, strict=True) if at == wanted} for wanted in range(4)]
    fates = expected_dedupe(truth, generations)
    assert set(fates) == {record.key for record in truth.kept()}
    stay = Counter(record.cluster for record in truth.kept() if fates[record.key].reason == "kept")
    assert all(count == 1 for cluster, count in stay.items() if cluster)
    assert set(stay) == {record.cluster for record in truth.kept()}
    for record in truth.kept():
        fate = fates[record.key]
        assert fates[fate.keeper].reason == "kept"
        assert (fate.keeper == record.key) == (fate.reason == "kept")
        assert numbers[files.index(fate.keeper[0])] <= numbers[files.index(record.file)]


def test_dedupe_of_the_two_crawls(truth: Truth) -> None:
    first, second = (set(truth.files(crawl)) for crawl in CRAWLS)
    fates = expected_dedupe(truth, [first, second])
    counts = Counter(fate.reason for fate in fates.values())
    assert counts["kept"] == len(truth.kept()) - sum(bool(record.relation) for record in truth.kept())
    assert min(counts[name] for name in ("duplicate_url", "duplicate_text", "near_duplicate")) >= 15
    alone = expected_dedupe(truth, [first])
    assert all(fates[key] == fate for key, fate in alone.items())


def outcomes(web: Path, file: str, preset: str) -> tuple[dict[int, str], dict[int, tuple[tuple[str, ...], ...]]]:
    """What extract and judge make of a file: the reason's word and the stream of each record, by offset."""
    unit = Unit(id="unit", inputs=(file, str(web / file), file.split("/")[1]))
    config = extract.Config() if preset == "kosmos1" else extract.obelics()
    tables = collect(extract.process, config, OfflineWork(unit, web), extract.OUTPUTS)
    work = OfflineWork(unit, web, tables={("extract", "scores"): tables["scores"]})
    judged = collect(judge.process, getattr(judge, preset)(), work, judge.OUTPUTS)["judgements"]
    reasons = {row["offset"]: Reason(row["reason"]).word for row in tables["verdicts"].to_pylist()}
    offsets = dict(zip(tables["scores"]["row"].to_pylist(), tables["scores"]["offset"].to_pylist(), strict=True))
    for row in judged.to_pylist():
        if row["reason"]:
            reasons[offsets[row["row"]]] = Reason(row["reason"]).word
    streams = {}
    for page in (*tables["documents"].to_pylist(), *tables["texts"].to_pylist()):
        images = page.get("images", [])
        streams[offsets[page["row"]]] = tuple(
            ("text", item["block"], item["text"])
            if item["kind"] == "text"
            else ("image", *(images[item["image"]][name] for name in ("url", "alt", "caption")))
            for item in page["items"]
        )
    return reasons, streams


@pytest.mark.parametrize("preset", ["kosmos1", "obelics"])
def test_extract_and_judge_find_the_truth(web: Path, truth: Truth, preset: str) -> None:
    differ = []
    for file, records in groupby(truth.records, key=lambda record: record.file):
        reasons, streams = outcomes(web, file, preset)
        for record in records:
            wanted = record.strict or record.reason if preset == "obelics" else record.reason
            if reasons.pop(record.offset) != wanted:
                differ.append((record.kind, record.url, wanted))
            if preset == "kosmos1" and record.reason == "kept" and streams[record.offset] != record.stream:
                differ.append((record.kind, record.url, "stream"))
        assert not reasons
    assert not differ


@given(st.integers(0, 2**32), st.sampled_from(topics()))
def test_prose_is_sound(seed: int, topic: str) -> None:
    text = Writer(Dice(seed), topic).paragraph(4)
    assert not re.search(r"[{}]|\s\s| [,.;?!]|[,.;]{2}|\b[Aa] [aei]", text), text
    assert re.match(r'["A-Z]', text)
    assert text[-1] in '.?!"'


@pytest.mark.parametrize(
    ("change", "word", "wanted"),
    [
        (plural, "jug of milk", "jugs of milk"),
        (plural, "leaf/leaves", "leaves"),
        (plural, "ferry", "ferries"),
        (plural, "nest box", "nest boxes"),
        (past, "trim/trimmed/trimming", "trimmed"),
        (past, "carry", "carried"),
        (past, "shade", "shaded"),
        (doing, "shade", "shading"),
        (doing, "fly", "flying"),
    ],
)
def test_inflection(change: object, word: str, wanted: str) -> None:
    assert callable(change)
    assert change(word) == wanted
