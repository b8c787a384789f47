"""One suite over all implementations of attention: each means softmax(q kᵀ / √K) v."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from omnihuman_jax.attention import attention, chunked, dispatch, flash_tpu, forward_mode
from omnihuman_jax.attention.flash_gpu import FLASH_GPU
from omnihuman_jax.attention.tiles import Tiles
from tests.attention import cudnn_stand_in

B, N, K = 2, 3, 64
WITH_SEGMENTS = ["reference", "chunked", "flash_tpu"]  # the others refuse them
SHAPES = [(16, 16), (7, 13), (1, 5), (33, 9)]  # queries, keys; odd lengths among them


def inputs(queries, keys, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda length: jnp.asarray(rng.standard_normal((B, length, N, K)), jnp.float32)
    return draw(queries), draw(keys), draw(keys)


# Float32 sums of 64 products of about one, in another order: 2e-6 of a value, 2e-5 of a derivative.


def exact(q, k, v, seen):
    """The definition in float64, one pair of clip and head after another."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b in range(B):
        for n in range(N):
            scores = np.where(seen[b], q[b, :, n] @ k[b, :, n].T / K**0.5, -1e300)
            weights = np.where(seen[b], np.exp(scores - scores.max(-1, keepdims=True)), 0)
            out[b, :, n] = weights @ v[b, :, n] / np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    return out


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that `chunked` has several blocks, the last of them partly padding."""
    monkeypatch.setattr(chunked, "SCORES", B * N * 13 * 5)


@pytest.fixture(params=[*WITH_SEGMENTS, "flash_gpu"])
def name(request, monkeypatch):
    """The kernel for TPU is interpreted, with a watch for races. That for GPU is given a stand-in for cuDNN
    and is not asked whether it likes the inputs (few keys, float32, a CPU): this tests what is ours of it.
    """
    if request.param == "flash_gpu":
        cudnn_stand_in.install(monkeypatch)
        unasked = FLASH_GPU._replace(check=lambda qkv, mask: None)
        monkeypatch.setitem(dispatch.IMPLEMENTATIONS, "flash_gpu", dispatch.by(unasked))
    interpret = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
    interpreted = dispatch.by(flash_tpu.kernel(Tiles(128, 128, 128), interpret))
    monkeypatch.setitem(dispatch.IMPLEMENTATIONS, "flash_tpu", interpreted)
    return request.param


@pytest.mark.parametrize("queries, keys", SHAPES)
def test_values_are_the_definition(name, queries, keys):
    q, k, v = inputs(queries, keys)
    got = attention(q, k, v, implementation=name)
    want = exact(q, k, v, np.ones((B, queries, keys), bool))
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_keys_behind_the_length_are_never_seen(name):
    q, k, v = inputs(7, 13)
    lengths = jnp.array([4, 13])
    seen = np.broadcast_to((np.arange(13)[None] < np.array([[4], [13]]))[:, None], (B, 7, 13))
    got = attention(q, k, v, lengths=lengths, implementation=name)
    np.testing.assert_allclose(got, exact(q, k, v, seen), atol=2e-6)
    spoiled = k.at[0, 4:].set(jnp.inf), v.at[0, 4:].set(1e30)
    assert np.isfinite(attention(q, k, spoiled[1], lengths=lengths, implementation=name)).all()


@pytest.mark.parametrize("name", WITH_SEGMENTS, indirect=True)
def test_segments_see_only_themselves(name):
    q, k, v = inputs(7, 13)
    of_q = jnp.asarray(np.arange(7)[None] // 3 + np.zeros((B, 1), int), jnp.int32)
    of_k = jnp.asarray(np.arange(13)[None] // 5 + np.zeros((B, 1), int), jnp.int32)
    seen = np.asarray(of_q)[:, :, None] == np.asarray(of_k)[:, None]
    got = attention(q, k, v, segments=(of_q, of_k), implementation=name)
    np.testing.assert_allclose(got, exact(q, k, v, seen), atol=2e-6)


@pytest.mark.parametrize("name", WITH_SEGMENTS, indirect=True)
def test_a_query_that_sees_no_key_gets_nothing(name):
    q, k, v = inputs(7, 13)
    of_q, of_k = jnp.full((B, 7), 5, jnp.int32).at[:, :3].set(0), jnp.zeros((B, 13), jnp.int32)
    run = lambda q: attention(q, k, v, segments=(of_q, of_k), implementation=name)
    seen = np.broadcast_to(np.arange(7)[None, :, None] < 3, (B, 7, 13))
    np.testing.assert_allclose(run(q), exact(q, k, v, seen), atol=2e-6)
    assert not np.any(run(q)[:, 3:])
    assert not np.any(jax.grad(lambda q: jnp.sum(run(q) ** 2))(q)[:, 3:])


def test_gradients_are_those_of_the_reference(name):
    q, k, v = inputs(16, 13)
    weight = jnp.asarray(np.random.default_rng(1).standard_normal(q.shape), jnp.float32)

    def loss(q, k, v, implementation):
        return jnp.sum(weight * attention(q, k, v, implementation=implementation))

    want = jax.grad(loss, (0, 1, 2))(q, k, v, "reference")
    got = jax.grad(loss, (0, 1, 2))(q, k, v, name)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_tangents_are_those_of_the_reference(name, masked):
    qkv, turns = inputs(16, 13), inputs(16, 13, seed=2)
    masks = dict(lengths=jnp.array([4, 13])) if masked else {}

    def run(*qkv, implementation):
        return attention(*qkv, implementation=implementation, **masks)

    _, want = jax.jvp(functools.partial(run, implementation="reference"), qkv, turns)
    with forward_mode():
        out, got = jax.jvp(functools.partial(run, implementation=name), qkv, turns)
    np.testing.assert_allclose(got, want, atol=2e-5)
    np.testing.assert_allclose(out, run(*qkv, implementation=name), atol=2e-6)


def test_masked_gradients_are_those_of_the_reference_and_touch_nothing_unseen(name):
    q, k, v = inputs(7, 13)
    lengths = jnp.array([4, 13])

    def loss(k, v, implementation):
        return jnp.sum(attention(q, k, v, lengths=lengths, implementation=implementation) ** 2)

    want = jax.grad(loss, (0, 1))(k, v, "reference")
    got = jax.grad(loss, (0, 1))(k, v, name)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
        assert not np.any(a[0, 4:])


def test_bfloat16_differs_by_its_rounding_only(name):
    q, k, v = (x.astype(jnp.bfloat16) for x in inputs(16, 13))
    got = attention(q, k, v, implementation=name)
    assert got.dtype == jnp.bfloat16
    want = exact(q, k, v, np.ones((B, 16, 13), bool))
    # bf16 keeps 8 bits: weights and output are each rounded to one part in 256.
    np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=2e-2)


def test_a_long_sequence_is_not_refused_and_not_held_at_once():
    q, k, v = jax.eval_shape(lambda: inputs_abstract(4096))
    text = jax.jit(attention).lower(q, k, v).compile().memory_analysis()
    assert text.temp_size_in_bytes < 4096 * 4096 * N * 4 / 4


def inputs_abstract(length):
    return tuple(jnp.zeros((B, length, N, K)) for _ in range(3))


def test_an_unknown_implementation_is_an_error():
    with pytest.raises(KeyError):
        attention(*inputs(4, 4), implementation="flashy")
