"""Every exception has its exit code, and the tree drawn in the module is the tree that is there."""

from __future__ import annotations

import inspect
import re

from engine import errors

CODES = {
    "KosmosError": 1,
    "ConfigError": 2,
    "StoreError": 3,
    "Missing": 3,
    "BudgetExceeded": 3,
    "LeaseLost": 3,
    "Interrupted": 130,
}


def test_exit_codes() -> None:
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind)]
    found = {kind.__name__: kind.exit_code for kind in kinds if issubclass(kind, errors.KosmosError)}
    assert found == CODES


def test_the_drawing_is_true() -> None:
    assert errors.__doc__ is not None
    drawn = dict(re.findall(r"\+-- (\w+).*exit (\d+)", errors.__doc__))
    assert drawn == {name: str(CODES[name]) for name in drawn} and len(drawn) == 5
    assert issubclass(errors.Missing, errors.StoreError)
    assert all(issubclass(getattr(errors, name), errors.KosmosError) for name in CODES)
