"""What should become of every image reference and every page with images, worked out the slow and obvious way.

It shares no code with the stages that do it on a billion references, only the coin and the spelling of addresses: where
the two agree, both are right. All pictures of the bundled web answer for good, a busy one when it is asked again, so no
address is asked for in two generations.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from urllib.parse import urlsplit

from pipelines.coin import Coin, stays
from pipelines.smallweb.markup import StreamItem
from pipelines.smallweb.pictures import Picture
from pipelines.smallweb.truth import MOST_IMAGES, Key, Record, Truth, expected_dedupe

BLOCKED = frozenset((
    "logo", "button", "icon", "plugin", "widget", "avatar", "sprite", "spacer", "blank", "1x1", "pixel", "tracking",
    "badge", "emoji", "emoticon", "smiley", "gravatar", "captcha", "favicon", "piwik", "matomo", "qr",
    "qrcode",
))  # fmt: skip
ADULT = frozenset(("porn", "xxx", "sex"))
TOKEN = re.compile(r"[a-z0-9]+")
HEADING = re.compile(r"h[1-6]")
# what robots.txt says of where a picture lies -> what becomes of it, and no request
CLOSED = {"disallowed": "robots", "reserved": "opt_out_robots"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """The bounds of the rules: documents that may show an address or a file, references, candidates and images of a
    document, pixels of a side, larger side over smaller."""

    max_docs: int = 10
    max_references: int = 30
    max_candidates: int = 8
    max_images: int = 5
    min_side: int = 64
    max_aspect: float = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """What should become of a page that deduplication keeps, in words of pipelines.reasons.

    selected: before any request. assembled: after them, "" if there were none. fates: of each image reference, "" where
    the document went before the image was looked at, "single_image" where it is the one that the coin took. candidates:
    references that are asked for, by index. urls, stream: of the document in the shards, empty if it is not there.
    """

    selected: str
    assembled: str
    fates: tuple[str, ...]
    candidates: tuple[int, ...] = ()
    urls: tuple[str, ...] = ()
    stream: tuple[StreamItem, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """documents: every page that deduplication keeps. asked: of each generation, the addresses that are requested in
    it, with those that others redirect to and without robots.txt: each once (what is busy twice) and in no other
    generation. url_docs: of each generation, how many documents show an address by
    then."""

    documents: dict[Key, Document]
    asked: tuple[frozenset[str], ...]
    url_docs: tuple[dict[str, int], ...]


def address_fate(url: str, width: int, height: int, min_side: int) -> str:
    """What the address rules and the declared size say of a reference; "" if nothing."""
    path = urlsplit(url).path.lower()
    tokens = set(TOKEN.findall(path))
    if path.endswith((".svg", ".svgz")):
        return "image_drawing"
    if tokens & ADULT:
        return "image_adult"
    if tokens & BLOCKED:
        return "image_blocked"
    if any(0 < side < min_side for side in (width, height)):
        return "image_declared_small"
    return ""


def picture_fate(picture: Picture, bounds: Bounds) -> str:
    """What a request and the image gate make of a picture; "" if nothing is wrong with it."""
    if picture.kind in CLOSED:
        return CLOSED[picture.kind]
    small, large = sorted((picture.width, picture.height))
    if picture.kind == "missing":
        return "http_gone"
    if picture.kind == "corrupt":
        return "undecodable"
    if small < bounds.min_side:
        return "side_small"
    if large > bounds.max_aspect * small:
        return "aspect"
    return "single_colour" if picture.kind == "single_colour" else ""


def contents(picture: Picture) -> tuple[object, ...]:
    """What decides the bytes of a picture: all but its addresses."""
    return tuple(getattr(picture, field.name) for field in fields(picture) if field.name not in ("url", "moved"))


def likeness(picture: Picture) -> tuple[object, ...]:
    """What decides how it looks: a smaller copy looks like the whole."""
    if picture.kind == "smaller":
        picture = replace(picture, kind="photo", width=2 * picture.width, height=2 * picture.height)
    return contents(picture)


def asked_for(picture: Picture) -> set[str]:
    """The addresses that are asked for it: its own, and where that leads; not where robots.txt forbids."""
    return ({picture.url} if picture.moved else set()) | (set() if picture.kind in CLOSED else {picture.place})


def references(record: Record) -> list[str]:
    """The addresses of a page's images, in order."""
    return [item[1] for item in record.stream if item[0] == "image"]


def refused(record: Record, bounds: Bounds) -> list[str]:
    """The fate of each reference by its address and the page alone; "" for those that pass."""
    sizes = {index: (width, height) for index, width, height in record.declared}
    fates: list[str] = []
    passed: set[str] = set()
    for index, url in enumerate(references(record)):
        fate = address_fate(url, *sizes.get(index, (0, 0)), bounds.min_side)
        fates.append(fate or ("image_twice" if url in passed else ""))
        if not fate:
            passed.add(url)
    return fates


def beside(stream: Iterable[StreamItem]) -> bool:
    """Whether prose stands right before an image, or after it with at most headings between; other images and captions
    are not counted."""
    kinds = ["image" if item[0] == "image" else "heading" if HEADING.fullmatch(item[1]) else item[1] for item in stream]
    plain = [kind if kind in ("image", "heading") else "prose" for kind in kinds if kind != "figcaption"]
    headless = [kind for kind in plain if kind != "heading"]
    return ("prose", "image") in pairwise(plain) or ("image", "prose") in pairwise(headless)


def twins(pages: list[Record], fates: dict[Key, list[str]], shown: dict[frozenset[str], Key]) -> set[Key]:
    """Pages that show the very images, two or more, of another that stays: of an earlier generation, or else of the
    better one, with more images (up to five), then more words, then the smaller doc_id. `shown` takes in new sets."""
    found = set()
    for record in sorted(pages, key=lambda page: (-min(page.images, MOST_IMAGES), -page.words, page.doc_id)):
        addresses = zip(references(record), fates[record.key], strict=True)
        passing = frozenset(url for url, fate in addresses if not fate)
        if len(passing) > 1 and beside(record.stream) and shown.setdefault(passing, record.key) != record.key:
            found.add(record.key)
    return found


def choose(fates: list[str], record: Record, url_docs: dict[str, int], twin: bool, lucky: bool, bounds: Bounds) -> str:
    """Settle the fates of frequent and surplus references in place; what becomes of the page. twin: another page shows
    its very images."""
    urls = references(record)
    passing = [index for index, fate in enumerate(fates) if not fate]
    if not urls:
        return "no_image"
    if len(passing) > bounds.max_references:
        return "too_many_references" if beside(record.stream) else "not_interspersed"
    candidates = 0
    for index in passing:
        if url_docs[urls[index]] > bounds.max_docs:
            fates[index] = "image_frequent"
        elif candidates == bounds.max_candidates:
            fates[index] = "image_surplus"
        else:
            candidates += 1
    if not beside(record.stream):
        return "not_interspersed"
    if not candidates:
        return "no_candidate"
    if candidates == 1:
        return "kept" if lucky else "single_image"
    return "same_images" if twin else "kept"


def without(stream: Iterable[StreamItem], stay: set[int]) -> tuple[StreamItem, ...]:
    """The stream with those images alone, by index, and without captions of the others."""
    items = list(stream)
    images = [item for item in items if item[0] == "image"]
    captions = {item[3] for index, item in enumerate(images) if index in stay}
    orphans = {item[3] for index, item in enumerate(images) if index not in stay} - captions
    kept, index = [], -1
    for item in items:
        index += item[0] == "image"
        gone = index not in stay if item[0] == "image" else item[1] == "figcaption" and item[2] in orphans
        if not gone:
            kept.append(item)
    return tuple(kept)


def expected_images(
    truth: Truth,
    generations: list[set[str]],
    *,
    seed: int = 0,
    keep_single: float = 0.5,
    bounds: Bounds | None = None,
) -> Expected:
    """The fate of every image of every page that deduplication keeps, the files of each set being one generation.

    seed, keep_single: of the coin. Documents that show an address or a file are counted over all generations so far,
    and what a generation has decided stands.
    """
    bounds = bounds or Bounds()
    pictures = {picture.url: picture for picture in truth.pictures}
    fates_of_pages = expected_dedupe(truth, generations)
    coin = Coin(seed=seed, keep_single=keep_single)
    showing: defaultdict[str, set[Key]] = defaultdict(set)
    having: defaultdict[tuple[object, ...], set[Key]] = defaultdict(set)
    shown_sets: dict[frozenset[str], Key] = {}
    documents: dict[Key, Document] = {}
    asked: list[frozenset[str]] = []
    url_docs: list[dict[str, int]] = []
    for files in generations:
        pages = [
            record for record in truth.kept() if record.file in files and fates_of_pages[record.key].reason == "kept"
        ]
        fates = {record.key: refused(record, bounds) for record in pages}
        for record in pages:
            for url, fate in zip(references(record), fates[record.key], strict=True):
                if not fate:
                    showing[url].add(record.key)
        url_docs.append({url: len(shown) for url, shown in showing.items()})
        alike = twins(pages, fates, shown_sets)
        lucky = dict(zip(fates, map(bool, stays((record.doc_id for record in pages), coin)), strict=True))
        selected, candidates = {}, {}
        for record in pages:
            own = fates[record.key]
            twin = record.key in alike
            selected[record.key] = choose(own, record, url_docs[-1], twin, lucky[record.key], bounds)
            chosen = [index for index, fate in enumerate(own) if not fate]
            candidates[record.key] = chosen if selected[record.key] == "kept" else []
            for index in candidates[record.key]:
                shown = pictures[references(record)[index]]
                own[index] = picture_fate(shown, bounds)
                if not own[index]:
                    having[likeness(shown)].add(record.key)
        wanted = {references(record)[index] for record in pages for index in candidates[record.key]}
        requests = set[str]().union(*(asked_for(pictures[url]) for url in wanted))
        asked.append(frozenset(requests.difference(*asked)))
        for record in pages:
            documents[record.key] = assemble(
                record,
                selected[record.key],
                fates[record.key],
                candidates[record.key],
                lambda url: likeness(pictures[url]),
                {what for what, holders in having.items() if len(holders) > bounds.max_docs},
                lucky[record.key],
                bounds,
            )
    return Expected(documents=documents, asked=tuple(asked), url_docs=tuple(url_docs))


def assemble(
    record: Record,
    selected: str,
    fates: list[str],
    candidates: list[int],
    look: Callable[[str], tuple[object, ...]],
    repeated: set[tuple[object, ...]],
    lucky: bool,
    bounds: Bounds,
) -> Document:
    """What becomes of a page once its candidates are there; look: what an address shows."""
    if selected != "kept":
        return Document(selected=selected, assembled="", fates=tuple(fates))
    urls = references(record)
    stay: list[int] = []
    for index in (index for index in candidates if not fates[index]):
        if look(urls[index]) in repeated:
            fates[index] = "image_repeated"
        elif look(urls[index]) in [look(urls[earlier]) for earlier in stay]:
            fates[index] = "image_repeated_here"
        elif len(stay) == bounds.max_images:
            fates[index] = "image_surplus"
        else:
            fates[index] = "kept"
            stay.append(index)
    assembled = "no_image_left" if not stay else "single_image" if len(stay) == 1 and not lucky else "kept"
    whole = assembled == "kept"
    if assembled == "single_image":
        fates[stay[0]] = assembled  # "kept" is only what is in the shards
    return Document(
        selected=selected,
        assembled=assembled,
        fates=tuple(fates),
        candidates=tuple(candidates),
        urls=tuple(urls[index] for index in stay) if whole else (),
        stream=without(record.stream, set(stay)) if whole else (),
    )
