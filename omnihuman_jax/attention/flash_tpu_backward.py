"""The backward pass of TPU flash attention: all three gradients in one kernel, five products a tile.

The gradients of a head's queries stay on the chip in float32 while the keys pass by; nothing is added
up in HBM. Queries that do not fit are taken in turns.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from omnihuman_jax.attention.flash_tpu_parts import (
    LOG2_E,
    Call,
    How,
    dot,
    exponents,
    heads_first,
    hide,
    limits,
    on_tile,
    parameters,
    plan,
    segment_rows,
)
from omnihuman_jax.attention.kernel import NOTHING, QKV, Mask
from omnihuman_jax.attention.tiles import Tiles


def backward(
    how: How, tile: Tiles, qkv: QKV, mask: Mask, out: Array, lse: Array, gradient: Array
) -> QKV:
    """See `Kernel.backward`."""
    q, k, v = qkv
    length, keys, width = q.shape[1], k.shape[1], q.shape[-1]
    most = max(1, (tile.resident << 20) // (4 * width * tile.queries))  # tiles on the chip
    tiles_of_queries = -(-length // tile.queries)
    turns = -(-tiles_of_queries // most)
    rows = -(-tiles_of_queries // turns) * tile.queries
    mean = jnp.einsum("BLNK,BLNK->BNL", out, gradient, preferred_element_type=jnp.float32)

    dq, dk, dv = [], jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    for first in range(0, length, rows):
        part = slice(first, first + rows)
        own = mask
        if mask.segments is not None:
            own = mask._replace(segments=(mask.segments[0][:, part], mask.segments[1]))
        some = (q[:, part], k, v)
        call = plan(tile, some[0].shape[1], keys, own)
        a, b, c = _turn(
            how, call, turns > 1, some, own, lse[..., part], mean[..., part], gradient[:, part]
        )
        dq.append(jnp.moveaxis(a[..., : some[0].shape[1]], 3, 1))
        dk, dv = (dk + b, dv + c) if turns > 1 else (b, c)
    dk, dv = (jnp.moveaxis(x[:, :, :keys], 1, 2).astype(k.dtype) for x in (dk, dv))
    return jnp.concatenate(dq, axis=1), dk, dv


def _turn(
    how: How,
    call: Call,
    several: bool,
    qkv: QKV,
    mask: Mask,
    lse: Array,
    mean: Array,
    gradient: Array,
) -> tuple[Array, Array, Array]:
    """Gradients of queries (B N K L) and of keys and values (B N S K), float32 if there are several."""
    # A query that sees nothing, and padding, get weights of 2**-huge = 0.
    pad = [(0, 0), (0, 0), (0, call.queries - lse.shape[2])]
    lse = jnp.where(lse > NOTHING / 2, lse * LOG2_E, -NOTHING)
    lse = jnp.pad(lse, pad, constant_values=-NOTHING)[:, :, None]
    k = heads_first(qkv[1], call.keys)
    arrays = (
        heads_first(qkv[0], call.queries),
        heads_first(gradient, call.queries).astype(k.dtype),
        lse,
        jnp.pad(mean, pad)[:, :, None],
        k,
        k.mT,
        heads_first(qkv[2], call.keys),
        *segment_rows(call, mask),
    )
    batch, heads, _, width = k.shape
    rows, keys = call.tile.queries, call.tile.keys
    _, _, tiles_of_queries, tiles_of_keys = call.grid(batch, heads)
    of_q, of_k = lambda b, n, j, i, _: (b, n, i, 0), lambda b, n, j, i, _: (b, n, j, 0)
    flat = pl.BlockSpec((None, None, 1, rows), lambda b, n, j, i, _: (b, n, 0, i))
    in_specs = [
        pl.BlockSpec((None, None, rows, width), of_q),
        pl.BlockSpec((None, None, rows, width), of_q),
        flat,
        flat,
        pl.BlockSpec((None, None, keys, width), of_k),
        pl.BlockSpec((None, None, width, keys), lambda b, n, j, i, _: (b, n, 0, j)),
        pl.BlockSpec((None, None, keys, width), of_k),
    ]
    if call.segments:
        in_specs += [
            pl.BlockSpec((None, 1, rows), lambda b, n, j, i, _: (b, 0, i)),
            pl.BlockSpec((None, keys, 1), lambda b, n, j, i, _: (b, j, 0)),
        ]
    dtype = jnp.float32 if several else k.dtype
    return pl.pallas_call(
        functools.partial(_kernel, call),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, heads, tiles_of_keys, tiles_of_queries),
            in_specs=in_specs,
            out_specs=[
                # Leaves the chip only in the last round, when it is complete.
                pl.BlockSpec(
                    (None, None, width, rows),
                    lambda b, n, j, i, _: (b, n, 0, jnp.where(j == tiles_of_keys - 1, i, 0)),
                ),
                pl.BlockSpec((None, None, keys, width), of_k),
                pl.BlockSpec((None, None, keys, width), of_k),
            ],
            scratch_shapes=[
                pltpu.VMEM((tiles_of_queries, width, rows), jnp.float32),
                pltpu.VMEM((keys, width), jnp.float32),
                pltpu.VMEM((keys, width), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, width, call.queries), k.dtype),
            jax.ShapeDtypeStruct(k.shape, dtype),
            jax.ShapeDtypeStruct(k.shape, dtype),
        ],
        compiler_params=parameters(call, 2),
        interpret=how.interpret,
        name="flash_backward",
    )(limits(qkv, mask), *arrays)


def _kernel(
    call: Call, limit_ref, q_ref, do_ref, lse_ref, mean_ref, k_ref, kt_ref, v_ref, *refs
) -> None:
    """Adds what a tile of queries and a tile of keys give each other; scores are keys by queries."""
    *segments, dq_ref, dk_ref, dv_ref, dq_sum, dk_sum, dv_sum = refs
    tile_of_keys, tile_of_queries = pl.program_id(2), pl.program_id(3)
    limit = limit_ref[pl.program_id(0)]

    @pl.when(tile_of_keys == 0)
    def _start_queries() -> None:
        dq_sum[tile_of_queries] = jnp.zeros(dq_sum.shape[1:], jnp.float32)

    @pl.when(tile_of_queries == 0)
    def _start_keys() -> None:
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    def body(masked: bool) -> None:
        for first in range(0, call.tile.keys, call.tile.compute):
            part = slice(first, first + call.tile.compute)
            scores = exponents(k_ref[part, :], q_ref[...])
            if masked:
                at = tile_of_keys * call.tile.keys + first
                scores = hide(scores, at, limit, segments, part)
            weights = jnp.exp2(scores - lse_ref[...])
            by_weight = dot(v_ref[part, :], do_ref[...], (1, 1))
            by_score = (weights * (by_weight - mean_ref[...])).astype(q_ref.dtype)
            dv_sum[part, :] += dot(weights.astype(q_ref.dtype), do_ref[...], (1, 0))
            dk_sum[part, :] += dot(by_score, q_ref[...], (1, 0))
            dq_sum[tile_of_queries] += dot(kt_ref[:, part], by_score, (1, 0))

    on_tile(call, limit, tile_of_keys, body)

    @pl.when(tile_of_keys == pl.num_programs(2) - 1)
    def _end_queries() -> None:
        scale = q_ref.shape[-1] ** -0.5
        dq_ref[...] = (dq_sum[tile_of_queries] * scale).astype(dq_ref.dtype)

    @pl.when(tile_of_queries == pl.num_programs(3) - 1)
    def _end_keys() -> None:
        dk_ref[...] = (dk_sum[...] * q_ref.shape[-1] ** -0.5).astype(dk_ref.dtype)
        dv_ref[...] = dv_sum[...].astype(dv_ref.dtype)
