"""The rule of deduplication over numbered links: who stays, and whose copy the others are.

Greedy: in order of priority, a page goes if and only if a page before it that stays has its address, its text or a text
near it. No chains: what is removed is like a page that is kept, which connected components do not promise. A page that
stays tells the neighbours of its text, so all is told once: O(pages + near pairs).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.dedupe import NEAR, TEXT, URL
from pipelines.dedupe.links import Links, Nodes, Similarities, Starts
from pipelines.kernel import compiled

Kinds = npt.NDArray[np.uint8]
NOT_LOOKED_AT = np.float32(-1)


def walk(links: Links, order: Nodes, num_earlier: int) -> tuple[Nodes, Kinds, Similarities]:
    """(keeper or -1 where the page stays, smallest kind shared with it, similarity) of each page of `links.docs`.

    order: places in order of priority; the first `num_earlier` stay. The keeper is the first page in that order that
    stays and is linked to the page. The order of pages and pairs in `links` does not matter.
    """
    keeper = np.full(len(order), -1, np.int32)
    kinds = np.zeros(len(order), np.uint8)
    similarity = np.full(len(order), NOT_LOOKED_AT)
    _walk(
        order,
        num_earlier,
        links.address,
        links.text,
        links.starts,
        links.neighbours,
        links.similarity,
        np.full((2, max(links.num_addresses, links.num_texts)), -1, np.int32),
        np.full(links.num_texts, -1, np.int32),
        np.full(links.num_texts, NOT_LOOKED_AT),
        keeper,
        kinds,
        similarity,
    )
    return keeper, kinds, similarity


def one_each(links: Links, order: Nodes, num_earlier: int, cluster: Nodes) -> tuple[Nodes, Kinds, Similarities]:
    """`walk` by connected components: of each its first page stays, and the first `num_earlier` of all.

    The keeper is the first page of the component, which need not be like the page: then the kind is NEAR and the
    similarity -1.
    """
    first = np.full(len(order), -1, np.int32)
    first[cluster[order[::-1]]] = order[::-1]  # of what is written twice the last one stands
    keeper = first[cluster]
    kinds = np.full(len(order), NEAR, np.uint8)
    kinds[(links.text >= 0) & (links.text == links.text[keeper])] = TEXT
    kinds[(links.address >= 0) & (links.address == links.address[keeper])] = URL
    near = np.full(links.num_texts, NOT_LOOKED_AT)
    _tell(np.unique(keeper), links.text, links.starts, links.neighbours, links.similarity, near)
    similarity = np.full(len(order), NOT_LOOKED_AT)
    told = (kinds == NEAR) & (links.text >= 0)
    similarity[told] = near[links.text[told]]
    similarity[kinds == TEXT] = 1
    stays = keeper == np.arange(len(order))
    stays[order[:num_earlier]] = True
    keeper[stays], kinds[stays], similarity[stays] = -1, 0, NOT_LOOKED_AT
    return keeper, kinds, similarity


def components(links: Links) -> Nodes:
    """The smallest page of the connected component of each page."""
    cluster = np.arange(len(links.docs), dtype=np.int32)
    _join(links.left, links.right, cluster)
    for numbers, num in ((links.address, links.num_addresses), (links.text, links.num_texts)):
        _join_classes(numbers, np.full(num, -1, np.int32), cluster)
    _flatten(cluster)
    return cluster


@compiled
def _walk(
    order: Nodes,
    num_earlier: int,
    address: Nodes,
    text: Nodes,
    starts: Starts,
    neighbours: Nodes,
    beside: Similarities,
    first: Nodes,
    near: Nodes,
    near_similarity: Similarities,
    keeper: Nodes,
    kinds: Kinds,
    similarity: Similarities,
) -> None:
    # first[kind, class] and near[text]: the first page, as its place in `order`, that stays and has that address or
    # text, or a text near that one; nothing that comes later could be the keeper of a page
    for place in range(len(order)):
        page = order[place]
        best, kind = place, 0
        if address[page] >= 0 and 0 <= first[URL, address[page]] < best:
            best, kind = first[URL, address[page]], URL
        if text[page] >= 0 and 0 <= first[TEXT, text[page]] < best:
            best, kind = first[TEXT, text[page]], TEXT
        if text[page] >= 0 and 0 <= near[text[page]] < best:
            best, kind = near[text[page]], NEAR
        if best < place and place >= num_earlier:
            keeper[page] = order[best]
            kinds[page] = kind
            if kind == TEXT:
                similarity[page] = 1
            elif kind == NEAR:
                similarity[page] = near_similarity[text[page]]
            continue
        if address[page] >= 0 and first[URL, address[page]] < 0:
            first[URL, address[page]] = place
        if text[page] >= 0 and first[TEXT, text[page]] < 0:
            first[TEXT, text[page]] = place
            for i in range(starts[text[page]], starts[text[page] + 1]):
                other = neighbours[i]
                if near[other] < 0:
                    near[other] = place
                # two pairs of the same texts: the order in which they come must not matter
                if near[other] == place and beside[i] > near_similarity[other]:
                    near_similarity[other] = beside[i]


@compiled
def _tell(
    keepers: Nodes, text: Nodes, starts: Starts, neighbours: Nodes, beside: Similarities, near: Similarities
) -> None:
    for page in keepers:
        if text[page] >= 0:
            for i in range(starts[text[page]], starts[text[page] + 1]):
                near[neighbours[i]] = max(near[neighbours[i]], beside[i])


@compiled
def _root(cluster: Nodes, node: int) -> int:
    while cluster[node] != node:
        cluster[node] = cluster[cluster[node]]
        node = cluster[node]
    return node


@compiled
def _join(left: Nodes, right: Nodes, cluster: Nodes) -> None:
    # the smaller root stays root, so a component is named by its smallest page
    for i in range(len(left)):
        a, b = _root(cluster, left[i]), _root(cluster, right[i])
        if a != b:
            cluster[max(a, b)] = min(a, b)


@compiled
def _join_classes(numbers: Nodes, first: Nodes, cluster: Nodes) -> None:
    for page in range(len(numbers)):
        if numbers[page] >= 0:
            if first[numbers[page]] < 0:
                first[numbers[page]] = page
            a, b = _root(cluster, first[numbers[page]]), _root(cluster, page)
            if a != b:
                cluster[max(a, b)] = min(a, b)


@compiled
def _flatten(cluster: Nodes) -> None:
    for node in range(len(cluster)):
        cluster[node] = _root(cluster, node)
