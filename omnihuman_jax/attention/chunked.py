"""Exact attention in memory linear in the length, on any backend: a block of queries at a time."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from omnihuman_jax.attention.reference import reference

SCORES = 2**25  # scores held at once: 128 MiB in float32


def chunked(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    lengths: Int[Array, "B"] | None = None,
    segments: tuple[Int[Array, "B L"], Int[Array, "B S"]] | None = None,
) -> Float[Array, "B L N K"]:
    """As `reference`; the backward pass recomputes a block's scores instead of keeping them."""
    batch, length, heads, width = q.shape
    rows = max(1, min(length, SCORES // (batch * heads * k.shape[1])))
    blocks = -(-length // rows)
    pad = blocks * rows - length

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(block):
        queries, own = block
        pair = None if segments is None else (own, segments[1])
        return reference(queries, k, v, lengths=lengths, segments=pair)

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, blocks, rows, *x.shape[2:]), 1, 0)

    own = split(jnp.zeros((batch, length), jnp.int32) if segments is None else segments[0])
    out = jax.lax.map(one, (split(q), own))
    return jnp.moveaxis(out, 0, 1).reshape(batch, blocks * rows, heads, width)[:, :length]
