"""What a page says of being indexed or used for training: X-Robots-Tag, robots meta, TDM reservation.

A directive counts if it is for everybody or names our agent; where several contradict, the one that forbids counts.
Only what the WARC holds is read, no request is made; robots.txt is asked before an image is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

AGENT = "kosmosbot"
# In the order of their numbers in verdicts, from 1: only ever appended to. A page after its `unavailable_after` is one
# that asks to be forgotten; `noml` is Mojeek's word for noai.
OPT_OUT = ("noai", "noimageai", "noindex", "noimageindex", "none", "unavailable_after", "noml")
UNTIL = "unavailable_after"
# Directives that take a value or stand alone; another word before a colon names an agent.
VALUED = frozenset({"max-snippet", "max-image-preview", "max-video-preview", UNTIL})
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
ISO = re.compile(r"(?<!\d)(\d{4})-(\d\d)-(\d\d)")
# RFC 822 and 850, with or without the weekday: 25 Jun 2030, 25-Jun-30
WRITTEN = re.compile(rf"(?<!\d)(\d{{1,2}})[ -]({'|'.join(MONTHS)})[a-z]*[ -](\d{{4}}|\d\d)(?!\d)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rights:
    """Directives for us, lower case, joined by ", " in the order given; tdm is "1" if rights are reserved, else ""."""

    robots: str = ""
    meta: str = ""
    tdm: str = ""


def robots_header(values: Iterable[str], agent: str = AGENT) -> str:
    """The directives of X-Robots-Tag headers that apply to us.

    `agent: directive, directive` holds to the end of that header or to the next agent name.
    """
    found: list[str] = []
    for value in values:
        ours = True
        for token in _tokens(value):
            name, colon, rest = (piece.strip() for piece in token.partition(":"))
            if colon and name not in VALUED:
                ours, token = name in ("*", agent), rest
            if ours and token:
                found.append(token)
    return ", ".join(dict.fromkeys(found))


def robots_meta(pairs: Iterable[tuple[str, str]], agent: str = AGENT) -> str:
    """The directives of <meta name=... content=...> pairs that apply to us."""
    named = (content for name, content in pairs if name.strip().lower() in ("robots", agent))
    return ", ".join(dict.fromkeys(token for content in named for token in _tokens(content)))


def _tokens(value: str) -> Iterator[str]:
    """What stands between commas, lower case; a date is one token, as the ISO day, though it may hold a comma."""
    parts = [part.strip().lower() for part in value.split(",")]
    place = 0
    while place < len(parts):
        part = parts[place]
        place += 1
        before, until, date = part.rpartition(f"{UNTIL}:")
        if not until:
            if part:
                yield part
            continue
        day = _day(date)
        if not day and place < len(parts) and (day := _day(parts[place])):  # Friday, 25-Jun-30 15:00:00 GMT
            place += 1
        yield f"{before}{UNTIL}: {day}" if day else f"{before}{UNTIL}"


def _day(text: str) -> str:
    """The day of a date as YYYY-MM-DD; "" if it has none. The time of day and its zone are not looked at."""
    if match := ISO.search(text):
        return match[0]
    if match := WRITTEN.search(text):
        year = match[3] if len(match[3]) == 4 else f"{'19' if int(match[3]) >= 70 else '20'}{match[3]}"
        return f"{year}-{MONTHS.index(match[2]) + 1:02}-{int(match[1]):02}"
    return ""


def reserved(values: Iterable[str]) -> str:
    """ "1" if a `tdm-reservation` header or meta reserves the rights to text and data mining, else ""."""
    return "1" if any(value.strip() == "1" for value in values) else ""


def opted_out(directives: str, day: str = "") -> int:
    """The number of the first directive that forbids the use, from 1 as in OPT_OUT; 0 if none does.

    day: YYYY-MM-DD of the capture, or more of its date; a page is unavailable after its day.
    """
    if not directives:
        return 0
    for token in directives.split(","):
        name, _, until = (piece.strip() for piece in token.partition(":"))
        if name == UNTIL:
            if until and day and until < day[:10]:
                return OPT_OUT.index(UNTIL) + 1
            continue
        for word in token.split():
            if word in OPT_OUT and word != UNTIL:
                return OPT_OUT.index(word) + 1
    return 0
