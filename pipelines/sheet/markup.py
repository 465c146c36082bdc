"""Pieces of HTML from words that anybody may have written: nothing of them is ever a tag, an attribute or a script.

Controls become U+FFFD, so that no parser sees what another does not; runs of either direction end where they stand.
"""

from __future__ import annotations

import base64
import html
import re

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")  # order words anew: an address would show another file's name
WEB = re.compile(r"https?://[^\s\"'<>\\]+", re.IGNORECASE)
LANGUAGE = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8}){0,3}")
MOST_LINK = 2000  # characters of an address that are still one
SHOWN_LINK = 160  # of them that a person sees


def text(value: str) -> str:
    """The words as HTML text, also between double quotes."""
    return html.escape(CONTROLS.sub("\ufffd", value), quote=True)


def cut(value: str, limit: int) -> str:
    """The words as HTML text, up to `limit` characters, with a mark that says how many more there are."""
    if len(value) <= limit:
        return text(value)
    return f'{text(value[:limit])}<span class="cut">… {len(value) - limit:,} more characters</span>'


def inline(value: str, limit: int = 200) -> str:
    """Words within a line of others, of a direction of their own; "" for none."""
    words = cut(TURNS.sub("\ufffd", " ".join(value.split())), limit)
    return f"<bdi>{words}</bdi>" if words else ""


def link(url: str, label: str = "") -> str:
    """A link that tells its target nothing; plain words for what is no web address."""
    words = inline(label or url, SHOWN_LINK)
    if len(url) > MOST_LINK or not WEB.fullmatch(url):
        return words
    return f'<a href="{text(url)}" rel="noreferrer noopener nofollow">{words}</a>'


def language(code: str) -> str:
    """A lang attribute with the space before it; "" for what is no language tag."""
    return f' lang="{code}"' if LANGUAGE.fullmatch(code) else ""


def picture(body: bytes, alt: str, width: int, height: int) -> str:
    """A JPEG within the page."""
    sides = f' width="{width}" height="{height}"' if width > 0 and height > 0 else ""
    data = base64.b64encode(body).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" alt="{text(alt[:1000])}"{sides}>'


def chip(word: str, kind: str) -> str:
    """A reason as a small coloured label; word and kind are ours."""
    return f'<span class="chip {text(kind)}">{text(word)}</span>'


def size(num_bytes: int) -> str:
    """Bytes as a person reads them."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    return f"{num_bytes / 1000:.1f} KB" if num_bytes < 1_000_000 else f"{num_bytes / 1_000_000:.1f} MB"


def terms(pairs: list[tuple[str, str]]) -> str:
    """A list of (name, HTML); those without HTML are left out."""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in pairs if value)
    return f"<dl>{rows}</dl>" if rows else ""


def bars(caption: str, rows: list[tuple[str, str, int, str]]) -> str:
    """A table of (HTML, plain label for the bar, number, note) with a bar each, against the largest."""
    most = max((number for _, _, number, _ in rows), default=0) or 1
    lines = "".join(
        f'<tr><th scope="row">{label}</th><td class="bar" aria-hidden="true">'
        f'<span style="width:{100 * number / most:.2f}%"></span></td>'
        f'<td class="num">{text(shown)}</td><td class="note">{note}</td></tr>'
        for label, shown, number, note in rows
    )
    return f'<table class="bars"><caption>{text(caption)}</caption><tbody>{lines}</tbody></table>'
