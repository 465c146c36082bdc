"""The first picture of a GIF and its see-through colour, whatever follows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.images import Encode, decode, header
from pipelines.reasons import Reason

ENCODE = Encode()
SCREEN = b"GIF89a" + bytes((64, 0, 64, 0, 0x80, 0, 0)) + bytes((30, 144, 255, 200, 30, 30))  # two colours
CONTROL = b"!\xf9\x04" + bytes((0x05, 0, 0, 0, 0))  # the first is see-through
OPAQUE = b"!\xf9\x04" + bytes((0x04, 0, 0, 0, 0))
LOOP = b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
COMMENT = b"!\xfe\x03abc\x02de\0"


def picture() -> bytes:
    """64 x 64 pixels, the upper half of the first colour: codes of 3 bits, the table cleared before it grows."""
    codes = []
    for start in range(0, 64 * 64, 2):
        codes += [4, *[int(place >= 64 * 32) for place in (start, start + 1)]]
    bits = sum(code << 3 * place for place, code in enumerate([*codes, 5]))
    data = bits.to_bytes(-(-3 * (len(codes) + 1) // 8), "little")
    chunks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    return b"," + bytes((0, 0, 0, 0, 64, 0, 64, 0, 0)) + b"\x02" + chunks + b"\0"


CUT = picture()[:200]


@pytest.mark.parametrize("before", [CONTROL, LOOP + CONTROL, CONTROL + LOOP, COMMENT + CONTROL + LOOP + COMMENT])
@pytest.mark.parametrize("later", [b"", CONTROL + picture() * 2, OPAQUE + picture(), OPAQUE + CUT, CUT, b"nonsense"])
def test_a_see_through_colour_is_white_whatever_follows(before: bytes, later: bytes) -> None:
    measured = decode.measure(SCREEN + before + picture() + later + b";", ENCODE)
    assert measured.reason == Reason.KEPT
    shown = decode.cv2.imdecode(np.frombuffer(measured.body, np.uint8), decode.cv2.IMREAD_COLOR)
    assert (shown[:24] >= 250).all()
    assert np.abs(shown[40:].astype(np.int64) - (30, 30, 200)).max() < 12


def test_without_a_control_block_no_colour_is_see_through() -> None:
    measured = decode.measure(SCREEN + LOOP + picture() + CONTROL + picture() + b";", ENCODE)
    shown = decode.cv2.imdecode(np.frombuffer(measured.body, np.uint8), decode.cv2.IMREAD_COLOR)
    assert np.abs(shown[:24].astype(np.int64) - (255, 144, 30)).max() < 12


def test_what_ends_early_or_has_no_end_is_left_to_the_decoder() -> None:
    whole = SCREEN + CONTROL + picture()
    assert header.first(whole) == whole + b";"
    for end in range(len(whole)):
        assert header.first(whole[:end]) == whole[:end]
    endless = SCREEN + b"!\xfe\x01a" * (header.MAX_STEPS + 1) + b"\0" + picture()
    assert header.first(endless) == endless
    tiny = SCREEN + picture()[:11] + b"\x01a" * (header.MAX_BLOCKS + 1) + b"\0;"
    assert header.first(tiny) == tiny


@given(st.binary(max_size=120))
def test_any_bytes_are_no_error(rest: bytes) -> None:
    for start in (b"", SCREEN, SCREEN + CONTROL, SCREEN + b"!"):
        assert len(header.first(start + rest)) <= len(start + rest) + 1
