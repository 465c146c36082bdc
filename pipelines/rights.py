"""What a page or an image says of being indexed or used for training: X-Robots-Tag, robots meta, TDM reservation,
Content-Usage.

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
LIMIT = re.compile(r"(?<![a-z-])max-[a-z-]+\s*:\s*\S+")  # of what is shown: max-image-preview: none forbids no use
AGENT_NAME = re.compile(r"[^\s:]+")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
ISO = re.compile(r"(?<!\d)(\d{4})-(\d\d)-(\d\d)")
# RFC 822 and 850, with or without the weekday: 25 Jun 2030, 25-Jun-30
WRITTEN = re.compile(rf"(?<!\d)(\d{{1,2}})[ -]({'|'.join(MONTHS)})[a-z]*\.?[ -](\d{{4}}|\d\d)(?!\d)")
# Jun 25 2030, June 25, 2030, and as C writes it: Tue Jun 25 15:00:00 2030
AMERICAN = re.compile(rf"\b({'|'.join(MONTHS)})[a-z]*\.? +(\d{{1,2}})(?:,|,? +[\d:]{{5,8}})? +(\d{{4}})(?!\d)")

# draft-ietf-aipref-vocab, with the labels of its earlier versions, and contentsignals.org; ANY_USE: of those versions
TRAINING = frozenset(("train-ai", "ai-train", "train-genai", "ai", "genai"))
ANY_USE = frozenset(("bots", "tdm"))
PREFERENCE = re.compile(r"(?<![a-z0-9_.*-])([a-z*][a-z0-9_.*-]*)[ \t]*=[ \t]*(y|n|yes|no)(?![a-z0-9_.*:/-])")


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
            if colon and name not in VALUED and name not in OPT_OUT and AGENT_NAME.fullmatch(name):
                ours, token = name in ("*", agent.lower()), rest
            if ours and token:
                found.append(token)
    return ", ".join(dict.fromkeys(found))


def robots_meta(pairs: Iterable[tuple[str, str]], agent: str = AGENT) -> str:
    """The directives of <meta name=... content=...> pairs that apply to us."""
    named = (content for name, content in pairs if name.strip().lower() in ("robots", agent.lower()))
    return ", ".join(dict.fromkeys(token for content in named for token in _tokens(content)))


def _tokens(value: str) -> Iterator[str]:
    """What stands between commas, or semicolons, lower case; a date is one token, as the ISO day, though it may hold a
    comma."""
    parts = [part.strip().lower() for part in value.replace(";", ",").split(",")]
    place = 0
    while place < len(parts):
        part = parts[place]
        place += 1
        before, until, date = _until(part)
        if not until:
            if part:
                yield part
            continue
        day = _day(date)
        if not day and place < len(parts) and (day := _day(f"{date}, {parts[place]}")):  # Friday, 25-Jun-30 15:00 GMT
            place += 1
        yield f"{before}{UNTIL}: {day}" if day else f"{before}{UNTIL}"


def _until(part: str) -> tuple[str, str, str]:
    """(what stands before it, `unavailable_after` or "", the date) of a token."""
    before, until, date = part.rpartition(UNTIL)
    after = date.lstrip()
    return (before, until, after[1:].strip()) if until and after.startswith(":") else ("", "", part)


def _day(text: str) -> str:
    """The day of a date as YYYY-MM-DD; "" if it has none. The time of day and its zone are not looked at."""
    if match := ISO.search(text):
        return match[0]
    if match := WRITTEN.search(text):
        year = match[3] if len(match[3]) == 4 else f"{'19' if int(match[3]) >= 70 else '20'}{match[3]}"
        return f"{year}-{MONTHS.index(match[2]) + 1:02}-{int(match[1]):02}"
    if match := AMERICAN.search(text):
        return f"{match[3]}-{MONTHS.index(match[1]) + 1:02}-{int(match[2]):02}"
    return ""


def reserved(values: Iterable[str]) -> str:
    """ "1" if a `tdm-reservation` header or meta reserves the rights to text and data mining, else ""."""
    return "1" if any(value.strip() == "1" for value in values) else ""


def training(text: str) -> bool | None:
    """Whether a Content-Usage or Content-Signal value lets what it speaks of be trained on; None if it does not say.

    IETF aipref writes `train-ai=n`, Content Signals `ai-train=no`: either word is understood in either line. One "no"
    weighs more than any "yes"; the labels for all automated use count if none for training is there.
    """
    found: dict[frozenset[str], set[str]] = {TRAINING: set(), ANY_USE: set()}
    for label, value in PREFERENCE.findall(text.lower()):
        for labels, said in found.items():
            if label in labels:
                said.add(value[0])
    said = found[TRAINING] or found[ANY_USE]
    return "n" not in said if said else None


def usage_reserved(values: Iterable[str]) -> str:
    """ "1" if a Content-Usage or Content-Signal header reserves what it comes with from training, else ""."""
    return "1" if any(training(value) is False for value in values) else ""


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
        for word in (word.rstrip(":") for word in LIMIT.sub(" ", token).split()):
            if word in OPT_OUT and word != UNTIL:
                return OPT_OUT.index(word) + 1
    return 0
