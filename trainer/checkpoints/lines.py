"""The files of a run's metrics: which of them a checkpoint leads to.

metrics/<first>-<last>.<attempt>-<attempt before>.jsonl     the updates since the checkpoint before
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LINES = re.compile(r"metrics/([0-9]{8,})-([0-9]{8,})\.([0-9a-f]{12})(?:-([0-9a-f]{12}))?\.jsonl")


def leading_to(update: int, path: str | None, names: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The files that the checkpoint of an update leads to, each going on where the one before ends, ascending.

    path: of the lines that it names, if it has any. Of several that end at one update, the one that is named counts.
    Where that is gone: the nearest below.
    """
    by_last: dict[int, dict[str, re.Match[str]]] = {}
    for name in names:
        by_last.setdefault(int(name[2]), {})[name[3]] = name
    found: list[re.Match[str]] = []
    named = LINES.fullmatch(path or "")
    reach, attempt = update, named[3] if named else None
    for last in sorted(by_last, reverse=True):
        if last <= reach:
            name = by_last[last].get(attempt or "") or next(iter(by_last[last].values()))
            found.append(name)
            reach, attempt = int(name[1]) - 1, name[4]
    return found[::-1]
