"""One curated document as HTML: its items in reading order, what is known of it beside them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from pipelines.sheet.documents import Row
from pipelines.sheet.markup import cut, inline, language, link, picture, size, terms, text

MOST_ITEM = 20_000  # characters of a paragraph that are shown
MOST_TEXT = 100_000  # characters of a document
ITEM_COST = 40  # what an item takes at least: a document of a million empty ones is cut too
LISTS = {"li": "ul", "dt": "dl", "dd": "dl"}
HEADINGS = {f"h{level}": level for level in range(1, 7)}
FIRST_HEADING = 4  # the sheet's own headings come before those of a document
DEEPEST = 4


def article(number: int, row: Row) -> str:
    """Document `number` of the sheet."""
    captured = f"{row['fetched_at']:%Y-%m-%d}"
    figures = f"{_num(row['num_words'], 'word')}, {_num(row['num_images'], 'image')}"
    return (
        f'<article id="d{number}">\n<header><h3><span class="n">{number}</span>{named(row)}</h3>'
        f"<p>{link(row['url'])} · captured {captured} · {figures}</p></header>\n"
        f'<div class="text" dir="auto"{language(row["lang"]["code"])}>\n{"".join(_body(row))}</div>\n'
        f"{_beside(row)}</article>\n"
    )


def named(row: Row) -> str:
    """The title of a page, or its address."""
    return inline(row["title"] or row["url"], 160)


def _body(row: Row) -> Iterator[str]:
    """The items of a document, with its images in place."""
    captions = {image["caption"] for image in row["images"] if image["caption"]}
    room = MOST_TEXT
    shown: list[tuple[str, str]] = []  # (list that it stands in, HTML)
    lost = 0
    for item in row["items"]:
        if item["kind"] == "image":
            shown.append(("", _figure(row["images"][item["image"]])))
        elif item["block"] == "figcaption" and item["text"] in captions:
            continue  # it stands under its image
        elif room <= 0:
            lost += 1
        else:
            room -= len(item["text"]) + ITEM_COST
            shown.append((LISTS.get(item["block"], ""), _item(item)))
    for around, group in groupby(shown, key=lambda one: one[0]):
        inner = "".join(html for _, html in group)
        yield f"<{around}>{inner}</{around}>\n" if around else inner
    if lost:
        yield f'<p class="left">{lost:,} more paragraphs of this document are not shown.</p>\n'


def _item(item: dict[str, Any]) -> str:
    """A text item."""
    block, words = item["block"], cut(item["text"], MOST_ITEM)
    if block in HEADINGS:
        level = HEADINGS[block]
        # a page has as many levels as it likes, HTML has six
        tag = f"h{min(6, FIRST_HEADING + level - 1)}"
        return f'<{tag} class="{block}" dir="auto">{words}</{tag}>\n'
    if block == "li":
        depth = min(DEEPEST, max(1, item["level"]))
        return f'<li class="d{depth}" dir="auto">{words}</li>\n'
    if block in ("dt", "dd"):
        return f'<{block} dir="auto">{words}</{block}>\n'
    if block == "quote":
        return f'<blockquote dir="auto">{words}</blockquote>\n'
    if block in ("pre", "table"):
        # the parser eats a line feed that comes first
        return f'<pre class="{block}" dir="auto" tabindex="0">\n{words}</pre>\n'
    return f'<p class="caption" dir="auto">{words}</p>\n' if block == "figcaption" else f'<p dir="auto">{words}</p>\n'


def _figure(image: dict[str, Any]) -> str:
    """An image where it stands, with what its page says of it."""
    said = "".join(
        f'<p dir="auto"><span class="key">{name}</span> {cut(image[name], 2000)}</p>'
        for name in ("caption", "alt", "title")
        if image[name]
    )
    was = f"{image['original_width']} x {image['original_height']} {text(image['format'])}"
    shown = f", its address in {_num(image['url_docs'], 'document')}" if image["url_docs"] > 1 else ""
    tech = f"{image['width']} x {image['height']} JPEG, {size(len(image['bytes']))}; was {was}{shown}"
    return (
        f"<figure>{picture(image['bytes'], image['alt'], image['width'], image['height'])}"
        f'<figcaption>{said}<p class="tech">{tech}<br>{link(image["url"])}</p></figcaption></figure>\n'
    )


def _beside(row: Row) -> str:
    """Provenance, rights, dedupe, counts and scores."""
    warc, lang, rights, dedupe = row["warc"], row["lang"], row["rights"], row["dedupe"]
    file = warc["file"].partition("|")[0]
    items = [item["kind"] for item in row["items"]]
    sections = (
        (
            "Provenance",
            terms(
                [
                    ("crawl", inline(row["crawl"])),
                    ("captured", f"{row['fetched_at']:%Y-%m-%d %H:%M:%S} UTC"),
                    ("WARC file", f'<span class="mono">{inline(file, 400)}</span>'),
                    ("record", f"{warc['length']:,} bytes at {warc['offset']:,}"),
                    ("document", f'<span class="mono">{row["doc_id"].hex()}</span>'),
                    ("language", f"{inline(lang['code'])}, score {lang['score']:.2f}"),
                ]
            ),
        ),
        (
            "Rights",
            terms(
                [
                    ("X-Robots-Tag", inline(rights["robots"])),
                    ("robots meta", inline(rights["meta"])),
                    ("TDM", inline(rights["tdm"])),
                ]
                if any(rights.values())
                else [("said", "nothing")]
            ),
        ),
        (
            "Duplicates",
            terms(
                [
                    ("cluster", f'<span class="mono">{dedupe["cluster"]:x}</span>'),
                    ("pages alike", f"{dedupe['size']:,}"),
                    ("kept as", inline(dedupe["kept_because"])),
                ]
            ),
        ),
        (
            "Counts",
            terms(
                [
                    ("words", f"{row['num_words']:,}"),
                    ("images", f"{row['num_images']:,}"),
                    ("blocks of text", f"{items.count('text'):,}"),
                ]
            ),
        ),
        ("Scores", _scores(row["scores"])),
    )
    return "<aside>" + "".join(f"<section><h4>{name}</h4>{body}</section>" for name, body in sections) + "</aside>\n"


def _scores(scores: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{text(name.replace("_", " "))}</th><td>{_score(value)}</td></tr>'
        for name, value in scores.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _score(value: float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _num(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
