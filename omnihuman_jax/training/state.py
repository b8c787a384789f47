"""The only place that knows what a run is between two steps: State, created already sharded.

A State holds arrays or, before there are any, their shapes or their places; so its leaves are Any.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from omnihuman_jax.training import parts
from omnihuman_jax.training.task import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Guard:
    """What tells a gradient spike from the usual (training/step.py).

    Attributes:
        norm: float32 scalar, running mean of the gradient's norm; 0 before the first step.
        row: int32 scalar, updates skipped in a row, up to now.
        skipped: int32 scalar, updates skipped in all.
        tried: int32 scalar, updates tried, those skipped among them.
    """

    norm: Any
    row: Any
    skipped: Any
    tried: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything that a step changes. Beside it only the seed and the place in the data are needed.

    Attributes:
        step: int32 scalar, updates tried so far; skipped ones count.
        params: what is trained, float32; what is frozen is not here.
        ema: the exponential moving average of the first part of them, float32; None without one.
        opt: the state of each part's optimizer.
        guard: of each part.
    """

    step: Any
    params: dict[str, Any]
    ema: Any  # parameters or None; jax puts other things there while it compares trees
    opt: dict[str, Any]
    guard: dict[str, Guard]

    @property
    def best(self) -> dict[str, Any]:
        """The parameters, the average in place of those that have one."""
        return {**self.params, **(self.ema or {})}


Init = Callable[[Params], Any]


def create(
    params: Params, init: Mapping[str, Init], opt_shapes: Mapping[str, Any], ema: bool
) -> State:
    """The state at step 0.

    Args:
        init: of each part of the parameters, the first one first: makes its optimizer's state, ...
        opt_shapes: ... laid out as this (abstract) says.
        ema: whether the first part has a moving average.
    """
    mesh = _mesh(params)

    def scalar(dtype: Any) -> Array:
        return jax.make_array_from_callback(
            (), NamedSharding(mesh, PartitionSpec()), lambda _: np.zeros((), dtype)
        )

    opt = {}
    for part, make in init.items():
        where = jax.tree.map(lambda leaf: leaf.sharding, opt_shapes[part])
        opt[part] = jax.jit(make, out_shardings=where)(parts.own(part, params))
    # Copies, since a step gives its state away and the two must not share memory.
    copy = jax.jit(lambda p: jax.tree.map(jnp.copy, p))
    return State(
        step=scalar(np.int32),
        params=params,
        ema=copy(_first(params, opt_shapes)) if ema else None,
        opt=opt,
        guard={part: _guard(scalar) for part in init},
    )


def abstract(
    shapes: Mapping[str, jax.ShapeDtypeStruct], opt_shapes: Mapping[str, Any], ema: bool
) -> State:
    """Shapes, dtypes and shardings of the state, for a checkpoint to be read into."""
    mesh = _mesh(shapes)

    def scalar(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((), dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    return State(
        step=scalar(jnp.int32),
        params=dict(shapes),
        ema=_first(shapes, opt_shapes) if ema else None,
        opt=dict(opt_shapes),
        guard={part: _guard(scalar) for part in opt_shapes},
    )


def _guard(scalar: Callable[[Any], Any]) -> Guard:
    return Guard(scalar(np.float32), *(scalar(np.int32) for _ in range(3)))


def _first(params: Mapping[str, Any], by_part: Mapping[str, Any]) -> dict[str, Any]:
    first = next(iter(by_part))
    return parts.under(first, parts.own(first, params))


def _mesh(params: Mapping[str, Any]) -> Mesh:
    return next(iter(params.values())).sharding.mesh
