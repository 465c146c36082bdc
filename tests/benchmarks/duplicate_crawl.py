"""Crawls of a stated mix of duplicates, as WARC files: what a page shows, which pages are copies, what comes again.

The mix is below what is known of the web: OmniCorpus cut 30 billion image addresses to 9.65 billion by deduplicating
documents (3.1x), and here 54 % of the captures of three crawls are duplicates, which makes 2.1x. Texts are the bundled
web's prose, so that they pass the text rules and no two are alike by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines.smallweb.prose import Dice, Writer, topics

NEAR, COPY, AGAIN, CHANGED, FRESH = "near", "copy", "again", "changed", "fresh"


@dataclass(frozen=True, kw_only=True)
class Mix:
    """pages: captures a crawl. Of 100 captures of a crawl after the first, so many are pages of earlier ones again
    (half of them with another text), so many have the text of another page under another address (half of them on a
    host of their own, with image addresses of that host), and so many differ from another in a sentence; in the first
    crawl `again` are fresh."""

    crawls: int = 3
    pages: int = 600
    sites: int = 30
    again: int = 40
    copies: int = 25
    near: int = 5
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A page as captured. images: (address, declared side or 0), in reading order. kind: how it came about."""

    url: str
    title: str
    text: tuple[str, ...]
    images: tuple[tuple[str, int], ...]
    kind: str = FRESH

    def html(self) -> str:
        """Its document: each image stands after a paragraph."""
        body = [f"<h1>{self.title}</h1>"]
        shown = [
            f'<img src="{url}" alt="">' if not side else f'<img src="{url}" width="{side}" height="{side}" alt="">'
            for url, side in self.images
        ]
        for place, paragraph in enumerate(self.text):
            body.append(f"<p>{paragraph}</p>")
            body += shown[place :: len(self.text)]
        return (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{self.title}</title></head>'
            f"<body><main>{''.join(body)}</main></body></html>"
        )


def fresh(mix: Mix, crawl: int, number: int) -> Capture:
    """A page of its own: text, images of its own, and what its site shows on every page."""
    dice = Dice(mix.seed, crawl, number)
    site = dice.below(mix.sites)
    host = f"www.site{site}.example"
    writer = Writer(dice, topics()[site % len(topics())])
    text = tuple(writer.paragraph(dice.between(3, 6)) for _ in range(dice.between(4, 9)))
    name = f"{crawl}-{number}"
    own = [(f"https://{host}/media/{name}-{n}.jpg", dice.pick((0, 0, 640))) for n in range(dice.between(0, 6))]
    if dice.chance(3):  # a gallery
        own += [(f"https://{host}/media/{name}-g{n}.jpg", 0) for n in range(40)]
    if own and dice.chance(10):  # enlarged on a click: the same address again
        own.append(own[0])
    # of other pages of the site: the popular ones stand beside all
    others = [(f"https://{host}/media/related-{min(dice.below(40), dice.below(40))}.jpg", 0) for _ in range(3)]
    around = [
        (f"https://{host}/assets/logo.png", 0),
        (f"https://{host}/assets/header-photo.jpg", 0),
        (f"https://{host}/assets/face.png", 32),
        (f"https://{host}/assets/share.png", 24),
        (f"https://stats.example/p.gif?page={name}", 1),
    ]
    return Capture(url=f"https://{host}/{name}", title=writer.title(), text=text, images=(*own, *others, *around))


def crawls(mix: Mix) -> list[list[Capture]]:
    """The captures of each crawl, in an order of its own."""
    before: list[Capture] = []
    made = []
    for crawl in range(mix.crawls):
        captures: list[Capture] = []
        for number in range(mix.pages):
            dice = Dice(mix.seed, crawl, number, "kind")
            throw = dice.below(100)
            known = [*before, *captures]
            if not known or throw >= mix.again + mix.copies + mix.near or (throw < mix.again and not before):
                captures.append(fresh(mix, crawl, number))
            elif throw < mix.again:
                captures.append(again(dice.pick(before), dice))
            else:
                captures.append(copied(dice.pick(known), f"{crawl}-{number}", dice, throw < mix.again + mix.near))
        before += [capture for capture in captures if capture.kind == FRESH]
        made.append(Dice(mix.seed, crawl, "order").shuffled(captures))
    return made


def again(page: Capture, dice: Dice) -> Capture:
    """The same address in a later crawl, with its text or another."""
    if dice.chance(50):
        return replace(page, kind=AGAIN)
    writer = Writer(dice, dice.pick(topics()))
    return replace(page, text=tuple(writer.paragraph(4) for _ in page.text), kind=CHANGED)


def copied(page: Capture, name: str, dice: Dice, nearly: bool) -> Capture:
    """The same text under another address."""
    text = page.text
    if nearly:
        text = (*text[:-1], f"{text[-1]} {Writer(dice, dice.pick(topics())).sentence()}")
    images, url = page.images, f"{page.url}/print-{name}"
    if dice.chance(50):
        mirror = f"mirror{dice.below(20)}.example"
        url = f"https://{mirror}/{name}"
        images = tuple((f"https://{mirror}/{address.split('/', 3)[3]}", side) for address, side in page.images)
    return replace(page, url=url, text=text, images=images, kind=NEAR if nearly else COPY)


def write(captures: Sequence[Capture], path: Path) -> None:
    """A WARC file of responses."""
    buffer = BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    for capture in captures:
        http = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
        body = BytesIO(capture.html().encode())
        writer.write_record(writer.create_warc_record(capture.url, "response", payload=body, http_headers=http))
    path.write_bytes(buffer.getvalue())
