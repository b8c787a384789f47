"""The tangent pass of TPU flash attention: output and directional derivative in one go.

With weights p and scores s: out' = Σ p v' + Σ p s' v - μ out, μ = lse' = Σ p s' (arXiv 2410.11081, F).
s' = k·q' + k'·q is one product over twice the head width, Σ p v and Σ p v' another.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from omnihuman_jax.attention.flash_tpu_parts import (
    LOG2_E,
    Call,
    How,
    by_statistic,
    dot,
    exponents,
    heads_first,
    hide,
    limits,
    on_tile,
    over_rows,
    parameters,
    plan,
    segment_rows,
)
from omnihuman_jax.attention.kernel import NOTHING, QKV, Mask, Out
from omnihuman_jax.attention.tiles import Tiles


def tangent(how: How, tile: Tiles, qkv: QKV, tangents: QKV, mask: Mask) -> tuple[Out, Out]:
    """See `Kernel.tangent`."""
    length = qkv[0].shape[1]
    call = plan(tile, length, qkv[1].shape[1], mask)
    q, tq = (heads_first(x[0], call.queries) for x in (qkv, tangents))
    k, tk = (heads_first(x[1], call.keys) for x in (qkv, tangents))
    v, tv = (heads_first(x[2], call.keys).mT for x in (qkv, tangents))
    arrays = (
        limits(qkv, mask),
        q,
        jnp.concatenate([tq, q], axis=-1),
        k,
        jnp.concatenate([k, tk], axis=-1),
        jnp.concatenate([v, tv], axis=-2),
        *segment_rows(call, mask),
    )
    run = functools.partial(_run, how, call)
    out, lse, turn, mean = by_statistic(how, q, k, run, *arrays)
    out, turn = (jnp.moveaxis(x[..., :length], 3, 1) for x in (out, turn))
    return (out, lse[:, :, 0, :length]), (turn, mean[:, :, 0, :length])


def _run(how: How, call: Call, running: bool, limit: Array, *arrays: Array) -> Any:
    """Outputs (B N K L), log-sum-exp (B N 1 L), and the tangents of both."""
    batch, heads, _, width = arrays[0].shape
    rows, keys = call.tile.queries, call.tile.keys
    of_q, of_k = lambda b, n, i, j, _: (b, n, i, 0), lambda b, n, i, j, _: (b, n, j, 0)
    in_specs = [
        pl.BlockSpec((None, None, rows, width), of_q),
        pl.BlockSpec((None, None, rows, 2 * width), of_q),
        pl.BlockSpec((None, None, keys, width), of_k),
        pl.BlockSpec((None, None, keys, 2 * width), of_k),
        pl.BlockSpec((None, None, 2 * width, keys), lambda b, n, i, j, _: (b, n, 0, j)),
    ]
    if call.segments:
        in_specs += [
            pl.BlockSpec((None, 1, rows), lambda b, n, i, j, _: (b, 0, i)),
            pl.BlockSpec((None, keys, 1), lambda b, n, i, j, _: (b, j, 0)),
        ]
    column = lambda b, n, i, j, _: (b, n, 0, i)
    tall = pl.BlockSpec((None, None, width, rows), column)
    flat = pl.BlockSpec((None, None, 1, rows), column)
    outputs = jax.ShapeDtypeStruct((batch, heads, width, call.queries), arrays[0].dtype)
    numbers = jax.ShapeDtypeStruct((batch, heads, 1, call.queries), jnp.float32)
    return pl.pallas_call(
        functools.partial(_kernel, call, running),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=call.grid(batch, heads),
            in_specs=in_specs,
            out_specs=[tall, flat, tall, flat],
            scratch_shapes=[
                pltpu.VMEM((2 * width, rows), jnp.float32),
                pltpu.VMEM((width, rows), jnp.float32),
                pltpu.VMEM((8, rows), jnp.float32),
                pltpu.VMEM((8, rows), jnp.float32),
                pltpu.VMEM((1, rows), jnp.float32),
            ],
        ),
        out_shape=[outputs, numbers, outputs, numbers],
        compiler_params=parameters(call, 1),
        interpret=how.interpret,
        name="flash_tangent",
    )(limit, *arrays)


def _kernel(
    call: Call, running: bool, limit_ref, q_ref, qq_ref, k_ref, kk_ref, vv_ref, *refs
) -> None:
    """Adds a tile of keys to five sums of a tile of queries: p (v, v'), p s' v, p, p s', top score."""
    *segments, out_ref, lse_ref, turn_ref, mean_ref = refs[:-5]
    sums = sum_ref, turned_ref, total_ref, change_ref, top_ref = refs[-5:]
    limit, tile_of_keys, width = limit_ref[pl.program_id(0)], pl.program_id(3), q_ref.shape[-1]

    @pl.when(tile_of_keys == 0)
    def _start() -> None:
        for ref in sums[:-1]:
            ref[...] = jnp.zeros_like(ref)
        top_ref[...] = jnp.full_like(top_ref, NOTHING if running else 0)

    def body(masked: bool) -> None:
        for first in range(0, call.tile.keys, call.tile.compute):
            part = slice(first, first + call.tile.compute)
            scores = exponents(k_ref[part, :], q_ref[...])
            change = dot(kk_ref[part, :], qq_ref[...], (1, 1)) * width**-0.5
            if masked:
                at = tile_of_keys * call.tile.keys + first
                scores = hide(scores, at, limit, segments, part)
            if running:
                top = jnp.maximum(top_ref[...], jnp.max(scores, axis=0, keepdims=True))
                shrink = jnp.exp2(top_ref[...] - top)
                for ref in sums[:-1]:
                    ref[...] *= shrink
                top_ref[...] = top
                scores -= top
            weights = jnp.exp2(scores)
            turned = weights * change
            rounded = weights.astype(vv_ref.dtype)
            total_ref[...] += over_rows(rounded.astype(jnp.float32))
            change_ref[...] += over_rows(turned)
            sum_ref[...] += dot(vv_ref[:, part], rounded, (1, 0))
            turned_ref[...] += dot(vv_ref[:width, part], turned.astype(vv_ref.dtype), (1, 0))

    on_tile(call, limit, tile_of_keys, body)

    @pl.when(tile_of_keys == pl.num_programs(3) - 1)
    def _end() -> None:
        total = jnp.sum(total_ref[...], axis=0, keepdims=True)
        some = jnp.where(total > 0, total, 1)
        out = sum_ref[:width, :] * (1 / some)
        mean = jnp.sum(change_ref[...], axis=0, keepdims=True) / some
        turn = (sum_ref[width:, :] + turned_ref[...]) * (1 / some) - mean * out
        out_ref[...], turn_ref[...] = out.astype(out_ref.dtype), turn.astype(turn_ref.dtype)
        lse = (top_ref[...] + jnp.log2(some)) * (1 / LOG2_E)
        lse_ref[...], mean_ref[...] = jnp.where(total > 0, lse, NOTHING), mean
