"""The contact sheet: what it shows of a store, and that nothing a page said ever acts on who looks at it."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import cli, schema
from engine.errors import ConfigError, KosmosError, StoreError
from engine.ledger import Ledger
from engine.stage import Place
from engine.store import Store
from engine.work import read_rows
from pipelines.reasons import Reason
from pipelines.sheet import MOST, documents, page, rejects, sheet, totals, write
from pipelines.sheet.article import MOST_ITEM, MOST_TEXT, article
from pipelines.sheet.frozen import Frozen, opened
from pipelines.sheet.markup import link
from pipelines.sheet.rejects import Pick, dealt
from pipelines.sheet.words import WORDS, kind, told
from tests.pipelines import sheet_world as world

RECIPE = world.recipe()
VOID = {"meta", "img", "br"}
TAGS = re.compile(
    "html|head|meta|title|style|body|a|nav|b|h[1-6]|ol|ul|li|span|bdi|main|header|p|div|dl|dt|dd|code|br|table|caption|"
    "tbody|tr|th|td|section|article|figure|figcaption|img|pre|blockquote|aside"
)
ATTRIBUTES = re.compile(
    "lang|charset|http-equiv|content|name|class|href|id|aria-label|aria-hidden|dir|rel|src|alt|width|height|scope|style|"
    "tabindex"
)
NASTY = (
    "<script>", "</style>", "-->", "<!--", '"', "'", "&", "&lt;", "javascript:alert(1)", "https://a.example/\"onload=x",
    "\x00", "\x1b", "\u202e", "\u2066", "]]>", "<img src=x onerror=alert(1)>", "</article>", "\n", " ",
)  # fmt: skip
words = st.lists(st.sampled_from(NASTY) | st.text(max_size=6), max_size=6).map("".join)


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    """A finished store: nobody may write into it."""
    return world.finished("memory:///sheet")


@pytest.fixture(scope="module")
def digest(ledger: Ledger) -> str:
    return str(ledger.settled(RECIPE.stage("assemble").key)[1]["manifest"])


@pytest.fixture(scope="module")
def found(ledger: Ledger, digest: str) -> Frozen:
    return opened(RECIPE, ledger, [digest])


@pytest.fixture(scope="module")
def whole(ledger: Ledger, digest: str) -> str:
    """The sheet with everything on it."""
    return sheet(RECIPE, ledger, [digest], 500, 500).body.decode()


class Reader(HTMLParser):
    """What a browser would make of a page: tags with their attributes, and words; balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def looked_at(text: str) -> Reader:
    """Parse it, and hold every tag, attribute and address against what the sheet makes itself."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    for tag, attributes in reader.tags:
        assert TAGS.fullmatch(tag) and all(map(ATTRIBUTES.fullmatch, attributes)), (tag, attributes)
        assert re.fullmatch(
            r"data:image/jpeg;base64,[A-Za-z0-9+/=]*", attributes.get("src") or "data:image/jpeg;base64,"
        )
        address = attributes.get("href")
        if address is not None and not address.startswith("#"):
            assert re.match("https?://", address, re.IGNORECASE)
            assert attributes["rel"] == "noreferrer noopener nofollow"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    return reader


# what is on it ----------------------------------------------------------------------------------------------------
def test_a_document_stands_there_as_it_reads(whole: str) -> None:
    start = whole.index("A heading &lt;b&gt;")
    places = [
        whole.index(part, start)
        for part in (
            "A heading &lt;b&gt;bold&lt;/b&gt;</h5>",
            base64.b64encode(b"\xff\xd8 view").decode(),
            "Seen from the south</p>",
            "320 x 240 JPEG, 7 B; was 640 x 480 png, its address in 3 documents",
            "First paragraph.</p>",
            '<ul><li class="d1" dir="auto">one</li>',
            '<li class="d2" dir="auto">one deeper</li>',
            "Said by somebody.</blockquote>",
            "a | b\n1 | 2</pre>",
            '<dl><dt dir="auto">term</dt>',
            '<dd dir="auto">what it means</dd>',
            "Last paragraph.</p>",
            "crawl/one.warc.gz",
            "500 bytes at 1,000",
            "en</bdi>, score 0.94",
            "max-snippet:-1",
            "gopher stopwords",
        )
    ]
    assert places == sorted(places)
    # once: the text of a figcaption stands under its image
    assert whole.count("Seen from the south") == 1


def test_it_says_what_it_is_of(whole: str, digest: str, ledger: Ledger) -> None:
    for part in (digest, RECIPE.stage("assemble").key, "generation 1, ", "records of WARC files", ">1,361</td>"):
        assert part in whole, part
    assert f"{world.FILLER.url}" not in whole
    assert whole.count("<article ") == 150
    assert (
        "Content-Security-Policy" in whole and "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in whole
    )


def test_the_same_manifest_and_seed_give_the_same_bytes(ledger: Ledger, digest: str) -> None:
    first, again, other = (sheet(RECIPE, ledger, [digest], 10, 8, seed).body for seed in (3, 3, 4))
    assert first == again != other
    assert sheet(RECIPE, ledger, [], 10, 8, 3).body == first  # all that is published
    assert sheet(RECIPE, ledger, [digest, digest], 10, 8, 3).body == first


def test_every_row_is_read_by_ranges_as_it_is(found: Frozen) -> None:
    (block,) = found.blocks
    assert len(block.commit.outputs["curated"][0].batches) == 3
    rows = read_rows(found.ledger.store, block.commit.outputs["curated"]).to_pylist()
    work = found.works[1]
    assert [documents.row(work, block.commit, place) for place in range(len(rows))] == rows
    with pytest.raises(IndexError):
        documents.row(work, block.commit, len(rows))


def test_only_the_images_of_the_row_are_read(found: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    work = found.works[1]
    pieces = work.pieces

    def noted(places: Sequence[Place]) -> list[bytes]:
        read.extend(place.length for place in places)
        return pieces(places)

    monkeypatch.setattr(work, "pieces", noted)
    (block,) = found.blocks
    row = documents.row(work, block.commit, 64)
    batch = block.commit.outputs["curated"][0].batches[1]
    images = sum(len(image.body) for _, page in itertools.islice(world.numbered(), 64, 128) for image in page.shown)
    own = sum(len(image["bytes"]) for image in row["images"])
    assert sum(read) == batch.length - images + own


def test_documents_are_drawn_evenly(found: Frozen) -> None:
    drawn = Counter(row["url"] for seed in range(60) for row in documents.sample(found, 15, seed))
    assert len(drawn) > 140 and max(drawn.values()) < 20  # six each, on the average
    assert len({row["url"] for row in documents.sample(found, 15, 0)}) == 15


def test_sums_are_those_of_the_rows(found: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = found.blocks
    rows = read_rows(found.ledger.store, block.commit.outputs["curated"], ("num_images", "num_words")).to_pylist()
    sums = totals.totals(found, 0)
    assert (sums.documents, sums.about) == (150, False)
    assert sums.images == sum(row["num_images"] for row in rows)
    assert sums.words == sum(row["num_words"] for row in rows)
    assert sums.histogram == Counter(row["num_images"] for row in rows)
    assert [number for _, number in sums.pages] == [1361, 1351, 151, 151, 151, 150]
    assert [number for _, number in sums.pictures][2:] == [sums.images + 10, sums.images, sums.images]
    assert sums.refused[Reason.IMAGE_BLOCKED] == 9 and sums.refused[Reason.HTTP_GONE] == 6

    monkeypatch.setattr(totals, "MOST_BATCHES", 1)
    estimated = totals.totals(found, 0)
    assert estimated.about and estimated.documents == 150
    assert abs(sum(estimated.histogram.values()) - 150) <= 2


# refused images ---------------------------------------------------------------------------------------------------
def test_refused_images_stand_under_their_reasons(found: Frozen, whole: str) -> None:
    drawn = {(reject.reason, reject.image["url"]): reject for reject in rejects.sample(found, 500, 0)}
    expected = {(image.reason, image.url): image for image in world.refused().images}
    assert drawn.keys() == expected.keys()
    for key, image in expected.items():
        reject = drawn[key]
        assert (reject.body, reject.value, reject.image["alt"]) == (image.body, image.value, image.alt)
        assert reject.page["url"] == "https://heap.example/"
        assert (reject.width, reject.format) == ((640, "png") if image.body else (0, ""))
        assert image.url in whole
    for part in ("57 px", "HTTP 404", "in 12 documents", "in 31 documents", "never asked for", "nothing stored"):
        assert part in whole, part
    assert base64.b64encode(b"\xff\xd8 a stored picture of a banner").decode() in whole


def test_every_reason_has_one_before_any_has_two(found: Frozen) -> None:
    for num in range(12):
        drawn = Counter(reject.reason for reject in rejects.sample(found, num, 5))
        assert sum(drawn.values()) == num
        assert len(drawn) == min(num, 6)
    assert drawn[Reason.ROBOTS] == 1 and drawn[Reason.HTTP_GONE] > 1


@given(st.dictionaries(st.sampled_from(list(Reason)), st.integers(1, 8), max_size=9), st.integers(0, 60))
def test_dealing_is_fair(numbers: dict[Reason, int], num: int) -> None:
    block: Any = None
    picks = {
        reason: [Pick(key=key, doc=0, image=0, reason=reason, value=0, asked=False, block=block) for key in range(many)]
        for reason, many in numbers.items()
    }
    drawn = Counter(pick.reason for pick in dealt(picks, num))
    assert sum(drawn.values()) == min(num, sum(numbers.values()))
    for reason, other in itertools.permutations(numbers, 2):
        assert drawn[reason] >= min(numbers[reason], drawn[other] - 1)


def test_blocks_are_looked_into_until_every_reason_is_met(found: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = found.blocks
    assert rejects._blocks(found, 0) == [block]
    monkeypatch.setattr(rejects, "BLOCKS", 0)
    assert rejects._blocks(found, 0) == [block]  # for its reasons


def test_reasons_of_images_have_words() -> None:
    images = {reason for reason in Reason if 160 <= reason <= 166 or 180 <= reason <= 222} | {Reason.SINGLE_IMAGE}
    assert images <= WORDS.keys()
    assert told(Reason.ASPECT, 4.591) == "4.59 : 1"
    assert told(Reason.IMAGE_REPEATED_HERE, 0) == "0 bits differ"
    assert told(Reason.CONNECT, 0) == "" and told(Reason.WORDS, 3) == "value 3"
    assert {kind(reason) for reason in images} == {"address", "request", "gate", "compared"}


# safety -----------------------------------------------------------------------------------------------------------
def test_the_page_is_made_of_its_own_tags_only(whole: str) -> None:
    reader = looked_at(whole)
    assert {"script", "iframe", "link", "object"}.isdisjoint(tag for tag, _ in reader.tags)
    assert '<script>alert("title")</script> & so on' in reader.words
    assert any(attributes.get("alt") == '" onerror="alert(1)' for _, attributes in reader.tags)


def curated(title: str, url: str, texts: list[tuple[str, str]], image: dict[str, Any], code: str) -> dict[str, Any]:
    """A row of the shards, of words that anybody may have written."""
    shown = world.zero(schema.CURATED_IMAGE) | image
    items = [{"kind": "text", "text": said, "block": block, "level": 2, "image": -1} for block, said in texts]
    empty = {f.name: world.zero(f.type) for f in schema.CURATED}
    return empty | {
        "title": title,
        "url": url,
        "crawl": title,
        "items": [*items, {"kind": "image", "text": "", "block": "", "level": 0, "image": 0}],
        "images": [shown],
        "lang": {"code": code, "score": 1.0},
        "rights": {"robots": title, "meta": url, "tdm": code},
        "warc": {"file": url, "offset": 0, "length": 0, "record_id": title},
    }


BLOCKS = st.sampled_from(["p", "h1", "h6", "li", "quote", "pre", "table", "figcaption", "dt", "dd", "other", "<b>"])


@settings(max_examples=150)
@given(words, words, st.lists(st.tuples(BLOCKS, words), max_size=5), words, words, words)
def test_no_word_of_a_page_is_ever_markup(
    title: str, url: str, texts: list[tuple[str, str]], alt: str, caption: str, code: str
) -> None:
    image = {"url": url, "alt": alt, "caption": caption, "title": title, "format": code}
    text = article(1, curated(title, url, texts, image, code))
    reader = looked_at(text)
    read = "".join(reader.words)
    for block, said in texts:
        if block == "pre":
            assert re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", said) in read
    (alts,) = (attributes["alt"] for tag, attributes in reader.tags if tag == "img")
    assert alts == re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", alt)


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "ftp://a.example/", "https://a b", "//a.example"]
)
def test_only_web_addresses_are_links(url: str) -> None:
    assert "href" not in link(url) and html.escape(url) in link(url)
    assert 'href="https://a.example/?x=1&amp;y=2"' in link("https://a.example/?x=1&y=2")
    assert "href" not in link("https://a.example/" + "a" * 3000)
    assert ">https://a.example/\ufffdgpj.exe<" in link("https://a.example/\u202egpj.exe")


def test_what_is_long_is_cut_and_told() -> None:
    image = {"url": "https://a.example/1.jpg", "bytes": b"\xff\xd8"}
    texts = [("p", "x" * 2_000_000), *(("p", "y" * 5000) for _ in range(40))]
    text = article(1, curated("t", "https://a.example/", texts, image, "en"))
    assert f"… {2_000_000 - MOST_ITEM:,} more characters" in text
    assert "40 more paragraphs of this document are not shown." in text
    assert "data:image/jpeg" in text, "images stay"
    assert len(text) < 2 * MOST_TEXT


def test_a_page_without_room_says_what_is_missing(found: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_BYTES", 40_000)
    drawn = sheet(RECIPE, found.ledger, found.digests, 50, 21)
    assert 0 < drawn.documents < 50 and len(drawn.body) < 120_000
    assert f"{50 - drawn.documents} more documents were drawn and did not fit" in drawn.body.decode()


# refusals and writing ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            lambda ledger: ledger.freeze(RECIPE.stage("select").key),
            "manifest of select; `kosmos freeze assemble --all`",
        ),
        (lambda ledger: "0" * 64, "no manifest 000"),
        (lambda ledger: "abc", "is not a manifest digest"),
        (lambda ledger: ledger.freeze(RECIPE.stage("assemble").key, []), "is empty; `kosmos freeze assemble --all`"),
    ],
)
def test_what_is_no_manifest_of_assemble_is_refused(
    ledger: Ledger, asked: Callable[[Ledger], str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        sheet(RECIPE, ledger, [asked(ledger)])


def test_other_settings_are_told(ledger: Ledger, digest: str) -> None:
    with pytest.raises(ConfigError, match="give --set, --small and --preset as its run had them"):
        sheet(world.recipe(mark=1), ledger, [digest])


def test_an_empty_store_and_wrong_numbers_are_told(ledger: Ledger, digest: str, memory: str) -> None:
    with pytest.raises(ConfigError, match="is empty; run `kosmos run interleaved` first"):
        sheet(RECIPE, Ledger(memory), [digest])
    for numbers in ((-1, 0), (0, MOST + 1)):
        with pytest.raises(ConfigError, match="give 0 to 1000"):
            sheet(RECIPE, ledger, [digest], *numbers)


def test_the_file_is_put_whole(tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(str(tmp_path / "new" / "sheet.html"), b"one")
    write(str(tmp_path / "new" / "sheet.html"), b"two")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "new").iterdir()] == [("sheet.html", b"two")]
    write(f"{memory}/sheet.html", b"three")
    assert Store(memory).get("sheet.html") == b"three"
    with pytest.raises(ConfigError, match="is a folder; give -o a file"):
        write(str(tmp_path), b"")
    with pytest.raises(StoreError, match="give -o another place"):
        write(str(tmp_path / "new" / "sheet.html" / "x"), b"")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(KosmosError, match="No space left"):
        write(str(tmp_path / "other.html"), b"four")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_command(
    ledger: Ledger,
    digest: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.setitem(cli.RECIPES, "interleaved", (f"{__name__}:made", f"{__name__}:made"))
    monkeypatch.setitem(cli.PRESETS, "kosmos1", f"{__name__}:Nothing")
    here = ["--store", ledger.store.url, "--documents", "3", "--rejects", "2"]
    out = str(tmp_path / "sheet.html")
    assert cli.main(["sheet", digest, "-o", out, *here]) == 0
    assert b"3 of 150 documents and 2 of 21 refused images" in capsysbinary.readouterr().out
    assert cli.main(["sheet", "-o", out, "--json", *here]) == 0
    told_of = json.loads(capsysbinary.readouterr().out)
    assert (told_of["out"], told_of["documents"], told_of["all_rejects"]) == (out, 3, 21)
    assert cli.main(["sheet", "-o", "-", *here]) == 0
    assert capsysbinary.readouterr().out == Path(out).read_bytes()
    assert cli.main(["sheet", "0" * 64, *here]) == 2


@dataclass(frozen=True)
class Nothing:
    """No settings."""


def made(config: object) -> Any:
    """The recipe of the world."""
    return RECIPE
