"""A page of the bundled web: what it says, how its bytes are made, and what should become of it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from pipelines.reasons import Reason
from pipelines.smallweb.layouts import document
from pipelines.smallweb.markup import Figure, Part, StreamItem, render, stream
from pipelines.smallweb.prose import Dice

WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One capture. reason is the word of pipelines.reasons for what should become of it under the preset
    kosmos1; strict the word under the preset obelics where that is another.

    kind: layout or plant. frame: the template around the parts. markup: how pictures are written. damage: how the HTML
    is broken. headers: HTTP headers beside Content-Type; content_type "" leaves that out. raw: sent instead of HTML.
    cluster, relation: duplicates of one another and how ("" for the first, "url", "exact", "near").
    """

    url: str
    kind: str
    topic: str = "gardens"
    parts: tuple[Part, ...] = ()
    frame: str = "article"
    markup: str = "plain"
    lang: str = "en"
    encoding: str = "utf-8"
    content_type: str = "text/html; charset=UTF-8"
    status: str = "200 OK"
    headers: tuple[tuple[str, str], ...] = ()
    head: str = ""
    damage: str = ""
    raw: bytes | None = None
    record_type: str = "response"
    reason: str = "kept"
    strict: str = ""
    cluster: str = ""
    relation: str = ""
    salt: str = ""

    @property
    def host(self) -> str:
        """The host of its address, without port."""
        return self.url.split("/")[2].partition(":")[0]

    @property
    def stage(self) -> str:
        """Where it ends: "extract", "judge", or "" if it is kept."""
        return stage(self.reason)

    @property
    def title(self) -> str:
        """Its headline."""
        return next((part[2] for part in self.stream() if part[0] == "text"), "")

    def stream(self) -> list[StreamItem]:
        """What a reader reads of it."""
        return stream(list(self.parts))

    def figures(self) -> list[Figure]:
        """Its pictures, in order."""
        return [part for part in self.parts if isinstance(part, Figure)]

    def declared(self) -> list[tuple[int, int, int]]:
        """(index, width, height) of its pictures that it says are of a size not their own."""
        return [(index, *shown.declared) for index, shown in enumerate(self.figures()) if any(shown.declared)]

    def words(self) -> list[str]:
        """The words of its text, lower-case."""
        return WORD.findall("\n".join(item[2] for item in self.stream() if item[0] == "text").lower())

    def shingles(self) -> frozenset[tuple[str, ...]]:
        """Its distinct word 5-grams: what near duplicates are measured by."""
        words = self.words()
        return frozenset(tuple(words[start : start + 5]) for start in range(len(words) - 4))

    def payload(self) -> bytes:
        """The bytes of its body."""
        if self.raw is not None:
            return self.raw
        dice = Dice(self.url, self.salt, "html")
        content = render(list(self.parts), dice, self.markup)
        html = document(
            self.frame,
            content,
            title=self.title,
            host=self.host,
            topic=self.topic,
            dice=dice,
            lang=self.lang,
            head=self.head,
        )
        if self.damage:
            html = DAMAGE[self.damage](html)
        body = html.encode(self.encoding)
        return gzip.compress(body, mtime=0) if ("Content-Encoding", "gzip") in self.headers else body


def stage(reason: str) -> str:
    """The stage that gives a reason: the document rules are judge's."""
    number = Reason[reason.upper()]
    return "" if number == Reason.KEPT else "extract" if number < Reason.WORDS else "judge"


def jaccard(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    """Shared over all: 1.0 for equal sets, 0.0 if either is empty."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0


def unclosed(html: str) -> str:
    """Paragraphs, items and cells are never closed."""
    return re.sub(r"</(p|li|td|th|tr|dd|dt)>", "", html)


def misnested(html: str) -> str:
    """Inline elements end in the wrong order."""
    return re.sub(r"<(em|strong|b|i)>([^<]*)</\1>", r"<\1><u>\2</\1></u>", html)


def no_body(html: str) -> str:
    """Neither html, head nor body."""
    return re.sub(r"</?(html|head|body)\b[^>]*>|<!DOCTYPE[^>]*>", "", html)


def stray(html: str) -> str:
    """End tags without a beginning, and a comment that nobody closes at the end."""
    return html.replace("</p>", "</p></span></center>").replace("</html>", "</div></td></html><!-- that was it")


def shouting(html: str) -> str:
    """Upper-case tags and unquoted attributes, as in 1996."""
    upper = re.sub(r"<(/?)([a-z][a-z0-9]*)", lambda match: f"<{match[1]}{match[2].upper()}", html)
    return re.sub(r'(width|height)="(\d+)"', r"\1=\2", upper)


def entities(html: str) -> str:
    """Every quotation mark and accent of the text as an entity."""
    named = {"“": "&ldquo;", "”": "&#8221;", "é": "&eacute;", "è": "&egrave;"}
    return "".join(named.get(character, character) for character in html)


DAMAGE: dict[str, Callable[[str], str]] = {
    "unclosed": unclosed,
    "misnested": misnested,
    "no_body": no_body,
    "stray": stray,
    "shouting": shouting,
    "entities": entities,
}


def meta(name: str, content: str) -> str:
    """A meta element."""
    return f'<meta name="{name}" content="{escape(content)}">'
