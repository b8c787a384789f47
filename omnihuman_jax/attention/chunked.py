"""Exact attention in memory linear in the length, on any backend: a block of queries at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from omnihuman_jax.attention.kernel import NOTHING, QKV, Kernel, Mask, Out
from omnihuman_jax.attention.reference import allowed

SCORES = 2**25  # scores held at once: 128 MiB in float32


def _check(qkv: QKV, mask: Mask) -> None:
    """It takes everything."""


def _forward(qkv: QKV, mask: Mask) -> Out:
    """As `reference`, heads first: a CPU multiplies contiguous matrices faster (docs/log.md)."""
    k, v = (jnp.moveaxis(x, 2, 1) for x in qkv[1:])

    def one(block: Any) -> Any:
        q, own = block
        scores = _scores(q, k, own, mask)
        weights, lse = _softmax(scores)
        return _apply(weights.astype(v.dtype), v).astype(q.dtype), lse

    out, lse = _over_queries(one, (jnp.moveaxis(qkv[0], 2, 1),), qkv, mask)
    return jnp.moveaxis(out, 1, 2), lse


def _backward(qkv: QKV, mask: Mask, out: Array, lse: Array, gradient: Array) -> QKV:
    """Weights from the log-sum-exp, a block at a time; the gradients of k and v add up in float32."""
    q, k, v, out, gradient = (jnp.moveaxis(x, 2, 1) for x in (*qkv, out, gradient))
    scale = q.shape[-1] ** -0.5
    mean = jnp.einsum(
        "BNLK,BNLK->BNL", out, gradient, preferred_element_type=jnp.float32
    )  # of the score's gradient, by the weights

    def one(block: Any, carry: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        (q, gradient, lse, mean), own = block[:-1], block[-1]
        scores = _scores(q, k, own, mask)
        weights = jnp.where(scores > NOTHING, jnp.exp(scores - lse[..., None]), 0)
        by_weight = _dot("BNLK,BNSK->BNLS", gradient, v)
        by_score = (weights * (by_weight - mean[..., None]) * scale).astype(q.dtype)
        dk, dv = carry
        dk = dk + _dot("BNLS,BNLK->BNSK", by_score, q)
        dv = dv + _dot("BNLS,BNLK->BNSK", weights.astype(q.dtype), gradient)
        return _dot("BNLS,BNSK->BNLK", by_score, k).astype(q.dtype), (dk, dv)

    empty = jnp.zeros(k.shape, jnp.float32)
    dq, (dk, dv) = _over_queries(one, (q, gradient, lse, mean), qkv, mask, (empty, empty))
    dq, dk, dv = (jnp.moveaxis(x, 1, 2) for x in (dq, dk, dv))
    return dq, dk.astype(k.dtype), dv.astype(v.dtype)


def _tangent(qkv: QKV, tangents: QKV, mask: Mask) -> tuple[Out, Out]:
    """With weights p, scores s: out' = Σ p (s' - μ) v + Σ p v', lse' = μ = Σ p s' (arXiv 2410.11081, F)."""
    q, k, v, tq, tk, tv = (jnp.moveaxis(x, 2, 1) for x in (*qkv, *tangents))
    scale = q.shape[-1] ** -0.5

    def one(block: Any) -> Any:
        q, tq, own = block
        weights, lse = _softmax(_scores(q, k, own, mask))
        change = (_dot("BNLK,BNSK->BNLS", tq, k) + _dot("BNLK,BNSK->BNLS", q, tk)) * scale
        mean = jnp.sum(weights * change, axis=-1)
        turned = weights * (change - mean[..., None])
        out = _apply(weights.astype(v.dtype), v)
        turn = _apply(turned.astype(v.dtype), v) + _apply(weights.astype(v.dtype), tv)
        return (out.astype(q.dtype), lse), (turn.astype(q.dtype), mean)

    (out, lse), (turn, mean) = _over_queries(one, (q, tq), qkv, mask)
    return (jnp.moveaxis(out, 1, 2), lse), (jnp.moveaxis(turn, 1, 2), mean)


def _dot(how: str, a: Array, b: Array) -> Array:
    return jnp.einsum(how, a, b, preferred_element_type=jnp.float32)


def _apply(weights: Array, v: Array) -> Array:
    return _dot("BNLS,BNSK->BNLK", weights, v)


def _scores(q: Array, k: Array, own: Array | None, mask: Mask) -> Array:
    """Scaled scores in float32, NOTHING where a query must not look; `own` are the queries' segments."""
    segments = None if own is None or mask.segments is None else (own, mask.segments[1])
    scores = _dot("BNLK,BNSK->BNLS", q, k) * q.shape[-1] ** -0.5
    seen = allowed(q.shape[2], k.shape[2], mask.lengths, segments)
    return scores if seen is None else jnp.where(seen, scores, NOTHING)


def _softmax(scores: Array) -> tuple[Array, Array]:
    """Weights and log-sum-exp; a query that sees nothing has weights of 0 and NOTHING."""
    top = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.where(scores > NOTHING, jnp.exp(scores - top), 0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights / jnp.maximum(total, 1e-30)
    return weights, jnp.where(total > 0, top + jnp.log(jnp.maximum(total, 1e-30)), NOTHING)[..., 0]


def _over_queries(
    one: Callable[..., Any], queries: tuple[Array, ...], qkv: QKV, mask: Mask, carry: Any = None
) -> Any:
    """`one(block)` for every block of rows of arrays (B N L …), joined again; with a `carry`, in turn."""
    batch, length, heads, _ = qkv[0].shape
    rows = max(1, min(length, SCORES // (batch * heads * qkv[1].shape[1])))
    blocks = -(-length // rows)
    pad = blocks * rows - length

    def split(x: Array, axis: int) -> Array:
        x = jnp.pad(x, [(0, pad if i == axis else 0) for i in range(x.ndim)])
        return jnp.moveaxis(x.reshape(*x.shape[:axis], blocks, rows, *x.shape[axis + 1 :]), axis, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(*x.shape[:2], blocks * rows, *x.shape[4:])[:, :, :length]

    own = None if mask.segments is None else split(mask.segments[0], 1)
    split_queries = (*(split(x, 2) for x in queries), own)
    if carry is None:
        return jax.tree.map(join, jax.lax.map(one, split_queries))
    carry, out = jax.lax.scan(lambda c, block: one(block, c)[::-1], carry, split_queries)
    return join(out), carry


CHUNKED = Kernel("chunked", _check, _forward, _backward, _tangent)
