"""The address behind an <img> or <picture>: src, srcset, lazy-loading attributes, sizes.

`choose` gives the address that a reader's browser would end up showing on a wide screen, as written in the page. Of
several sizes it is the largest of at most 2,048 px, else the largest. `data:` and svg are no pictures here.
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
DEFERRED = re.compile(
    r"^(?:[a-z]+-)*(?:data|lazy|original|src)(?:-[a-z]+)*$"
)  # lazy-loading attributes that nobody knows
RASTER = re.compile(r"\.(?:jpe?g|png|gif|webp)(?:[?#]|$)", re.I)
LAZY_SRCSET = ("data-srcset", "data-lazy-srcset", "data-original-set", "data-flickity-lazyload-srcset", "data-bgset")
LAZY = frozenset(LAZY_SRC + LAZY_SRCSET)
LAZY_CLASS = re.compile(
    r"(?:^|[\s_-])(?:lazy|lazyload|lazyloaded|lazyloading|lozad|progressive[a-z]*)(?=$|[\s_-])", re.I
)
PLACEHOLDER = re.compile(
    r"(?:^|[^a-z0-9])(?:placeholder|blank|spacer|transparent|pixel|1x1|lazy|lazyload|loading|loader|empty|clear|gr[ae]y|"
    r"dummy)(?![a-z0-9])",
    re.I,
)
NAME = re.compile(r"[^,\s]\S*")
SPACE = re.compile(r"\s")
LENGTH = re.compile(r"\s*\+?(\d{1,6})(?:\.\d*)?\s*(?:px)?\s*", re.I)
STYLE = {side: re.compile(rf"(?:^|[;\s]){side}\s*:\s*(\d{{1,6}})(?:\.\d+)?px", re.I) for side in ("width", "height")}
WIDTHS = re.compile(r"\{width\}|%7Bwidth%7D", re.I)  # Shopify's themes: filled in from data-widths
PENDING = re.compile(r"([?&])is-pending-load=1(?:#038;|&|$)")  # Jetpack's mark of what its script puts in place
# Sizes that an address tells: ?w=60, /max/60/, w_60,h_40, -150x150.jpg, /20px-, ._SX38_.
QUERY_SIZE = re.compile(r"[?&;](?:w|h|width|height|imwidth|sz)=(\d{1,5})(?=[&;]|$)", re.I)
PATH_SIZE = re.compile(
    r"/(?:max|w|h)/(\d{1,5})/|(?<=[/,])[wh]_(\d{1,5})(?=[,/])|/(\d{1,5})px-|\._S[A-Z](\d{1,4})_\.", re.I
)
SUFFIX_SIZE = re.compile(r"[-_](\d{1,5})x(\d{1,5})?(?:@\dx)?(?=\.[a-z]{3,4}(?:[?#]|$))", re.I)
MEDIA = re.compile(r"\(\s*([a-z-]+)\s*:\s*([^()]*?)\s*\)", re.I)
LEAST_TOLD = 16  # px: smaller numbers mean something else
THUMBNAIL = 500  # px of the smaller side, at most
THUMBNAIL_SHARE = 0.6  # of the size of what it is a thumbnail of
SCREEN = 1920  # px: what media conditions are asked of
DENSITY = 2.0
DRAWING = re.compile(r"\.svgz?(?:[?#]|$)|/render/svg/", re.I)
NOWHERE = re.compile(r"data:|about:|javascript:|blob:", re.I)


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
    if address[0] in "[<$#" or "{" in address or NOWHERE.match(address):
        return False
    folded = address.lower()  # each search only where it can find something: this is asked of every image
    return "%7b" not in folded and not ("svg" in folded and DRAWING.search(address))


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


def told(address: str) -> int:
    """The smaller side in pixels that an address tells of itself; 0 if it tells none."""
    path, _, query = address.partition("?")
    sizes = [int(match[1]) for match in QUERY_SIZE.finditer("?" + query)] if query else []
    sizes += [int(found) for match in PATH_SIZE.finditer(path) for found in match.groups() if found]
    if match := SUFFIX_SIZE.search(path):
        sizes += [int(found) for found in match.groups() if found]
    return min((size for size in sizes if size >= LEAST_TOLD), default=0)


def copies(shown: Sequence[tuple[str, int, int]]) -> list[int]:
    """Places of the images that show what another one shows larger: the thumbnails below a gallery.

    shown: address, declared width and height of each. Alike are addresses that differ in nothing but the sizes that
    they tell; the same address twice is no copy.
    """
    groups: dict[str, list[int]] = {}
    for place, (address, _, _) in enumerate(shown):
        groups.setdefault(_unsized(address), []).append(place)
    if len(groups) == len(shown):
        return []
    found: list[int] = []
    for places in groups.values():
        sizes = [told(shown[place][0]) or _smaller(*shown[place][1:]) or MAX_WIDTH for place in places]
        largest_size = max(sizes)
        best = shown[places[sizes.index(largest_size)]][0]
        found += [
            place
            for place, size in zip(places, sizes, strict=True)
            if size <= THUMBNAIL and size < THUMBNAIL_SHARE * largest_size and shown[place][0] != best
        ]
    return found


def _smaller(width: int, height: int) -> int:
    return min(width, height) or max(width, height)


def _unsized(address: str) -> str:
    """An address without the sizes that it tells."""
    path, _, query = address.partition("?")
    path = SUFFIX_SIZE.sub("", PATH_SIZE.sub("/", path))
    return f"{path}?{QUERY_SIZE.sub('', '?' + query)}" if query else path


def choose(img: Attributes, sources: Sequence[Attributes] = ()) -> tuple[str, bool]:
    """The address of a picture and whether it came from a lazy-loading attribute; "" if there is none."""
    if "data-canonical-src" in img and not usable(img["data-canonical-src"]):
        return "", False  # GitHub's copy of what stands elsewhere: here a badge, drawn
    plain = img.get("src") or ""
    candidates = img.get("srcset") or ""
    lazy_set = lazy = ""
    if not LAZY.isdisjoint(img):
        lazy_set = next((v for name in LAZY_SRCSET if (v := img.get(name))), "")
        lazy = next((v for name in LAZY_SRC if (v := _lazy(img, name))), "")
    if not (lazy or lazy_set or candidates or sources) and usable(plain):
        return plain, False
    declared = length(img, "width")
    if sources and (found := _sourced(sources, declared, drawn=False)):
        return found
    if (lazy or lazy_set) and _waits(img, plain, candidates):
        found_lazy = largest(srcset(lazy_set), declared) or lazy
        if found_lazy:
            return PENDING.sub(r"\1", found_lazy).rstrip("?&"), True
    if address := largest(srcset(candidates), declared):
        return address, False
    if usable(plain):
        return plain, False
    if found := _sourced(sources, declared, drawn=True):  # a picture with nothing but avif
        return found
    if lazy:
        return lazy, True
    unknown = next((v for name, v in img.items() if v and len(name) <= 64 and DEFERRED.match(name) and _raster(v)), "")
    return unknown, bool(unknown)


def _lazy(img: Attributes, name: str) -> str:
    """The value of a lazy-loading attribute if it is an address, its width filled in."""
    value = (img.get(name) or "").strip()
    if value and WIDTHS.search(value):
        widths = [int(width) for width in re.findall(r"\d{1,5}", img.get("data-widths") or "")[:MAX_CANDIDATES]]
        best = max((width for width in widths if width <= MAX_WIDTH), default=1024)
        value = WIDTHS.sub(str(best), value)
    return value if value and usable(value) and not SPACE.search(value) else ""


def _waits(img: Attributes, plain: str, candidates: str) -> bool:
    """Whether a script puts another address in place of what the page shows at first."""
    return (
        not usable(plain)
        or placeholder(plain)
        or candidates.startswith("data:")
        or LAZY_CLASS.search(img.get("class") or "") is not None
    )


def _raster(value: str) -> bool:
    return len(value) < 2048 and RASTER.search(value) is not None and usable(value) and not SPACE.search(value.strip())


def _sourced(sources: Sequence[Attributes], declared: int, drawn: bool) -> tuple[str, bool] | None:
    """What the first <source> that fits a wide screen gives; avif, which not every reader decodes, only if drawn."""
    for source in sources:
        kind = (source.get("type") or "").lower()
        if any(word in kind for word in ("svg", "video", "audio")) or ("avif" in kind) != drawn:
            continue
        if not fits(source.get("media") or ""):
            continue
        lazy = next((v for name in LAZY_SRCSET if (v := source.get(name))), "")
        for text, late in ((lazy, True), (source.get("srcset") or "", False)):
            if text and (found := largest(srcset(text), declared)):
                return found, late
    return None


def fits(media: str) -> bool:
    """Whether a media condition holds on a wide screen of twice the density; what is not known of it holds."""
    return not media or any(_holds(part) for part in media.lower().split(","))


def _holds(condition: str) -> bool:
    if condition.strip().startswith(("print", "speech")):
        return False
    for name, value in MEDIA.findall(condition):
        number = re.match(r"[0-9.]{1,8}", value)
        size = float(number[0].strip(".") or 0) if number and number[0].count(".") < 2 else 0.0
        pixels = size * 16 if value.endswith("em") else size
        if (name == "max-width" and pixels < SCREEN) or (name == "min-width" and pixels > SCREEN):
            return False
        if "device-pixel-ratio" in name or "resolution" in name:
            density = size / 96 if value.endswith("dpi") else size
            if (density > DENSITY) if "min" in name else ("max" in name and density < DENSITY):
                return False
        if (name == "orientation" and value == "portrait") or (name == "prefers-color-scheme" and value == "dark"):
            return False
    return True
