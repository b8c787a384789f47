"""The only place that knows the device mesh: four axes, and the one table from logical axes to them.

Model code names logical axes ("batch tokens width"); a new topology is a new table, never a new
model (STYLE 5.10).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from omnihuman_jax.errors import InputError

AXES = ("data", "fsdp", "context", "tensor")

# Logical axis -> mesh axes it is split over. Activations: batch, tokens, rows (of a frame), width,
# heads, mlp.
# Parameters: embed (the model width of a weight), heads, mlp, vocab. "_" is never split.
LOGICAL: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "tokens": ("context",),
    "rows": ("context",),
    "width": (),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "embed": ("fsdp", "context"),  # the devices that share a clip's tokens share its parameters too
    "vocab": ("tensor",),
    "channels": (),
    "_": (),
}


def make_mesh(
    *,
    data: int = 1,
    fsdp: int = -1,
    context: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh over `devices` (default: all). One size may be -1: it takes what the others leave.

    Raises:
        InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, context, tensor]
    if sizes.count(-1) == 1:
        known = -math.prod(sizes)
        sizes[sizes.index(-1)] = len(devices) // known if known else 0
    if math.prod(sizes) != len(devices) or min(sizes) < 1:
        asked = f"{data=}, {fsdp=}, {context=}, {tensor=}"
        raise InputError(
            f"A mesh of {asked} does not use {len(devices)} devices exactly; "
            "choose sizes whose product is that number, at most one of them -1."
        )
    return Mesh(np.asarray(devices).reshape(sizes), AXES)


def for_videos(videos: int, sizes: Mapping[str, int] | None = None) -> Mesh | None:
    """The mesh on which `videos` videos are made: as many side by side (data) as divide the devices, and all
    others share the tokens of each (context). None for a single device, and for CPUs, which share cores.

    Args:
        sizes: of the axes, instead of that rule; those left out are 1.

    Raises:
        InputError: they do not multiply to the number of devices.
    """
    devices = jax.devices()
    if sizes is None and (len(devices) == 1 or devices[0].platform == "cpu"):
        return None
    if sizes is None:
        sizes = sizes_for_videos(videos, len(devices))
    data, fsdp, context, tensor = (sizes.get(axis, 1) for axis in AXES)
    return make_mesh(data=data, fsdp=fsdp, context=context, tensor=tensor)


def sizes_for_videos(videos: int, devices: int) -> dict[str, int]:
    """The rule of `for_videos`, by axis."""
    data = max(n for n in range(1, max(1, videos) + 1) if devices % n == 0)
    return dict(data=data, context=devices // data)


def here() -> Any:
    """A context in which this process's first device is alone, whatever mesh is set outside it."""
    return jax.set_mesh(make_mesh(devices=jax.local_devices()[:1]))


def on_host(x: jax.Array) -> np.ndarray:
    """The whole array in this process's memory; all processes of a run ask together."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def target() -> tuple[str, str]:
    """Platform ("tpu", "gpu", "cpu") and kind of the devices that a program is traced for.

    Those of the mesh that is set, which need not be in this machine; without one, those that are here.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None or device.platform is None:
        device = jax.devices()[0]
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform), device.device_kind


def partition(axes: str | Sequence[str], shape: Sequence[int], mesh: Any) -> PartitionSpec:
    """Where an array of `shape` with logical `axes` lies on `mesh`.

    An axis that does not divide is split over fewer mesh axes, or kept whole; a stacked layer axis in
    front of `axes` is never split.
    """
    names = axes.split() if isinstance(axes, str) else list(axes)
    names = ["_"] * (len(shape) - len(names)) + names
    spec: list[tuple[str, ...] | None] = []
    used: set[str] = set()
    for name, size in zip(names, shape, strict=True):
        over = tuple(a for a in LOGICAL[name] if mesh.shape.get(a, 1) > 1 and a not in used)
        while size % math.prod(mesh.shape[axis] for axis in over):
            over = over[:-1]
        used.update(over)
        spec.append(over or None)
    return PartitionSpec(*spec)


def constrain(x: jax.Array, axes: str) -> jax.Array:
    """Ask the compiler to lay `x` out by its logical `axes`; without a mesh (`jax.set_mesh`), nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition(axes, x.shape, mesh))


def shardings(state: nnx.State, mesh: Mesh) -> nnx.State:
    """The sharding of every parameter of `state` (abstract or real), from the axes it was made with."""

    def one(variable: Any) -> Any:
        axes = variable.get_metadata().get("axes") or ()
        return variable.replace(NamedSharding(mesh, partition(axes, variable.shape, mesh)))

    return jax.tree.map(one, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def rows(host: Any, mesh: Mesh) -> Any:
    """This process's rows of a batch (a pytree of numpy arrays), on its devices, as part of the whole batch.

    Raises:
        InputError: the devices cannot share so many rows evenly.
    """
    over = tuple(LOGICAL["batch"])
    ways = math.prod(mesh.shape[axis] for axis in over)
    clips = len(jax.tree.leaves(host)[0]) * jax.process_count()
    if clips % ways:
        raise InputError(
            f"A batch of {clips} cannot be shared by {ways} devices (mesh.data x mesh.fsdp); "
            f"use {clips - clips % ways or ways} or {clips - clips % ways + ways}."
        )
    where = NamedSharding(mesh, PartitionSpec(over))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(where, x), host)
