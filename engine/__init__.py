"""The mechanism: stores, ledgers, stages, units, commits. Knows no HTML, no image, no model.

The public face is flat and lazy (PEP 562): importing `engine` loads neither pyarrow nor ray.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.ledger import Commit, Generation, Ledger
    from engine.plan import plan
    from engine.recipe import Recipe, Step
    from engine.run import run
    from engine.stage import Output, Stage, Unit, Work
    from engine.store import Store

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
    "plan": "plan",
    "run": "run",
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


class _Face(ModuleType):
    """Importing the module `engine.run` sets the package's `run` to it; on the face it is the function of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _PLACES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(importlib.import_module(f"engine.{_PLACES[name]}"), name)
