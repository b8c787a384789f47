"""The names a tensor has elsewhere: rules from torch checkpoints to our parameter paths, both ways."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omnihuman_jax.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Rule:
    """One tensor of a torch checkpoint and the parameter it becomes.

    `name` is the torch name and may hold `{}` for the layer number; `path` is our parameter path,
    "/" between modules. A `{}` in `name` but not in `path` means that our parameter stacks the layers
    on its first axis. `squeeze` are torch axes of size 1 that we do not have; `axes` is the
    transposition after that (our axis i is torch axis `axes[i]`), None for none. `alias` is a second
    torch name of a tied tensor: a file holds the tensor under `name`, under `alias` or under both.
    """

    name: str
    path: str
    axes: tuple[int, ...] | None = None
    squeeze: tuple[int, ...] = ()
    alias: str | None = None

    @property
    def stacks(self) -> bool:
        """Whether our parameter holds this tensor of every layer, on a first axis of its own."""
        return "{}" in self.name and "{}" not in self.path

    def apply(self, tensor: np.ndarray) -> np.ndarray:
        """A torch tensor as (one layer of) our parameter; a view."""
        value = np.squeeze(tensor, self.squeeze)
        return value if self.axes is None else value.transpose(self.axes)

    def undo(self, value: np.ndarray) -> np.ndarray:
        """The inverse of `apply`; a view."""
        if self.axes is not None:
            value = value.transpose(np.argsort(self.axes))
        for axis in sorted(self.squeeze):
            value = np.expand_dims(value, axis)
        return value

    def first_axis(self) -> int | None:
        """The axis of ours (within a layer) that is torch's first; None if we do not have that one."""
        if 0 in self.squeeze:
            return None
        return 0 if self.axes is None else self.axes.index(0)

    def shape(self, torch_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that `apply` gives. Raises ValueError if it cannot be applied."""
        kept = [size for axis, size in enumerate(torch_shape) if axis not in self.squeeze]
        if any(torch_shape[axis : axis + 1] != (1,) for axis in self.squeeze):
            raise ValueError(f"axes {self.squeeze} are not of size 1")
        if self.axes is None:
            return tuple(kept)
        if len(self.axes) != len(kept):
            raise ValueError(f"{len(self.axes)} axes are needed")
        return tuple(kept[axis] for axis in self.axes)


@dataclass(frozen=True)
class Place:
    """Where one torch tensor goes: row `row` of the parameter at `path`, or all of it if None."""

    path: str
    row: int | None
    rule: Rule
    alias: str | None = None  # the other name of a tied tensor


def torch_names(rules: Iterable[Rule], params: Shapes) -> dict[str, Place]:
    """Every torch tensor that parameters of these shapes make, and where each comes from."""
    names: dict[str, Place] = {}
    for rule in rules:
        layers: list[tuple[int, str, int | None]]
        if rule.stacks:
            layers = [(row, rule.path, row) for row in range(params[rule.path][0])]
        elif "{}" in rule.path:
            paths = [rule.path.format(number) for number in range(len(params))]
            layers = [(number, path, None) for number, path in enumerate(paths) if path in params]
        else:
            layers = [(0, rule.path, None)]
        for number, path, row in layers:
            alias = rule.alias and rule.alias.format(number)
            names[rule.name.format(number)] = Place(path, row, rule, alias)
    return names


def plan(shapes: Shapes, rules: Iterable[Rule], params: Shapes) -> dict[str, Place]:
    """The place of every torch tensor, after checking that tensors and parameters fit exactly.

    A tied tensor that is there under both its names has one place, under the first.

    Args:
        shapes: of the torch tensors, by torch name.
        rules: of the network.
        params: shapes of our parameters by path; those without a rule (ours alone) are not looked at.

    Raises:
        InputError: a tensor without a place, a parameter without its tensor, or a shape that differs.
    """
    places = _fit(shapes, torch_names(rules, params))
    for name, place in places.items():
        needed = params[place.path] if place.row is None else params[place.path][1:]
        try:
            given = place.rule.shape(shapes[name])
        except ValueError:
            given = None
        if given != needed:
            raise InputError(
                f"Tensor {name} has shape {shapes[name]}, which does not become {place.path} "
                f"of shape {needed}; is it a checkpoint of another size?"
            )
    return places


def convert(tensors: Mapping[str, np.ndarray], rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """Our parameters from all the torch tensors of a small checkpoint, in memory.

    Raises:
        InputError: a tensor without a rule, a rule without its tensor, or a missing layer.
    """
    rules = list(rules)
    guessed: dict[str, tuple[int, ...]] = {}
    for rule in rules:
        layers = _layers(rule, tensors)
        paths = [rule.path] if rule.stacks else [rule.path.format(i) for i in range(max(layers, 1))]
        guessed |= {path: (max(layers, 1),) for path in paths}
    params: dict[str, np.ndarray] = {}
    rows: dict[str, dict[int, np.ndarray]] = {}
    for name, place in _fit(tensors, torch_names(rules, guessed)).items():
        value = place.rule.apply(np.asarray(tensors[name]))
        if place.row is None:
            params[place.path] = value
        else:
            rows.setdefault(place.path, {})[place.row] = value
    return params | {path: np.stack([of[i] for i in range(len(of))]) for path, of in rows.items()}


def to_torch(params: Mapping[str, np.ndarray], rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """The inverse of `convert`: torch tensors by torch name, the same bits."""
    shapes = {path: value.shape for path, value in params.items()}
    tensors = {}
    for name, place in torch_names(rules, shapes).items():
        value = np.asarray(params[place.path])
        tensors[name] = place.rule.undo(value if place.row is None else value[place.row]).copy("C")
    return tensors


def _layers(rule: Rule, names: Iterable[str]) -> int:
    """How many layers a checkpoint has of this rule, by the highest number in its names."""
    spellings = [name for name in (rule.name, rule.alias) if name and "{}" in name]
    patterns = [re.compile(r"(\d+)".join(map(re.escape, name.split("{}")))) for name in spellings]
    found = (pattern.fullmatch(name) for name in names for pattern in patterns)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _fit(names: Iterable[str], expected: Mapping[str, Place]) -> dict[str, Place]:
    """The places of the names that are there; refuses any left over on either side."""
    names = list(names)
    have = set(names)
    places, missing, tied = {}, [], set()
    for name, place in expected.items():
        tied |= {place.alias} & have
        if name in have or place.alias in have:
            places[name if name in have else str(place.alias)] = place
        else:
            missing.append(place.path if place.row is None else f"{place.path}[{place.row}]")
    _refuse_leftovers(sorted(have - places.keys() - tied), missing)
    return {name: places[name] for name in names if name in places}


def _refuse_leftovers(strangers: Sequence[str], missing: Sequence[str]) -> None:
    found = []
    for names, what in (
        (strangers, "tensors have no place"),
        (missing, "parameters get no tensor"),
    ):
        if names:
            more = ", …" if len(names) > 4 else ""
            found.append(f"{len(names)} {what} ({', '.join(names[:4])}{more})")
    if found:
        raise InputError(f"The checkpoint does not fit the network: {'; '.join(found)}.")
