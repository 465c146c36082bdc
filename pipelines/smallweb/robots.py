"""What some sites of the bundled web say in their robots.txt; all others have none.

Pictures of the kinds `disallowed` and `reserved` lie where these forbid them, all other pictures where they do not.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.rights import AGENT


@dataclass(frozen=True, kw_only=True, slots=True)
class Robots:
    """The robots.txt of a host."""

    host: str
    text: str


CLOSED = "pictures.closed.example"  # to everybody
SHUT = "www.shut.example"  # to us, but for one folder
WELCOME = "www.welcome.example"  # to us and nobody else
RESERVED = "www.reserved.example"  # may be shown in a search, and not trained on
OPEN = "open"  # the folder

SITES = (
    Robots(
        host=CLOSED,
        text="# pictures are not for robots\nUser-agent: *\nDisallow: /images/\nSitemap: https://closed.example/map\n",
    ),
    Robots(
        host=SHUT,
        text=f"User-agent: *\nDisallow:\n\nUser-agent: otherbot\nUser-agent: {AGENT}\nAllow: /images/{OPEN}/\n"
        "Disallow: /images/\n",
    ),
    Robots(
        host=WELCOME,
        text=f"User-agent: *\nDisallow: /\n\nUser-agent: {AGENT.upper()}\nDisallow: /private/\n",
    ),
    Robots(
        host=RESERVED,
        text="User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /\n",
    ),
)
