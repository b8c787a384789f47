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

from omnihuman_jax.training.task import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Guard:
    """What tells a gradient spike from the usual (training/step.py).

    Attributes:
        norm: float32 scalar, running mean of the gradient's norm; 0 before the first step.
        row: int32 scalar, updates skipped in a row, up to now.
        skipped: int32 scalar, updates skipped in all.
    """

    norm: Any
    row: Any
    skipped: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything that a step changes. Beside it only the seed and the place in the data are needed.

    Attributes:
        step: int32 scalar, updates tried so far; skipped ones count.
        params: what is trained, float32; what is frozen is not here.
        ema: their exponential moving average, float32; None without one.
        opt: the optimizer's state.
    """

    step: Any
    params: dict[str, Any]
    ema: Any  # parameters or None; jax puts other things there while it compares trees
    opt: Any
    guard: Guard


def create(params: Params, init: Callable[[Params], Any], opt_shapes: Any, ema: bool) -> State:
    """The state at step 0. `init` makes the optimizer's, laid out as `opt_shapes` (abstract) says."""
    mesh = _mesh(params)
    where = jax.tree.map(lambda leaf: leaf.sharding, opt_shapes)
    opt = jax.jit(init, out_shardings=where)(params)

    def scalar(dtype: Any) -> Array:
        return jax.make_array_from_callback(
            (), NamedSharding(mesh, PartitionSpec()), lambda _: np.zeros((), dtype)
        )

    # Copies, since a step gives its state away and the two must not share memory.
    copy = jax.jit(lambda p: jax.tree.map(jnp.copy, p)) if ema else lambda p: None
    return State(
        step=scalar(np.int32),
        params=params,
        ema=copy(params),
        opt=opt,
        guard=Guard(scalar(np.float32), scalar(np.int32), scalar(np.int32)),
    )


def abstract(shapes: Mapping[str, jax.ShapeDtypeStruct], opt_shapes: Any, ema: bool) -> State:
    """Shapes, dtypes and shardings of the state, for a checkpoint to be read into."""
    mesh = _mesh(shapes)

    def scalar(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((), dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    return State(
        step=scalar(jnp.int32),
        params=dict(shapes),
        ema=dict(shapes) if ema else None,
        opt=opt_shapes,
        guard=Guard(scalar(jnp.float32), scalar(jnp.int32), scalar(jnp.int32)),
    )


def _mesh(params: Mapping[str, Any]) -> Mesh:
    return next(iter(params.values())).sharding.mesh
