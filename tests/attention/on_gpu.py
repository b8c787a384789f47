"""What must hold of flash_gpu on a GPU: python -m tests.attention.on_gpu (a minute; no pytest, no CPU).

test_flash_gpu runs the same laws with a stand-in for cuDNN, and this file itself where there is a GPU.
Exit code 77: JAX sees no GPU.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from omnihuman_jax.attention.chunked import CHUNKED
from omnihuman_jax.attention.flash_gpu import FLASH_GPU
from omnihuman_jax.attention.kernel import NOTHING, Mask, attend, attend_forward, merge

# Queries, keys: round, odd, a single query, text.
SHAPES = [(256, 256), (333, 517), (1, 65), (1000, 512)]
SEED = 0


def inputs(queries, keys, width=128, dtype=jnp.bfloat16, seed=SEED):
    rng = np.random.default_rng(seed)
    draw = lambda rows: jnp.asarray(rng.standard_normal((2, rows, 3, width)), dtype)
    return draw(queries), draw(keys), draw(keys)


def close(got, want, rounding=2**-8):
    """Within some roundings of the largest value: 8 bits of bfloat16."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, atol=4 * rounding * max(1, np.abs(b).max()))


def agree(got, want):
    """Of `all_passes`: the log-sum-exp is float32, sums of exact products; the rest is bfloat16."""
    ((out, lse), gradients), ((wanted, lse_wanted), more) = got, want
    nothing = lse_wanted == NOTHING
    assert np.array_equal(lse == NOTHING, nothing)
    close(*(jnp.where(nothing, 0, x) for x in (lse, lse_wanted)), rounding=2**-14)
    close((out, gradients), (wanted, more))


def all_passes(kernel, qkv, mask, seed=1):
    """Output, log-sum-exp, gradients."""
    weight = inputs(qkv[0].shape[1], 1, qkv[0].shape[-1], qkv[0].dtype, seed)[0]
    out, lse = jax.jit(kernel.forward)(qkv, mask)
    return (out, lse), jax.jit(kernel.backward)(qkv, mask, out, lse, weight)


def wide(qkv):
    return tuple(x.astype(jnp.float32) for x in qkv)


def values_and_gradients_are_those_of_float32(queries, keys, width=128, dtype=jnp.bfloat16):
    qkv = inputs(queries, keys, width, dtype)
    agree(all_passes(FLASH_GPU, qkv, Mask()), all_passes(CHUNKED, wide(qkv), Mask()))


def lengths_hide_what_they_say():
    q, k, v = inputs(130, 300)
    for lengths in ([70, 300], [1, 299], [0, 64]):
        mask = Mask(jnp.array(lengths))
        got = all_passes(FLASH_GPU, (q, k, v), mask)
        agree(got, all_passes(CHUNKED, wide((q, k, v)), mask))
        dk, dv = got[1][1:]
        assert not np.any(dk[0, lengths[0] :]) and not np.any(dv[0, lengths[0] :])
    (out, lse), (dq, *_) = got
    assert not np.any(out[0]) and not np.any(dq[0]) and np.all(lse[0] == NOTHING)


def a_ring_of_two_is_one_attention():
    """Output and log-sum-exp of all keys, shown to the backward pass of a part of them."""
    q, k, v = inputs(200, 330)
    parts = [((q, k[:, :150], v[:, :150]), Mask()), ((q, k[:, 150:], v[:, 150:]), Mask())]
    out, lse = merge(*(FLASH_GPU.forward(*part) for part in parts))
    weight = inputs(200, 1, seed=1)[0]
    got = [FLASH_GPU.backward(*part, out, lse, weight) for part in parts]
    dq = got[0][0].astype(jnp.float32) + got[1][0]
    dk, dv = (jnp.concatenate([got[0][i], got[1][i]], axis=1) for i in (1, 2))
    agree(((out, lse), (dq, dk, dv)), all_passes(CHUNKED, wide((q, k, v)), Mask()))


def it_is_differentiable_both_ways():
    qkv, turns = inputs(70, 90), inputs(70, 90, seed=2)

    @functools.partial(jax.jit, static_argnums=0)
    def both(kernel, qkv, turns):
        loss = lambda *qkv: jnp.sum(attend(kernel, qkv, Mask()).astype(jnp.float32) ** 2)
        run = lambda *qkv: attend_forward(kernel, qkv, Mask())
        return jax.grad(loss, (0, 1, 2))(*qkv), jax.jvp(run, qkv, turns)

    close(both(FLASH_GPU, qkv, turns), both(CHUNKED, wide(qkv), wide(turns)))


def laws():
    """(name, law) of all."""
    for shape in SHAPES:
        yield f"{shape}", lambda shape=shape: values_and_gradients_are_those_of_float32(*shape)
    yield (
        "width 64, float16",
        lambda: values_and_gradients_are_those_of_float32(96, 130, 64, jnp.float16),
    )
    yield "lengths", lengths_hide_what_they_say
    yield "ring", a_ring_of_two_is_one_attention
    yield "derivatives", it_is_differentiable_both_ways


def main() -> int:
    if jax.default_backend() != "gpu":
        return 77
    for shape in SHAPES:
        FLASH_GPU.check(inputs(*shape), Mask())
    with jax.default_matmul_precision("highest"):
        for name, law in laws():
            law()
            print(name, "holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
