"""The size that an AV1 stream itself says, beside what the AVIF container around it says.

A decoder allocates frames by the stream's sequence header and compares with the container only afterwards: a body of
2 KB whose container says 100 x 100 took 1.3 GB. So a header is asked of every coded item before it is decoded.
"""

from __future__ import annotations

MAX_UNITS = 256  # open bitstream units of one item; a still picture has three
_SEQUENCE = 1


class Bits:
    """Reads numbers of any width, most significant bit first; past the end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, width: int) -> int:
        """The next `width` bits."""
        self.left -= width
        return (self.value >> self.left if self.left >= 0 else 0) & ((1 << width) - 1)


def frame_size(item: bytes) -> tuple[int, int] | None:
    """The largest (width, height) of the sequence headers of an item; None if there is none, or it has a shape that
    still pictures do not have (AV1 specification, sections 5.3 to 5.5)."""
    at, sizes = 0, []
    for _ in range(MAX_UNITS):
        if at >= len(item):
            break
        head = item[at]
        at += 2 if head & 0x04 else 1
        length = len(item) - at
        if head & 0x02:
            length = 0
            for i in range(8):
                byte = item[at] if at < len(item) else 0
                length |= (byte & 0x7F) << (7 * i)
                at += 1
                if not byte & 0x80:
                    break
        if (head >> 3 & 15) == _SEQUENCE:
            size = _sequence(item[at : at + min(length, 256)])
            if size is None:
                return None
            sizes.append(size)
        at += length
    else:
        return None
    return (max(width for width, _ in sizes), max(height for _, height in sizes)) if sizes else None


def _sequence(data: bytes) -> tuple[int, int] | None:
    bits = Bits(data)
    bits.read(4)  # profile, still picture
    if bits.read(1):  # reduced header
        bits.read(5)
    else:
        if bits.read(1):  # timing
            return None
        delays = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if delays and bits.read(1):
                bits.read(4)
    width, height = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(width) + 1, bits.read(height) + 1
