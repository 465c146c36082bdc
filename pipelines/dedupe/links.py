"""What connects pages, numbered: the class of equals that a page is in by address and by text, and near texts.

A page has one address and one text, so its links are two numbers and the neighbours of its text: 8 bytes a page and 16
a near pair, however many copies there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import StoreError
from pipelines.dedupe import TEXT, URL, Docs, column
from pipelines.kernel import compiled

Nodes = npt.NDArray[np.int32]
Starts = npt.NDArray[np.int64]
Similarities = npt.NDArray[np.float32]
MAX_NODES = 1 << 31  # more linked pages than that need wider numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """Pages by their places in `docs`; texts and addresses by numbers of their own.

    address: of each page, -1 where no other page has it. text: of each page, -1 where no other page has it and none
    is near it. stands: of each text the page of this generation whose bands were compared for others too, or -1. The
    neighbours of text i are neighbours[starts[i] : starts[i + 1]], each pair from both sides, `similarity` beside them.
    left, right: the pages of each near pair.
    """

    docs: Docs  # ascending
    address: Nodes
    num_addresses: int
    text: Nodes
    num_texts: int
    stands: Nodes
    left: Nodes
    right: Nodes
    starts: Starts
    neighbours: Nodes
    similarity: Similarities


def connect(classes: list[pa.Table], edges: list[pa.Table]) -> Links:
    """Number the pages of classes (CLASSES, each table sorted, no class in two of them) and edges (EDGES)."""
    members = {kind: _classes(classes, kind) for kind in (URL, TEXT)}
    a, b = _all(edges, "a"), _all(edges, "b")
    docs = _unique(np.concatenate([members[URL][0], members[TEXT][0], a, b]))
    if len(docs) >= MAX_NODES:
        raise StoreError(f"{len(docs)} pages are linked in one generation; take the crawl in by parts, as with --limit")
    address, num_addresses = _numbers(docs, *members.pop(URL))
    text, num_texts = _numbers(docs, *members.pop(TEXT))
    left, right = places(docs, a), places(docs, b)
    del a, b
    # a near page that is alone in its text is a text of its own
    alone = np.zeros(len(docs), np.bool_)
    alone[left] = alone[right] = True
    alone &= text < 0
    num_alone = int(alone.sum())
    text[alone] = np.arange(num_texts, num_texts + num_alone, dtype=np.int32)
    num_texts += num_alone
    stands = np.full(num_texts, -1, np.int32)
    standing = places(docs, _all([table.filter(table["stands"]) for table in classes], "doc"))
    stands[text[standing]] = standing
    similarity = np.concatenate([np.zeros(0, np.float32), *(table["similarity"].to_numpy() for table in edges)])
    starts = np.zeros(num_texts + 1, np.int64)
    _count(text, left, right, starts)
    np.cumsum(starts, out=starts)
    neighbours = np.empty(2 * len(left), np.int32)
    beside = np.empty(2 * len(left), np.float32)
    _fill(text, left, right, similarity, starts, neighbours, beside)
    starts[1:] = starts[:-1]  # filling moved each start to the next one's
    starts[0] = 0
    return Links(
        docs=docs,
        address=address,
        num_addresses=num_addresses,
        text=text,
        num_texts=num_texts,
        stands=stands,
        left=left,
        right=right,
        starts=starts,
        neighbours=neighbours,
        similarity=beside,
    )


def places(docs: Docs, wanted: Docs) -> Nodes:
    """Where each doc stands in ascending docs."""
    return np.searchsorted(docs, wanted).astype(np.int32)


def _all(tables: list[pa.Table], name: str) -> Docs:
    return np.concatenate([np.zeros(0, np.uint64), *(column(table, name) for table in tables)])


def _unique(docs: Docs) -> Docs:
    """np.unique, sorted in place: half the memory."""
    docs.sort()
    first = np.ones(len(docs), np.bool_)
    np.not_equal(docs[1:], docs[:-1], out=first[1:])
    return docs[first]


def _classes(tables: list[pa.Table], kind: int) -> tuple[Docs, Nodes, int]:
    """(doc of each row of a kind, number of its class, number of classes)."""
    docs, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
    total = 0
    for table in tables:
        rows = table.filter(pa.array(table["kind"].to_numpy() == kind))
        keys, checks = column(rows, "key"), column(rows, "check")
        if rows.num_rows:
            first = np.ones(rows.num_rows, np.int32)
            first[1:] = (keys[1:] != keys[:-1]) | (checks[1:] != checks[:-1])
            docs.append(column(rows, "doc"))
            numbers.append(np.cumsum(first, dtype=np.int32) + np.int32(total - 1))
            total = int(numbers[-1][-1]) + 1
    return np.concatenate(docs), np.concatenate(numbers), total


def _numbers(docs: Docs, members: Docs, numbers: Nodes, num: int) -> tuple[Nodes, int]:
    """(class of each doc or -1, number of classes)."""
    found = np.full(len(docs), -1, np.int32)
    found[places(docs, members)] = numbers
    return found, num


@compiled
def _count(text: Nodes, left: Nodes, right: Nodes, starts: Starts) -> None:
    for i in range(len(left)):
        starts[text[left[i]] + 1] += 1
        starts[text[right[i]] + 1] += 1


@compiled
def _fill(
    text: Nodes,
    left: Nodes,
    right: Nodes,
    similarity: Similarities,
    starts: Starts,
    neighbours: Nodes,
    beside: Similarities,
) -> None:
    for i in range(len(left)):
        a, b = text[left[i]], text[right[i]]
        neighbours[starts[a]], beside[starts[a]] = b, similarity[i]
        starts[a] += 1
        neighbours[starts[b]], beside[starts[b]] = a, similarity[i]
        starts[b] += 1
