"""The containers of a page as a tree over its blocks: which holds which, and which holds a block directly.

Spans come as the walk leaves them, inner before outer; both passes are linear in spans and entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines import tags as t
from pipelines.kernel import compiled

Kernel = Callable[..., Any]


def _tree(spans, parent, owner, after):  # type: ignore[no-untyped-def]
    """Spans i32[S, 3] -> the span around each, the innermost span of each entry; -1 if there is none.

    after i32[E + 1]: room; the first entry at or behind that has no owner yet.
    """
    top = -1  # spans without a parent so far are a stack, linked through `parent` as -2 - the one below
    for i in range(len(after)):
        after[i] = i
    for i in range(len(owner)):
        owner[i] = -1
    for s in range(len(spans)):
        start, end = spans[s, 1], spans[s, 2]
        if spans[s, 0] == t.LEGEND:  # begins with the image before it, which may stand elsewhere
            parent[s] = -1
            continue
        while top >= 0 and spans[top, 1] >= start:
            below = -2 - parent[top]
            parent[top] = s
            top = below
        parent[s] = -2 - top
        top = s
        i = start
        while i < end:
            root = i
            while after[root] != root:
                root = after[root]
            while after[i] != root:
                i, after[i] = after[i], root
            i = root
            if i < end:
                owner[i] = s
                after[i] = i + 1
                i += 1
    while top >= 0:
        below = -2 - parent[top]
        parent[top] = -1
        top = below


tree: Kernel = compiled(_tree, allocates=False)
