"""The truth about images: each rule on a web of a few pages written by hand, and what must hold on the whole web."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.coin import Coin, stays
from pipelines.reasons import Reason
from pipelines.smallweb import (
    CRAWLS,
    Bounds,
    Document,
    Expected,
    Record,
    Truth,
    expected_dedupe,
    expected_images,
    load,
    write,
)
from pipelines.smallweb.fates import address_fate, contents, picture_fate
from pipelines.smallweb.markup import StreamItem
from pipelines.smallweb.pictures import Picture
from pipelines.urls import canonical

GOOD = Picture(
    url="",
    kind="photo",
    width=320,
    height=240,
    format="jpeg",
    seed=0,
    shape="round",
    colour="red",
    thing="rake",
    ground_colour="blue",
    ground="wall",
)


class Small:
    """A web in the making: a record a page, all pictures good and different unless told otherwise."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.pictures: dict[str, Picture] = {}

    def page(self, *names: str, file: str = "one", captions: tuple[str, ...] = (), small: tuple[int, ...] = ()) -> None:
        """A page with images at https://a.example/NAME; small: those whose page declares 20 x 30."""
        stream: list[StreamItem] = [("text", "h1", "Title"), ("text", "p", "Before.")]
        for spot, name in enumerate(names):
            url = f"https://a.example/{name}"
            self.pictures.setdefault(url, replace(GOOD, url=url, seed=len(self.pictures) + 1))
            caption = captions[spot] if captions else ""
            stream.append(("image", url, f"alt {spot}", caption))
            if caption:
                stream.append(("text", "figcaption", caption))
        stream.append(("text", "p", "After."))
        record = Record(
            file=f"crawl-data/{file}/x",
            ordinal=0,
            offset=len(self.records),
            length=1,
            type="response",
            reason="kept",
            url=f"https://a.example/{len(self.records)}.html",
            images=len(names),
            stream=tuple(stream),
            declared=tuple((spot, 20, 30) for spot in small),
        )
        self.records.append(record)

    def change(self, name: str, **fields: object) -> None:
        """Another picture at an address."""
        url = f"https://a.example/{name}"
        self.pictures[url] = replace(self.pictures.get(url, GOOD), url=url, **fields)  # type: ignore[arg-type]

    def same(self, *names: str) -> None:
        """The bytes of the first address at the others too."""
        first, *others = (f"https://a.example/{name}" for name in names)
        for url in others:
            self.pictures[url] = replace(self.pictures[first], url=url)

    def expect(self, keep_single: float = 0.0) -> list[Document]:
        """What becomes of the pages, in order; single images all go unless told otherwise."""
        return list(self.whole(keep_single).documents.values())

    def whole(self, keep_single: float = 0.0) -> Expected:
        """Each file is a generation of its own, in order of appearance."""
        truth = Truth(records=tuple(self.records), pictures=tuple(self.pictures.values()))
        files = list(dict.fromkeys(record.file for record in self.records))
        return expected_images(truth, [{file} for file in files], keep_single=keep_single)


def names(count: int, prefix: str = "p") -> list[str]:
    return [f"{prefix}{number}.jpg" for number in range(count)]


@pytest.mark.parametrize(
    ("path", "fate"),
    [
        ("a/logo.png", "image_blocked"),
        ("a/Site-LOGO-2.png", "image_blocked"),
        ("icon/x.png", "image_blocked"),
        ("x_icon_2.png", "image_blocked"),
        ("1x1.gif", "image_blocked"),
        ("a1x1.gif", ""),
        ("pixels.gif", ""),
        ("iconic.png", ""),
        ("iconography.png", ""),
        ("XXX/1.jpg", "image_adult"),
        ("sex.jpg", "image_adult"),
        ("essex.jpg", ""),
        ("sussex/sexton.jpg", ""),
        ("x.jpg?logo=sex", ""),
        ("x.svg", "image_drawing"),
        ("x.SVGZ", "image_drawing"),
        ("x.svg?y=1", "image_drawing"),
        ("x.svg/y.png", ""),
        ("x?y.svg", ""),
        ("svg", ""),
        ("sex/logo.svg", "image_drawing"),
        ("sex/logo.png", "image_adult"),
        ("", ""),
    ],
)
def test_address_rules(path: str, fate: str) -> None:
    assert address_fate(f"https://logo.example/{path}", 0, 0, 64) == fate
    assert address_fate(f"https://sex.porn.example:8080/{path}", 64, 64, 64) == fate
    assert address_fate(f"https://a.example/{path}", 63, 0, 64) == (fate or "image_declared_small")


@pytest.mark.parametrize(
    ("width", "height", "small"),
    [(0, 0, False), (63, 64, True), (64, 63, True), (64, 64, False), (1, 0, True), (0, 63, True), (0, 64, False)],
)
def test_declared_sizes(width: int, height: int, small: bool) -> None:
    found = address_fate("https://a.example/x.jpg", width, height, 64)
    assert found == ("image_declared_small" if small else "")


@pytest.mark.parametrize(
    ("kind", "width", "height", "fate"),
    [
        ("photo", 320, 240, ""),
        ("slow", 320, 240, ""),
        ("missing", 0, 0, "http_gone"),
        ("corrupt", 48, 48, "undecodable"),
        ("photo", 64, 64, ""),
        ("photo", 63, 640, "side_small"),
        ("single_colour", 63, 64, "side_small"),
        ("photo", 192, 64, ""),
        ("photo", 64, 193, "aspect"),
        ("single_colour", 193, 64, "aspect"),
        ("single_colour", 200, 200, "single_colour"),
    ],
)
def test_picture_rules(kind: str, width: int, height: int, fate: str) -> None:
    assert picture_fate(replace(GOOD, kind=kind, width=width, height=height), Bounds()) == fate


def test_pages_without_candidates() -> None:
    web = Small()
    web.page()
    web.page("logo.png", "x.svg", "sex.jpg", "small.jpg", small=(3,))
    none, refused = web.expect()
    assert none == Document(selected="no_image", assembled="", fates=())
    assert (refused.selected, refused.assembled) == ("no_candidate", "")
    assert refused.fates == ("image_blocked", "image_drawing", "image_adult", "image_declared_small")


def test_an_address_counts_once_in_a_page() -> None:
    web = Small()
    web.page("a.jpg", "a.jpg", "b.jpg")
    web.page("a.jpg", "a.jpg", "b.jpg", small=(0,))
    first, second = web.expect()
    assert first.fates == ("kept", "image_twice", "kept")
    assert second.fates == ("image_declared_small", "kept", "kept"), "what was refused does not stand earlier"


def test_the_number_of_references_is_bounded() -> None:
    web = Small()
    web.page(*names(30), "p0.jpg", "logo.png")
    web.page(*names(31, "q"))
    within, over = web.expect()
    assert within.selected == "kept"
    assert within.fates == ("kept",) * 5 + ("image_surplus",) * 25 + ("image_twice", "image_blocked")
    assert over == Document(selected="too_many_references", assembled="", fates=("",) * 31)


def test_frequent_addresses_over_generations() -> None:
    web = Small()
    for number in range(10):
        web.page("f.jpg", "f.jpg", f"a{number}.jpg", f"b{number}.jpg")
    web.page("f.jpg", "c.jpg", "d.jpg", file="two")
    web.page("f.jpg", small=(0,), file="two")
    expected = web.whole()
    *first, eleventh, _ = expected.documents.values()
    assert {document.fates for document in first} == {("kept", "image_twice", "kept", "kept")}
    assert eleventh.fates == ("image_frequent", "kept", "kept")
    assert [docs["https://a.example/f.jpg"] for docs in expected.url_docs] == [10, 11]
    assert expected.asked[1] == {"https://a.example/c.jpg", "https://a.example/d.jpg"}


def test_candidates_are_the_first_eight_and_the_kept_the_first_five() -> None:
    web = Small()
    web.page(*names(10))
    for name in ("p1.jpg", "p3.jpg"):
        web.change(name, kind="missing")
    (document,) = web.expect()
    assert document.candidates == tuple(range(8))
    assert document.fates[:7] == ("kept", "http_gone", "kept", "http_gone", "kept", "kept", "kept")
    assert document.fates[7:] == ("image_surplus",) * 3
    assert document.urls == tuple(f"https://a.example/p{number}.jpg" for number in (0, 2, 4, 5, 6))


@pytest.mark.parametrize("keep_single", [0.0, 1.0])
def test_the_coin_before_and_after(keep_single: float) -> None:
    web = Small()
    web.page("a.jpg")
    web.page("b.jpg", "c.jpg")
    web.change("c.jpg", kind="corrupt")
    web.page("d.jpg", "e.jpg")
    web.change("d.jpg", kind="missing")
    web.change("e.jpg", kind="missing")
    web.page("gone.jpg")
    web.change("gone.jpg", kind="missing")
    expected = web.whole(keep_single)
    before, after, left, lone = expected.documents.values()
    if keep_single:
        assert (before.selected, before.assembled, after.assembled) == ("kept", "kept", "kept")
        assert (lone.selected, lone.assembled) == ("kept", "no_image_left")
    else:
        assert (before.selected, before.assembled, before.fates) == ("single_image", "", ("",))
        assert (after.selected, after.assembled, after.stream) == ("kept", "single_image", ())
        assert (lone.selected, lone.assembled) == ("single_image", "")
        assert expected.asked == (frozenset(f"https://a.example/{name}.jpg" for name in "bcde"),)
    assert after.fates == ("kept" if keep_single else "single_image", "undecodable")
    assert (left.selected, left.assembled) == ("kept", "no_image_left")


def test_repeated_bytes_over_generations() -> None:
    web = Small()
    for number in range(12):
        file = "one" if number < 10 else "two"
        web.page(f"s{number}.jpg", f"t{number}.jpg", f"own{number}.jpg", f"other{number}.jpg", file=file)
    web.same(*names(12, "s"))
    web.same(*names(10, "t"))
    *first, eleventh, twelfth = web.expect()
    assert {document.fates for document in first} == {("kept",) * 4}, "ten are not more than ten"
    assert eleventh.fates == twelfth.fates == ("image_repeated", "kept", "kept", "kept")


def test_a_page_counts_once_and_failures_do_not() -> None:
    web = Small()
    for number in range(9):
        web.page(f"s{number}.jpg", f"z{number}.jpg", f"own{number}.jpg")
    web.page("s9.jpg", "s10.jpg", "other.jpg")
    web.same(*names(11, "s"))
    web.same(*names(9, "z"))
    *_, last = web.expect()
    assert last.fates == ("kept", "image_repeated_here", "kept")


def test_captions_go_with_their_images() -> None:
    web = Small()
    web.page("a.jpg", "b.jpg", "c.jpg", "d.jpg", captions=("shared", "shared", "own", "stays"))
    for name in ("a.jpg", "c.jpg"):
        web.change(name, kind="missing")
    (document,) = web.expect()
    assert document.stream == (
        ("text", "h1", "Title"),
        ("text", "p", "Before."),
        ("text", "figcaption", "shared"),
        ("image", "https://a.example/b.jpg", "alt 1", "shared"),
        ("text", "figcaption", "shared"),
        ("image", "https://a.example/d.jpg", "alt 3", "stays"),
        ("text", "figcaption", "stays"),
        ("text", "p", "After."),
    )


def test_only_pages_that_dedupe_keeps_are_counted() -> None:
    web = Small()
    for number in range(11):
        web.page("f.jpg", f"a{number}.jpg", f"b{number}.jpg")
    web.records[0] = replace(web.records[0], cluster="twins", words=9)
    web.records[1] = replace(web.records[1], cluster="twins", words=8)
    expected = web.whole()
    assert web.records[1].key not in expected.documents
    assert {document.fates for document in expected.documents.values()} == {("kept", "kept", "kept")}


# The whole web -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    directory = tmp_path_factory.mktemp("web")
    write(directory)
    return load(directory)


@pytest.fixture(scope="module")
def crawls(truth: Truth) -> list[set[str]]:
    return [set(truth.files(crawl)) for crawl in CRAWLS]


@pytest.fixture(scope="module")
def expected(truth: Truth, crawls: list[set[str]]) -> Expected:
    return expected_images(truth, crawls)


def test_every_rule_has_a_case(expected: Expected) -> None:
    documents = expected.documents.values()
    assert set(Counter(document.selected for document in documents)) == {
        "kept", "no_image", "no_candidate", "too_many_references", "single_image",
    }  # fmt: skip
    assert set(Counter(document.assembled for document in documents)) == {"", "kept", "no_image_left", "single_image"}
    fates = Counter(fate for document in documents for fate in document.fates)
    for word in (
        "image_blocked", "image_adult", "image_declared_small", "image_drawing", "image_frequent", "image_twice",
        "image_surplus", "http_gone", "undecodable", "side_small", "aspect", "single_colour", "image_repeated",
        "image_repeated_here", "kept",
    ):  # fmt: skip
        assert fates[word] >= 2, word
    words = {reason.word for reason in Reason}
    assert set(fates) <= words | {""}


def test_documents_are_those_that_dedupe_keeps(truth: Truth, crawls: list[set[str]], expected: Expected) -> None:
    fates = expected_dedupe(truth, crawls)
    assert set(expected.documents) == {key for key, fate in fates.items() if fate.reason == "kept"}


@given(seed=st.integers(-5, 5), keep_single=st.sampled_from([0.0, 0.3, 1.0]), numbers=st.lists(st.integers(0, 2)))
def test_what_holds_of_every_document(truth: Truth, seed: int, keep_single: float, numbers: list[int]) -> None:
    files = truth.files()
    where = (numbers + [0] * len(files))[: len(files)]
    generations = [{file for file, at in zip(files, where, strict=True) if at == wanted} for wanted in range(3)]
    found = expected_images(truth, generations, seed=seed, keep_single=keep_single)
    records = {record.key: record for record in truth.kept()}
    lucky = stays((records[key].doc_id for key in found.documents), Coin(seed=seed, keep_single=keep_single))
    asked = [url for urls in found.asked for url in urls]
    assert len(asked) == len(set(asked)), "no address twice"
    wanted = set()
    for (key, document), stay in zip(found.documents.items(), lucky, strict=True):
        record = records[key]
        urls = [item[1] for item in record.stream if item[0] == "image"]
        assert len(document.fates) == len(urls) == record.images
        assert (document.selected == "kept") == (document.assembled != "") == bool(document.candidates)
        assert len(document.candidates) <= 8
        wanted |= {urls[index] for index in document.candidates}
        kept = [url for url, fate in zip(urls, document.fates, strict=True) if fate == "kept"]
        assert len(set(kept)) == len(kept) <= 5
        if document.assembled == "kept":
            assert tuple(kept) == document.urls
            assert kept and (len(kept) > 1 or stay)
            assert "" not in document.fates
            assert [item[1] for item in document.stream if item[0] == "image"] == kept
            rest = iter(record.stream)
            assert all(item in rest for item in document.stream), "an ordered part of the page"
            lost = [item for item in record.stream if item not in document.stream]
            assert {item[0] if item[0] == "image" else item[1] for item in lost} <= {"image", "figcaption"}
        else:
            assert document.urls == document.stream == ()
            assert not kept, "an image is kept with its document"
            assert document.fates.count("single_image") == (document.assembled == "single_image")
            assert document.assembled != "single_image" or not stay
    assert set(asked) == wanted
    assert wanted <= {picture.url for picture in truth.pictures}


def test_a_later_generation_changes_nothing_of_an_earlier(
    truth: Truth, crawls: list[set[str]], expected: Expected
) -> None:
    alone = expected_images(truth, crawls[:1])
    assert alone.documents.items() <= expected.documents.items()
    assert (alone.asked[0], alone.url_docs[0]) == (expected.asked[0], expected.url_docs[0])


def test_the_bounds_of_ten_documents_are_met(truth: Truth, expected: Expected) -> None:
    """The photos that go round: over the bound at once, with the second crawl, and never."""
    pictures = {picture.url: contents(picture) for picture in truth.pictures}
    by_crawl = {record.key: record.crawl for record in truth.kept()}
    fates: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in ("late", "early", "bound", "shared")}
    shown = set()
    for key, document in expected.documents.items():
        record = next(record for record in truth.kept() if record.key == key)
        urls = [item[1] for item in record.stream if item[0] == "image"]
        for url, fate in zip(urls, document.fates, strict=True):
            name = next((name for name in fates if f"/{name}/" in url), "")
            if name:
                fates[name][by_crawl[key], fate] += 1
                shown.add(pictures[url])
    first, second = CRAWLS
    assert fates["late"] == {(first, "kept"): 8, (second, "image_repeated"): 4}
    assert fates["early"] == {(first, "image_repeated"): 11, (second, "image_repeated"): 1}
    assert fates["bound"] == {(first, "kept"): 10}
    assert fates["shared"] == {(first, "kept"): 10, (second, "image_frequent"): 2}
    assert len(shown) == 4


def test_addresses_are_spelled_in_one_way(truth: Truth) -> None:
    assert all(canonical(picture.url) == picture.url for picture in truth.pictures)
    assert not any("%" in picture.url for picture in truth.pictures)


def test_truth_survives_writing(truth: Truth, tmp_path: Path) -> None:
    written = write(tmp_path)
    assert written == truth
    assert any(record.declared for record in truth.kept())
