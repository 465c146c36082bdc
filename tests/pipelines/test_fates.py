"""The truth about images: each rule on a web of a few pages written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.smallweb import (
    Bounds,
    Document,
    Expected,
    Record,
    Truth,
    expected_images,
)
from pipelines.smallweb.fates import address_fate, contents, likeness, picture_fate
from pipelines.smallweb.markup import StreamItem
from pipelines.smallweb.pictures import Picture

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
        ("disallowed", 320, 240, "robots"),
        ("reserved", 63, 64, "opt_out_robots"),
        ("busy", 320, 240, ""),
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
    web.page("a.jpg", "a.jpg", "c.jpg", small=(0,))
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


def test_a_smaller_copy_is_the_same_picture() -> None:
    web = Small()
    web.page("a.jpg", "b.jpg", "half.jpg")
    web.change("half.jpg", kind="smaller", width=160, height=120, seed=1)
    whole, half = (web.pictures[f"https://a.example/{name}.jpg"] for name in ("a", "half"))
    assert likeness(whole) == likeness(half) and contents(whole) != contents(half)
    (document,) = web.expect()
    assert document.fates == ("kept", "kept", "image_repeated_here")


def test_what_moved_is_what_lies_where_it_went() -> None:
    web = Small()
    web.page("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    for name, kind in (("a", "photo"), ("b", "missing"), ("c", "disallowed")):
        web.change(f"{name}.jpg", kind=kind, moved=f"https://b.example/{name}.jpg")
    web.change("d.jpg", kind="reserved")
    expected = web.whole()
    (document,) = expected.documents.values()
    assert document.fates == ("kept", "http_gone", "robots", "opt_out_robots", "kept")
    assert document.urls == ("https://a.example/a.jpg", "https://a.example/e.jpg"), "under the address of the page"
    own = {f"https://a.example/{name}.jpg" for name in "abce"}
    (asked,) = expected.asked
    assert asked == own | {"https://b.example/a.jpg", "https://b.example/b.jpg"}


def test_of_pages_with_the_same_images_one_stays() -> None:
    web = Small()
    web.page("a.jpg", "b.jpg")
    web.page("b.jpg", "a.jpg", "b.jpg", "logo.png")
    web.page("a.jpg", "b.jpg", "c.jpg")
    for name in ("one.jpg", "one.jpg"):
        web.page(name)
    web.page("a.jpg", "b.jpg", file="two")
    web.page("a.jpg", "other.jpg", file="two")
    web.records[0] = replace(web.records[0], words=9)
    web.records[1] = replace(web.records[1], words=8)
    first, second, more, *single, later, other = web.expect(keep_single=1.0)
    assert (first.selected, second.selected) == ("same_images", "kept"), "more references are better than more words"
    assert (more.selected, later.selected, other.selected) == ("kept", "same_images", "kept")
    assert [document.selected for document in single] == ["kept", "kept"], "two images at least"
    assert (later.fates, later.candidates, later.assembled) == (("", ""), (), "")


def test_a_set_of_images_that_are_frequent_is_no_reason() -> None:
    web = Small()
    for number in range(10):
        web.page("f.jpg", f"a{number}.jpg", f"b{number}.jpg")
    web.page("f.jpg", "c.jpg")
    web.page("c.jpg", "f.jpg")
    assert [document.selected for document in web.expect()[-2:]] == ["single_image", "single_image"]
    assert [document.selected for document in web.expect(keep_single=1.0)[-2:]] == ["kept", "kept"]


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
