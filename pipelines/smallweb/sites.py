"""The good pages: forty-two sites with their layouts, and quirks of honest HTML that must not cost a page its place.

Hosts are under .example, which RFC 2606 keeps free for such use: no address here can belong to anybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from pipelines.smallweb.contents import CONTENTS
from pipelines.smallweb.markup import IMAGE_MARKUP, Figure, Part, Text, reword, scaled
from pipelines.smallweb.page import Page, meta
from pipelines.smallweb.pictures import Picture, draw
from pipelines.smallweb.prose import Dice, Writer, topics

SUBDOMAINS = ("blog", "forum", "shop", "docs", "gallery", "news")
NUM_IMAGES = (1, 2, 0, 3, 1, 5, 2, 8, 3, 0, 2, 1)
PLAIN_FIRST = 2  # pages of a site of articles that have no quirk
SEALED_SITES = (1, 3, 5)  # three sites whose pages all show the same seal
ACCENTS = {"Felix": "Félix", "Esme": "Esmé", "Zeno": "Zéno", "Ines": "Inès", "Cecily": "Cécily", "Bruno": "Brúno"}


def hosts() -> list[tuple[str, str, str]]:
    """(host, topic, layout): two sites a topic, one of articles and one of something else."""
    rows = []
    for index, topic in enumerate(topics()):
        layout = SUBDOMAINS[index % len(SUBDOMAINS)]
        if topic in ("kitchens", "baking"):
            layout = "recipe"
        rows += [(f"www.{topic}.example", topic, "article"), (f"{layout}.{topic}.example", topic, layout)]
    return rows


def slug(title: str) -> str:
    """A title as part of an address."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def write(dice: Dice, host: str, topic: str, layout: str, num_images: int, images_host: str = "") -> Page:
    """A good page of a site; its address comes from its headline."""
    parts = CONTENTS[layout](Writer(dice, topic), images_host or host, num_images)
    first = parts[0]
    assert isinstance(first, Text)
    number = dice.below(10_000)
    path = dice.pick(("{}", "stories/{}.html", "2025/11/{}", "{}?id=7", "read/{}/")).format(
        f"{slug(first.text)}-{number}"
    )
    frame = layout if layout != "article" or dice.chance(85) else "bare"
    return Page(url=f"https://{host}/{path}", kind=layout, topic=topic, parts=tuple(parts), frame=frame)


def pages(seed: int, per_site: int) -> list[Page]:
    """So many good pages a site, every markup of images in turn, and the quirks on the sites of articles."""
    made: list[Page] = []
    markups, quirks = list(IMAGE_MARKUP), list(QUIRKS)
    seal = draw(Dice(seed, "seal"), "ring.example", "images", "markets", "logo")
    seal = replace(seal, url="https://ring.example/media/header-7.png")  # nothing in the address gives it away
    for site, (host, topic, layout) in enumerate(hosts()):
        for number in range(per_site):
            dice = Dice(seed, host, number)
            page = write(dice, host, topic, layout, NUM_IMAGES[(number + site) % len(NUM_IMAGES)])
            page = replace(page, markup=markups[len(made) % len(markups)])
            if layout == "article" and number >= PLAIN_FIRST:
                name = quirks[(site // 2 * (per_site - PLAIN_FIRST) + number - PLAIN_FIRST) % len(quirks)]
                if name in NEED_IMAGES and not page.figures():
                    page = write(dice, host, topic, layout, 2)
                page = replace(QUIRKS[name](page, dice), kind=name)
            elif site in SEALED_SITES:
                page = sealed(page, seal)
            made.append(page)
    return made


def sealed(page: Page, seal: Picture) -> Page:
    """The page with a picture that many others show too: too frequent to be worth a request."""
    alt = f"The {seal.colour} {seal.thing} seal of the ring of small sites"
    mark = Figure(picture=seal, alt=alt)
    markup = "plain" if page.markup == "rooted" else page.markup
    return replace(page, parts=(*page.parts[:2], mark, *page.parts[2:]), markup=markup)


def typographic(text: str) -> str:
    """Curly quotation marks and accents where the plain text has none."""
    for name, accented in ACCENTS.items():
        text = text.replace(name, accented)
    return re.sub(r'"([^"]*)"', r"“\1”", text)


def accented(page: Page, dice: Dice, quotes: bool = True) -> Page:
    """The page with é and “ ” in its text."""
    writer = Writer(dice, page.topic)
    saying = f'"{writer.sentence()}" said Félix of the café in {writer.word("town")}.'
    if not quotes:
        saying = saying.replace('"', "")
    parts = reword(list(page.parts), typographic if quotes else lambda text: text)
    opening: list[Part] = [*parts[:2], Text(block="p", text=typographic(saying)), *parts[2:]]
    return replace(page, parts=tuple(opening))


def readdress(page: Page, change: Callable[[str], str]) -> Page:
    """The page with the addresses of its pictures changed."""
    return replace(
        page,
        parts=tuple(
            replace(part, picture=replace(part.picture, url=change(part.picture.url)))
            if isinstance(part, Figure)
            else part
            for part in page.parts
        ),
    )


def coded(encoding: str, content_type: str, head: str = "") -> Callable[[Page, Dice], Page]:
    """Accented text in an encoding, with a Content-Type and head that may lie."""

    def change(page: Page, dice: Dice) -> Page:
        quotes = encoding != "iso-8859-1"
        return replace(accented(page, dice, quotes), encoding=encoding, content_type=content_type, head=head)

    return change


def damaged(name: str) -> Callable[[Page, Dice], Page]:
    """HTML that is broken in the named way."""
    return lambda page, dice: replace(page, damage=name)


def headed(*headers: tuple[str, str], head: str = "") -> Callable[[Page, Dice], Page]:
    """HTTP headers or meta elements that reserve nothing against us."""
    return lambda page, dice: replace(page, headers=headers, head=head)


def based(page: Page, dice: Dice) -> Page:
    """<base href> on another host; pictures relative to it."""
    moved = readdress(page, lambda url: url.replace(f"https://{page.host}/", f"https://cdn.{page.host}/v2/"))
    return replace(moved, head=f'<base href="https://cdn.{page.host}/v2/">', markup="based")


def comma_urls(page: Page, dice: Dice) -> Page:
    """Commas inside the pictures' addresses."""
    return replace(readdress(page, lambda url: scaled(url, 960)), markup=dice.pick(("srcset", "picture", "lazy_set")))


def query_urls(page: Page, dice: Dice) -> Page:
    """Ampersands in the pictures' addresses, as entities in the HTML."""
    return replace(readdress(page, lambda url: f"{url}?size=large&copy=1&page=2"), markup="plain")


NEED_IMAGES = frozenset(("base_href", "comma_urls", "query_urls"))
QUIRKS: dict[str, Callable[[Page, Dice], Page]] = {
    "base_href": based,
    "comma_urls": comma_urls,
    "query_urls": query_urls,
    "cp1252_header": coded("cp1252", "text/html; charset=windows-1252"),
    "cp1252_as_latin1": coded("cp1252", "text/html; charset=ISO-8859-1"),
    "cp1252_meta": coded("cp1252", "text/html", '<meta charset="windows-1252">'),
    "cp1252_says_utf8": coded("cp1252", "text/html; charset=utf-8", '<meta charset="utf-8">'),
    "latin1_meta": coded(
        "iso-8859-1", "text/html", '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1">'
    ),
    "utf8_says_latin1": coded("utf-8", "text/html; charset=iso-8859-1", '<meta charset="utf-8">'),
    "utf8_unknown_label": coded("utf-8", "text/html; charset=x-none"),
    "utf8_bom": coded("utf-8-sig", "text/html"),
    "no_content_type": coded("utf-8", ""),
    "entities": lambda page, dice: replace(accented(page, dice), damage="entities"),
    "unclosed": damaged("unclosed"),
    "misnested": damaged("misnested"),
    "no_body": damaged("no_body"),
    "stray_ends": damaged("stray"),
    "upper_case": damaged("shouting"),
    "gzip_body": headed(("Content-Encoding", "gzip")),
    "other_agents": headed(
        ("X-Robots-Tag", "otherbot: noindex, nofollow"), ("X-Robots-Tag", "max-image-preview:large")
    ),
    "unavailable_later": headed(("X-Robots-Tag", "unavailable_after: 25 Jun 2031 15:00:00 GMT")),
    "meta_other_agent": headed(head=meta("googlebot", "noindex")),
    "meta_all": headed(head=meta("robots", "all, max-snippet:-1")),
    "tdm_open": headed(("tdm-reservation", "0"), head=meta("tdm-reservation", "0")),
    "no_lang": lambda page, dice: replace(page, lang=""),
    "wrong_lang": lambda page, dice: replace(page, lang="de"),
}
