"""The mechanism: stores, ledgers, stages, units, commits. Knows no HTML, no image, no model.

The public face is flat and lazy (PEP 562): importing `engine` loads neither pyarrow nor ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.forecast import plan
    from engine.ledger import Commit, Generation, Ledger
    from engine.recipe import Recipe, Step
    from engine.stage import Output, Stage, Unit, Work
    from engine.store import Store
    from engine.window import run

_PLACES = {
    "Commit": "ledger",
    "Generation": "ledger",
    "Ledger": "ledger",
    "Output": "stage",
    "Recipe": "recipe",
    "Stage": "stage",
    "Step": "recipe",
    "Store": "store",
    "Unit": "stage",
    "Work": "stage",
    "plan": "forecast",
    "run": "window",
}
__all__ = [
    "Commit",
    "Generation",
    "Ledger",
    "Output",
    "Recipe",
    "Stage",
    "Step",
    "Store",
    "Unit",
    "Work",
    "plan",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(importlib.import_module(f"engine.{_PLACES[name]}"), name)
