"""A finished store for the contact sheet, without a crawl: the stages that it reads, under their names and with their
tables, and rows that are made here. A hundred and fifty documents; two dozen images that were refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pyarrow as pa

from engine import schema
from engine.ledger import Commit, Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe, Step
from engine.stage import Output, Stage, Unit, Work
from engine.window import Options, run
from pipelines import extract, fetch, ids, sign
from pipelines.assemble import match, shards
from pipelines.dedupe import decide
from pipelines.reasons import Reason
from pipelines.select import choose, refer
from pipelines.urls import url_id

PARTITIONS = 2
UNITS = ("a" * 24, "b" * 24)
CAPTURED = datetime(2024, 5, 17, 12, 30, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image of a page. body: what is stored of it. by: the stage that refused it, if one did."""

    url: str
    alt: str = ""
    caption: str = ""
    reason: Reason = Reason.KEPT
    value: float = 0.0
    body: bytes = b""
    by: str = "assemble"
    followed: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page; one that is kept stands in the shards with its images that are."""

    url: str
    title: str = ""
    texts: tuple[tuple[str, int, str], ...] = ()  # block, level, words
    images: tuple[Image, ...] = ()
    kept: bool = True

    @property
    def doc_id(self) -> bytes:
        return url_id(self.url)[:16]

    @property
    def shown(self) -> list[Image]:
        return [image for image in self.images if image.reason == Reason.KEPT]


def garden(number: int) -> Page:
    """One of many that are alike."""
    images = tuple(
        Image(
            url=f"https://garden.example/{number}/{place}.jpg",
            alt=f"bed {number}",
            body=b"\xff\xd8 bed %d %d " % (number, place) + bytes(200 + 7 * number),
        )
        for place in range(1 + number % 3)
    )
    texts = (("h1", 1, f"Bed {number}"), ("p", 0, f"What grows in bed {number}."))
    return Page(url=f"https://garden.example/{number}", title=f"Bed {number} of the garden", texts=texts, images=images)


def refused() -> Page:
    """A page with an image for each of some reasons, which are found in all the places where images go."""
    picture = b"\xff\xd8 a stored picture of "

    def one(reason: Reason, value: float = 0.0, by: str = "assemble", num: int = 1, **more: Any) -> list[Image]:
        where = f"https://heap.example/{reason.word}"
        return [
            Image(url=f"{where}/{n}.png", alt=f"{reason.word} {n}", reason=reason, value=value, by=by, **more)
            for n in range(num)
        ]

    images = (
        *one(Reason.IMAGE_BLOCKED, by="refer", num=9),
        *one(Reason.IMAGE_FREQUENT, 12, by="select", num=2),
        *one(Reason.HTTP_GONE, 404, num=6),
        *one(Reason.ROBOTS),
        *one(Reason.SIDE_SMALL, 57, num=2, body=picture + b"a small thing"),
        *one(Reason.IMAGE_REPEATED, 31, body=picture + b"a banner", followed=True),
    )
    return Page(url="https://heap.example/", title="The heap", images=images, kept=False)


STRANGE = Page(
    url="https://strange.example/?a=1&b=<2>",
    title='<script>alert("title")</script> & so on',
    texts=(
        ("h2", 2, "A heading <b>bold</b>"),
        ("p", 0, "First paragraph."),
        ("li", 1, "one"),
        ("li", 2, "one deeper"),
        ("quote", 0, "Said by somebody."),
        ("table", 0, "a | b\n1 | 2"),
        ("dt", 0, "term"),
        ("dd", 0, "what it means"),
        ("figcaption", 0, "Seen from the south"),
        ("p", 0, "Last paragraph."),
    ),
    images=(
        Image(
            url="https://strange.example/'\">.jpg",
            alt='" onerror="alert(1)',
            caption="Seen from the south",
            body=b"\xff\xd8 view",
        ),
    ),
)
FILLER = Page(url="https://filler.example/", kept=False)


def pages() -> dict[str, list[Page]]:
    """The pages by unit, in order of rows; the second unit has several record batches of them."""
    return {UNITS[0]: [garden(n) for n in range(149)], UNITS[1]: [FILLER] * 1200 + [STRANGE, refused()]}


def numbered() -> Iterator[tuple[int, Page]]:
    """(doc, page) of all pages, in order."""
    for ordinal, unit in enumerate(UNITS):
        for row, page in enumerate(pages()[unit]):
            yield 1 << 48 | ordinal << 24 | row, page


def zero(kind: pa.DataType) -> Any:
    """What stands for nothing in a column that has no nulls."""
    if pa.types.is_struct(kind):
        return {f.name: zero(f.type) for f in kind}
    if pa.types.is_large_list(kind):
        return []
    if pa.types.is_fixed_size_list(kind):
        return [0] * kind.list_size
    if pa.types.is_fixed_size_binary(kind):
        return bytes(kind.byte_width)
    if pa.types.is_large_binary(kind):
        return b""
    if pa.types.is_timestamp(kind):
        return CAPTURED
    return "" if pa.types.is_large_string(kind) else False if pa.types.is_boolean(kind) else 0


def table(wanted: pa.Schema, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The rows, with nothing where they say nothing."""
    empty = {f.name: zero(f.type) for f in wanted}
    return pa.Table.from_pylist([{**empty, **row} for row in rows], schema=wanted)


def items(page: Page) -> list[dict[str, Any]]:
    """The first text, the images, the other texts."""
    texts = [{"kind": "text", "text": words, "block": b, "level": n, "image": -1} for b, n, words in page.texts]
    shown = range(len(page.shown if page.kept else page.images))
    images = [{"kind": "image", "text": "", "block": "", "level": 0, "image": n} for n in shown]
    return [*texts[:1], *images, *texts[1:]]


def described(page: Page, row: int) -> dict[str, Any]:
    """What documents and shards say of a page alike."""
    return {
        "row": row,
        "doc_id": page.doc_id,
        "url": page.url,
        "title": page.title,
        "fetched_at": CAPTURED,
        "warc": {"file": "crawl/one.warc.gz", "offset": 1000 + row, "length": 500, "record_id": "<urn:x>"},
        "lang": {"code": "en", "score": 0.9375},
        "rights": {"robots": "max-snippet:-1", "meta": "", "tdm": ""},
    }


# processes --------------------------------------------------------------------------------------------------------
def process(unit: Unit, config: str, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """The rows of the stage that `config` names."""
    yield from PROCESSES[config](unit, work)


def _extract(unit: Unit, work: Work) -> Iterator[tuple[str, pa.Table]]:
    rows = [
        described(page, row)
        | {"items": items(page)}
        | {"images": [{**zero(schema.IMAGE), "url": i.url, "alt": i.alt, "caption": i.caption} for i in page.images]}
        for row, page in enumerate(pages()[unit.id])
    ]
    yield "documents", table(schema.DOCUMENTS, rows)
    yield "scores", table(schema.SCORES, [{"row": row["row"]} for row in rows])
    yield "verdicts", table(schema.VERDICTS, [{}] * (len(rows) + 5))
    yield "references", table(schema.REFERENCES, [{}] * sum(len(page.images) for page in pages()[unit.id]))


def _sign(unit: Unit, work: Work) -> Iterator[tuple[str, pa.Table]]:
    rows = [{"row": row} for row, page in enumerate(pages()[unit.id]) if page.images]
    yield "signatures", table(schema.SIGNATURES, rows)
    yield "slots", table(schema.SLOTS_8, rows)
    yield "shingles", table(schema.SHINGLES, rows)


def _nothing(unit: Unit, work: Work) -> Iterator[tuple[str, pa.Table]]:
    yield from ()


def _turned_away(name: str) -> Callable[[Unit, Work], Iterator[tuple[str, pa.Table]]]:
    def refused_by(unit: Unit, work: Work) -> Iterator[tuple[str, pa.Table]]:
        rows = list(_fates(lambda image: image.by == name and image.reason != Reason.KEPT, work))
        yield "refused", table(schema.REFUSED, rows)

    return refused_by


def _fates(wanted: Callable[[Image], bool], work: Work) -> Iterator[dict[str, Any]]:
    for doc, page in numbered():
        for place, image in enumerate(page.images):
            if wanted(image):
                work.count(f"image:{image.reason.word}")
                yield {"doc": doc, "image": place, "reason": int(image.reason), "value": image.value}


def _fetched(followed: bool) -> dict[bytes, bytes]:
    bodies = {url_id(i.url): i.body for _, page in numbered() for i in page.images if i.body and i.followed == followed}
    return dict(sorted(bodies.items()))


def _fetch(followed: bool) -> Callable[[Unit, Work], Iterator[tuple[str, pa.Table]]]:
    def asked(unit: Unit, work: Work) -> Iterator[tuple[str, pa.Table]]:
        rows = [{"url_id": key, "bytes": body} for key, body in _fetched(followed).items()]
        yield "images", table(schema.IMAGE_BYTES, rows)

    return asked


def _match(unit: Unit, work: Work) -> Iterator[tuple[str, pa.Table]]:
    places: dict[tuple[bool, bytes], dict[str, Any]] = {}
    for followed, name in enumerate(("fetch", "follow")):
        (commit,) = work.commits(name, 1)
        (found,) = work.offsets("images", [(commit, 0, len(_fetched(bool(followed))))])
        for key, place in zip(_fetched(bool(followed)), found.to_pylist(), strict=True):
            places[bool(followed), key] = place
    rows = []
    for doc, page in numbered():
        for number, image in enumerate(page.images):
            key = url_id(image.url)
            part = ids.partitions(ids.ids(pa.array([key], pa.binary(32))), PARTITIONS)[0]
            if image.by == "assemble" and part == int(unit.inputs[0]):
                if image.reason == Reason.KEPT:
                    work.count("image:kept")
                rows.append(
                    {
                        "doc": doc,
                        "image": number,
                        "url_id": key,
                        "followed": image.followed,
                        "generation": 1,
                        "num_bytes": len(image.body),
                        "width": 640 if image.body else 0,
                        "height": 480 if image.body else 0,
                        "format": 2 if image.body else 0,
                        **places.get((image.followed, key), {}),
                    }
                )
    yield "images", table(schema.MATCHED, rows)


def _assemble(unit: Unit, work: Work) -> Iterator[tuple[str, pa.Table]]:
    rows = []
    for doc, page in numbered():
        if not page.kept:
            continue
        images = [
            {"bytes": i.body, "url": i.url, "alt": i.alt, "caption": i.caption, "width": 320, "height": 240}
            | {"original_width": 640, "original_height": 480, "format": "png", "url_docs": 3}
            for i in page.shown
        ]
        kind = schema.CURATED_IMAGE
        rows.append(
            {key: value for key, value in described(page, 0).items() if key != "row"}
            | {"items": items(page), "images": [{**zero(kind), **image} for image in images]}
            | {"num_images": len(images), "num_words": sum(len(words.split()) for _, _, words in page.texts)}
            | {"dedupe": {"cluster": doc, "size": 4, "kept_because": "best"}}
        )
    yield "curated", table(schema.CURATED, rows)
    yield "verdicts", table(schema.ASSEMBLED, [{}] * (len(rows) + 1))
    yield "fates", table(schema.IMAGE_FATES, list(_fates(lambda image: image.by == "assemble", work)))


PROCESSES: dict[str, Callable[[Unit, Work], Iterator[tuple[str, pa.Table]]]] = defaultdict(lambda: _nothing)
PROCESSES |= {
    "extract": _extract,
    "sign": _sign,
    "refer": _turned_away("refer"),
    "select": _turned_away("select"),
    "fetch": _fetch(followed=False),
    "follow": _fetch(followed=True),
    "match": _match,
    "assemble": _assemble,
}


# the recipe -------------------------------------------------------------------------------------------------------
def recipe(mark: int = 0) -> Recipe:
    """The stages that the sheet reads. mark: settings of assemble, and of nothing before it."""

    def stage(name: str, outputs: tuple[Output, ...], **more: Any) -> Stage:
        own = {"process": f"{__name__}:process", "config": name, **more}
        return Stage(name=name, outputs=outputs, **own)

    def barrier(name: str, module: ModuleType, *reads: Stage, **more: Any) -> Stage:
        return stage(name, module.OUTPUTS, reads=reads, barrier=True, **more)

    def one(config: Any, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
        return [("0", str(len(UNITS)))]

    def cut(config: Any, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
        return [(str(part),) for part in range(PARTITIONS)]

    def listed(config: Any, commits: list[Commit], read: Any, digest: str) -> list[Unit]:
        return [Unit(id="c" * 24)]

    extracted = stage("extract", extract.OUTPUTS)
    signed = stage("sign", sign.OUTPUTS, reads=(extracted,))
    decided = barrier("decide", decide, signed)
    referred = barrier("refer", refer, extracted, decided)
    selected = barrier("select", choose, referred)
    scheduled = barrier("schedule", decide, selected)
    fetched = barrier("fetch", fetch, recorded=True)
    followed = barrier("follow", fetch, recorded=True)
    matched = barrier("match", match, selected, fetched, followed)
    upstream = (extracted, decided, selected, fetched, followed, matched)
    process = f"{__name__}:process"
    assembled = Stage(
        name="assemble",
        process=process,
        config="assemble",
        version=1 + mark,
        outputs=shards.OUTPUTS,
        reads=upstream,
        barrier=True,
    )
    return Recipe(
        name="interleaved",
        config=None,
        steps=(
            Step(stage=extracted),
            Step(stage=signed),
            *(Step(stage=each, parts=one) for each in (decided, referred, selected, scheduled)),
            Step(stage=fetched, lister="schedule", listed=listed),
            Step(stage=followed, lister="schedule", listed=listed),
            Step(stage=matched, parts=cut),
            Step(stage=assembled, parts=one),
        ),
        listing=lambda inputs, ledger: [Unit(id=unit) for unit in UNITS],
    )


def finished(url: str) -> Ledger:
    """A store in which the recipe has run."""
    ledger = Ledger(url)
    ledger.check(create=True)
    reports = run(recipe(), ledger, [Unit(id=unit) for unit in UNITS], InlinePool(url), Quiet(), Options())
    assert all(report.complete for report in reports), reports
    return ledger
