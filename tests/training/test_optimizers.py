"""Optimizers: each is what its paper says, moves only what it may, and lies where the parameters lie."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from omnihuman_jax import mesh as meshes
from omnihuman_jax.errors import InputError
from omnihuman_jax.models.dit import OmniHumanDiT
from omnihuman_jax.settings import override
from omnihuman_jax.training import networks, optimizers, schedules
from omnihuman_jax.training.optimizers import KINDS, Optimizer
from tests.training import worlds


def shapes_of(params):
    where = jax.sharding.NamedSharding(meshes.make_mesh(), jax.sharding.PartitionSpec())
    return {p: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=where) for p, v in params.items()}


def some(seed=0):
    random = np.random.default_rng(seed)
    sizes = {"blocks/up/kernel": (3, 8, 16), "out/kernel": (8, 6), "head/kernel": (8, 4)}
    sizes |= {"blocks/up/bias": (3, 16), "norm/scale": (8,)}
    return {p: jnp.asarray(random.standard_normal(s), jnp.float32) for p, s in sizes.items()}


def updates(optimizer, grads, params, steps=1):
    transform = optimizer.make(shapes_of(params), 100)
    now = transform.init(params)
    for _ in range(steps):
        changes, now = transform.update(grads, now, params)
        params = optax.apply_updates(params, changes)
    return changes, params


def test_adamw_by_hand():
    """First update: -rate (m / (1 - b1)) / (sqrt(v / (1 - b2)) + eps) is -rate sign(g), less decay."""
    params, grads = some(), some(1)
    optimizer = Optimizer(learning_rate=0.1, warmup=0, weight_decay=0.5)
    changes, _ = updates(optimizer, grads, params)
    for path, g in grads.items():
        pull = 0.5 * params[path] if path.endswith("kernel") else 0.0
        np.testing.assert_allclose(changes[path], -0.1 * (jnp.sign(g) + pull), rtol=2e-4, atol=1e-5)


def test_muon_moves_every_layer_by_an_orthogonal_matrix():
    params, grads = some(), some(1)
    optimizer = Optimizer(kind="muon", learning_rate=0.1, warmup=0, weight_decay=0.0)
    changes, _ = updates(optimizer, grads, params)
    size = 0.1 * 0.2 * np.sqrt(16)
    for layer in range(3):
        values = np.linalg.svd(changes["blocks/up/kernel"][layer], compute_uv=False) / size
        assert (values > 0.6).all() and (values < 1.3).all()  # five Newton-Schulz steps: near 1
    # A layer alone, as a plain matrix, moves in the same way.
    alone = {"inside/kernel": params["blocks/up/kernel"][1]}
    one, _ = updates(optimizer, {"inside/kernel": grads["blocks/up/kernel"][1]}, alone)
    np.testing.assert_allclose(
        one["inside/kernel"], changes["blocks/up/kernel"][1], rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(  # what is no matrix inside the network: AdamW
        changes["head/kernel"], -0.1 * jnp.sign(grads["head/kernel"]), rtol=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_down_a_bowl(kind):
    goal, params = some(2), some()
    rate = 0.4 if kind == "muon" else 0.08  # its updates are a fifth as long
    optimizer = Optimizer(
        kind=kind, learning_rate=rate, schedule="linear", warmup=0, weight_decay=0.0
    )
    transform = optimizer.make(shapes_of(params), 150)

    def loss(p):
        return sum(jnp.sum((p[k] - goal[k]) ** 2) for k in p)

    @jax.jit
    def step(p, now):
        changes, now = transform.update(jax.grad(loss)(p), now, p)
        return optax.apply_updates(p, changes), now

    first, now = float(loss(params)), transform.init(params)
    for _ in range(150):
        params, now = step(params, now)
    assert float(loss(params)) < 0.05 * first


@pytest.mark.parametrize("kind", KINDS)
def test_state_lies_where_the_parameters_lie(kind):
    mesh = meshes.make_mesh(data=2, fsdp=4)
    make = lambda rngs: OmniHumanDiT(worlds.CONFIG, rngs=rngs)
    shapes = networks.shapes(make, mesh)
    transform = Optimizer(kind=kind).make(shapes, 10)
    made = optimizers.state_shapes(transform, shapes)
    big = [leaf for leaf in jax.tree.leaves(made) if len(leaf.shape) == 3 and leaf.size > 1000]
    assert big or kind == "adafactor"
    assert all(any(leaf.sharding.spec) for leaf in big)
    params = {p: jnp.zeros(s.shape, s.dtype, device=s.sharding) for p, s in shapes.items()}
    where = jax.tree.map(lambda leaf: leaf.sharding, made)
    jax.block_until_ready(jax.jit(transform.init, out_shardings=where)(params))


def test_adafactor_muon_and_rmsprop_save_memory():
    shapes = shapes_of({"blocks/up/kernel": np.zeros((2, 256, 512), np.float32)})
    adam, factored, muon, rms = (optimizers.state_bytes(Optimizer(kind=k), shapes) for k in KINDS)
    assert factored < 0.05 * adam
    assert muon < 0.55 * adam
    assert rms < 0.51 * adam


def test_frozen_parameters_are_no_part_of_it():
    shapes = shapes_of(some())
    trained, frozen = optimizers.split(
        Optimizer(trainable=("blocks/*",), frozen=("*/bias",)), shapes
    )
    assert set(trained) == {"blocks/up/kernel"}
    assert set(trained) | set(frozen) == set(shapes)
    with pytest.raises(InputError, match="blocks/up/kernel"):
        optimizers.split(Optimizer(trainable=("block/up/*",)), shapes)


@pytest.mark.parametrize(
    "shape, values",
    [
        ("constant", [0.5, 1, 1, 1]),
        ("linear", [0.5, 1, 0.5, 0]),
        ("cosine", [0.5, 1, 0.5, 0]),
        ("wsd", [0.5, 1, 1, 0]),
    ],
)
def test_schedules_at_their_borders(shape, values):
    """Two updates of warm-up, then 100 to the end; halfway between is update 51."""
    found = [float(schedules.factor(shape, n, 100, warmup=2)) for n in (0, 2, 51, 100)]
    np.testing.assert_allclose(found, values, atol=1e-6)
    rate = Optimizer(learning_rate=2.0, schedule=shape, warmup=2).learning_rate_at(0, 100)
    assert rate == pytest.approx(1.0)


@pytest.mark.parametrize(
    "wrong", ["kind=sgd", "schedule=step", "learning_rate=-1", "beta2=1", "warmup=-1"]
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(InputError, match=wrong.split("=")[0]):
        override(Optimizer(), [wrong])
