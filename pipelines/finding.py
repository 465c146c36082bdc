"""One step in the life of a record, as `kosmos why` tells it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """outcome: 'kept', or the reason's word; detail: values, thresholds, twins."""

    where: str
    stage: str
    outcome: str
    detail: str = ""
