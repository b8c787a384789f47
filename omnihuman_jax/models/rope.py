"""3-D rotary positions (Wan2.1): where a token is in time, row and column; reference tokens at time zero."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from omnihuman_jax import mesh

THETA = 10_000.0


def rotations(
    shape: tuple[int, int, int], width: int, reference: tuple[int, int] | None = None
) -> Float[Array, "2 L _"]:
    """Cosines and sines for L tokens in `shape` (frames, rows, columns) and all pairs of a head's width, on a
    TPU for both of each pair (see `rotate`).

    Of the pairs, a third each turn with row and column, the rest with time (22, 21, 21 of 64). Tokens of
    a `reference` image of (rows, columns) follow the video's; their temporal index is zero, so their
    time pairs do not turn (OmniHuman-1, section 3.1). A program holds the table of each axis, computed
    in float64, and not that of all tokens, which would be megabytes of text.
    """
    spatial = width // 6
    pairs = width // 2 - 2 * spatial, spatial, spatial

    def table(grid: tuple[int, int, int]) -> Float[Array, "2 L k"]:
        parts = []
        for axis, (length, own) in enumerate(zip(grid, pairs, strict=True)):
            angles = np.arange(length)[:, None] * THETA ** (-np.arange(own) / own)[None]
            turns = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
            there = [2, *(length if i == axis else 1 for i in range(3)), own]
            parts.append(jnp.broadcast_to(turns.reshape(there), (2, *grid, own)))
        return jnp.concatenate(parts, axis=-1).reshape(2, -1, width // 2)

    turns = table(shape)
    if reference is not None:
        turns = jnp.concatenate([turns, table((1, *reference))], axis=1)
    return jnp.repeat(turns, 2, axis=-1) if _in_the_matrix_unit() else turns


def rotate(x: Float[Array, "B L N K"], turns: Float[Array, "2 L _"]) -> Float[Array, "B L N K"]:
    """Turn adjacent pairs of each head by their angle, in float32; the result has x's dtype.

    On a TPU the two of a pair change places in the matrix unit, exactly: taking every second lane of a
    row apart costs more there than the whole product (docs/log.md).
    """
    cos, sin = turns[:, None, :, None, :]
    if _in_the_matrix_unit():
        exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
        other = jnp.einsum("BLNK,KJ->BLNJ", x, _quarter(x.shape[-1], x.dtype), precision=exact)
        turned = x.astype(jnp.float32) * cos + other.astype(jnp.float32) * sin
        return turned.astype(x.dtype)
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def _in_the_matrix_unit() -> bool:
    return mesh.target()[0] == "tpu"


def _quarter(width: int, dtype: DTypeLike) -> Float[Array, "K K"]:
    """Turns every pair (a, b) of a row into (-b, a), a quarter of a circle further."""
    matrix = np.zeros((width, width), np.float32)
    even = np.arange(0, width, 2)
    matrix[even + 1, even], matrix[even, even + 1] = -1, 1
    return jnp.asarray(matrix, dtype)
