"""Flow matching: the loss is the velocity's, wherever a row lies; what is given clean is not learned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from omnihuman_jax import mesh as meshes
from omnihuman_jax.errors import InputError
from omnihuman_jax.models.building import FLOAT32
from omnihuman_jax.models.directory import open_directory
from omnihuman_jax.training import state
from omnihuman_jax.training.flow_matching import liveliness
from omnihuman_jax.training.parts import WHOLE
from omnihuman_jax.training.step import Update, make_step
from tests.training import worlds

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


def prepared(folder, stage, mesh=None, **changes):
    mesh = mesh or meshes.make_mesh(devices=jax.devices()[:1])
    return worlds.task(folder, **changes).prepare((stage,), mesh, 0)


def first(trainee, stage, frames=1):
    """The first batch of clips of at least so many latent frames."""
    stream = trainee.stream(stage)
    try:
        while True:
            batch = worlds.on_device(next(stream))
            if batch.latents.shape[1] >= frames:
                return batch
    finally:
        stream.close()


def silent(params):
    """The same network with a velocity of zero everywhere."""
    return {**params, **{p: jnp.zeros_like(params[p]) for p in ("head/kernel", "head/bias")}}


def test_a_network_that_says_nothing_has_the_loss_of_noise_minus_data(folder):
    """E (noise - x0)^2 = 1 + E x0^2, here 2."""
    stage = worlds.stage(batch=32, motion=0.0)
    trainee = prepared(folder, stage)
    batch = first(trainee, stage)
    loss, tallies = jax.jit(trainee.losses["all"])(silent(trainee.init()), batch, KEY)
    expected = 1 + jnp.mean(batch.latents.astype(jnp.float32) ** 2)
    assert float(loss) == pytest.approx(float(expected), rel=0.05)
    for group in ("loss/given/", "loss/time/"):
        parts = sum(value for name, value in tallies.items() if name.startswith(group))
        assert float(parts[1]) == 32  # every clip in one part
        assert float(parts[0] / parts[1]) == pytest.approx(float(loss), rel=1e-5)


def test_latents_given_clean_are_not_in_the_loss(folder):
    stage = worlds.stage(motion=1.0)
    trainee = prepared(folder, stage)
    batch = first(trainee, stage, frames=3)
    loss = jax.jit(trainee.losses["all"])
    params = silent(trainee.init())
    loud = dataclasses.replace(batch, latents=batch.latents.at[:, :2].set(100.0))
    assert float(loss(params, batch, KEY)[0]) == pytest.approx(
        float(loss(params, loud, KEY)[0]), rel=1e-5
    )


def test_the_loss_of_a_clip_does_not_depend_on_its_place(folder):
    stage = worlds.stage()
    trainee = prepared(folder, stage)
    batch, params = first(trainee, stage), trainee.init()
    order = np.random.default_rng(0).permutation(8)
    moved = jax.tree.map(lambda x: x[order], batch)
    loss = jax.jit(trainee.losses["all"])
    one, of_one = loss(params, batch, KEY)
    two, of_two = loss(params, moved, KEY)
    assert float(one) == pytest.approx(float(two), rel=1e-5)
    for name in of_one:
        np.testing.assert_allclose(of_one[name], of_two[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_eight_devices_take_the_step_of_one(folder):
    """Parameters, optimizer and average lie in parts over the devices; the numbers are the same."""
    stage = worlds.stage()
    found = []
    for mesh in (
        meshes.make_mesh(devices=jax.devices()[:1]),
        meshes.make_mesh(data=2, fsdp=4, devices=jax.devices()[:8]),
    ):
        with jax.set_mesh(mesh):
            trainee = prepared(folder, stage, mesh)
            params, transform = trainee.init(), optax.sgd(0.1, momentum=0.9)
            shapes = jax.eval_shape(transform.init, params)
            shapes = (optax.TraceState(trace=trainee.shapes), *shapes[1:])
            now = state.create(params, {WHOLE: transform.init}, {WHOLE: shapes}, True)
            step = jax.jit(make_step(trainee.losses["all"], transform, Update(clip=1.0)))
            stream = trainee.stream(stage)
            for _ in range(2):
                rows = jax.sharding.PartitionSpec(("data", "fsdp"))
                where = jax.sharding.NamedSharding(mesh, rows)
                batch = jax.tree.map(lambda x, w=where: jax.device_put(x, w), next(stream))
                now, tallies = step(now, {}, batch, KEY)
            stream.close()
            found.append((float(tallies["loss"][0]), now))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    kernel = found[1][1].params["blocks/self_attn/q/kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size
    for path, value in found[0][1].params.items():
        np.testing.assert_allclose(
            value, found[1][1].params[path], rtol=1e-3, atol=2e-5, err_msg=path
        )


def test_training_continues_from_the_model_and_writes_one(folder, tmp_path):
    stage = worlds.stage()
    trainee = prepared(folder, stage)
    params = trainee.init()
    np.testing.assert_array_equal(
        params["head/kernel"], worlds.network().head.kernel[...]
    )  # start="model"
    changed = {**params, "head/bias": params["head/bias"] + 1}
    trainee.export(str(tmp_path / "out"), changed, {"trained": {"steps": 3}})
    made = open_directory(str(tmp_path / "out"))
    assert made.manifest.provenance["trained"] == {"steps": 3}
    np.testing.assert_array_equal(made.load("dit", FLOAT32).head.bias[...], changed["head/bias"])


def test_a_stage_needs_a_network_with_its_input(folder):
    plain = dataclasses.replace(worlds.CONFIG, audio=None)
    with pytest.raises(InputError, match="'all' trains audio"):
        prepared(folder, worlds.stage(), network=plain, start="new")


def test_lively_places_weigh_more_and_a_clip_weighs_one():
    x0 = np.zeros((2, 5, 4, 4, 3), np.float32)
    x0[0, ::2, 1, 2] = 1.0
    x0 += np.linspace(0, 5, 5, dtype=np.float32)[None, :, None, None, None]  # all drift evenly
    weight = np.asarray(liveliness(jnp.asarray(x0), 2.0))
    np.testing.assert_allclose(weight.mean(axis=(1, 2, 3)), 1.0, rtol=1e-5)
    assert weight[0, 0].argmax() == 1 * 4 + 2
    assert weight[0].max() > 3 * np.median(weight[0])
    np.testing.assert_allclose(weight[1], 1.0, rtol=1e-4)
    np.testing.assert_array_equal(liveliness(jnp.asarray(x0), 0.0), np.ones((2, 1, 4, 4)))
