"""The politeness key of a host: whose servers answer, so that requests to them are paced together.

It is the registrable domain by the public suffix list, private suffixes included, with the list that the library's
wheel carries: no network. That list is made to keep cookies apart, not to spare servers; OVERRIDES mends what differs:

- a platform that hosts others' pages on servers of its own (Blogger, GitHub Pages) is one operator, which sees, limits
  and blocks the sum of our requests, though the list gives each name to its owner;
- an operator may serve its pictures under several registrable domains.

Rented networks and storage (cloudfront.net, akamaized.net, S3, Azure, fastly.net) stay as the list has them, one key a
customer: what the network does not hold it asks of that customer's own server, and the customer pays for the bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

# A host at or under the suffix has the key; every key is its own key.
OVERRIDES: Mapping[str, str] = MappingProxyType(
    {
        # platforms: the list gives each name to its owner
        "github.io": "github.io",
        "githubusercontent.com": "github.io",
        "gitlab.io": "gitlab.io",
        "hatenablog.com": "hatenablog.com",
        "myshopify.com": "shopify.com",
        "netlify.app": "netlify.app",
        "pages.dev": "pages.dev",
        "vercel.app": "vercel.app",
        "wixsite.com": "wixstatic.com",
        # Google's servers of users' pictures; Blogger's are 1-4.bp.blogspot.com and blogger.googleusercontent.com
        "blogspot.com": "googleusercontent.com",
        "ggpht.com": "googleusercontent.com",
        "googleusercontent.com": "googleusercontent.com",
        # Automattic: i0-i3.wp.com also stand before pictures of sites elsewhere
        "gravatar.com": "wp.com",
        "wordpress.com": "wp.com",
        "wp.com": "wp.com",
        # operators with several registrable domains
        "cdninstagram.com": "fbcdn.net",
        "fbcdn.net": "fbcdn.net",
        "flickr.com": "staticflickr.com",
        "staticflickr.com": "staticflickr.com",
        "images-amazon.com": "media-amazon.com",
        "media-amazon.com": "media-amazon.com",
        "ssl-images-amazon.com": "media-amazon.com",
        "shopify.com": "shopify.com",
        "squarespace-cdn.com": "squarespace.com",
        "squarespace.com": "squarespace.com",
        "wikimedia.org": "wikimedia.org",
        "wikipedia.org": "wikimedia.org",
        "wixstatic.com": "wixstatic.com",
    }
)
IPV4 = re.compile(r"\d+(\.\d+){3}")


@lru_cache(maxsize=1 << 16)
def key(host: str) -> str:
    """The politeness key of a host as canonical addresses have it: lower-case ASCII, internationalised names encoded.

    A number address, a name of one label and a public suffix itself are their own keys. Never raises.
    """
    name = host.lower().rstrip(".")
    if name.startswith("[") or IPV4.fullmatch(name):
        return name
    labels = name.split(".")
    for first in range(len(labels)):
        operator = OVERRIDES.get(".".join(labels[first:]))
        if operator is not None:
            return operator
    return _suffixes().privatesuffix(name) or name


@lru_cache(maxsize=1)
def version() -> str:
    """What decides the keys besides this file's code: the library, the list that it carries, the overrides."""
    body = files("publicsuffixlist").joinpath("public_suffix_list.dat").read_bytes()
    overrides = json.dumps(dict(OVERRIDES), sort_keys=True).encode()
    library = importlib.metadata.version("publicsuffixlist")
    return f"publicsuffixlist {library} {hashlib.sha256(body + overrides).hexdigest()[:12]}"


@lru_cache(maxsize=1)
def _suffixes() -> PublicSuffixList:
    # parsing the list takes 0.1 s, which listing a recipe should not pay
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
