"""Which images of a document stay, of those nearly alike and of too many; also against the rules of `test_assemble`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.assemble import shards
from pipelines.assemble.settle import settle
from pipelines.reasons import Reason
from tests.pipelines.blocks import Block, Candidate, Document
from tests.pipelines.test_assemble import ALL, GONE, HERE, REPEATED, SURPLUS, check, one, reasons


def test_five_images_stay() -> None:
    assert reasons(one([Candidate(image=i, body=i) for i in range(7)])) == ([0] * 5 + [SURPLUS] * 2, 0)
    assert reasons(one([Candidate(image=i, body=i) for i in range(3)]), shards.Config(max_images=2)) == (
        [0, 0, SURPLUS],
        0,
    )


def test_a_failed_image_makes_room() -> None:
    failed = [Candidate(image=0, reason=GONE), Candidate(image=1, body=1, repeated=(11, 12))]
    others = [Candidate(image=i, body=i) for i in range(2, 7)]
    assert reasons(one([*failed, *others])) == ([GONE, REPEATED, 0, 0, 0, 0, 0], 0)


def test_the_same_bytes_or_looks_earlier_in_the_document() -> None:
    alike = [Candidate(image=0, body=1, looks=5), Candidate(image=1, body=1, looks=6), Candidate(image=2, looks=5)]
    assert reasons(one(alike)) == ([0, HERE, HERE], 0)
    # only what stays counts: its twin went for another reason
    alike = [Candidate(image=0, body=1, looks=5, repeated=(20,)), Candidate(image=1, body=2, looks=5)]
    assert reasons(one(alike)) == ([REPEATED, 0], 0)
    # a perceptual hash of 0 is none
    assert reasons(one([Candidate(image=0, body=1), Candidate(image=1, body=2)])) == ([0, 0], 0)


def values(document: Document, config: shards.Config) -> list[tuple[int, float]]:
    """(reason, value) of the images, checked against the rules as well."""
    fates = check(Block(documents=(document,)), config)["fates"]
    return list(zip(fates["reason"].to_pylist(), fates["value"].to_pylist(), strict=True))


def test_of_images_nearly_alike_the_first_stays() -> None:
    looks = (0xFF00, 0xFF03, 0xFF0F, 0xFFFF0)
    alike = one([Candidate(image=i, body=i, looks=own) for i, own in enumerate(looks)])
    config = shards.Config(coin=ALL)
    assert values(alike, replace(config, near=1)) == [(0, 0)] * 4
    # the third is two bits from the second, which is not there any more, and four from the first
    assert values(alike, replace(config, near=2)) == [(0, 0), (HERE, 2), (0, 0), (0, 0)]
    assert values(alike, replace(config, near=4)) == [(0, 0), (HERE, 2), (HERE, 4), (0, 0)]
    # the value is the distance to the nearest of those that stay
    nearest = one([Candidate(image=i, body=i, looks=own) for i, own in enumerate((0b11111, 0b11000111, 0b1000111))])
    assert values(nearest, replace(config, near=3)) == [(0, 0), (0, 0), (HERE, 1)]
    # no hashes are compared: the same bytes go all the same
    bytes_only = replace(config, near=-1)
    assert values(alike, bytes_only) == [(0, 0)] * 4
    same = one([Candidate(image=i, body=body, looks=5) for i, body in enumerate((1, 2, 1))])
    assert values(same, bytes_only) == [(0, 0), (0, 0), (HERE, 0)]
    # all bits count, and a hash of 0 is near nothing
    high = one([Candidate(image=i, body=i, looks=own) for i, own in enumerate((1, 1 << 63 | 1, 0, 3))])
    assert values(high, replace(config, near=1)) == [(0, 0), (HERE, 1), (0, 0), (HERE, 1)]


@pytest.mark.parametrize(
    ("num", "most", "kept"),
    [
        (8, 5, [0, 1, 3, 5, 7]),
        (6, 5, [0, 1, 2, 3, 5]),
        (8, 2, [0, 7]),
        (8, 1, [0]),
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 5, [0, 1, 2]),
    ],
)
def test_a_spread_shows_the_first_the_last_and_what_lies_between(num: int, most: int, kept: list[int]) -> None:
    page = one([Candidate(image=i, body=i) for i in range(num)])
    config = shards.Config(max_images=most, pick="spread", coin=ALL)
    assert [place for place, reason in enumerate(reasons(page, config)[0]) if not reason] == kept


def test_a_spread_is_over_what_is_left() -> None:
    """What went for a reason of its own, or is nearly another, is no step of the way."""
    lost = {1: Candidate(image=1, reason=GONE), 3: Candidate(image=3, repeated=(11,)), 4: Candidate(image=4, body=2)}
    page = one([lost.get(i, Candidate(image=i, body=i)) for i in range(8)])
    found = reasons(page, shards.Config(max_images=3, pick="spread", coin=ALL))[0]
    assert found == [0, GONE, SURPLUS, REPEATED, HERE, 0, SURPLUS, 0]


def test_documents_do_not_see_each_other() -> None:
    first = np.array([True, False, True, True, False, False])
    looks, bodies = np.full(6, 9, np.uint64), np.arange(6, dtype=np.int32)
    found, bits = np.zeros(6, np.uint16), np.zeros(6, np.float32)
    settle(first, bodies, looks, 2, 5, False, found, bits)
    assert found.tolist() == [0, HERE, 0, 0, HERE, HERE]
    nothing = np.zeros(0, np.bool_)
    settle(nothing, bodies[:0], looks[:0], 2, 5, True, found[:0], bits[:0])


def test_the_reasons_are_those_of_the_table() -> None:
    """Numbers are stored for ever; the compiled loop holds copies."""
    assert (int(Reason.IMAGE_REPEATED_HERE), int(Reason.IMAGE_SURPLUS)) == (221, 166)
