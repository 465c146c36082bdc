"""Content as a list of parts, and its two faces: the HTML that a site would write, and the stream that a reader reads.

Both come from the same parts, so the truth is known without ever parsing. Every way in which a site can hide the
address of a picture stands in `IMAGE_MARKUP`; each names exactly one address, the picture's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from urllib.parse import urlsplit

from pipelines.smallweb.pictures import Picture
from pipelines.smallweb.prose import Dice

BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
INLINE = ("em", "strong", "b", "i", "span", "a", "mark")


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A block of text: block is p, h1..h6, li, quote, pre, dt or dd."""

    block: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of text; the first row is its head."""

    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A picture in its place, with alt text and caption ("" for none).

    declared: the width and height that the page says it has, if they are not its own; 0 for what it does not say.
    """

    picture: Picture
    alt: str
    caption: str = ""
    declared: tuple[int, int] = (0, 0)


Part = Text | Table | Figure
StreamItem = tuple[str, ...]


def stream(parts: list[Part]) -> list[StreamItem]:
    """What a reader reads: ("text", block, text) and ("image", url, alt, caption), a caption after its image too."""
    items: list[StreamItem] = []
    for part in parts:
        match part:
            case Text():
                items.append(("text", part.block, part.text))
            case Table():
                items.append(("text", "table", "\n".join(" | ".join(row) for row in part.rows)))
            case Figure():
                items.append(("image", part.picture.url, part.alt, part.caption))
                if part.caption:
                    items.append(("text", "figcaption", part.caption))
    return items


def plain(url: str, attributes: str) -> str:
    """An absolute address."""
    return f'<img src="{url}"{attributes}>'


def rooted(url: str, attributes: str) -> str:
    """An address from the root of the page's own host."""
    return f'<img src="{urlsplit(url).path}"{attributes}>'


def based(url: str, attributes: str) -> str:
    """An address relative to <base href>, which ends in /v2/."""
    return f'<img src="{url.partition("/v2/")[2]}"{attributes}>'


def escaped(url: str, attributes: str) -> str:
    """An address with an escape that it does not need: the "g" that ends a .jpg, .png or .svg."""
    head, last, tail = url.rpartition("g")
    return f'<img src="{head}{"%67" if last else ""}{tail}"{attributes}>'


def schemeless(url: str, attributes: str) -> str:
    """A protocol-relative address."""
    return f'<img src="{url.removeprefix("https:")}"{attributes}>'


def lazy(url: str, attributes: str) -> str:
    """A placeholder in src, the address in data-src."""
    return f'<img class="lazyload" src="{BLANK}" data-src="{url}"{attributes}>'


def lazy_set(url: str, attributes: str) -> str:
    """No src; widths in data-srcset."""
    return f'<img class="lazy" data-srcset="{scaled(url, 320)} 320w, {url} 1280w"{attributes}>'


def lazy_original(url: str, attributes: str) -> str:
    """A spacer in src, the address in data-original."""
    return f'<img src="/spacer.gif" data-original="{url}"{attributes}>'


def noscript(url: str, attributes: str) -> str:
    """Only a reader without scripts gets the picture."""
    return f'<span class="js-image" data-id="{len(url)}"></span><noscript><img src="{url}"{attributes}></noscript>'


def lazy_noscript(url: str, attributes: str) -> str:
    """A lazy image and its fallback: one picture, not two."""
    return f'<img src="{BLANK}" data-lazy-src="{url}"{attributes}><noscript><img src="{url}"{attributes}></noscript>'


def picture(url: str, attributes: str) -> str:
    """A picture element whose widest source is what its img names."""
    return (
        f'<picture><source media="(min-width: 800px)" srcset="{scaled(url, 640)} 640w, {url} 1280w">'
        f'<img src="{url}"{attributes}></picture>'
    )


def source_only(url: str, attributes: str) -> str:
    """A picture element whose img has no address of its own."""
    return f'<picture><source srcset="{scaled(url, 480)} 1x, {url} 2x"><img{attributes}></picture>'


def srcset(url: str, attributes: str) -> str:
    """Widths; the widest up to 2,048 is wanted, the 4,000 is not."""
    small = scaled(url, 320)
    return f'<img src="{small}" srcset="{small} 320w, {url} 1600w, {scaled(url, 4000)} 4000w"{attributes}>'


def linked(url: str, attributes: str) -> str:
    """A picture that links to its own page."""
    return f'<a href="/view?image=1&amp;of=3"><img src="{url}"{attributes}></a>'


def scaled(url: str, width: int) -> str:
    """The address of the same picture in another width, commas and all."""
    head, _, name = url.rpartition("/")
    return f"{head}/w_{width},c_fit/{name}"


IMAGE_MARKUP: dict[str, Callable[[str, str], str]] = {
    "plain": plain,
    "rooted": rooted,
    "schemeless": schemeless,
    "lazy": lazy,
    "lazy_set": lazy_set,
    "lazy_original": lazy_original,
    "noscript": noscript,
    "lazy_noscript": lazy_noscript,
    "picture": picture,
    "source_only": source_only,
    "srcset": srcset,
    "linked": linked,
}
# What takes no turn: "based" is for pages with <base href> only, "escaped" for planted addresses.
SPECIAL_MARKUP: dict[str, Callable[[str, str], str]] = {"based": based, "escaped": escaped}


def figure(part: Figure, markup: str, dice: Dice) -> str:
    """The HTML of a picture: a figure if it has a caption, else a paragraph, a div or the bare element."""
    shown = part.picture
    attributes = f' alt="{escape(part.alt)}"'
    declared = part.declared
    if dice.chance(50) and declared == (0, 0) and min(shown.width, shown.height) >= 64:
        declared = shown.width, shown.height
    attributes += "".join(f' {side}="{size}"' for side, size in zip(("width", "height"), declared, strict=True) if size)
    write = (IMAGE_MARKUP | SPECIAL_MARKUP)[markup]
    image = write(escape(shown.url, quote=False), attributes)
    if part.caption:
        return f"<figure>{image}<figcaption>{escape(part.caption, quote=False)}</figcaption></figure>"
    return dice.pick(("<p>{}</p>", "<div class='image'>{}</div>", "<figure>{}</figure>")).format(image)


def inline(text: str, dice: Dice, decorate: int = 35) -> str:
    """Text as HTML, in so many of a hundred cases with a few words in inline elements; the text stays the same."""
    if not dice.chance(decorate):
        return escape(text, quote=False)
    words = text.split(" ")
    start = dice.below(len(words))
    end = min(len(words), start + dice.between(1, 3))
    tag = dice.pick(INLINE)
    opening = f'<a href="/tag/{start}">' if tag == "a" else f"<{tag}>"
    before, inside, after = (" ".join(part) for part in (words[:start], words[start:end], words[end:]))
    cut = 2 if tag in ("b", "i") and len(inside) > 4 else 0  # half a word
    head, tail = escape(inside[:cut], quote=False), escape(inside[cut:], quote=False)
    pieces = (escape(before, quote=False), f"{head}{opening}{tail}</{tag}>", escape(after, quote=False))
    return " ".join(piece for piece in pieces if piece)


def wrapper(part: Part) -> str:
    """The element that holds a run of parts: "ul" for li, "dl" for dt and dd, "" for others."""
    if isinstance(part, Text):
        return {"li": "ul", "dt": "dl", "dd": "dl"}.get(part.block, "")
    return ""


def render(parts: list[Part], dice: Dice, markup: str = "plain") -> str:
    """The HTML of the parts, images in the given markup."""
    pieces: list[str] = []
    for holder, run in groupby(parts, key=wrapper):
        inner = [element(part, dice, markup) for part in run]
        if holder == "ul" and dice.chance(30):
            holder = "ol"
        pieces.append(f"<{holder}>\n" + "\n".join(inner) + f"\n</{holder}>" if holder else "\n".join(inner))
    return "\n".join(pieces)


def element(part: Part, dice: Dice, markup: str) -> str:
    """The HTML of one part."""
    match part:
        case Text(block="quote"):
            return f"<blockquote><p>{inline(part.text, dice)}</p></blockquote>"
        case Text(block="pre"):
            return f"<pre><code>{escape(part.text, quote=False)}</code></pre>"
        case Text():
            return f"<{part.block}>{inline(part.text, dice)}</{part.block}>"
        case Table():
            head, *rows = part.rows
            lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
            lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
            return "<table>\n" + "\n".join(lines) + "\n</table>"
        case Figure():
            return figure(part, markup, dice)


def reword(parts: list[Part], change: Callable[[str], str]) -> list[Part]:
    """The parts with every text changed: truth and HTML alike."""
    changed: list[Part] = []
    for part in parts:
        match part:
            case Text():
                changed.append(replace(part, text=change(part.text)))
            case Table():
                changed.append(Table(rows=tuple(tuple(change(cell) for cell in row) for row in part.rows)))
            case Figure():
                changed.append(replace(part, alt=change(part.alt), caption=change(part.caption)))
    return changed
