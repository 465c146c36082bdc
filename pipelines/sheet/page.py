"""The sheet as one HTML page: no script, nothing loaded from anywhere, images within it; bounded in size.

What a page said is shown as it reads, so the limits are far from what pages are: a paragraph is cut after 20,000
characters, a document after 100,000, and what the page has no room for is left out. Each cut is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from engine.ledger import code_version
from pipelines.reasons import Reason
from pipelines.sheet.article import article, named
from pipelines.sheet.documents import Row
from pipelines.sheet.frozen import Frozen
from pipelines.sheet.markup import bars, chip, inline, link, picture, size, terms, text
from pipelines.sheet.rejects import Reject
from pipelines.sheet.style import STYLE
from pipelines.sheet.totals import Totals
from pipelines.sheet.words import kind, meaning, told

MOST_BYTES = 64 << 20  # of documents, and half as much of refused images; 50 documents of the usual size are 5 MB
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The page in UTF-8, and how many documents and refused images are on it."""

    body: bytes
    documents: int
    rejects: int


def page(found: Frozen, sums: Totals, documents: Sequence[Row], rejects: Sequence[Reject], seed: int) -> Page:
    """Lay it all out. The same arguments give the same bytes."""
    articles = _fitting([article(number, row) for number, row in enumerate(documents, 1)], MOST_BYTES)
    tiles = _fitting([_tile(reject) for reject in rejects], MOST_BYTES // 2)
    shown, refused = documents[: len(articles)], rejects[: len(tiles)]
    all_refused = sum(sums.refused.values())
    parts = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Contact sheet of {text(found.digests[0][:12])}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#documents">Skip to the documents</a>\n',
        _index(shown, refused),
        f"<main>\n{_head(found, sums, seed)}\n",
        f'<section id="documents">\n<h2 class="part">Documents</h2>\n<p class="lead">{len(shown):,} of '
        f"{sums.documents:,}, drawn evenly, in the order of the shards.</p>\n",
        *articles,
        _left_out(len(documents) - len(shown), "documents"),
        f'</section>\n<section id="rejects">\n<h2 class="part">Refused images</h2>\n<p class="lead">{len(refused):,} '
        f"of {all_refused:,}; each reason has one before any has two. The picture is shown where one was stored.</p>\n",
        *_groups(refused, tiles, sums),
        _left_out(len(rejects) - len(refused), "refused images"),
        "</section>\n</main>\n</body>\n</html>\n",
    )
    return Page(body="".join(parts).encode(), documents=len(shown), rejects=len(refused))


def _fitting(parts: list[str], room: int) -> list[str]:
    """As many of the parts, from the first on, as the room holds."""
    return [part for part, end in zip(parts, accumulate(map(len, parts)), strict=True) if end <= room]


def _left_out(num: int, what: str) -> str:
    return f'<p class="left">{num:,} more {what} were drawn and did not fit on the page.</p>\n' if num else ""


def _index(documents: Sequence[Row], rejects: Sequence[Reject]) -> str:
    """Links to all that is on the page."""
    rows = "".join(
        f'<li><a href="#d{number}"><span class="one"><span class="n">{number}</span>{named(row)}</span></a></li>\n'
        for number, row in enumerate(documents, 1)
    )
    reasons = "".join(
        f'<li><a href="#r-{reason.word}">{reason.word.replace("_", " ")}</a></li>\n'
        for reason in dict.fromkeys(reject.reason for reject in rejects)
    )
    return (
        '<nav aria-label="Contents">\n<a href="#about"><b>Contact sheet</b></a>\n'
        f"<h2>Documents</h2>\n<ol>\n{rows}</ol>\n<h2>Refused images</h2>\n<ul>\n{reasons}</ul>\n</nav>\n"
    )


def _head(found: Frozen, sums: Totals, seed: int) -> str:
    """What the sheet is of, and the sums."""
    about = "about " if sums.about else ""
    figures = (
        (f"{sums.documents:,}", "documents"),
        (f"{about}{sums.images:,}", "images in them"),
        (f"{about}{sums.words:,}", "words in them"),
        (f"{sums.images / max(1, sums.documents):.2f}", "images a document"),
    )
    cards = "".join(f"<div><b>{number}</b><span>{what}</span></div>" for number, what in figures)
    known = terms(
        [
            ("recipe", text(found.recipe.name)),
            ("store", f"<code>{inline(found.ledger.store.place, 400)}</code>"),
            ("stage", f"<code>{text(found.stage.key)}</code>"),
            ("manifest", "<br>".join(f"<code>{text(digest)}</code>" for digest in found.digests)),
            ("published", "<br>".join(_generations(found))),
            ("drawn", f"with seed {seed}, kosmos-engine {text(code_version())}"),
        ]
    )
    return (
        f'<header id="about">\n<h1>Contact sheet</h1>\n<p class="lead">Curated documents as they read, and images that '
        f'were refused, with the reasons.</p>\n<div class="about">{known}</div>\n<div class="figures">{cards}</div>\n'
        f'<div class="tables">\n{"".join(_tables(sums))}</div>\n</header>\n'
    )


def _generations(found: Frozen) -> Iterator[str]:
    for number in found.works:
        when = found.published(number)
        yield f"generation {number}" + (f", {text(when)}" if when else "")


def _tables(sums: Totals) -> Iterator[str]:
    """The funnel, the histogram, and the reasons."""
    for caption, steps in (("Pages", sums.pages), ("Images", sums.pictures)):
        rows = []
        for place, (name, number) in enumerate(steps):
            before = steps[place - 1][1] if place else 0
            rows.append((text(name), f"{number:,}", number, f"{number / before:.1%}" if before else ""))
        yield bars(caption, rows)
    shares = [
        (f"{number} image{'' if number == 1 else 's'}", f"{num:,}", num, f"{num / max(1, sums.documents):.1%}")
        for number, num in sums.histogram.items()
    ]
    if shares:
        yield bars("Images a document", shares)
    for caption, counts in (
        ("Why images were refused", sums.refused),
        ("Why pages were left out, over their images", sums.dropped),
    ):
        all_of_them = sum(counts.values())
        if counts:
            rows = [
                (chip(reason.word, kind(reason)), f"{number:,}", number, f"{number / all_of_them:.1%}")
                for reason, number in counts.items()
            ]
            yield bars(caption, rows)


def _groups(rejects: Sequence[Reject], tiles: Sequence[str], sums: Totals) -> Iterator[str]:
    """The tiles, reason by reason."""
    for reason in dict.fromkeys(reject.reason for reject in rejects):
        own = [tile for reject, tile in zip(rejects, tiles, strict=True) if reject.reason == reason]
        yield (
            f'<h3 class="reason" id="r-{reason.word}">{chip(reason.word, kind(reason))} {text(meaning(reason))} '
            f"({sums.refused.get(reason, 0):,} images)</h3>\n"
            f'<ul class="tiles">\n{"".join(own)}</ul>\n'
        )


def _tile(reject: Reject) -> str:
    """A refused image."""
    image, page = reject.image, reject.page
    stored = picture(reject.body, image["alt"], 0, 0) if reject.body else f'<div class="empty">{_empty(reject)}</div>'
    measures = [f"{reject.width} x {reject.height}"] if reject.width else []
    measures += [text(reject.format)] if reject.format else []
    measures += [size(reject.num_bytes)] if reject.num_bytes else []
    said = [f'<span class="key">{name}</span> {inline(image[name], 300)}' for name in ("caption", "alt") if image[name]]
    lines = [
        f"{chip(reject.reason.word, kind(reject.reason))} {text(told(reject.reason, reject.value))}",
        *said,
        f'<span class="tech">{", ".join(measures)}</span>' if measures else "",
        link(image["url"]),
        f"in {link(page['url'], page['title'])}",
    ]
    return f'<li class="tile">{stored}{"".join(f"<p>{line}</p>" for line in lines if line)}</li>\n'


def _empty(reject: Reject) -> str:
    if reject.reason < Reason.NOT_ASKED:
        return "never asked for"
    return "nothing stored"
