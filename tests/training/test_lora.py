"""Low-rank adapters: they change nothing at first, only they learn, and merged they are a plain network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from omnihuman_jax import mesh as meshes
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.errors import InputError
from omnihuman_jax.models import directory
from omnihuman_jax.models.building import FLOAT32, flat, with_params
from omnihuman_jax.models.dit import OmniHumanDiT
from omnihuman_jax.training import loop, lora, networks
from omnihuman_jax.training.experiment import Experiment, MeshSizes, Saving
from omnihuman_jax.training.lora import LoRA
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.step import Update
from tests.training import worlds

SMALL = LoRA(rank=3, alpha=6.0)
QUIET = Watch(every=10, wandb="off", tensorboard=False)


def plain(rngs):
    return OmniHumanDiT(worlds.CONFIG, FLOAT32, rngs=rngs)


def adapted(rngs, adapters=SMALL):
    return lora.adapt(plain(rngs), adapters, rngs)


@pytest.fixture(scope="module")
def params():
    """A network with adapters, none of whose parameters is zero."""
    mesh = meshes.make_mesh(data=1, fsdp=-1, context=1, tensor=1)
    random = np.random.default_rng(0)
    return {
        path: jnp.asarray(0.2 * random.standard_normal(leaf.shape, np.float32))
        for path, leaf in networks.shapes(adapted, mesh).items()
    }


def run(make, params):
    """What a network with these parameters makes of fixed noise, no condition given."""
    network = networks.rebuilt(make, params)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 2, 4, 4, 4), np.float32))
    return jax.jit(lambda x: network(x, jnp.array([0.5]), network.embed(Conditions(), 1, 4, 4)))(x)


def test_new_adapters_change_nothing(params):
    fresh = params | {p: 0 * v for p, v in params.items() if p.endswith("lora_b")}
    bare = {p: v for p, v in fresh.items() if not lora.of_adapter(p)}
    np.testing.assert_array_equal(run(adapted, fresh), run(plain, bare))
    made = flat(adapted(nnx.Rngs(0)))
    assert all(not np.any(v) for p, v in made.items() if p.endswith("lora_b"))
    assert all(np.std(v) > 0 for p, v in made.items() if p.endswith("lora_a"))


def test_merged_weights_compute_the_same_without_adapters(params):
    """Measured 2e-6 of values of about 1; without the adapters they differ by more than 0.1."""
    merged = lora.merged(params, SMALL)
    assert not any(map(lora.of_adapter, merged))
    with_adapters = run(adapted, params)
    np.testing.assert_allclose(with_adapters, run(plain, merged), rtol=0, atol=1e-4)
    bare = {p: v for p, v in params.items() if not lora.of_adapter(p)}
    assert np.abs(run(plain, bare) - with_adapters).max() > 0.1


def test_an_adapter_lies_where_its_layer_does():
    mesh = meshes.make_mesh(data=1, fsdp=4, context=1, tensor=2)
    shapes = networks.shapes(adapted, mesh)
    for path, leaf in shapes.items():
        if path.endswith("lora_a"):
            kernel = shapes[path.removesuffix("lora_a") + "kernel"].sharding.spec
            b = shapes[path.removesuffix("a") + "b"].sharding.spec
            assert padded(leaf.sharding.spec)[1] == padded(kernel)[1]
            assert padded(b)[2] == padded(kernel)[2]


def padded(spec):
    return (*spec, None, None, None)[:3]


def test_the_file_names_layers_as_wan_does(params, tmp_path):
    path = tmp_path / "x.lora.safetensors"
    lora.write(str(path), params, SMALL, worlds.CONFIG)
    tensors = safetensors.numpy.load_file(path)
    name = "diffusion_model.blocks.1.cross_attn.k"
    a, b = (params[f"blocks/cross_attn/k/lora_{x}"][1] for x in "ab")
    np.testing.assert_array_equal(tensors[f"{name}.lora_A.weight"], a.T)
    np.testing.assert_array_equal(tensors[f"{name}.lora_B.weight"], b.T)
    assert tensors[f"{name}.alpha"] == 6.0
    assert tensors["diffusion_model.blocks.0.ffn.0.lora_A.weight"].shape == (3, 48)
    assert tensors["diffusion_model.blocks.0.audio_attn.q.lora_B.weight"].shape == (48, 3)
    layers = sum(p.endswith("lora_a") for p in params) * 2
    assert len(tensors) == 3 * layers


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(InputError, match=r"blocks/self_attn/x/kernel.*fits none"):
        adapted(nnx.Rngs(0), LoRA(on=("blocks/self_attn/x/kernel",)))
    with pytest.raises(InputError, match="at least 1"):
        LoRA(rank=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four updates in which adapters learn, and the audio layers whole; stopped and resumed."""
    folder = tmp_path_factory.mktemp("lora")
    adapters = LoRA(rank=3, on=("blocks/*_attn/[qk]/kernel",), whole=("audio/*",))
    task = worlds.task(folder, lora=adapters, compute="bfloat16")
    experiment = Experiment(
        name="lora",
        task=task,
        stages=(worlds.stage(steps=4),),
        optimizer=Optimizer(learning_rate=1e-2, warmup=1, weight_decay=0.0),
        update=Update(ema=None),
        mesh=MeshSizes(data=2, fsdp=4),
        save=Saving(every=2),
        watch=QUIET,
    )
    loop.train(experiment, str(folder / "run"))
    return folder, adapters


def test_only_adapters_and_what_is_trained_whole_are_saved(trained):
    folder, _ = trained
    names = (folder / "run/checkpoints/step_00000004/state/_METADATA").read_text()
    assert "lora_a" in names and "audio" in names
    assert "head_modulation" not in names and "blocks/up" not in names


def test_the_model_at_the_end_has_them_merged(trained):
    """What nothing adapts is as it was, to the bits; an adapted kernel moved by a matrix of the rank."""
    folder, _ = trained
    before = flat(directory.open_directory(str(folder / "model")).load("dit", FLOAT32))
    after = flat(directory.open_directory(str(folder / "run/model")).load("dit", FLOAT32))
    assert before.keys() == after.keys()
    same = [p for p in before if np.array_equal(before[p], after[p])]
    assert "head/kernel" in same and "patch_embedding" in same
    assert "blocks/self_attn/q/kernel" not in same
    assert any(p.startswith("audio/") and p not in same for p in before)
    written = safetensors.numpy.load_file(folder / "run/model.lora.safetensors")
    q = "diffusion_model.blocks.0.self_attn.q"
    change = 32 / 3 * written[f"{q}.lora_B.weight"] @ written[f"{q}.lora_A.weight"]
    kept = np.float32(before["blocks/self_attn/q/kernel"][0].astype(jnp.bfloat16))
    np.testing.assert_allclose(
        after["blocks/self_attn/q/kernel"][0], kept + change.T, rtol=0, atol=1e-6
    )
    assert any(name.startswith("audio/") for name in written)
    assert with_params(worlds.network(), after)
