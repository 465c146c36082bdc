"""The truth about images: what must hold on the whole bundled web."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.coin import Coin, stays
from pipelines.reasons import Reason
from pipelines.smallweb import CRAWLS, Expected, Truth, expected_dedupe, expected_images, load, write
from pipelines.smallweb.fates import asked_for, contents
from pipelines.urls import canonical

# fates by the address alone, which say that an image is in no set
REFUSED = ("image_blocked", "image_adult", "image_declared_small", "image_drawing")


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
        "kept", "no_image", "no_candidate", "too_many_references", "single_image", "same_images",
    }  # fmt: skip
    assert set(Counter(document.assembled for document in documents)) == {"", "kept", "no_image_left", "single_image"}
    fates = Counter(fate for document in documents for fate in document.fates)
    for word in (
        "image_blocked", "image_adult", "image_declared_small", "image_drawing", "image_frequent", "image_twice",
        "image_surplus", "http_gone", "undecodable", "side_small", "aspect", "single_colour", "image_repeated",
        "image_repeated_here", "robots", "opt_out_robots", "kept",
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
    pictures = {picture.url: picture for picture in truth.pictures}
    sets: set[frozenset[str]] = set()
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
        for index in document.candidates:
            wanted |= asked_for(pictures[urls[index]])
        if document.candidates:
            passing = [not fate.startswith(REFUSED) for fate in document.fates]
            shown = frozenset(url for url, passes in zip(urls, passing, strict=True) if passes)
            assert shown not in sets or len(document.candidates) == 1, "no two show the same images"
            sets.add(shown)
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
            assert not document.urls and not document.stream
            assert not kept, "an image is kept with its document"
            assert document.fates.count("single_image") == (document.assembled == "single_image")
            assert document.assembled != "single_image" or not stay
    assert set(asked) == wanted


def test_a_later_generation_changes_nothing_of_an_earlier(
    truth: Truth, crawls: list[set[str]], expected: Expected
) -> None:
    alone = expected_images(truth, crawls[:1])
    assert alone.documents.items() <= expected.documents.items()
    assert (alone.asked[0], alone.url_docs[0]) == (expected.asked[0], expected.url_docs[0])


def test_of_a_gallery_one_page_stays(truth: Truth, expected: Expected) -> None:
    pages = [record for record in truth.kept() if record.kind == "same_images"]
    ends = [expected.documents[record.key].selected for record in pages]
    assert len(pages) == 3 and sorted(ends) == ["kept", "same_images", "same_images"]
    assert pages[ends.index("kept")].crawl == CRAWLS[0]
    kept, *others = sorted(pages, key=lambda record: ends[pages.index(record)])
    assert all(other.stream != kept.stream for other in others)


def test_detours_end_as_planted(truth: Truth, crawls: list[set[str]]) -> None:
    """With a coin that takes nothing."""
    expected = expected_images(truth, crawls, keep_single=1.0)
    planted: dict[str, tuple[str, ...]] = {
        "closed_images": ("robots", "kept", "robots", "kept", "kept"),
        "all_images_closed": ("robots", "robots", "opt_out_robots"),
        "reserved_image": ("kept", "opt_out_robots", "kept"),
        "moved_images": ("kept", "kept", "http_gone", "robots", "kept"),
        "busy_image": ("kept", "kept", "kept"),
        "smaller_copy": ("kept", "kept", "image_repeated_here"),
    }
    for kind, fates in planted.items():
        found = [expected.documents[record.key].fates for record in truth.kept() if record.kind == kind]
        assert found == [fates, fates], kind


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
