"""What a page says of being indexed or used for training: X-Robots-Tag, robots meta, TDM reservation.

A directive counts if it is for everybody or names our agent. Only what the
WARC holds is read, no request is made; robots.txt is asked before an image is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

AGENT = "kosmosbot"
OPT_OUT = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
# Directives that take a value or stand alone; another word before a colon names an agent.
VALUED = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})


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
        ours, dated = True, False
        for part in value.split(","):
            token = part.strip().lower()
            name, colon, rest = (piece.strip() for piece in token.partition(":"))
            if dated and not colon and name.partition(" ")[0] not in OPT_OUT:
                continue  # the tail of a date that holds a comma
            dated = name == "unavailable_after"
            if colon and name not in VALUED:
                if " " in name:  # a date's time of day, not an agent
                    continue
                ours, token = name in ("*", agent), rest
            if ours and token:
                found.append(token)
    return ", ".join(dict.fromkeys(found))


def robots_meta(pairs: Iterable[tuple[str, str]], agent: str = AGENT) -> str:
    """The directives of <meta name=... content=...> pairs that apply to us."""
    found: list[str] = []
    for name, content in pairs:
        if name.strip().lower() in ("robots", agent):
            found += [token for part in content.split(",") if (token := part.strip().lower())]
    return ", ".join(dict.fromkeys(found))


def reserved(values: Iterable[str]) -> str:
    """ "1" if a `tdm-reservation` header or meta reserves the rights to text and data mining, else ""."""
    return "1" if any(value.strip() == "1" for value in values) else ""


def opted_out(directives: str) -> bool:
    """Whether one of the directives forbids the use."""
    return bool(directives) and any(token.strip() in OPT_OUT for token in directives.replace(" ", ",").split(","))
