"""What the three passes of TPU flash attention share: layout, masks, and the choice of the statistic.

Scores are held keys by queries: what belongs to a query is then a row of lanes, a sum over keys adds
registers and never crosses lanes, and the weights are the stationary side of the second product.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from omnihuman_jax.attention.kernel import NOTHING, QKV, Mask
from omnihuman_jax.attention.tiles import Tiles

LOG2_E = 1.4426950408889634
# If no score in units of log 2 can be larger than this, 2**score and sums of it are normal float32 numbers,
# and softmax needs no maximum: it is the same whatever is subtracted from a row of scores.
BOUND = 96.0
UNSEEN = 2 * NOTHING  # a score that is never seen; below a maximum that has seen nothing


class How(NamedTuple):
    """How to run the kernels.

    Attributes:
        statistic: "bound" takes the scores' bound for granted, "running" keeps a running maximum, "auto"
            decides by the inputs.
    """

    device: str | None = None
    tiles: Tiles | None = None
    statistic: str = "auto"
    interpret: Any = False


class Call(NamedTuple):
    """One call of a kernel: sizes padded to tiles, and what masks it needs."""

    tile: Tiles
    queries: int
    keys: int
    masked: bool
    segments: bool

    def grid(self, batch: int, heads: int) -> tuple[int, int, int, int]:
        """Clips, heads, tiles of queries, tiles of keys."""
        return batch, heads, self.queries // self.tile.queries, self.keys // self.tile.keys


def plan(tile: Tiles, length: int, keys: int, mask: Mask) -> Call:
    """Sizes that the tiles divide."""
    padded = -(-keys // tile.keys) * tile.keys
    segments = mask.segments is not None
    return Call(
        tile,
        -(-length // tile.queries) * tile.queries,
        padded,
        padded != keys or mask.lengths is not None or segments,
        segments,
    )


def heads_first(x: Array, rows: int) -> Array:
    """(B L N K) -> (B N rows K), zeros behind the sequence."""
    x = jnp.moveaxis(x, 2, 1)
    return jnp.pad(x, [(0, 0), (0, 0), (0, rows - x.shape[2]), (0, 0)])


def exponents(k: Array, q: Array) -> Array:
    """Scores (keys by queries) as exponents of two. Scaled in float32: a scaled q would be rounded again."""
    return dot(k, q, (1, 1)) * (q.shape[-1] ** -0.5 * LOG2_E)


def bounded(q: Float[Array, "B N L K"], k: Float[Array, "B N S K"]) -> Bool[Array, ""]:
    """Whether no score |q·k| ≤ |q||k| leaves the range in which softmax needs no maximum."""

    def longest(x: Array) -> Array:
        return jnp.max(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1), axis=-1)

    scale = q.shape[-1] ** -0.5 * LOG2_E
    return jnp.all(longest(q) * longest(k) <= (BOUND / scale) ** 2)


def by_statistic(how: How, q: Array, k: Array, run: Callable[..., Any], *arrays: Array) -> Any:
    """`run(running, *arrays)` with or without the running maximum."""
    if how.statistic != "auto":
        return run(how.statistic == "running", *arrays)
    return jax.lax.cond(bounded(q, k), lambda *a: run(False, *a), lambda *a: run(True, *a), *arrays)


def dot(a: Array, b: Array, over: tuple[int, int]) -> Array:
    """Product of two matrices over one axis of each, in float32; float32 inputs are not rounded."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dims = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=exact, preferred_element_type=jnp.float32)


def limits(qkv: QKV, mask: Mask) -> Array:
    """The number of keys of each clip, int32 (B)."""
    keys = qkv[1].shape[1]
    if mask.lengths is None:
        return jnp.full((qkv[0].shape[0],), keys, jnp.int32)
    return jnp.clip(mask.lengths, 0, keys).astype(jnp.int32)


def segment_rows(call: Call, mask: Mask) -> tuple[Array, ...]:
    """Segments of the queries (B 1 L) and of the keys (B S 1), or nothing."""
    if mask.segments is None:
        return ()
    of_q, of_k = (x.astype(jnp.int32) for x in mask.segments)
    of_q = jnp.pad(of_q, [(0, 0), (0, call.queries - of_q.shape[1])])
    of_k = jnp.pad(of_k, [(0, 0), (0, call.keys - of_k.shape[1])])
    return of_q[:, None, :], of_k[:, :, None]


def hide(scores: Array, first: Any, limit: Any, segments: Sequence[Any], part: slice) -> Array:
    """Scores (keys by queries) with UNSEEN where a key is behind the limit or in another segment."""
    key = first + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    seen = key < limit
    if segments:
        of_q, of_k = segments
        seen &= of_k[part, :] == of_q[...]
    return jnp.where(seen, scores, UNSEEN)


def on_tile(call: Call, limit: Any, tile_of_keys: Any, body: Callable[[bool], None]) -> None:
    """`body(masked)`, masks only where they hide something; not at all behind the last key."""
    if not call.masked:
        body(False)
        return
    rows = call.tile.keys
    full = (tile_of_keys + 1) * rows <= limit
    if call.segments:
        pl.when(tile_of_keys * rows < limit)(lambda: body(True))
        return
    pl.when(full)(lambda: body(False))
    pl.when(jnp.logical_not(full) & (tile_of_keys * rows < limit))(lambda: body(True))


def over_rows(x: Array) -> Array:
    """(rows by queries) -> (8 by queries), what a sum over rows costs no shuffle for."""
    return jnp.sum(x.reshape(x.shape[0] // 8, 8, x.shape[1]), axis=0)


def parameters(call: Call, sequential: int) -> pltpu.CompilerParams:
    """The last `sequential` axes of the grid are in order."""
    free, ordered = pltpu.PARALLEL, pltpu.ARBITRARY
    order = (free,) * (4 - sequential) + (ordered,) * sequential
    return pltpu.CompilerParams(
        dimension_semantics=order,
        vmem_limit_bytes=call.tile.vmem << 20,
        disable_bounds_checks=True,
    )
