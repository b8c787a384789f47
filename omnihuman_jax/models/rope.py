"""3-D rotary positions (Wan2.1): where a token is in time, row and column; reference tokens at time zero."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

THETA = 10_000.0


def rotations(
    shape: tuple[int, int, int], width: int, reference: tuple[int, int] | None = None
) -> Float[np.ndarray, "2 L k"]:
    """Cosines and sines for L tokens in `shape` (frames, rows, columns) and k = head width / 2 pairs.

    Computed in float64. Of the pairs, a third each turn with row and column, the rest with time (22,
    21, 21 of 64). Tokens of a `reference` image of (rows, columns) follow the video's; their temporal
    index is zero, so their time pairs do not turn (OmniHuman-1, section 3.1).
    """
    positions = [np.indices(shape).reshape(3, -1)]
    if reference is not None:
        positions.append(np.indices((1, *reference)).reshape(3, -1))
    time, row, column = np.concatenate(positions, axis=1).astype(np.float64)
    spatial = width // 6
    parts = ((time, width // 2 - 2 * spatial), (row, spatial), (column, spatial))
    angles = np.concatenate(
        [at[:, None] * THETA ** (-np.arange(pairs) / pairs)[None] for at, pairs in parts], axis=1
    )
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def rotate(
    x: Float[Array, "B L N K"], turns: Float[Array, "2 L k"] | Float[np.ndarray, "2 L k"]
) -> Float[Array, "B L N K"]:
    """Turn adjacent pairs of each head by their angle, in float32; the result has x's dtype."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    cos, sin = turns[0][None, :, None, :], turns[1][None, :, None, :]
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
