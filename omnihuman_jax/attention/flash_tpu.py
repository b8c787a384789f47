"""Flash attention for TPU in Pallas: the forward pass, and the kernel of all three passes.

Where Cauchy and Schwarz show that no score can overflow float32 (most of the time, after QK
normalisation), weights are 2**score with no maximum subtracted: the same softmax, less work. Otherwise
a running maximum is kept. Measured by benchmarks/attention_tpu.py.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from omnihuman_jax import mesh
from omnihuman_jax.attention import flash_tpu_backward, flash_tpu_tangent
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
from omnihuman_jax.attention.kernel import NOTHING, QKV, Kernel, Mask, Out
from omnihuman_jax.attention.tiles import LANES, Tiles, fit, tiles

FEW = LANES // 2  # fewer keys are left to XLA


def kernel(
    tiles: Tiles | None = None,
    interpret: Any = False,
    statistic: str = "auto",
    device: str | None = None,
) -> Kernel:
    """TPU flash attention with other settings than FLASH_TPU's.

    Args:
        tiles: of all passes; None for those of the device.
        interpret: `pltpu.InterpretParams()` runs it on a CPU, slowly.
        statistic: "bound", "running" or "auto"; see the module.
        device: kind of TPU to compile for; None for the one that is there.
    """
    if statistic not in ("bound", "running", "auto"):
        raise ValueError(f"statistic is bound, running or auto, got {statistic!r}.")
    how = How(device, tiles, statistic, interpret)
    given = functools.partial
    return Kernel(
        "flash_tpu",
        given(_check, how),
        given(_forward, how),
        given(_backward, how),
        given(_tangent, how),
        opaque=True,
    )


def _check(how: How, qkv: QKV, mask: Mask) -> None:
    q, k, v = qkv
    if not how.interpret:
        if (platform := mesh.target()[0]) != "tpu" and not how.device:
            raise NotImplementedError(f"flash_tpu runs on TPU, this is {platform}.")
        if k.shape[1] < FEW:
            raise NotImplementedError(
                f"flash_tpu multiplies {LANES} keys at least; for {k.shape[1]} XLA is faster."
            )
    if q.dtype not in (jnp.bfloat16, jnp.float32) or not q.dtype == k.dtype == v.dtype:
        raise NotImplementedError(
            f"flash_tpu takes bfloat16 or float32, got {q.dtype}, {k.dtype} and {v.dtype}."
        )
    if q.shape[-1] % 64:
        raise NotImplementedError(f"flash_tpu takes multiples of 64, got width {q.shape[-1]}.")
    if not q.shape[1] or not k.shape[1]:
        raise NotImplementedError("flash_tpu takes at least one query and one key.")


def _tiles(how: How, qkv: QKV, pass_: str) -> Tiles:
    (_, length, _, width), keys, dtype = qkv[0].shape, qkv[1].shape[1], qkv[0].dtype
    if how.tiles:
        return fit(how.tiles, length, keys)
    wide = width if dtype == jnp.bfloat16 else 2 * max(width, 128)  # float32 fills twice the memory
    return tiles(how.device or mesh.target()[1], length, keys, wide, pass_)


def _forward(how: How, qkv: QKV, mask: Mask) -> Out:
    length = qkv[0].shape[1]
    call = plan(_tiles(how, qkv, "forward"), length, qkv[1].shape[1], mask)
    # What a last tile holds behind its sequence may be anything, even no number: a query's is never
    # written, a key's score is hidden. A value is multiplied by 0, so it must be one.
    q = heads_first(qkv[0], max(length, call.tile.queries))
    k = heads_first(qkv[1], max(qkv[1].shape[1], call.tile.keys))
    v = heads_first(qkv[2], call.keys).mT
    run = functools.partial(_run, how, call)
    arrays = (limits(qkv, mask), q, k, v, *segment_rows(call, mask))
    out, lse = by_statistic(how, q, k, run, *arrays)
    return jnp.moveaxis(out[..., :length], 3, 1), lse[:, :, 0, :length]


def _run(how: How, call: Call, running: bool, limit: Array, *arrays: Array) -> tuple[Array, Array]:
    """The outputs (B N K L) and the log-sum-exp (B N 1 L)."""
    batch, heads, length, width = arrays[0].shape
    rows, keys = call.tile.queries, call.tile.keys
    in_specs = [
        pl.BlockSpec((None, None, rows, width), lambda b, n, i, j, _: (b, n, i, 0)),
        pl.BlockSpec((None, None, keys, width), lambda b, n, i, j, _: (b, n, j, 0)),
        pl.BlockSpec((None, None, width, keys), lambda b, n, i, j, _: (b, n, 0, j)),
    ]
    if call.segments:
        in_specs += [
            pl.BlockSpec((None, 1, rows), lambda b, n, i, j, _: (b, 0, i)),
            pl.BlockSpec((None, keys, 1), lambda b, n, i, j, _: (b, j, 0)),
        ]
    column = lambda b, n, i, j, _: (b, n, 0, i)
    return pl.pallas_call(
        functools.partial(_kernel, call, running),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=call.grid(batch, heads),
            in_specs=in_specs,
            out_specs=[
                pl.BlockSpec((None, None, width, rows), column),
                pl.BlockSpec((None, None, 1, rows), column),
            ],
            scratch_shapes=[
                pltpu.VMEM((width, rows), jnp.float32),
                pltpu.VMEM((8, rows), jnp.float32),
                pltpu.VMEM((1, rows), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, width, length), arrays[0].dtype),
            jax.ShapeDtypeStruct((batch, heads, 1, length), jnp.float32),
        ],
        compiler_params=parameters(call, 1),
        interpret=how.interpret,
        name="flash_forward",
    )(limit, *arrays)


def _kernel(call: Call, running: bool, limit_ref, q_ref, k_ref, v_ref, *refs) -> None:
    """Adds a tile of keys to the sums of a tile of queries: weights, weighted values, top score."""
    *segments, out_ref, lse_ref, sum_ref, total_ref, top_ref = refs
    limit, tile_of_keys = limit_ref[pl.program_id(0)], pl.program_id(3)

    @pl.when(tile_of_keys == 0)
    def _start() -> None:
        sum_ref[...] = jnp.zeros_like(sum_ref)
        total_ref[...] = jnp.zeros_like(total_ref)
        top_ref[...] = jnp.full_like(top_ref, NOTHING if running else 0)

    def body(masked: bool) -> None:
        for first in range(0, call.tile.keys, call.tile.compute):
            part = slice(first, first + call.tile.compute)
            scores = exponents(k_ref[part, :], q_ref[...])
            if masked:
                at = tile_of_keys * call.tile.keys + first
                scores = hide(scores, at, limit, segments, part)
            if running:
                top = jnp.maximum(top_ref[...], jnp.max(scores, axis=0, keepdims=True))
                shrink = jnp.exp2(top_ref[...] - top)
                total_ref[...] *= shrink
                sum_ref[...] *= shrink
                top_ref[...] = top
                scores -= top
            weights = jnp.exp2(scores)
            rounded = weights.astype(v_ref.dtype)
            # Of the rounded weights, so that the rounding of a large one cancels.
            total_ref[...] += over_rows(rounded.astype(jnp.float32))
            sum_ref[...] += dot(v_ref[:, part], rounded, (1, 0))

    on_tile(call, limit, tile_of_keys, body)

    @pl.when(tile_of_keys == pl.num_programs(3) - 1)
    def _end() -> None:
        total = jnp.sum(total_ref[...], axis=0, keepdims=True)
        some = jnp.where(total > 0, total, 1)
        out_ref[...] = (sum_ref[...] * (1 / some)).astype(out_ref.dtype)
        lse = (top_ref[...] + jnp.log2(some)) * (1 / LOG2_E)
        lse_ref[...] = jnp.where(total > 0, lse, NOTHING)


def _backward(how: How, qkv: QKV, mask: Mask, out: Array, lse: Array, gradient: Array) -> QKV:
    return flash_tpu_backward.backward(
        how, _tiles(how, qkv, "backward"), qkv, mask, out, lse, gradient
    )


def _tangent(how: How, qkv: QKV, tangents: QKV, mask: Mask) -> tuple[Out, Out]:
    return flash_tpu_tangent.tangent(how, _tiles(how, qkv, "tangent"), qkv, tangents, mask)


FLASH_TPU = kernel()
