"""Latents become frames: pieces of time that fit, the next one on the device while one is written."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Array, Bool, Float, UInt8

from omnihuman_jax import mesh
from omnihuman_jax.geometry import SPATIAL, TEMPORAL


def pieces(
    latents: tuple[int, ...], width: int, itemsize: int = 4, memory: int | None = None
) -> int:
    """Latent frames to decode at a time: few enough for memory, and best without a shorter last piece,
    which would be compiled for itself.

    Args:
        itemsize: bytes of a number of the activations.
        memory: bytes that are free on the device, None if unknown. The largest activation may have a
            96th of it: a decoder's step needs about twelve of them (the TPU compiler's count), and a
            piece that takes an eighth of the device leaves room for the other networks.
    """
    clips, frames, rows, columns, _ = latents
    widest = clips * TEMPORAL * rows * columns * SPATIAL**2 * width * itemsize  # bytes, the largest
    budget = 2**28 if memory is None else memory // 96
    most = max(1, min(8, budget // widest))
    even = (n for n in range(most, most // 2, -1) if (frames - 1) % n == 0)
    return next(even, most)


def free_memory() -> int | None:
    """Bytes that nothing occupies on the first device; None where it does not say (CPUs).

    Of several processes the least, for all: what they decide by it has to be the same.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    free = max(0, stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    if jax.process_count() == 1:
        return free
    everywhere = multihost_utils.process_allgather(np.int32(free >> 20))  # MiB: JAX has 32 bits
    return int(everywhere.min()) << 20


def ahead_by_one[T](results: Iterator[T]) -> Iterator[T]:
    """The same, each given out only when the one after it has been asked for.

    JAX returns before a device has done its work, so the device has the next piece to work on while the
    caller waits for this one and writes it.
    """
    before = next(results, None)
    for result in results:
        if before is not None:
            yield before
        before = result
    if before is not None:
        yield before


def decoded(
    graph: Any, params: Any, latents: Float[Array, "B T H W C"], frames: int, chunk: int
) -> Iterator[tuple[UInt8[Array, "B F Y X 3"], Bool[Array, ""]]]:
    """Pieces of at least `frames` frames and whether all is finite, on their way to the host."""
    cache, start, made = None, 0, 0
    while made < frames:
        stop = start + 1 if start == 0 else start + chunk
        piece, cache = _decode(graph, params, latents[:, start:stop], cache)
        for array in piece:
            array.copy_to_host_async()
        start, made = stop, made + piece[0].shape[1]
        yield piece


def to_bytes(video: Float[Array, "*S 3"]) -> tuple[UInt8[Array, "*S 3"], Bool[Array, ""]]:
    """[-1, 1] to 0..255, rounded, and whether all were numbers: one that is not would be a silent black."""
    rounded = jnp.round((video + 1) * 127.5).clip(0, 255).astype(jnp.uint8)
    return rounded, jnp.isfinite(video).all()


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _decode(
    graph: Any, params: Any, latents: Float[Array, "B T H W C"], cache: Any
) -> tuple[tuple[UInt8[Array, "B F Y X 3"], Bool[Array, ""]], Any]:
    """The next frames as bytes, and whether they are finite; the cache is written over."""
    pixels, cache = nnx.merge(graph, params).decode_step(latents, cache)
    shown, finite = to_bytes(pixels)
    # Whole on every device, so that every host can read them.
    return (mesh.constrain(shown, "_ _ _ _ _"), finite), cache
