"""Weights that wait in the host's memory: where they lie, that nothing else changes, what is copied."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import offload_tpu
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.geometry import Grid
from omnihuman_jax.inference.generator import Generator
from omnihuman_jax.mesh import make_mesh
from omnihuman_jax.models import offload
from omnihuman_jax.models.building import PRECISIONS, arbitrary, flat
from omnihuman_jax.models.conditioner import AudioConfig
from omnihuman_jax.models.directory import save
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT
from omnihuman_jax.models.manifest import Manifest
from omnihuman_jax.models.mini import Untrained
from tests.inference.test_generator import ALL, CONFIGS

CONFIG = DiTConfig.tiny(layers=3)
DEVICE = jax.devices()[0].default_memory().kind


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    network = arbitrary(lambda rngs: OmniHumanDiT(CONFIG, PRECISIONS["float32"], rngs=rngs))
    folder = tmp_path_factory.mktemp("models")
    return {
        kind: save(str(folder / kind), {"dit": network}, weights=kind)
        for kind in ("orbax", "safetensors")
    }


def velocity(network):
    @jax.jit
    def run(params, x, t, text):
        dit = nnx.merge(graph, params)
        return dit(x, t, dit.recall(dit.embed(Conditions(text=text), 1, 4, 6)))

    graph, params = nnx.split(network)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 4, 6, 16), np.float32))
    text = jnp.asarray(np.random.default_rng(1).standard_normal((1, 5, 24), np.float32))
    return np.asarray(run(params, x, jnp.full((1,), 0.3), text))


def kinds(network):
    """Where each parameter lies; its type has to say the same, or nothing would be copied."""
    for value in flat(network).values():
        host = value.sharding.memory_kind == offload.HOST
        assert (jax.typeof(value).memory_space == jax.memory.Space.Host) == host
    return {path: value.sharding.memory_kind for path, value in flat(network).items()}


@pytest.mark.parametrize("weights", ["orbax", "safetensors"])
@pytest.mark.parametrize("name", ["bfloat16", "int8"])
def test_matrices_of_blocks_wait_in_the_host_and_the_velocity_has_the_same_bits(
    stored, name, weights
):
    model, precision = stored[weights], PRECISIONS[name]
    plain, hosted = (model.load("dit", precision, offload=o) for o in (False, True))
    for path, kind in kinds(hosted).items():
        big = path.startswith("blocks/") and path.endswith("/kernel")
        assert kind == (offload.HOST if big else DEVICE), path
    assert set(kinds(plain).values()) == {DEVICE}
    for path, value in flat(plain).items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(flat(hosted)[path]))
    if weights == "orbax" or name == "int8":  # where what is loaded is the same, once is enough
        np.testing.assert_array_equal(velocity(plain), velocity(hosted))


def test_what_waits_is_nearly_all_of_the_14b_model():
    config = DiTConfig.large()
    made = nnx.eval_shape(lambda: OmniHumanDiT(config, rngs=nnx.Rngs(0)))
    sizes = {path: leaf.size for path, leaf in flat(made).items()}
    waiting = sum(size for path, size in sizes.items() if offload.waits(path))
    assert waiting / sum(sizes.values()) > 0.98
    stays = [s for p, s in sizes.items() if p.startswith("blocks/") and not offload.waits(p)]
    assert sum(stays) / waiting < 0.001


def test_a_layer_at_a_time_is_copied(stored):
    """Inside the loop, and a layer's part: a copy outside would be of the whole stack."""
    dit = stored["orbax"].load("dit", PRECISIONS["bfloat16"], offload=True)
    graph, params = nnx.split(dit)

    def recall(params, text):
        dit = nnx.merge(graph, params)
        return dit.recall(dit.embed(Conditions(text=text), 1, 4, 6)).recalled

    text = jnp.zeros((1, 5, 24))
    jaxpr = jax.make_jaxpr(recall)(params, text)
    (loop,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    body = loop.params["jaxpr"].jaxpr
    copies = [e for e in body.eqns if e.primitive.name == "device_put"]
    assert copies and all(e.invars[0].aval.ndim == 2 for e in copies), "a part, not the stack"
    assert not [e for e in jaxpr.eqns if e.primitive.name == "device_put"]


def test_new_parts_of_a_larger_network_wait_too(stored):
    larger = dataclasses.replace(CONFIG, audio=AudioConfig(width=8, layers=2, window=3, hidden=8))
    found = [
        stored["orbax"].load("dit", PRECISIONS["float32"], config=larger, offload=o)
        for o in (False, True)
    ]
    assert kinds(found[1])["blocks/audio_attn/q/kernel"] == offload.HOST
    for path, value in flat(found[0]).items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(flat(found[1])[path]))


def test_over_several_devices_each_has_its_part_in_the_hosts_memory(stored):
    mesh = make_mesh(fsdp=4, devices=jax.devices()[:4])
    hosted = stored["orbax"].load("dit", PRECISIONS["float32"], mesh, offload=True)
    kernel = flat(hosted)["blocks/up/kernel"]
    assert kernel.sharding.memory_kind == offload.HOST
    assert kernel.addressable_shards[0].data.shape == (3, 48 // 4, 64)


@pytest.mark.slow
def test_a_video_is_the_same_to_the_bit():
    model = Untrained("tiny", Manifest(CONFIGS, {}))
    request = dataclasses.replace(
        ALL, grid=Grid(5, 32, 32), text=None, audio=None, pose=None, reference=None, steps=1
    )
    a, b = (
        np.concatenate(list(Generator(model, chunk=1, offload=o)(request))) for o in (False, True)
    )
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_tpu_compiler_keeps_the_stack_in_the_host_and_copies_beside_the_work():
    pytest.importorskip("libtpu")
    config = DiTConfig.tiny(width=256, mlp=512, text_width=128, layers=3)
    said = offload_tpu.ask(config, "v5litepod-1", "bfloat16", Grid(1, 64, 64), True, 55.0)
    assert said["fits"]
    assert said["host_gb"] * 1e9 == pytest.approx(3 * 2 * (8 * 256**2 + 2 * 256 * 512), abs=1e4)
    assert len(said["overlap"]) == 8, "six matrices of attention and two, in the loop over blocks"
