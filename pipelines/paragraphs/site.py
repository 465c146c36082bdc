"""The site of a host: the registrable domain by the public suffix list, private suffixes included.

Whose pages repeat each other, not whose servers answer (`select.domains`): user.github.io is a site of its own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

NUMBER = re.compile(r"\d+(\.\d+){3}|\[.*")  # IPv4 or IPv6


@lru_cache(maxsize=1 << 16)
def site(host: str) -> str:
    """The site of a host as canonical addresses have it: lower-case ASCII, internationalised names encoded.

    A number address, a name of one label and a public suffix itself are their own sites. Never raises.
    """
    return host if NUMBER.fullmatch(host) else _suffixes().privatesuffix(host) or host


@lru_cache(maxsize=1)
def version() -> str:
    """What decides the sites besides this file's code: the library, and the list that it carries."""
    body = files("publicsuffixlist").joinpath("public_suffix_list.dat").read_bytes()
    library = importlib.metadata.version("publicsuffixlist")
    return f"publicsuffixlist {library} {hashlib.sha256(body).hexdigest()[:12]}"


@lru_cache(maxsize=1)
def _suffixes() -> PublicSuffixList:
    # parsing the list takes 0.1 s, which listing a recipe should not pay
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
