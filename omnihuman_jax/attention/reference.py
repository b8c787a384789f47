"""What attention means, in ten lines of jnp: the oracle of the tests, and the short-sequence path."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def reference(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    lengths: Int[Array, "B"] | None = None,
    segments: tuple[Int[Array, "B L"], Int[Array, "B S"]] | None = None,
) -> Float[Array, "B L N K"]:
    """softmax(q kᵀ / √K) v with the scores and the softmax in float32; see `attention`."""
    mask = allowed(q.shape[1], k.shape[1], lengths, segments)
    # Heads first: a CPU multiplies contiguous matrices two to three times as fast (docs/log.md).
    q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q, k, v))
    scores = jnp.einsum("BNLK,BNSK->BNLS", q, k, preferred_element_type=jnp.float32)
    scores = scores * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    if mask is not None:  # a query may see nothing
        weights = jnp.where(mask, weights, 0)
    out = jnp.einsum("BNLS,BNSK->BNLK", weights.astype(v.dtype), v)
    return jnp.moveaxis(out, 1, 2)


def allowed(
    queries: int,
    keys: int,
    lengths: Int[Array, "B"] | None,
    segments: tuple[Int[Array, "B L"], Int[Array, "B S"]] | None,
) -> Bool[Array, "B 1 l S"] | None:
    """Which key each query may see; None when all may see all. l is L, or 1 if all rows are alike."""
    mask = None
    if lengths is not None:
        mask = (jnp.arange(keys)[None, :] < lengths[:, None])[:, None, None, :]
    if segments is not None:
        same = (segments[0][:, :, None] == segments[1][:, None, :])[:, None]
        mask = same if mask is None else mask & same
    return mask
