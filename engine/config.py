"""`--set extract.language=fr`: typed changes to a tree of frozen dataclasses, with the nearest name for a wrong one."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from engine.errors import ConfigError

T = TypeVar("T")


def override(config: T, settings: Iterable[str]) -> T:
    """The config with every 'a.b=value' applied, all at once: what two settings must agree on may come in any order.

    ConfigError for an unknown field or a value of another type.
    """
    given: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {setting}: write it as GROUP.FIELD=VALUE")
        *groups, name = path.split(".")
        _known(config, [*groups, name], path)
        group = given
        for step in groups:
            group = group.setdefault(step, {})
        group[name] = (path, text)
    return _rebuilt(config, given)  # type: ignore[no-any-return]


def _known(config: Any, steps: list[str], path: str) -> None:
    """ConfigError unless the steps lead to a field that is no group."""
    for number, step in enumerate(steps):
        if not dataclasses.is_dataclass(config) or isinstance(config, type):
            raise ConfigError(f"--set {path}: there are no fields below {'.'.join(steps[:number])}")
        names = [field.name for field in dataclasses.fields(config) if field.init]
        if step not in names:
            close = difflib.get_close_matches(step, names, n=1, cutoff=0.5)
            near = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"
            raise ConfigError(f"--set {path}: no field {step!r}{near}")
        config = getattr(config, step)
    if dataclasses.is_dataclass(config):
        inner = ", ".join(field.name for field in dataclasses.fields(config))
        raise ConfigError(f"--set {path}: it is a group of fields; set one of {inner}")


def _rebuilt(config: Any, given: dict[str, Any]) -> Any:
    values: dict[str, Any] = {}
    for name, inner in given.items():
        if isinstance(inner, dict):
            values[name] = _rebuilt(getattr(config, name), inner)
            continue
        path, text = inner
        try:
            values[name] = _parse(typing.get_type_hints(type(config))[name], text)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"--set {path}={text}: {error}") from None
    return dataclasses.replace(config, **values)


def _parse(kind: Any, text: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        inner = [member for member in typing.get_args(kind) if member is not type(None)]
        return None if text.lower() == "none" else _parse(inner[0], text)
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("it is true or false")
        return text.lower() == "true"
    if kind is int or kind is float:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError("it is a whole number" if kind is int else "it is a number") from None
        if not math.isfinite(value):  # nan is over no bound and under none
            raise ValueError("it is a finite number")
        return value
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(_parse(inner, part) for part in text.split(",") if part)
    raise TypeError(f"it cannot be set from the command line ({kind})")


def lines(config: Any, prefix: str = "") -> Iterator[str]:
    """The resolved config as 'a.b = value' lines: what is hashed."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from lines(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name} = {json.dumps(value, default=str)}"
