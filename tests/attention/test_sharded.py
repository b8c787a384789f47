"""Attention over a mesh of 2, 4 and 8 devices is attention on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec

from omnihuman_jax.attention import attention, flash_tpu, forward_mode, sharded, shared_by
from omnihuman_jax.attention.chunked import CHUNKED
from omnihuman_jax.attention.kernel import Mask, attend
from omnihuman_jax.attention.sharded import Scheme
from omnihuman_jax.attention.tiles import Tiles
from omnihuman_jax.mesh import make_mesh

SCHEMES = ["everywhere", "ulysses", "ring", "both"]


def inputs(queries, keys, heads, *, batch=2, width=8, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    draw = lambda rows: jnp.asarray(rng.standard_normal((batch, rows, heads, width)), dtype)
    return draw(queries), draw(keys), draw(keys)


def mesh_of(**sizes):
    devices = int(np.prod(list(sizes.values())))
    return make_mesh(devices=jax.devices()[:devices], **{"fsdp": 1, **sizes})


def passes(qkv, turns, weight, **masks):
    """Output, gradients and tangents, compiled; on the mesh that is set."""

    def run(*qkv):
        return attention(*qkv, implementation="chunked", **masks)

    def loss(*qkv):
        return jnp.sum(weight * run(*qkv).astype(jnp.float32))

    @jax.jit
    def forward(qkv, turns):
        with forward_mode():
            return jax.jvp(run, qkv, turns)

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*qkv)
    return jax.jit(run)(*qkv), gradients, forward(qkv, turns)


def close(got, want, atol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), atol=atol)


MESHES = [dict(context=2), dict(context=4), dict(context=8), dict(data=2, context=2, tensor=2)]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_every_scheme_is_attention_on_one_device(name, sizes):
    """Values, gradients, tangents; 19 tokens divide by nothing, so there is padding that none may see."""
    qkv, turns = inputs(19, 19, 8), inputs(19, 19, 8, seed=1)
    weight = inputs(19, 19, 8, seed=2)[0]
    want = passes(qkv, turns, weight)
    with jax.set_mesh(mesh_of(**sizes)), shared_by(name):
        # Sums of float32 in another order.
        close(passes(qkv, turns, weight), want, 2e-5)


@pytest.mark.parametrize("name", SCHEMES)
def test_lengths_and_segments_hide_the_same_keys(name):
    """One clip's keys end inside the second device's, so that those of the others are seen by no one."""
    qkv, turns, weight = inputs(16, 16, 4), inputs(16, 16, 4, seed=1), inputs(16, 16, 4, seed=2)[0]
    of = jnp.asarray(np.stack([np.arange(16) // 6, np.arange(16) % 3]), jnp.int32)
    for masks in (dict(lengths=jnp.array([5, 16])), dict(segments=(of, of))):
        want = passes(qkv, turns, weight, **masks)
        with jax.set_mesh(mesh_of(context=4)), shared_by(name):
            close(passes(qkv, turns, weight, **masks), want, 2e-5)


def test_few_keys_that_are_not_the_queries_own_are_on_every_device():
    qkv, turns, weight = inputs(30, 7, 3), inputs(30, 7, 3, seed=1), inputs(30, 7, 3, seed=2)[0]
    masks = dict(lengths=jnp.array([4, 7]))
    want = passes(qkv, turns, weight, **masks)
    with jax.set_mesh(mesh_of(context=4)):
        close(passes(qkv, turns, weight, **masks), want, 2e-5)
        program = jax.jit(attention).lower(*inputs(32, 7, 3)).compile().as_text()
    assert not any(word in program for word in ("all-to-all", "collective-permute", "all-gather"))


@pytest.mark.parametrize(
    "heads, context, name, want",
    [
        (12, 4, None, Scheme(4, 1)),
        (12, 8, None, Scheme(4, 2)),
        (40, 8, None, Scheme(8, 1)),
        (5, 4, None, Scheme(1, 4)),
        (12, 4, "ring", Scheme(1, 4)),
        (12, 4, "everywhere", Scheme()),
    ],
)
def test_the_rule(heads, context, name, want):
    assert sharded.scheme(heads, 32_760, 32_760, context, name) == want
    assert sharded.scheme(heads, 32_760, 512, context) == Scheme()


def test_ulysses_of_heads_that_do_not_divide_is_refused():
    qkv = inputs(16, 16, 3)
    with (
        jax.set_mesh(mesh_of(context=4)),
        shared_by("ulysses"),
        pytest.raises(ExceptionGroup) as why,
    ):
        attention(*qkv)
    assert any("3 heads do not divide" in str(reason) for reason in why.value.exceptions)


@pytest.mark.parametrize(
    "name, exchange", [("ulysses", "all-to-all"), ("ring", "collective-permute")]
)
def test_no_device_ever_holds_all_keys(name, exchange):
    qkv, mesh = inputs(64, 64, 8), mesh_of(context=8)
    tokens = NamedSharding(mesh, PartitionSpec(None, "context"))
    with jax.set_mesh(mesh), shared_by(name):
        run = jax.jit(attention, in_shardings=tokens, out_shardings=tokens)
        text = run.lower(*qkv).compile().as_text()
    assert exchange in text and "all-gather" not in text


@pytest.mark.parametrize("name", ["ulysses", "ring", "both"])
def test_a_ring_of_tpu_kernels_is_the_tpu_kernel(name):
    """The log-sum-exp of the Pallas kernel merges, and its gradients are those of all keys."""
    qkv, mask = inputs(200, 200, 2, batch=1, width=64), Mask()
    interpret = pltpu.InterpretParams(uninitialized_memory="nan")
    flash = flash_tpu.kernel(Tiles(128, 128, 128), interpret)
    want = CHUNKED.forward(qkv, mask)
    gradients = CHUNKED.backward(qkv, mask, *want, qkv[0])
    with jax.set_mesh(mesh_of(context=2)):
        over = sharded.over_mesh(flash, name)
        close(jax.jit(over.forward)(qkv, mask), want, 2e-5)
        close(jax.jit(over.backward)(qkv, mask, *want, qkv[0]), gradients, 2e-5)


def test_an_opaque_kernel_is_split_over_any_mesh():
    """What XLA cannot look into (Pallas) sees its own clips and heads only."""
    seen = []

    def forward(qkv, mask):
        seen.append(qkv[0].shape)
        return CHUNKED.forward(qkv, mask)

    kernel = CHUNKED._replace(forward=forward, opaque=True)
    qkv = inputs(16, 16, 8, batch=4)
    want = attention(*qkv)
    with jax.set_mesh(mesh_of(fsdp=4, tensor=2)):
        got = jax.jit(lambda *qkv: attend(sharded.over_mesh(kernel), qkv, Mask()))(*qkv)
    close(got, want, 1e-6)
    assert set(seen) == {(1, 16, 4, 8)}


def test_bfloat16_sums_of_a_ring_are_float32():
    """Eight parts merged differ from the whole by one rounding, not by eight."""
    qkv = inputs(64, 64, 4, dtype=jnp.bfloat16)
    exact = attention(*(x.astype(jnp.float32) for x in qkv))
    with jax.set_mesh(mesh_of(context=8)), shared_by("ring"):
        got = jax.jit(lambda *a: attention(*a, implementation="chunked"))(*qkv)
    # Weights and output are each rounded to 8 bits.
    np.testing.assert_allclose(np.asarray(got, np.float32), exact, atol=2e-2)
