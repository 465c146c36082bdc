"""Dataclasses as JSON keeps them: what `dataclasses.asdict` made and `json` wrote becomes the same tree again.

A file that was edited by hand is found out here: every value must be of its field's type, and unknown fields are
refused.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any


def built(kind: Callable[..., Any], plain: Any) -> Any:
    """Make a dataclass of its plain values.

    Raises TypeError, KeyError or ValueError for values that its fields cannot have, ConfigError for those that the
    dataclass itself refuses.
    """
    if not isinstance(plain, dict):
        raise TypeError(f"{plain!r:.100} where fields were due")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], value) for name, value in plain.items()})


def _value(hint: Any, value: Any) -> Any:
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None and types.NoneType in kinds else _value(kinds[0], value)
    if dataclasses.is_dataclass(hint):
        return built(typing.cast(Callable[..., Any], hint), value)
    if origin is tuple and isinstance(value, list):
        inner = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        return tuple(_value(kind, one) for kind, one in zip(inner, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {name: _value(kinds[1], one) for name, one in value.items()}
    right = int | float if hint is float else origin or hint  # JSON writes 1 for 1.0
    # Python's True is an int
    if hint is not Any and (isinstance(value, bool) is not (hint is bool) or not isinstance(value, right)):
        raise TypeError(f"{value!r:.100} where {getattr(hint, '__name__', hint)} was due")
    return value
