"""Format and sizes of an image from its header, in bounded work and without decoding; never raises on any bytes.

What a decoder is told (alpha, depth, how to turn) comes from here for every format, so that OpenCV's own reading of
orientation, which differs between formats, is switched off: one rule, EXIF's eight, also for AVIF's irot and imir.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.images import FORMATS, av1

JPEG, PNG, GIF, WEBP, BMP, AVIF = range(1, len(FORMATS))
# Segments, chunks or boxes that are looked at; the real web stays under 400 (ICC profiles in 64 KiB segments).
MAX_STEPS = 4096
MAX_SIZE = 1 << 31
MAX_BLOCKS = 1 << 17  # of up to 255 bytes in a GIF
_EXIF = b"Exif\0\0"
_PNG = b"\x89PNG\r\n\x1a\n"
_BGRA = b"\0\0\xff\0\0\xff\0\0\xff\0\0\0"
# EXIF orientation of AVIF's (turns of 90 degrees anticlockwise, mirror: none, 0 top and bottom, 1 left and right).
_TURNS = {
    (0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6,
    (0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7,
    (0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """width, height: as coded, 1 to 2^31 - 1. depth: bits a channel. orientation: EXIF's 1-8, how to show it.

    animated: PNG only, has chunks of an animation. sequential: JPEG only, its rows come in one scan from the top.
    """

    width: int
    height: int
    alpha: bool = False
    depth: int = 8
    orientation: int = 1
    animated: bool = False
    sequential: bool = False


def sniff(body: bytes) -> int:
    """The format, as an index into FORMATS; 0 if it is none that we read."""
    if body[:3] == b"\xff\xd8\xff":
        return JPEG
    if body[:8] == _PNG:
        return PNG
    if body[:6] in (b"GIF87a", b"GIF89a"):
        return GIF
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return WEBP
    # two letters are a weak sign: the size of the second header says more
    if body[:2] == b"BM" and 12 <= _little(body, 14, 4) <= 256:
        return BMP
    if body[4:8] == b"ftyp":
        brands = body[8 : min(_big(body, 0, 4), 256)]
        if any(brands[at : at + 4] in (b"avif", b"avis") for at in range(0, len(brands), 4) if at != 4):
            return AVIF
    return 0


def size(body: bytes, format: int) -> Header | None:
    """Read the header; None if there is none, or sizes that nothing can have."""
    reader = {JPEG: _jpeg, PNG: _png, GIF: _gif, WEBP: _webp, BMP: _bmp, AVIF: _avif}.get(format)
    found = reader(body) if reader else None
    if found is None or not (0 < found.width < MAX_SIZE and 0 < found.height < MAX_SIZE):
        return None
    return found


def _big(body: bytes, at: int, length: int) -> int:
    return int.from_bytes(body[at : at + length], "big")


def _little(body: bytes, at: int, length: int) -> int:
    return int.from_bytes(body[at : at + length], "little")


def _orientation(exif: bytes) -> int:
    """Tag 0x0112 of the first directory of a TIFF structure; 1 if it says nothing that counts."""
    exif = exif.removeprefix(_EXIF)
    read = {b"II*\0": _little, b"MM\0*": _big}.get(exif[:4])
    if read is None:
        return 1
    start = read(exif, 4, 4)
    for entry in range(min(read(exif, start, 2), 512)):
        at = start + 2 + 12 * entry
        if read(exif, at, 2) == 0x0112:
            value = read(exif, at + 8, 2)
            # browsers ask for one 16-bit number and take nothing else
            right = read(exif, at + 2, 2) == 3 and read(exif, at + 4, 4) == 1 and 1 <= value <= 8
            return value if right else 1
    return 1


def _jpeg(body: bytes) -> Header | None:
    """Walk the segments to the first frame header; bytes between segments are skipped, as decoders do."""
    at, orientation, turned = 2, 1, False
    for _ in range(MAX_STEPS):
        at = body.find(b"\xff", at)
        if at < 0 or at + 4 > len(body):
            return None
        marker = body[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 2
        elif marker in (0xD9, 0xDA):
            return None
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if at + 10 > len(body):
                return None
            return Header(
                width=_big(body, at + 7, 2),
                height=_big(body, at + 5, 2),
                depth=body[at + 4],
                orientation=orientation,
                sequential=marker in (0xC0, 0xC1, 0xC9),
            )
        else:
            length = _big(body, at + 2, 2)
            if marker == 0xE1 and not turned and body[at + 4 : at + 10] == _EXIF:
                orientation, turned = _orientation(body[at + 4 : at + 2 + length]), True
            at += 2 + max(length, 2)
    return None


def _png(body: bytes) -> Header | None:
    """IHDR, and what stands before the first IDAT."""
    if body[8:16] != b"\0\0\0\rIHDR" or len(body) < 33:
        return None
    depth, kind = body[24], body[25]
    alpha, animated, orientation = kind in (4, 6), False, 1
    for name, start, end in _chunks(body, 33, big=True):
        if name == b"tRNS":
            alpha = True
        elif name == b"acTL":
            animated = True
        elif name == b"eXIf":
            orientation = _orientation(body[start:end])
        elif name == b"IDAT":
            break
    return Header(_big(body, 16, 4), _big(body, 20, 4), alpha, depth, orientation, animated)


def _chunks(body: bytes, at: int, big: bool) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of the chunks of a PNG (big-endian, with a checksum) or of a RIFF file."""
    for _ in range(MAX_STEPS):
        if at + 8 > len(body):
            return
        if big:
            length, name = _big(body, at, 4), body[at + 4 : at + 8]
            yield name, at + 8, min(at + 8 + length, len(body))
            at += 12 + length
        else:
            name, length = body[at : at + 4], _little(body, at + 4, 4)
            yield name, at + 8, min(at + 8 + length, len(body))
            at += 8 + length + (length & 1)


def still(body: bytes) -> bytes:
    """A PNG without the chunks of its animation: the picture that stands in IDAT, which every decoder reads."""
    parts, last = [body[:8]], 8
    for name, start, end in _chunks(body, 8, big=True):
        stop = min(end + 4, len(body))
        if name not in (b"acTL", b"fcTL", b"fdAT"):
            parts.append(body[start - 8 : stop])
        last = stop
    return b"".join((*parts, body[last:]))


def _gif(body: bytes) -> Header | None:
    """The logical screen. Whether a colour is see-through stands further on, so the decoder is asked."""
    if len(body) < 13:
        return None
    return Header(_little(body, 6, 2), _little(body, 8, 2), alpha=True)


def first(body: bytes) -> bytes:
    """A GIF up to its first picture: whether OpenCV shows a see-through colour there depends on the later ones."""
    at = 13 + (3 << (body[10] & 7) + 1 if body[10:11] and body[10] & 0x80 else 0)
    for _ in range(MAX_STEPS):
        if body[at : at + 1] != b"!":
            break
        at = _after(body, at + 2)
    if body[at : at + 1] != b"," or len(body) < at + 11:
        return body
    table = 3 << (body[at + 9] & 7) + 1 if body[at + 9] & 0x80 else 0
    end = _after(body, at + 11 + table)
    return body[:end] + b";" if end <= len(body) else body


def _after(body: bytes, at: int) -> int:
    """Where a row of blocks ends that starts with a length and ends with a 0; behind the end if it does not."""
    for _ in range(MAX_BLOCKS):
        if at >= len(body):
            break
        if not body[at]:
            return at + 1
        at += 1 + body[at]
    return len(body) + 1


def _webp(body: bytes) -> Header | None:
    """VP8, VP8L, or VP8X, whose EXIF stands behind the picture."""
    if len(body) < 30:
        return None
    kind = body[12:16]
    if kind == b"VP8 " and body[23:26] == b"\x9d\x01\x2a":
        return Header(_little(body, 26, 2) & 0x3FFF, _little(body, 28, 2) & 0x3FFF)
    if kind == b"VP8L" and body[20] == 0x2F:
        bits = _little(body, 21, 4)
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, alpha=bool(bits >> 28 & 1))
    if kind == b"VP8X":
        orientation = 1
        if body[20] & 0x08:
            for name, start, end in _chunks(body, 12, big=False):
                if name == b"EXIF":
                    orientation = _orientation(body[start:end])
        return Header(
            _little(body, 24, 3) + 1, _little(body, 27, 3) + 1, alpha=bool(body[20] & 0x10), orientation=orientation
        )
    return None


def _bmp(body: bytes) -> Header | None:
    """OS/2's header of 12 bytes or Windows' of 40 and more; a negative height is a picture stored from the top.

    The fourth byte of 32-bit pixels is no alpha unless a mask says so, and browsers mostly ignore it: so do we.
    """
    if len(body) < 26:
        return None
    if _little(body, 14, 4) == 12:
        return Header(_little(body, 18, 2), _little(body, 20, 2))
    if _little(body, 28, 2) == 32 and _little(body, 30, 4) == 3 and body[54:66] != _BGRA:
        return None  # masks for other orders, which OpenCV reads as if they were this one
    width, height = (int.from_bytes(body[at : at + 4], "little", signed=True) for at in (18, 22))
    return Header(width, abs(height))


def _boxes(body: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of ISO boxes side by side."""
    end = min(end, len(body))
    for _ in range(MAX_STEPS):
        if at + 8 > end:
            return
        length, name, head = _big(body, at, 4), body[at + 4 : at + 8], 8
        if length == 1:
            length, head = _big(body, at + 8, 8), 16
        stop = end if length == 0 else at + length
        if (length and length < head) or stop > end:
            return
        yield name, at + head, stop
        at = stop


def _firsts(body: bytes, at: int, end: int) -> dict[bytes, tuple[int, int]]:
    """The first box of each name."""
    found: dict[bytes, tuple[int, int]] = {}
    for name, start, stop in _boxes(body, at, end):
        found.setdefault(name, (start, stop))
    return found


def _avif(body: bytes) -> Header | None:
    """Properties of the primary item: ispe (size), av1C (depth), irot and imir; alpha if any item is one's alpha."""
    meta = next(((start + 4, end) for name, start, end in _boxes(body, 0, len(body)) if name == b"meta"), None)
    if meta is None:
        return None
    # only the first box of a name is looked at, so that nested boxes cannot multiply the work
    inside = _firsts(body, *meta)
    if b"pitm" not in inside or b"iprp" not in inside:
        return None
    named = inside[b"pitm"][0]
    primary = _big(body, named + 4, 2 if body[named : named + 1] == b"\0" else 4)
    lists = _firsts(body, *inside[b"iprp"])
    if b"ipco" not in lists or b"ipma" not in lists:
        return None
    properties = list(_boxes(body, *lists[b"ipco"]))
    first, last = lists[b"ipma"]
    owned = body[first:last]
    indices = _associations(owned, primary)
    mine = [properties[index - 1] for index in indices if 0 < index <= len(properties)]
    sizes = [(_big(body, start + 4, 4), _big(body, start + 8, 4)) for name, start, end in mine if name == b"ispe"]
    if not sizes:
        return None
    if not _streams_fit(body, inside, *sizes[0]):
        return None
    codings = [body[start + 2 : start + 3] for name, start, _ in mine + properties if name == b"av1C"]
    flags = codings[0][0] if codings and codings[0] else 0
    depth = 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    alpha = any(name == b"auxC" and b"alpha" in body[start : min(end, start + 64)] for name, start, end in properties)
    turn = next((body[start] & 3 for name, start, end in mine if name == b"irot" and end > start), 0)
    mirror = next((body[start] & 1 for name, start, end in mine if name == b"imir" and end > start), None)
    return Header(*sizes[0], alpha=alpha, depth=depth, orientation=_TURNS[turn, mirror])


def _associations(ipma: bytes, item: int) -> list[int]:
    """The property numbers of an item: version and flags decide how wide both are."""
    wide_item, wide_index = 4 if ipma[:1] not in (b"", b"\0") else 2, 2 if _big(ipma, 3, 1) & 1 else 1
    at = 8
    for _ in range(min(_big(ipma, 4, 4), MAX_STEPS)):
        found, count = _big(ipma, at, wide_item), _big(ipma, at + wide_item, 1)
        at += wide_item + 1
        if found == item:
            mask = 0x7FFF if wide_index == 2 else 0x7F
            return [_big(ipma, at + wide_index * i, wide_index) & mask for i in range(count)]
        at += wide_index * count
    return []


def _streams_fit(body: bytes, inside: dict[bytes, tuple[int, int]], width: int, height: int) -> bool:
    """Whether no coded item (the picture, its tiles, its alpha) is larger than the picture in its own words.

    One that holds nothing yet is no reason: of a body that is cut the sizes are still told.
    """
    if b"iinf" not in inside or b"iloc" not in inside:
        return False
    start, end = inside[b"iinf"]
    first = start + (6 if body[start : start + 1] == b"\0" else 8)
    coded = set()
    for name, at, _ in _boxes(body, first, end):
        wide = 2 if body[at : at + 1] == b"\2" else 4
        if name == b"infe" and body[at + 6 + wide : at + 10 + wide] == b"av01":
            coded.add(_big(body, at + 4, wide))
    items = _extents(body, inside)
    left = len(body)
    for number in sorted(coded):
        pieces = [(at, min(length, len(body) - at)) for at, length in items.get(number, ()) if at < len(body)]
        # items share no bytes; pieces that overlap could make any amount of work out of a small body
        left -= sum(length for _, length in pieces)
        if left < 0:
            return False
        stream = b"".join(body[at : at + length] for at, length in pieces)
        said = av1.frame_size(stream)
        if (said is None and stream) or (said and (said[0] > width + 7 or said[1] > height + 7)):
            return False
    return True


def _extents(body: bytes, inside: dict[bytes, tuple[int, int]]) -> dict[int, list[tuple[int, int]]]:
    """(offset in the body, length) of the pieces of every item, as iloc says; at most MAX_STEPS pieces in all."""
    at, end = inside[b"iloc"]
    data = inside.get(b"idat", (0, 0))[0]
    version, widths = _big(body, at, 1), _big(body, at + 4, 2)
    offset_w, length_w, base_w, index_w = (widths >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 2 if version < 2 else 4
    count, at = _big(body, at + 6, wide), at + 6 + wide
    found: dict[int, list[tuple[int, int]]] = {}
    steps = 0
    for _ in range(min(count, MAX_STEPS)):
        number, at = _big(body, at, wide), at + wide
        method = 0
        if version:
            method, at = _big(body, at, 2) & 15, at + 2
        base, pieces = _big(body, at + 2, base_w), _big(body, at + 2 + base_w, 2)
        at += 4 + base_w
        start = base + (data if method == 1 else 0)
        for _ in range(pieces):
            steps += 1
            if steps > MAX_STEPS or at >= end:
                return found
            at += index_w if version else 0
            offset, length = _big(body, at, offset_w), _big(body, at + offset_w, length_w)
            at += offset_w + length_w
            found.setdefault(number, []).append((start + offset, length or len(body)))
    return found
