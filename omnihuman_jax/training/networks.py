"""The only place that makes a network's parameters as training wants them: flat, float32, sharded."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from omnihuman_jax import mesh as meshes
from omnihuman_jax.models.building import flat, with_params
from omnihuman_jax.training.task import Params


def shapes(make: Callable[[nnx.Rngs], Any], mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, dtype and place on `mesh` of every parameter of the network that `make` builds, by path."""
    state = nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param)
    where = flat(meshes.shardings(state, mesh))
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where[path])
        for path, leaf in flat(state).items()
    }


def initial(
    make: Callable[[nnx.Rngs], Any],
    mesh: Mesh,
    seed: int,
    only: Callable[[str], bool] = lambda path: True,
) -> Params:
    """The parameters of a new network, made where they belong: no device ever holds all of them.

    Args:
        only: which of them, by path.
    """
    where = {p: shape.sharding for p, shape in shapes(make, mesh).items() if only(p)}

    def new() -> dict[str, Any]:
        return {path: value for path, value in flat(make(nnx.Rngs(seed))).items() if only(path)}

    return jax.jit(new, out_shardings=where)()


def rebuilt(make: Callable[[nnx.Rngs], Any], params: Params) -> Any:
    """The network with these parameters; use inside jit too."""
    return with_params(nnx.eval_shape(lambda: make(nnx.Rngs(0))), params)
