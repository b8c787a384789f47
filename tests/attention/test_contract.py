"""One suite over all implementations of attention: each means softmax(q kᵀ / √K) v."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.attention import attention, chunked, forward_mode
from omnihuman_jax.attention.dispatch import IMPLEMENTATIONS

B, N, K = 2, 3, 8
SHAPES = [(16, 16), (7, 13), (1, 5), (33, 9)]  # queries, keys; odd lengths among them


def inputs(queries, keys, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda length: jnp.asarray(rng.standard_normal((B, length, N, K)), jnp.float32)
    return draw(queries), draw(keys), draw(keys)


def exact(q, k, v, seen):
    """The definition in float64, one pair of clip and head after another."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b in range(B):
        for n in range(N):
            scores = np.where(seen[b], q[b, :, n] @ k[b, :, n].T / K**0.5, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, :, n] = weights / weights.sum(-1, keepdims=True) @ v[b, :, n]
    return out


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that `chunked` has several blocks, the last of them partly padding."""
    monkeypatch.setattr(chunked, "SCORES", B * N * 13 * 5)


@pytest.fixture(params=IMPLEMENTATIONS)
def name(request):
    return request.param


@pytest.mark.parametrize("queries, keys", SHAPES)
def test_values_are_the_definition(name, queries, keys):
    q, k, v = inputs(queries, keys)
    got = attention(q, k, v, implementation=name)
    want = exact(q, k, v, np.ones((B, queries, keys), bool))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_keys_behind_the_length_are_never_seen(name):
    q, k, v = inputs(7, 13)
    lengths = jnp.array([4, 13])
    seen = np.broadcast_to((np.arange(13)[None] < np.array([[4], [13]]))[:, None], (B, 7, 13))
    got = attention(q, k, v, lengths=lengths, implementation=name)
    np.testing.assert_allclose(got, exact(q, k, v, seen), atol=1e-6)
    spoiled = k.at[0, 4:].set(jnp.inf), v.at[0, 4:].set(1e30)
    assert np.isfinite(attention(q, k, spoiled[1], lengths=lengths, implementation=name)).all()


def test_segments_see_only_themselves(name):
    q, k, v = inputs(7, 13)
    of_q = jnp.asarray(np.arange(7)[None] // 3 + np.zeros((B, 1), int), jnp.int32)
    of_k = jnp.asarray(np.arange(13)[None] // 5 + np.zeros((B, 1), int), jnp.int32)
    seen = np.asarray(of_q)[:, :, None] == np.asarray(of_k)[:, None]
    got = attention(q, k, v, segments=(of_q, of_k), implementation=name)
    np.testing.assert_allclose(got, exact(q, k, v, seen), atol=1e-6)


def test_gradients_are_those_of_the_reference(name):
    q, k, v = inputs(16, 13)
    weight = jnp.asarray(np.random.default_rng(1).standard_normal(q.shape), jnp.float32)

    def loss(q, k, v, implementation):
        return jnp.sum(weight * attention(q, k, v, implementation=implementation))

    want = jax.grad(loss, (0, 1, 2))(q, k, v, "reference")
    got = jax.grad(loss, (0, 1, 2))(q, k, v, name)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_tangents_are_those_of_the_reference(name, masked):
    qkv, turns = inputs(16, 13), inputs(16, 13, seed=2)
    masks = dict(lengths=jnp.array([4, 13])) if masked else {}

    def run(*qkv, implementation):
        return attention(*qkv, implementation=implementation, **masks)

    _, want = jax.jvp(functools.partial(run, implementation="reference"), qkv, turns)
    with forward_mode():
        out, got = jax.jvp(functools.partial(run, implementation=name), qkv, turns)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(out, run(*qkv, implementation=name), atol=1e-6)


def test_masked_gradients_are_those_of_the_reference_and_touch_nothing_unseen(name):
    q, k, v = inputs(7, 13)
    lengths = jnp.array([4, 13])

    def loss(k, v, implementation):
        return jnp.sum(attention(q, k, v, lengths=lengths, implementation=implementation) ** 2)

    want = jax.grad(loss, (0, 1))(k, v, "reference")
    got = jax.grad(loss, (0, 1))(k, v, name)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
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
