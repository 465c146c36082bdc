"""The address behind an <img> or <picture>: src, srcset, lazy-loading attributes, sizes.

`choose` gives the address that a reader's browser would end up showing, as written in the page. Of several sizes it is
the largest of at most 2,048 px, else the largest. `data:` and svg are no pictures here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Attributes = Mapping[str, str | None]

MAX_WIDTH = 2048
MAX_CANDIDATES = 64
LAZY_SRC = (
    "data-src", "data-original", "data-lazy-src", "data-lazy", "data-echo", "data-hi-res-src", "data-full-src",
    "data-original-src", "data-actualsrc", "data-orig-file", "data-large-file", "data-image", "data-img-src",
    "data-defer-src", "data-url", "data-delayed-url", "data-lazyload", "data-flickity-lazyload", "data-cfsrc",
    "data-ezsrc", "data-pin-media",
)  # fmt: skip
LAZY_SRCSET = ("data-srcset", "data-lazy-srcset", "data-original-set", "data-flickity-lazyload-srcset", "data-bgset")
LAZY = frozenset(LAZY_SRC + LAZY_SRCSET)
LAZY_CLASS = frozenset(("lazy", "lazyload", "lazyloaded", "lazyloading", "lozad"))
PLACEHOLDER = re.compile(
    r"(?:^|[^a-z0-9])(?:placeholder|blank|spacer|transparent|pixel|1x1|lazy|lazyload|loading|loader|empty|clear|gr[ae]y|"
    r"dummy)(?![a-z0-9])",
    re.I,
)
NAME = re.compile(r"[^,\s]\S*")
SPACE = re.compile(r"\s")
LENGTH = re.compile(r"\s*\+?(\d{1,6})(?:\.\d*)?\s*(?:px)?\s*", re.I)
STYLE = {side: re.compile(rf"(?:^|[;\s]){side}\s*:\s*(\d{{1,6}})(?:\.\d+)?px", re.I) for side in ("width", "height")}
TEMPLATE = ("{", "[", "<", "$", "%7B")
DRAWING = re.compile(r"\.svgz?(?:[?#]|$)|^data:|^about:|^javascript:|^blob:", re.I)


def srcset(text: str) -> list[tuple[str, float, float]]:
    """(address, width, density) of each candidate; 0 where not given; as browsers read it, commas inside too."""
    found: list[tuple[str, float, float]] = []
    position = 0
    while len(found) < MAX_CANDIDATES and (match := NAME.search(text, position)):
        address = match[0]
        if address.endswith(","):
            address, descriptor, position = address.rstrip(","), "", match.end()
        else:
            comma = text.find(",", match.end())
            end = len(text) if comma < 0 else comma
            descriptor, position = text[match.end() : end], end + 1
        width = density = 0.0
        for word in descriptor.split()[:4]:
            try:
                number = float(word[:-1])
            except ValueError:
                continue
            if word[-1] == "w" and 0 < number < 1e6:
                width = number
            elif word[-1] == "x" and 0 < number < 1e3:
                density = number
        found.append((address, width, density))
    return found


def largest(candidates: Sequence[tuple[str, float, float]], declared: int = 0) -> str:
    """The largest candidate of at most MAX_WIDTH, else the largest; "" if there is none that is a picture."""
    best: tuple[bool, float, str] | None = None
    for address, width, density in candidates:
        if not usable(address):
            continue
        pixels = width or (density or 1.0) * declared
        size = pixels or density or 1.0
        rank = (pixels <= MAX_WIDTH, size)
        if best is None or rank > best[:2]:
            best = (*rank, address)
    return best[2] if best else ""


def usable(address: str | None) -> bool:
    """Whether a value can be the address of a picture."""
    if not address or not (address := address.strip()):
        return False
    return not address.startswith((*TEMPLATE, "#")) and not DRAWING.search(address)


def placeholder(address: str) -> bool:
    """Whether an address looks like the stand-in of a picture that a script loads."""
    return PLACEHOLDER.search(address.partition("?")[0].rpartition("/")[2]) is not None


def length(attributes: Attributes, side: str) -> int:
    """The declared width or height in pixels, from the attribute or the style; 0 if there is none."""
    value = attributes.get(side) or ""
    if value.isdecimal() and len(value) <= 6:
        return int(value)
    match = LENGTH.fullmatch(value) if value else None
    if match is None and (style := attributes.get("style")):
        match = STYLE[side].search(style)
    return int(match[1]) if match else 0


def choose(img: Attributes, sources: Sequence[Attributes] = ()) -> tuple[str, bool]:
    """The address of a picture and whether it came from a lazy-loading attribute; "" if there is none."""
    plain = img.get("src") or ""
    lazy_set = lazy = ""
    if not LAZY.isdisjoint(img):
        lazy_set = next((v for name in LAZY_SRCSET if (v := img.get(name))), "")
        lazy = next((v for name in LAZY_SRC if (v := img.get(name)) and usable(v) and not SPACE.search(v.strip())), "")
    candidates = img.get("srcset") or ""
    if not (lazy or lazy_set or candidates or sources):
        return (plain, False) if usable(plain) else ("", False)
    declared = length(img, "width")
    waits = bool(lazy or lazy_set) and (
        not usable(plain) or placeholder(plain) or not LAZY_CLASS.isdisjoint((img.get("class") or "").lower().split())
    )
    if waits:
        found = largest(srcset(lazy_set), declared) or lazy
        if found:
            return found, True
    found = largest(srcset(candidates), declared)
    if found:
        return found, False
    several: list[tuple[str, float, float]] = []
    for source in sources:
        kind = (source.get("type") or "").lower()
        if "svg" not in kind and "avif" not in kind and "video" not in kind and "audio" not in kind:
            several += srcset(source.get("srcset") or source.get("data-srcset") or "")
    found = largest(several, declared)
    if found:
        return found, False
    if usable(plain):
        return plain, False
    for source in sources:  # a picture with nothing but avif
        found = largest(srcset(source.get("srcset") or ""), declared)
        if found:
            return found, False
    return lazy, bool(lazy)
