"""The only place that changes a tree of settings by name, "a.b=value", and writes one as JSON.

Settings are frozen dataclasses beside what they set (STYLE 5.6).
"""

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omnihuman_jax.errors import InputError


def override[Tree](settings: Tree, changes: Iterable[str]) -> Tree:
    """The same settings with some values changed, each written "a.b=value" as on the command line.

    Numbers, words, true or false, "none" where nothing is allowed, and lists "49,81" where there is a
    list. Of a list of groups, one is named by its number or by its `name`: "stages.0.steps=10".

    Raises:
        InputError: a name that does not exist (it lists those that do), or no value of that kind.
    """
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"A setting is written name=value, got {change!r}.")
        settings = _with(settings, name.strip(), name.strip().split("."), value.strip())
    return settings


def described(settings: Any) -> Any:
    """The settings as JSON: groups are objects that tell their kind, lists are lists."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        fields = {
            f.name: described(getattr(settings, f.name)) for f in dataclasses.fields(settings)
        }
        return {"kind": type(settings).__name__, **fields}
    if isinstance(settings, Mapping):
        return {str(key): described(value) for key, value in settings.items()}
    if isinstance(settings, tuple | list):
        return [described(value) for value in settings]
    if settings is None or isinstance(settings, str | int | float | bool):
        return settings
    if isinstance(settings, frozenset | set):
        return sorted(described(value) for value in settings)
    return getattr(settings, "__name__", str(settings))


def names(settings: Any, prefix: str = "") -> list[str]:
    """Every name that `override` can change."""
    found: list[str] = []
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            found += names(value, f"{name}.")
        elif _groups(value):
            for place, one in enumerate(value):
                found += names(one, f"{name}.{getattr(one, 'name', place)}.")
        else:
            found.append(name)
    return found


def _groups(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and dataclasses.is_dataclass(value[0])


def _with(node: Any, whole: str, parts: list[str], value: str) -> Any:
    fields = [f.name for f in dataclasses.fields(node)]
    if parts[0] not in fields:
        raise InputError(f"There is no setting {whole}: no {parts[0]!r} in {', '.join(fields)}.")
    there = getattr(node, parts[0])
    if dataclasses.is_dataclass(there) or _groups(there):
        new = _inside(there, whole, parts, value)
    elif len(parts) > 1:
        raise InputError(f"There is no setting {whole}: {parts[0]} is a single value.")
    else:
        new = _parsed(whole, get_type_hints(type(node))[parts[0]], there, value)
    return dataclasses.replace(node, **{parts[0]: new})


def _inside(there: Any, whole: str, parts: list[str], value: str) -> Any:
    """The group, or list of groups, with one value in it changed."""
    if len(parts) == 1:
        inside = ", ".join(names(there, f"{whole}.") if dataclasses.is_dataclass(there) else [])
        raise InputError(
            f"{whole} is a group of settings; there are {inside or f'{whole}.0 and so on'}."
        )
    if dataclasses.is_dataclass(there):
        return _with(there, whole, parts[1:], value)
    labels = [str(getattr(one, "name", place)) for place, one in enumerate(there)]
    known = {label: place for place, label in enumerate(labels)}
    known |= {str(place): place for place in range(len(there))}
    if parts[1] not in known:
        raise InputError(f"There is no setting {whole}: {parts[0]} has {', '.join(labels)}.")
    place = known[parts[1]]
    if len(parts) == 2:
        inside = ", ".join(names(there[place], f"{whole}."))
        raise InputError(f"{whole} is a group of settings; there are {inside}.")
    new = _with(there[place], whole, parts[2:], value)
    return (*there[:place], new, *there[place + 1 :])


def _parsed(name: str, kind: Any, there: Any, value: str) -> Any:
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value.lower() == "none" and type(None) in kinds:
        return None
    kinds = tuple(k for k in kinds if k is not type(None))
    for one in kinds:
        try:
            return _as(one, value)
        except ValueError as why:
            reason = why
    raise InputError(f"{name} is {there!r} by default; {value!r} is no such value.") from reason


def _as(kind: Any, value: str) -> Any:
    """The value as one of that kind. Raises ValueError."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"one of {', '.join(map(str, get_args(kind)))}")
        return value
    if get_origin(kind) is tuple:
        return tuple(
            _as(get_args(kind)[0], part.strip()) for part in value.split(",") if part.strip()
        )
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return value.lower() == "true"
    if kind is int:
        return int(value)
    if kind is float:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("a finite number")
        return number
    if kind is str:
        return value
    raise ValueError("not to be changed on the command line")
