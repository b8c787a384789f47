"""flash_gpu without a GPU: our arithmetic around cuDNN, and what is handed to it.

Three ways: with a stand-in for cuDNN (cudnn_stand_in.py), by lowering for CUDA and reading the calls, and
on a GPU where there is one (on_gpu.py, in a process of its own: these tests see CPUs only). Lowering needs
no CUDA but asks for cuDNN's version, so the test answers.
"""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from omnihuman_jax import mesh
from omnihuman_jax.attention import attention, flash_gpu, shared_by
from omnihuman_jax.attention.dispatch import IMPLEMENTATIONS
from omnihuman_jax.attention.flash_gpu import FLASH_GPU
from omnihuman_jax.attention.kernel import Mask
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.geometry import Grid
from omnihuman_jax.mesh import make_mesh
from omnihuman_jax.models.building import Precision
from omnihuman_jax.models.conditioner import AudioConfig
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT
from tests.attention import cudnn_stand_in, on_gpu

SHAPE = jax.ShapeDtypeStruct((2, 600, 4, 128), jnp.bfloat16)
ALL = Mask()
LENGTHS = jax.ShapeDtypeStruct((2,), jnp.int32)


@pytest.fixture
def hopper(monkeypatch):
    """Programs are traced for an H100 with cuDNN 9.13."""
    monkeypatch.setattr(mesh, "target", lambda: ("gpu", "NVIDIA H100 80GB HBM3"))
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91300)


@pytest.mark.parametrize(
    "name, law", list(on_gpu.laws()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_with_a_stand_in_for_cudnn(name, law, monkeypatch):
    cudnn_stand_in.install(monkeypatch)
    law()


@pytest.mark.skipif(not shutil.which("nvidia-smi"), reason="no GPU")
def test_on_a_gpu():
    env = {key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"}
    env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    command = [sys.executable, "-m", "tests.attention.on_gpu"]
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if found.returncode == 77:
        pytest.skip("no GPU that JAX sees")
    assert found.returncode == 0, found.stdout + found.stderr


def calls(function, *arguments):
    """The calls of cuDNN when lowered for CUDA: name, shapes of operands and results, mask, settings."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    found = []
    for line in text.splitlines():
        if call := re.search(r"@__cudnn\$(\w+)", line):
            config = re.search(r'backend_config = "(.*?)"', line)[1]
            settings = json.loads(config.replace("\\22", '"'))
            found.append((call[1], line.rsplit(" : ", 1)[1], settings["cudnn_fmha_backend_config"]))
    return found


def loss(q, k, v, lengths=None):
    out = attention(q, k, v, lengths=lengths, implementation="flash_gpu")
    return jnp.sum(out.astype(jnp.float32))


gradients = jax.grad(loss, (0, 1, 2))
PASSES = ["fmhaSoftmax", "fmhaSoftmaxBackward"]


@pytest.mark.parametrize("padded", [False, True])
def test_cudnn_is_called_as_jax_calls_it(padded, hopper):
    """Same calls, operands, masks and settings as `jax.nn.dot_product_attention` has for itself."""
    lengths = (LENGTHS,) if padded else ()

    def jax_loss(q, k, v, lengths=None):
        out = jax.nn.dot_product_attention(
            q, k, v, key_value_seq_lengths=lengths, implementation="cudnn"
        )
        return jnp.sum(out.astype(jnp.float32))

    ours = calls(gradients, SHAPE, SHAPE, SHAPE, *lengths)
    assert [name for name, *_ in ours] == PASSES
    assert ours == calls(jax.grad(jax_loss, (0, 1, 2)), SHAPE, SHAPE, SHAPE, *lengths)
    assert {s["mask_type"] for *_, s in ours} == {"PADDING" if padded else "NO_MASK"}


@pytest.mark.parametrize("keep, forwards", [(None, 2), (("attention_out", "attention_lse"), 1)])
def test_under_scan_and_remat(keep, forwards, hopper):
    """Remat that keeps output and log-sum-exp runs no second forward pass."""
    policy = keep and jax.checkpoint_policies.save_only_these_names(*keep)
    long = jax.ShapeDtypeStruct((1, 1100, 2, 64), jnp.bfloat16)

    def deep(q, k, v):
        layer = lambda q, _: (attention(q, k, v, implementation="flash_gpu"), None)
        out, _ = jax.lax.scan(jax.checkpoint(layer, policy=policy), q, None, length=3)
        return jnp.sum(out.astype(jnp.float32))

    names = [name for name, *_ in calls(jax.grad(deep), long, long, long)]
    assert names == forwards * ["fmhaSoftmax"] + ["fmhaSoftmaxBackward"]


@pytest.mark.parametrize(
    "sizes, scheme, local",
    [
        (dict(fsdp=8), None, "1x600x4x128"),
        (dict(fsdp=2, context=2, tensor=2), None, "1x300x2x128"),
        (dict(fsdp=1, context=8), "ring", "2x75x4x128"),
        (dict(fsdp=2, context=4), "both", "1x600x1x128"),
        (dict(fsdp=2, context=4), "everywhere", "1x150x4x128"),
    ],
    ids=str,
)
def test_on_a_mesh_every_device_calls_it_for_its_part(sizes, scheme, local, hopper):
    clips = jax.ShapeDtypeStruct((8, 600, 4, 128), jnp.bfloat16) if sizes == dict(fsdp=8) else SHAPE
    lengths = jax.ShapeDtypeStruct(clips.shape[:1], jnp.int32)
    with jax.set_mesh(make_mesh(**sizes)), shared_by(scheme):
        found = calls(gradients, clips, clips, clips, lengths)
    assert {name for name, *_ in found} == set(PASSES)
    assert all(types.startswith(f"(tensor<{local}xbf16>") for _, types, _ in found)


def test_the_whole_network_goes_to_cudnn_but_for_the_few_keys_of_sound(hopper):
    """With a reference that not every clip has: self-attention by lengths, text without, sound by XLA."""
    config, grid = DiTConfig(layers=2, audio=AudioConfig()), Grid(9, 128, 128)
    made = nnx.eval_shape(
        lambda: OmniHumanDiT(config, Precision(jnp.bfloat16, jnp.bfloat16), rngs=nnx.Rngs(0))
    )
    graph, params = nnx.split(made)
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    latents = shape(2, *grid.latent_shape, 16)

    def forward(params, x, text, reference, audio):
        dit, has = nnx.merge(graph, params), {"reference": jnp.array([True, False])}
        given = Conditions(text=text, reference=reference, audio=audio, present=has)
        return dit(x, jnp.ones(2), dit.embed(given, 2, *grid.latent_shape[1:]))

    given = shape(2, 512, 4096), shape(2, 1, 16, 16, 16), shape(2, 9, 13, 768)
    found = calls(forward, params, latents, *given)
    assert [settings["mask_type"] for *_, settings in found] == ["PADDING", "NO_MASK"]
    tokens = grid.tokens + 64
    assert f"2x{tokens}x12x128" in found[0][1] and "2x512x12x128" in found[1][1]


def refusal(*shapes, dtype=jnp.bfloat16, mask=ALL):
    with pytest.raises(NotImplementedError) as why:
        FLASH_GPU.check(tuple(jnp.zeros(shape, dtype) for shape in shapes), mask)
    return str(why.value)


def test_what_it_cannot_do_it_refuses_with_the_reason(hopper, monkeypatch):
    good = 3 * [(1, 64, 2, 128)]
    FLASH_GPU.check(tuple(jnp.zeros(shape, jnp.bfloat16) for shape in good), Mask())
    FLASH_GPU.check(tuple(jnp.zeros((1, 64, 2, 256), jnp.bfloat16) for _ in good), Mask())
    assert "float32" in refusal(*good, dtype=jnp.float32)
    assert "got 100" in refusal(*3 * [(1, 64, 2, 100)])
    assert "up to 256" in refusal(*3 * [(1, 64, 2, 264)])
    assert "got 63" in refusal((1, 64, 2, 128), *2 * [(1, 63, 2, 128)])
    of = jnp.zeros((1, 64), jnp.int32)
    assert "segments" in refusal(*good, mask=Mask(segments=(of, of)))
    monkeypatch.setattr(flash_gpu, "_capability", lambda: (8, 6))
    assert "up to 128" in refusal(*3 * [(1, 64, 2, 256)])
    monkeypatch.setattr(flash_gpu, "_capability", lambda: (7, 5))
    assert "7.5" in refusal(*good)


def test_a_cpu_and_a_gpu_without_cudnn_are_refused(monkeypatch):
    good = 3 * [(1, 64, 2, 128)]
    assert "this is cpu" in refusal(*good)
    monkeypatch.setattr(mesh, "target", lambda: ("gpu", ""))
    assert "JAX finds none" in refusal(*good)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 8906)
    assert "needs cuDNN 9" in refusal(*good)


@pytest.mark.parametrize("change", ["gone", "renamed", "longer"])
def test_a_jax_whose_entries_look_different_is_refused_by_its_version(change, hopper, monkeypatch):
    real = inspect.signature(cudnn._dot_product_attention_bwd_p_wrapper.impl)
    parameters = list(real.parameters.values())
    if change == "renamed":
        parameters[10] = parameters[10].replace(name="stats")
    else:
        parameters.append(inspect.Parameter("more", inspect.Parameter.KEYWORD_ONLY))

    class Other:
        @staticmethod
        def impl(): ...

    Other.impl.__signature__ = real.replace(parameters=parameters)
    if change == "gone":
        monkeypatch.delattr(cudnn, "_dot_product_attention_bwd_p_wrapper")
    else:
        monkeypatch.setattr(cudnn, "_dot_product_attention_bwd_p_wrapper", Other)
    assert f"JAX {jax.__version__}" in refusal(*3 * [(1, 64, 2, 128)])


def test_where_it_refuses_the_next_one_runs():
    names = list(IMPLEMENTATIONS)
    assert names.index("flash_gpu") < names.index("chunked")
    q = jnp.ones((1, 70, 2, 8), jnp.bfloat16)
    assert attention(q, q, q).shape == q.shape  # on a CPU
