"""TPU flash attention against the reference, interpreted on a CPU; and compiled for TPUs that are not there.

Interpreting checks values, the order of transfers and memory read before it is written; compiling checks
layouts and the size of the chip's memory. Together they cover the kernel without a TPU.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu

from omnihuman_jax.attention import flash_tpu
from omnihuman_jax.attention.chunked import CHUNKED
from omnihuman_jax.attention.kernel import NOTHING, Mask, attend, attend_forward
from omnihuman_jax.attention.tiles import TABLE, Tiles, tiles

TILES = Tiles(128, 256, 128)
INTERPRET = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
TOPOLOGIES = {
    "v4": ("v4:2x2x1", dict(chip_config_name="megacore")),
    "v5e": ("v5e:2x2", {}),
    "v5p": ("v5p:2x2x1", {}),
    "v6e": ("v6e:1x1", {}),
    "tpu7x": ("tpu7x:1x1x1", {}),
}


def kernel(statistic="auto", tile=TILES):
    return flash_tpu.kernel(tile, INTERPRET, statistic)


def inputs(queries, keys, *, batch=1, heads=1, width=64, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda rows: jnp.asarray(rng.standard_normal((batch, rows, heads, width)), dtype)
    return draw(queries), draw(keys), draw(keys)


def close(got, want, atol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), atol=atol)


def all_passes(kernel, qkv, turns, mask):
    """Output, log-sum-exp, gradients and tangents."""
    out, lse = kernel.forward(qkv, mask)
    gradients = kernel.backward(qkv, mask, out, lse, turns[0].astype(out.dtype))
    return (out, lse), gradients, kernel.tangent(qkv, turns, mask)


@pytest.mark.parametrize("statistic", ["bound", "running"])
@pytest.mark.parametrize("queries, keys, width", [(256, 512, 64), (200, 300, 128), (1, 5, 64)])
def test_every_pass_is_that_of_chunked_attention(statistic, queries, keys, width):
    qkv = inputs(queries, keys, width=width)
    turns = inputs(queries, keys, width=width, seed=1)
    got = all_passes(kernel(statistic), qkv, turns, Mask())
    # Sums of float32 in another order.
    close(got, all_passes(CHUNKED, qkv, turns, Mask()), 2e-5)


@pytest.mark.parametrize("statistic", ["bound", "running"])
def test_lengths_and_segments_hide_what_they_say(statistic):
    qkv, turns = inputs(130, 300, batch=2), inputs(130, 300, batch=2, seed=1)
    spoiled = qkv[0], qkv[1], qkv[2].at[0, 70:].set(1e30)
    of_q = jnp.asarray(np.arange(130) // 50 + np.zeros((2, 1)), jnp.int32)
    of_k = jnp.asarray(np.arange(300) // 40 + np.zeros((2, 1)), jnp.int32)
    mask = Mask(jnp.array([70, 300]))
    want = all_passes(CHUNKED, qkv, turns, mask)
    close(all_passes(kernel(statistic), qkv, turns, mask), want, 2e-5)
    close(kernel(statistic).forward(spoiled, mask), want[0], 2e-5)
    mask = Mask(jnp.array([270, 300]), (of_q, of_k))
    got = all_passes(kernel(statistic), qkv, turns, mask)
    close(got, all_passes(CHUNKED, qkv, turns, mask), 2e-5)


@pytest.mark.parametrize("statistic", ["bound", "running"])
def test_a_query_that_sees_nothing_gives_nothing(statistic):
    qkv, turns = inputs(130, 140), inputs(130, 140, seed=1)
    of_q, of_k = jnp.zeros((1, 130), jnp.int32).at[0, :3].set(9), jnp.zeros((1, 140), jnp.int32)
    for mask in (Mask(jnp.array([0])), Mask(None, (of_q, of_k))):
        got = all_passes(kernel(statistic), qkv, turns, mask)
        close(got, all_passes(CHUNKED, qkv, turns, mask), 2e-5)
        (out, lse), (dq, _, _), (_, (turn, _)) = got
        assert np.all(lse[:, :, :3] == NOTHING)
        assert not np.any(out[:, :3]) and not np.any(dq[:, :3]) and not np.any(turn[:, :3])


@pytest.mark.parametrize("size", [1.0, 8.0, 60.0, 1e4])
def test_large_scores_fall_back_to_the_running_maximum(size):
    q, k, v = inputs(128, 256)
    close(
        kernel().forward((q * size, k, v), Mask()), CHUNKED.forward((q * size, k, v), Mask()), 2e-2
    )
    out = kernel().forward((q * size, k, v), Mask())[0]
    # A score of 1e4 in float32 is only known to about 1e-3, and so are the weights.
    close(out, CHUNKED.forward((q * size, k, v), Mask())[0], 1e-5 * max(1.0, size))


def test_scores_at_the_bound_need_no_maximum():
    """All scores at one end of the range, the rest of the softmax beside it."""
    q, k, v = inputs(128, 256)
    q, k = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    for sign in (1, -1):
        far = k.at[:, :200].set(sign * k[:, :1])  # many equal keys; most scores are much smaller
        scaled = q.at[:, 0].set(k[:, 0]) * 95 * 8 / 1.4427
        got = kernel("bound").forward((scaled, far, v), Mask())
        close(got, CHUNKED.forward((scaled, far, v), Mask()), 1e-4)


def test_queries_that_do_not_fit_on_the_chip_are_taken_in_turns():
    qkv, mask = inputs(600, 140, heads=2), Mask()
    of_q = jnp.asarray(np.arange(600)[None] // 350, jnp.int32)
    of_k = jnp.asarray(np.arange(140)[None] // 90, jnp.int32)
    small = TILES._replace(resident=0)
    for mask in (Mask(), Mask(None, (of_q, of_k))):
        out, lse = CHUNKED.forward(qkv, mask)
        got = kernel(tile=small).backward(qkv, mask, out, lse, out)
        close(got, CHUNKED.backward(qkv, mask, out, lse, out), 2e-5)


def test_backward_is_of_all_keys_that_the_log_sum_exp_counts():
    """What a ring needs: each part of the keys gets its gradient from the log-sum-exp of all."""
    q, k, v = inputs(130, 300)
    out, lse = CHUNKED.forward((q, k, v), Mask())
    want = CHUNKED.backward((q, k, v), Mask(), out, lse, q)
    parts = [
        kernel().backward((q, k[:, part], v[:, part]), Mask(), out, lse, q)
        for part in (slice(0, 170), slice(170, 300))
    ]
    close(parts[0][0] + parts[1][0], want[0], 2e-5)
    close(jnp.concatenate([parts[0][1], parts[1][1]], 1), want[1], 2e-5)


def test_it_is_differentiable_both_ways_under_jit():
    qkv, turns, ours = inputs(130, 140), inputs(130, 140, seed=1), kernel()
    loss = lambda which: lambda *qkv: jnp.sum(attend(which, qkv, Mask()) ** 2)
    got = jax.jit(jax.grad(loss(ours), (0, 1, 2)))(*qkv)
    close(got, jax.grad(loss(CHUNKED), (0, 1, 2))(*qkv), 1e-4)
    turn = lambda which: lambda *qkv: attend_forward(which, qkv, Mask())
    close(jax.jvp(turn(ours), qkv, turns), jax.jvp(turn(CHUNKED), qkv, turns), 2e-5)


def test_bfloat16_differs_by_its_rounding_only():
    qkv, turns = (inputs(200, 300, width=128, dtype=jnp.bfloat16, seed=s) for s in (0, 1))
    exact = [tuple(x.astype(jnp.float32) for x in both) for both in (qkv, turns)]
    got = all_passes(kernel(), qkv, turns, Mask())
    want = all_passes(CHUNKED, *exact, Mask())
    assert got[0][0].dtype == got[1][0].dtype == jnp.bfloat16
    got = jax.tree.map(lambda x: x.astype(jnp.float32), got)
    # Products of about one, each rounded to 8 bits, as are the weights and the results.
    close(got, want, 4e-2)


def test_it_refuses_with_a_reason():
    q, k, v = inputs(8, 8, width=32)
    with pytest.raises(NotImplementedError, match="width 32"):
        kernel().check((q, k, v), Mask())
    q, k, v = inputs(8, 8)
    with pytest.raises(NotImplementedError, match="this is cpu"):
        flash_tpu.FLASH_TPU.check((q, k, v), Mask())
    with pytest.raises(NotImplementedError, match="float16"):
        kernel().check(tuple(x.astype(jnp.float16) for x in (q, k, v)), Mask())


@pytest.fixture(scope="module", params=TOPOLOGIES)
def chip(request):
    """One core of a TPU that is not there."""
    pytest.importorskip("libtpu")
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="true")
    name, more = TOPOLOGIES[request.param]
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **more)
    return topology.devices[0]


@pytest.mark.slow
@pytest.mark.parametrize("length, statistic", [(32_760, "bound"), (75_600, "running")])
@pytest.mark.parametrize("pass_", ["forward", "backward", "tangent"])
def test_it_compiles_for_every_generation(chip, length, statistic, pass_):
    """Two heads of bfloat16, with the lengths and tiles that the dispatcher would use.

    Tiles are the same at both, so each of the two programs that `auto` chooses from is compiled at one.
    """
    place = jax.sharding.SingleDeviceSharding(chip)
    aval = lambda *shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
    x = aval(1, length, 2, 128, dtype=jnp.bfloat16)
    lse = aval(1, 2, length, dtype=jnp.float32)
    ours, mask = flash_tpu.kernel(device=chip.device_kind, statistic=statistic), Mask()
    runs = {
        "forward": (lambda *qkv: ours.forward(qkv, mask), (x, x, x)),
        "backward": (lambda *a: ours.backward(a[:3], mask, *a[3:]), (x, x, x, x, lse, x)),
        "tangent": (lambda *a: ours.tangent(a[:3], a[3:], mask), (x,) * 6),
    }
    run, arguments = runs[pass_]
    compiled = jax.jit(run).lower(*arguments).compile()
    assert "flash_" + pass_ in compiled.as_text()


@pytest.mark.parametrize("pass_", ["forward", "backward", "tangent"])
@pytest.mark.parametrize("kind", [*TABLE, "TPU of tomorrow"])
def test_tiles_cover_any_length_with_pieces_that_divide(kind, pass_):
    for length, keys in [(1, 5), (300, 512), (8190, 8190), (32_760, 32_760), (79_200, 79_200)]:
        tile = tiles(kind, length, keys, 128, pass_)
        assert tile.queries % 128 == tile.keys % tile.compute == tile.compute % 128 == 0
        assert tile.queries < length + 128 and tile.keys < keys + 128


@pytest.mark.parametrize("pass_", ["forward", "backward", "tangent"])
@pytest.mark.parametrize("kind", TABLE)
def test_480p_and_720p_have_the_same_tiles(kind, pass_):
    assert len({tiles(kind, n, n, 128, pass_) for n in (32_760, 75_600)}) == 1


def test_padding_counts_when_tiles_are_chosen():
    """4,224 keys in tiles of 4096, the fastest, would be 8,192: 1.94 times the work."""
    for kind in TABLE:
        tile = tiles(kind, 4_224, 4_224, 128, "forward")
        assert -(-4_224 // tile.keys) * tile.keys < 1.5 * 4_224
