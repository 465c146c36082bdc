"""Runs of words that are looked for in pages: a table of n-grams of known texts, and what of them a page holds.

Each text gives its n-grams, a shorter one itself. A page's runs are hashed as the sketch hashes its shingles; a Bloom
filter of one cache line a look lets some 1 % of the others pass, and what passes is compared byte for byte: a hit is
never a matter of hashes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.kernel import compiled
from pipelines.normalise import Normalised
from pipelines.sketch import LETTER, WORD, mix

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

BITS_KEY = 16  # of the filter, for each gram
SPACE = 32
ONE = np.uint64(1)
NOTHING = np.uint64(0)
SIX_BITS = np.uint64(63)
SIX = np.uint64(6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grams:
    """Distinct grams of known texts. text: the texts, one after another. hashes: ascending; gram g is
    text[starts[g]:stops[g]] and has lengths[g] words. places: occurrences, as (gram, known text), distinct, ascending.
    """

    text: Bytes
    hashes: Hashes
    starts: Counts
    stops: Counts
    lengths: Counts
    places: Counts  # (number, 2)

    def only(self, kept: npt.NDArray[np.bool_]) -> Grams:
        """Of the places those that are kept, and the grams that have one."""
        places = self.places[kept]
        used = np.zeros(len(self.hashes), np.bool_)
        used[places[:, 0]] = True
        renamed = np.cumsum(used) - 1
        places = np.stack((renamed[places[:, 0]], places[:, 1]), axis=1)
        return Grams(
            text=self.text,
            hashes=self.hashes[used],
            starts=self.starts[used],
            stops=self.stops[used],
            lengths=self.lengths[used],
            places=places,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Grams in a form in which a page's are found. sizes: numbers of words that occur, ascending. filter: of all
    hashes, a block of 64 bits each. heads: likewise of the first sizes[0] words of all but the longest grams.
    directory: where the hashes begin that begin with a number.
    """

    grams: Grams
    sizes: Counts
    filter: Hashes
    heads: Hashes
    directory: Counts


def grams(known: Normalised, size: int, least: int) -> Grams:
    """The grams of `size` words of each text; one of `least` words or more and fewer than `size` is a gram itself."""
    sizes = np.where(known.words >= least, np.minimum(known.words, size), 0)
    num = int(np.where(sizes > 0, known.words - sizes + 1, 0).sum())
    hashes = np.zeros(num, np.uint64)
    starts, stops, owners = (np.zeros(num, np.int64) for _ in range(3))
    room = int(known.words.max(initial=0)) + 1
    _grams(known.data, known.offsets, sizes, np.empty(room, np.uint64), np.empty(room, np.int64), hashes, starts, stops,
           owners)  # fmt: skip
    order = np.argsort(hashes, kind="stable")
    gram = np.zeros(num, np.int64)
    first = np.zeros(num, np.int64)
    num = _distinct(known.data, order, hashes, starts, stops, gram, first)
    first = first[:num]
    num_texts = max(len(known.words), 1)
    places = distinct(gram * num_texts + owners)
    return Grams(
        text=known.data,
        hashes=hashes[first],
        starts=starts[first],
        stops=stops[first],
        lengths=sizes[owners[first]],
        places=np.stack((places // num_texts, places % num_texts), axis=1),
    )


def table(found: Grams) -> Table:
    """What finds the grams."""
    num = len(found.hashes)
    sizes = np.unique(found.lengths)
    short = np.flatnonzero(found.lengths < sizes.max(initial=0))
    heads = np.zeros(len(short), np.uint64)
    if len(short):
        room = int(sizes[-1]) + 1
        _heads(found.text, found.starts[short], found.stops[short], sizes[0], np.empty(room, np.uint64),
               np.empty(room, np.int64), heads)  # fmt: skip
    bits = max(num.bit_length(), 1)
    firsts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    return Table(
        grams=found,
        sizes=sizes,
        filter=_filter(found.hashes),
        heads=_filter(heads),
        directory=np.append(np.searchsorted(found.hashes, firsts), num).astype(np.int64),
    )


def find(known: Table, pages: Normalised) -> Counts:
    """(page, gram) of each occurrence of a gram in the pages, by page; a gram that occurs twice is told twice."""
    if not len(known.sizes):
        return np.empty((0, 2), np.int64)
    room = int(pages.words.max(initial=0)) + 1
    words, begins = np.empty(room, np.uint64), np.empty(room, np.int64)
    hits = np.empty((4096, 2), np.int64)
    g = known.grams
    while True:
        num = _find(pages.data, pages.offsets, known.sizes, known.filter, known.heads, known.directory, g.hashes,
                    g.starts, g.stops, g.text, words, begins, hits)  # fmt: skip
        if num <= len(hits):
            return hits[:num]
        hits = np.empty((num, 2), np.int64)


def distinct(values: Counts) -> Counts:
    """Each value once, ascending, by sorting: numpy's `unique` hashes, at a third of the speed for millions."""
    ordered = np.sort(values)
    first = np.ones(len(ordered), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def _filter(hashes: Hashes) -> Hashes:
    """Two bits of the block that the first bits of a hash name; 1.4 % of other hashes have both set."""
    bits = max((len(hashes) * BITS_KEY // 64).bit_length(), 1)
    blocks = np.zeros(1 << bits, np.uint64)
    ones = (ONE << (hashes & SIX_BITS)) | (ONE << ((hashes >> SIX) & SIX_BITS))
    np.bitwise_or.at(blocks, hashes >> np.uint64(64 - bits), ones)
    return blocks


@compiled
def _shift(length: int) -> np.uint64:
    # What leaves of a hash an index into a table of a power of two.
    shift = 64
    while length > 1:
        length >>= 1
        shift -= 1
    return np.uint64(shift)


@compiled
def _words(data: Bytes, start: int, stop: int, hashes: Hashes, starts: Counts) -> int:
    # The hash of each word of data[start:stop], and where it begins; starts[num] is where the next one would.
    num = 0
    place = start
    while place < stop:
        starts[num] = place
        letters = NOTHING
        while place < stop and data[place] != SPACE:
            letters = (letters + np.uint64(data[place])) * LETTER
            place += 1
        hashes[num] = mix(letters)
        place += 1
        num += 1
    starts[num] = stop + 1
    return num


@compiled
def _factor(size: int) -> np.uint64:
    # What the hash of a word has been multiplied by when it leaves a run of `size`.
    factor = ONE
    for _ in range(size):
        factor *= WORD
    return factor


@compiled
def _grams(
    data: Bytes, offsets: Counts, sizes: Counts, words: Hashes, begins: Counts,
    hashes: Hashes, starts: Counts, stops: Counts, owners: Counts,
) -> None:  # fmt: skip
    at = 0
    for d in range(len(sizes)):
        size = sizes[d]
        if size == 0:
            continue
        num = _words(data, offsets[d], offsets[d + 1], words, begins)
        gone = _factor(size)
        rolling = NOTHING
        for w in range(num):
            rolling = rolling * WORD + words[w]
            if w >= size:
                rolling -= words[w - size] * gone
            if w >= size - 1:
                hashes[at] = mix(rolling)
                starts[at] = begins[w - size + 1]
                stops[at] = begins[w + 1] - 1
                owners[at] = d
                at += 1


@compiled
def _distinct(
    data: Bytes, order: Counts, hashes: Hashes, starts: Counts, stops: Counts, gram: Counts, first: Counts
) -> int:
    # Numbers occurrences by what they say, in order of hashes; first[g] is one occurrence of gram g. How many grams.
    num = 0
    group = 0  # the first gram with the hash at hand
    for i in range(len(order)):
        one = order[i]
        if i == 0 or hashes[one] != hashes[order[i - 1]]:
            group = num
        found = -1
        for g in range(group, num):
            if _alike(data, starts[one], stops[one], data, starts[first[g]], stops[first[g]]):
                found = g
                break
        if found < 0:
            found = num
            first[num] = one
            num += 1
        gram[one] = found
    return num


@compiled
def _alike(one: Bytes, start: int, stop: int, other: Bytes, begin: int, end: int) -> bool:
    if stop - start != end - begin:
        return False
    for i in range(stop - start):  # noqa: SIM110 - a kernel knows no generators
        if one[start + i] != other[begin + i]:
            return False
    return True


@compiled
def _passes(blocks: Hashes, shift: np.uint64, value: np.uint64) -> bool:
    bits = (ONE << (value & SIX_BITS)) | (ONE << ((value >> SIX) & SIX_BITS))
    return bool(blocks[value >> shift] & bits == bits)


@compiled
def _run(words: Hashes, first: int, size: int) -> np.uint64:
    # The hash of words[first:first + size].
    rolling = NOTHING
    for w in range(first, first + size):
        rolling = rolling * WORD + words[w]
    return mix(rolling)


@compiled
def _heads(text: Bytes, starts: Counts, stops: Counts, size: int, words: Hashes, begins: Counts, heads: Hashes) -> None:
    for g in range(len(heads)):
        _words(text, starts[g], stops[g], words, begins)
        heads[g] = _run(words, 0, size)


@compiled
def _find(
    data: Bytes, offsets: Counts, sizes: Counts, blocks: Hashes, heads: Hashes, directory: Counts, hashes: Hashes,
    starts: Counts, stops: Counts, text: Bytes, words: Hashes, begins: Counts, hits: Counts,
) -> int:  # fmt: skip
    # Writes the hits there is room for, and returns how many there are. Two runs are hashed at each word: the longest,
    # and the shortest, which is the head of all sizes between; what these are is asked of heads that are known only.
    at = 0
    head_shift, block_shift, shift = _shift(len(heads)), _shift(len(blocks)), _shift(len(directory) - 1)
    for d in range(len(offsets) - 1):
        num = _words(data, offsets[d], offsets[d + 1], words, begins)
        for longest in range(2):
            if longest == 0 and len(sizes) == 1:
                continue
            size = sizes[-1] if longest == 1 else sizes[0]
            gone = _factor(size)
            gate, gate_shift = (blocks, block_shift) if longest == 1 else (heads, head_shift)
            rolling = NOTHING
            for w in range(num):
                rolling = rolling * WORD + words[w]
                if w >= size:
                    rolling -= words[w - size] * gone
                if w < size - 1 or not _passes(gate, gate_shift, mix(rolling)):
                    continue
                first = w - size + 1
                for s in range(len(sizes) - 1) if longest == 0 else range(len(sizes) - 1, len(sizes)):
                    if first + sizes[s] > num:
                        break
                    value = _run(words, first, sizes[s])
                    if not _passes(blocks, block_shift, value):
                        continue
                    slot = value >> shift
                    for g in range(directory[slot], directory[slot + ONE]):
                        if hashes[g] == value and _alike(
                            data, begins[first], begins[first + sizes[s]] - 1, text, starts[g], stops[g]
                        ):
                            if at < len(hits):
                                hits[at, 0] = d
                                hits[at, 1] = g
                            at += 1
    return at
