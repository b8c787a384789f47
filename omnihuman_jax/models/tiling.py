"""Overlapping tiles over rows and columns, a piece of time after another: bounded memory for any clip."""

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omnihuman_jax.errors import InputError

# The next frames of a tile and the cache of those before (None at first): what comes out, and the cache.
Step = Callable[[Float[Array, "B _ _ _ _"], Any], tuple[Float[Array, "B _ _ _ _"], Any]]


def in_tiles(
    step: Step,
    x: Float[Array | np.ndarray, "B _ _ _ _"],
    shape: tuple[int, ...],
    *,
    tile: int,
    overlap: int,
    ends: Sequence[int],
) -> Float[np.ndarray, "B _ _ _ _"]:
    """`step` over all of `x` [batch, frames, rows, columns, channels], tile after tile.

    Tiles are squares of `tile` cells, all alike so that `step` compiles once; the last of a row is
    moved back to the edge. Where tiles overlap they are mixed by weights that rise linearly from
    either side. Only one tile's cache and piece of time are on the device; the result, of `shape`,
    is collected on the host.

    Args:
        ends: the frame of `x` where each piece of time ends.

    Raises:
        InputError: tiles that overlap wholly, or not at all.
    """
    if not 0 <= overlap < tile:
        raise InputError(
            f"Tiles overlap by 0 up to less than their size, got {tile=} {overlap=}; "
            f"use an overlap of {max(tile, 1) // 4}."
        )
    _, _, rows, columns, _ = x.shape
    scale = Fraction(shape[2], rows)
    total = np.zeros(shape, np.float32)
    weight = np.zeros((*shape[2:4], 1), np.float32)
    for row, column in itertools.product(
        _spans(rows, tile, overlap, scale), _spans(columns, tile, overlap, scale)
    ):
        (here, there, fade), (here_too, there_too, fade_too) = row, column
        mask = (fade[:, None] * fade_too[None, :])[:, :, None]
        cache, start, done = None, 0, 0
        for end in ends:
            piece, cache = step(jnp.asarray(x[:, start:end, here, here_too]), cache)
            frames = slice(done, done + piece.shape[1])
            total[:, frames, there, there_too] += mask[None, None] * np.asarray(piece, np.float32)
            start, done = end, frames.stop
        weight[there, there_too] += mask
    return total / weight[None, None]


def _spans(
    size: int, tile: int, overlap: int, scale: Fraction
) -> list[tuple[slice, slice, np.ndarray]]:
    """Each tile along one axis: where it lies in the input and in the output, and its weights there."""
    tile = min(tile, size)
    starts = [*range(0, size - tile, tile - min(overlap, tile - 1)), size - tile]
    faded, length = int(overlap * scale), int(tile * scale)
    ramp = np.minimum(np.arange(1, length + 1, dtype=np.float32) / (faded + 1), 1)
    spans = []
    for start in starts:
        fade = np.ones(length, np.float32)
        fade *= ramp if start else 1
        fade *= ramp[::-1] if start < size - tile else 1
        out = int(start * scale)
        spans.append((slice(start, start + tile), slice(out, out + length), fade))
    return spans
