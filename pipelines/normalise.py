"""Text in the form in which texts are compared: folded tokens with one space between them, by a frozen Unicode table.

NFKD, case-fold, U+0300-036F and invisible characters out, then runs of letters, marks and digits are tokens; in scripts
that put no spaces between words every character is one. Indic vowels are marks too and stay. The result is left
decomposed: a table by code point cannot recompose, and a text means the same in NFC and in NFD.
"""

from __future__ import annotations

import hashlib
import io
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernel import compiled

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.uint32]
Counts = npt.NDArray[np.int64]

TABLE_FILE = "normalise.npz"
# Of Unicode 14.0, as Python 3.11 knows it. Another table gives other keys: it is part of every key of a signing stage.
TABLE_DIGEST = "5b94965da86a477ea7fb3c4e5481477f48c9f904f304078e0c432901428b4513"
GROWTH = 12  # bytes written for a byte read, at most: U+FDFA is 3 bytes, and 18 letters of 2 in 4 words

# A code point's entry: itself folded, or one of these.
SEPARATOR = 0
DROPPED = 1
SOLO = 1 << 31  # | folded code point: a token of its own
MULTIPLE = 1 << 30  # | index into expansions: a count, then so many entries
PLAIN = (1 << 21) - 1
NUM_CODES = 1 << 21  # what four bytes of UTF-8 can spell, so that no lookup can miss

# One token a character: Thai and Lao, Myanmar, Khmer, Kana, Han with its extensions and compatibility forms.
SOLO_RANGES = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3021, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x3FFFF),
)
SELECTORS = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))  # variation selectors: how a sign looks


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What each code point becomes. codes: NUM_CODES entries. expansions: see MULTIPLE."""

    codes: Codes
    expansions: Codes

    @property
    def digest(self) -> str:
        """Hex sha256 of all entries, little-endian."""
        body = self.codes.astype("<u4").tobytes() + self.expansions.astype("<u4").tobytes()
        return hashlib.sha256(body).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalised:
    """Texts one after another. data: UTF-8; text d is data[offsets[d]:offsets[d + 1]]. words: tokens of each."""

    data: Bytes
    offsets: Counts
    words: Counts


def normalise(texts: pa.Array) -> Normalised:
    """The normalised form of a large_string array, without a Python object a text.

    Raises ArrowInvalid if a text is not UTF-8.
    """
    texts.validate(full=True)
    table = load_table()
    _, offsets_buffer, data_buffer = texts.buffers()
    num = len(texts)
    if num == 0:
        return Normalised(data=np.zeros(0, np.uint8), offsets=np.zeros(1, np.int64), words=np.zeros(0, np.int64))
    offsets = np.frombuffer(offsets_buffer, np.int64)[texts.offset : texts.offset + num + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    # ASCII never grows; pages of the buffer that are never written to take no memory
    wide = int(np.count_nonzero(data[offsets[0] : offsets[-1]].view(np.int8) < 0))
    out = np.empty(int(offsets[-1] - offsets[0]) + GROWTH * wide + num, np.uint8)
    ends = np.zeros(num + 1, np.int64)
    words = np.zeros(num, np.int64)
    _normalise(data, offsets, table.codes, table.expansions, out, ends, words)
    return Normalised(data=out[: ends[-1]], offsets=ends, words=words)


@compiled
def _normalise(
    data: Bytes, offsets: Counts, codes: Codes, expansions: Codes, out: Bytes, ends: Counts, words: Counts
) -> None:
    # data: valid UTF-8; out: a byte for each of ASCII, GROWTH for each other, one a text. ends[d + 1] and words[d] are
    # written. The space that ends a token is written at once, and taken back at the end of the text.
    ascii_codes = codes[:128].astype(np.uint8)
    ascii_codes[ascii_codes == 0] = 32
    end = 0
    for d in range(len(words)):
        place, stop = offsets[d], offsets[d + 1]
        start = end
        count = 0
        inside = 0
        while place < stop:
            first = np.int64(data[place])
            while first < 0x80:
                # ASCII is plain or a separator. No branch on which: words are too short for them to be foreseen, and
                # a byte that is not wanted is written over by the next. Unsigned places save the question whether
                # they count from the end, a third of the time.
                letter = ascii_codes[first]
                out[np.uint64(end)] = letter
                wanted = int(letter != 32)
                end += wanted | inside
                count += wanted & ~inside
                inside = wanted
                place += 1
                if place == stop:
                    break
                first = np.int64(data[np.uint64(place)])
            if place == stop:
                break
            if first < 0xE0:
                point = (first & 31) << 6 | (np.int64(data[place + 1]) & 63)
                place += 2
            elif first < 0xF0:
                point = (first & 15) << 12 | (np.int64(data[place + 1]) & 63) << 6 | (np.int64(data[place + 2]) & 63)
                place += 3
            else:
                point = (
                    (first & 7) << 18
                    | (np.int64(data[place + 1]) & 63) << 12
                    | (np.int64(data[place + 2]) & 63) << 6
                    | (np.int64(data[place + 3]) & 63)
                )
                place += 4
            code = np.int64(codes[point])
            index = np.int64(0)
            left = np.int64(1)
            if code & 0x40000000:
                index = code & 0x3FFFFFFF
                left = np.int64(expansions[index])
                index += 1
                code = np.int64(expansions[index])
            while left > 0:
                solo = code >= 0x80000000
                if inside and (solo or code == 0):
                    out[end] = 32
                    end += 1
                    inside = 0
                if code > 1:
                    code &= 0x1FFFFF
                    count += 1 - inside
                    inside = 1
                    if code < 0x80:
                        out[end] = code
                        end += 1
                    elif code < 0x800:
                        out[end] = 0xC0 | code >> 6
                        out[end + 1] = 0x80 | code & 63
                        end += 2
                    elif code < 0x10000:
                        out[end] = 0xE0 | code >> 12
                        out[end + 1] = 0x80 | code >> 6 & 63
                        out[end + 2] = 0x80 | code & 63
                        end += 3
                    else:
                        out[end] = 0xF0 | code >> 18
                        out[end + 1] = 0x80 | code >> 12 & 63
                        out[end + 2] = 0x80 | code >> 6 & 63
                        out[end + 3] = 0x80 | code & 63
                        end += 4
                    if solo:
                        out[end] = 32
                        end += 1
                        inside = 0
                left -= 1
                if left > 0:
                    index += 1
                    code = np.int64(expansions[index])
        if end > start and out[end - 1] == 32:
            end -= 1
        ends[d + 1] = end
        words[d] = count


@cache
def load_table() -> Table:
    """The frozen table that is shipped; ValueError if it is another one."""
    with np.load(io.BytesIO(files("pipelines").joinpath(TABLE_FILE).read_bytes())) as arrays:
        codes = np.zeros(NUM_CODES, np.uint32)
        known = arrays["codes"]
        codes[: len(known)] = known
        table = Table(codes=codes, expansions=arrays["expansions"])
    if table.digest != TABLE_DIGEST:
        raise ValueError(
            f"{TABLE_FILE} holds table {table.digest[:12]}, not {TABLE_DIGEST[:12]}; reinstall the package"
        )
    return table


def build_table() -> Table:
    """The table of this Python's Unicode version: how the shipped one was made."""
    codes = np.zeros(NUM_CODES, np.uint32)
    expansions = [0]
    for point in range(0x110000):
        entries = _entries(point)
        if len(entries) == 1:
            codes[point] = entries[0]
        else:
            codes[point] = MULTIPLE | len(expansions)
            expansions += [len(entries), *entries]
    return Table(codes=codes, expansions=np.array(expansions, np.uint32))


def write_table(path: str, table: Table) -> None:
    """Write a table as it is shipped, without the zeros at its end."""
    used = int(np.flatnonzero(table.codes)[-1]) + 1
    np.savez_compressed(path, codes=table.codes[:used], expansions=table.expansions)


def folded(text: str) -> str:
    """NFKD, case-fold, and NFKD again for what folding composed."""
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())


def _entries(point: int) -> list[int]:
    """What one code point becomes; never empty."""
    if 0xD800 <= point < 0xE000:
        return [SEPARATOR]
    entries: list[int] = []
    for sign in folded(chr(point)):
        code, category = ord(sign), unicodedata.category(sign)
        if 0x300 <= code <= 0x36F or category == "Cf" or _within(code, SELECTORS):
            continue
        if category[0] not in "LMN":
            if not entries or entries[-1] != SEPARATOR:
                entries.append(SEPARATOR)
        else:
            entries.append(code | (SOLO if _within(code, SOLO_RANGES) else 0))
    return entries or [DROPPED]


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)
