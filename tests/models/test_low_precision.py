"""Linear layers in 8 bits: how far off they may be, and that nothing else changes."""

import dataclasses
import functools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from omnihuman_jax import ahead, cli, orbax_layout
from omnihuman_jax import mesh as meshes
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.conversion import convert
from omnihuman_jax.errors import InputError
from omnihuman_jax.media import probe_video
from omnihuman_jax.models.building import (
    PRECISIONS,
    SCALE,
    arbitrary,
    flat,
    linear,
    lower,
)
from omnihuman_jax.models.directory import ModelDirectory, save
from omnihuman_jax.models.dit import Block, DiTConfig, OmniHumanDiT
from omnihuman_jax.models.low_precision import encode, kind_of, product
from omnihuman_jax.training import lora
from tests import released

KINDS = ("int8", "float8")
PATH = "blocks/self_attn/q/kernel"


@functools.cache
def numbers(seed, *shape):
    """Normal numbers with rows of very different size."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 3, (*shape[:-1], 1))


def rounding(values, scale, kind):
    """The largest error of a code's value, elementwise, and its mean square.

    Codes of int8 are one scale apart. Those of float8 are, at a value of 2^e scales, 2^(e - 3) scales apart
    (three bits behind the point), and 2^-9 below 2^-6. The error is at most half of that, and where it may
    be anything its mean square is a twelfth of the square.
    """
    apart = scale
    if kind == "float8":
        exponent = np.floor(np.log2(np.maximum(np.abs(values) / scale, 2.0**-6)))
        apart = scale * 2.0 ** (exponent - 3)
    apart = apart + 0 * values
    return apart / 2 * (1 + 1e-5), apart**2 / 12


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_off_by_what_rounding_both_sides_costs(kind):
    """x + dx times w + dw is off by x dw + dx w + dx dw; float64 says what x w is. Of independent errors
    the mean squares add up: the bound holds everywhere, and the mean square is the predicted one."""
    x, w = numbers(0, 64, 512), numbers(1, 96, 512).T
    codes, scale = encode(jnp.asarray(w, jnp.float32), kind)
    got = np.asarray(product(jnp.asarray(x, jnp.float32), codes, scale), np.float64)
    top = {"int8": 127.5, "float8": 448.0}[kind]
    dx, mean_x = rounding(x, np.abs(x).max(1, keepdims=True) / top, kind)
    dw, mean_w = rounding(w, np.abs(w).max(0, keepdims=True) / top, kind)
    x, w, off = np.abs(x), np.abs(w), np.abs(got - x @ w)
    bound = x @ dw + dx @ w + dx @ dw + 512 * 2.0**-23 * (x @ w)
    assert (off <= bound).all()
    predicted = x**2 @ mean_w + mean_x @ w**2 + mean_x @ mean_w
    assert np.mean(off**2 / predicted) == pytest.approx(1, rel=0.06)


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_tokens_and_channels_by_powers_of_two_scales_the_result_exactly(kind):
    x, w = (jnp.asarray(numbers(seed, 8, 32), jnp.float32) for seed in (2, 3))
    tokens, channels = (2.0 ** jnp.arange(a, a + 8, dtype=jnp.float32) for a in (-4, -3))
    usual = product(x, *encode(w.T, kind))
    scaled = product(x * tokens[:, None], *encode(w.T * channels[None], kind))
    np.testing.assert_array_equal(scaled, usual * tokens[:, None] * channels[None])


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_channels_of_zeros_stay_zero(kind):
    x = jnp.asarray(numbers(4, 6, 16), jnp.float32).at[2].set(0)
    w = jnp.asarray(numbers(5, 16, 10), jnp.float32).at[:, 3].set(0)
    y = product(x, *encode(w, kind))
    assert np.isfinite(y).all()
    assert not y[2].any() and not y[:, 3].any() and np.count_nonzero(y) == 5 * 9


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_in_bfloat16_are_rounded_once(kind):
    codes, scale = encode(jnp.asarray(numbers(5, 16, 10), jnp.float32), kind)
    x = jnp.asarray(numbers(4, 64, 16), jnp.bfloat16)
    want = product(x.astype(jnp.float32), codes, scale)
    np.testing.assert_array_equal(product(x, codes, scale), want)


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_layers_have_scales_of_their_own(kind):
    w = jnp.asarray(numbers(6, 3, 16, 10), jnp.float32)
    both = encode(w, kind)
    for layer, one in enumerate(w):
        for stacked, alone in zip(both, encode(one, kind), strict=True):
            np.testing.assert_array_equal(stacked[layer], alone)


# --- the transformer ------------------------------------------------------------------------------

CONFIG = DiTConfig.tiny(audio=released.AUDIO)
SHAPE = (2, 3, 8, 12, CONFIG.channels)


def network(precision):
    return arbitrary(lambda rngs: OmniHumanDiT(CONFIG, precision, rngs=rngs))


def given():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    audio = draw(2, 9, released.AUDIO.layers, released.AUDIO.width)
    text = draw(2, CONFIG.text_length, CONFIG.text_width)
    return draw(*SHAPE), jnp.array([0.2, 0.7]), Conditions(text=text, audio=audio)


@jax.jit
def velocity(model, x, t, conditions):
    return model(x, t, model.embed(conditions, *x.shape[:1], *x.shape[2:4]))


def error(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


@functools.cache
def usual():
    return velocity(network(PRECISIONS["bfloat16"]), *given())


@pytest.mark.parametrize("kind, most", [("int8", 0.01), ("float8", 0.04)])
def test_a_transformer_in_8_bits_is_near_the_one_in_16(kind, most):
    model = network(PRECISIONS[kind])
    assert 1e-4 < error(velocity(model, *given()), usual()) < most


@pytest.mark.parametrize("kind", KINDS)
def test_the_blocks_linear_layers_are_in_8_bits_and_nothing_else(kind):
    params = flat(nnx.eval_shape(lambda: OmniHumanDiT(CONFIG, PRECISIONS[kind], rngs=nnx.Rngs(0))))
    of = re.compile(r"blocks/((self|cross|audio)_attn/[qkvo]|up|down)/kernel")
    eight = {path for path, leaf in params.items() if kind_of(leaf.dtype)}
    assert eight == {path for path in params if of.fullmatch(path)} and len(eight) == 14
    assert {path + SCALE for path in eight} == {p for p in params if p.endswith(SCALE)}
    rest = {leaf.dtype for path, leaf in params.items() if path not in eight and SCALE not in path}
    assert rest == {jnp.dtype(jnp.bfloat16)}
    wan = lambda name: flat(
        nnx.eval_shape(lambda: OmniHumanDiT(DiTConfig(), PRECISIONS[name], rngs=nnx.Rngs(0)))
    )
    size = lambda name: sum(math.prod(p.shape) * p.dtype.itemsize for p in wan(name).values())
    assert 0.5 < size(kind) / size("bfloat16") < 0.53


def test_one_layer_over_eight_devices_is_that_of_one_to_the_bit():
    """Sums of int8 products are whole numbers, and a maximum is a maximum: splitting changes nothing.

    Inputs are whole numbers of scales, for devices may divide differently in the last bit.
    """
    layer = linear(64, 32, "embed heads", PRECISIONS["float32"], nnx.Rngs(0))
    lower(layer, "int8")
    rng = np.random.default_rng(7)
    x = rng.integers(-127, 128, (4, 6, 64)).astype(np.float32)
    x[rng.permuted(np.eye(64, dtype=bool)[:24], axis=1).reshape(x.shape)] = 127.5  # the scale is 1
    x *= 2.0 ** rng.integers(-9, 9, (4, 6, 1))
    graph, params = nnx.split(layer)
    run = jax.jit(lambda params, x: nnx.merge(graph, params)(x))
    want = run(params, jnp.asarray(x))
    mesh = meshes.make_mesh(fsdp=4, tensor=2)
    params = jax.device_put(params, meshes.shardings(params, mesh))
    assert params.kernel_scale[...].sharding.spec == PartitionSpec(("tensor",))
    with jax.set_mesh(mesh):
        inputs = NamedSharding(mesh, PartitionSpec(None, None, ("fsdp", "tensor")))
        np.testing.assert_array_equal(run(params, jax.device_put(x, inputs)), want)


@pytest.mark.slow
def test_over_eight_devices_it_is_the_same_network():
    """In float32 but for the codes, of which those on an edge may fall to the other side."""
    precision = dataclasses.replace(PRECISIONS["float32"], linears="int8")
    model = network(precision)
    want = velocity(model, *given())
    mesh = meshes.make_mesh(fsdp=2, context=2, tensor=2)
    graph, params = nnx.split(model)
    params = jax.device_put(params, meshes.shardings(params, mesh))
    with jax.set_mesh(mesh):
        assert error(velocity(nnx.merge(graph, params), *given()), want) < 4e-3


def test_adapters_work_beside_8_bits_and_are_not_merged_into_them():
    """The adapter is computed in the layer's own type; its weights are as exact as ever."""
    layer = linear(16, 8, "embed heads", PRECISIONS["float32"], nnx.Rngs(0))
    lower(layer, "int8")
    x = jnp.asarray(numbers(8, 5, 16), jnp.float32)
    plain = layer(x)
    holder = nnx.Module()
    holder.q = layer
    adapter = lora.LoRA(rank=2, alpha=3.0, on=("q/kernel",))
    lora.adapt(holder, adapter, nnx.Rngs(1))
    np.testing.assert_array_equal(layer(x), plain)  # B is zero at first
    layer.lora_b[...] = jnp.ones((2, 8))
    np.testing.assert_allclose(
        layer(x), plain + 1.5 * x @ layer.lora_a[...] @ layer.lora_b[...], rtol=1e-5, atol=1e-5
    )
    with pytest.raises(InputError, match="before weights are put into 8 bits"):
        lora.merged(flat(holder), adapter)


# --- loading --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored() -> OmniHumanDiT:
    return released.random_network(OmniHumanDiT, CONFIG)


def model_of(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, dit: OmniHumanDiT
) -> ModelDirectory:
    if kind != "converted":
        return save(str(folder / "model"), {"dit": dit}, weights=kind, tokenizer="byt5")
    monkeypatch.setattr(orbax_layout, "PIECE", 1000)
    monkeypatch.setattr(orbax_layout, "CHUNK", 300)
    released.wan_release(folder, ["dit"])
    return convert(str(folder), str(folder / "model"), progress=False)


@pytest.mark.parametrize("kind", ["converted", "orbax", "safetensors"])
def test_weights_are_quantised_as_they_are_read(kind, tmp_path, monkeypatch, stored):
    model = model_of(kind, tmp_path, monkeypatch, stored)
    mesh = meshes.make_mesh(fsdp=4, tensor=2)
    exact, got = (
        flat(model.load("dit", PRECISIONS["float32"])),
        flat(model.load("dit", PRECISIONS["int8"], mesh)),
    )
    assert got.keys() == exact.keys() | {p + SCALE for p, v in got.items() if v.dtype == jnp.int8}
    for path, value in exact.items():
        want = {path: value.astype(jnp.bfloat16)}
        if path + SCALE in got:
            want = dict(zip((path, path + SCALE), encode(value, "int8"), strict=True))
        for name, array in want.items():
            np.testing.assert_array_equal(got[name], array)
    assert got[PATH].sharding.shard_shape(got[PATH].shape) == (2, 48 // 4, 48 // 2)
    if kind == "converted":
        assert model.arrays("dit")[PATH].rows == 1  # a layer at a time


def test_a_network_in_8_bits_is_not_saved(tmp_path):
    with pytest.raises(InputError, match="8 bits is not saved"):
        save(str(tmp_path / "model"), {"dit": network(PRECISIONS["int8"])}, tokenizer="byt5")


@pytest.mark.slow
def test_what_is_not_stored_starts_in_8_bits_too(tmp_path):
    wan = released.random_network(OmniHumanDiT, dataclasses.replace(CONFIG, audio=None))
    model = save(str(tmp_path / "model"), {"dit": wan}, weights="safetensors", tokenizer="byt5")
    got = flat(model.load("dit", PRECISIONS["int8"], config=CONFIG))
    np.testing.assert_array_equal(got[PATH], encode(flat(wan)[PATH], "int8")[0])
    added = "blocks/audio_attn/q/kernel"
    # Every channel has its largest code, which is 128 below zero.
    assert (np.abs(got[added].astype(int)).max(1) >= 127).all()
    assert (got[added + SCALE] > 0).all()


@pytest.mark.slow
def test_the_command_line_makes_a_video_in_8_bits(tmp_path, capsys):
    out = tmp_path / "out.mp4"
    small = ["--size", "32x32", "--frames", "1", "--steps", "1", "--quiet", "--text", "hello"]
    assert cli.main(["generate", *small, "--precision", "int8", "--out", str(out)]) == 0
    assert probe_video(out).frames == 1


def test_an_unknown_precision_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", "--precision", "int4"])
    assert caught.value.code == 2
    assert "invalid choice: 'int4'" in capsys.readouterr().err


# --- what compilers make of it --------------------------------------------------------------------


def block_of(kind: str):
    """A block of width 256 without attention to anything long, as a function of its parameters."""
    config = DiTConfig(width=256, mlp=512, heads=2, layers=1)
    abstract = nnx.eval_shape(
        lambda: OmniHumanDiT(config, PRECISIONS[kind], rngs=nnx.Rngs(0)).blocks
    )
    graph, params = nnx.split(abstract)

    def run(params, x):
        block: Block = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], params))
        heard = block.self_attn.o(block.self_attn.q(x)) + block.self_attn.v(x)
        return x + block.down(nnx.gelu(block.up(heard), approximate=True))

    return run, params


@pytest.mark.slow
@pytest.mark.parametrize("chip, kind, code, total", [
    ("v5litepod-1", "int8", "s8", "s32"),
    ("v6e-1", "int8", "s8", "s32"),
    ("tpu7x-8", "float8", "f8e4m3fn", "f32"),
])  # fmt: skip
def test_the_tpu_compiler_multiplies_codes(chip, kind, code, total):
    """Every product of the final program has codes on both sides and the wide type as its result."""
    pytest.importorskip("libtpu")
    mesh = meshes.make_mesh(devices=ahead.devices(chip)[:1])
    whole = NamedSharding(mesh, PartitionSpec())
    run, params = block_of(kind)
    there = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)
    x = jax.ShapeDtypeStruct((1, 1024, 256), jnp.bfloat16, sharding=whole)
    with jax.set_mesh(mesh):
        said = ahead.compiled(run, jax.tree.map(there, params), x)
    assert operands(said.text) == [(code, code, total)] * 5


def operands(text: str) -> list[tuple[str, str, str]]:
    """Types of the two sides and of the result, of each matrix product of a compiled program."""
    types = dict(re.findall(r"%?([\w.\-]+) = \(?(\w+)\[", text))
    products = re.findall(r" = (\w+)\[\S* (?:convolution|dot)\(%?([\w.\-]+), %?([\w.\-]+)\)", text)
    return [(types[a], types[b], result) for result, a, b in products]


@pytest.mark.parametrize(
    "kind, code, total", [("int8", "i8", "i32"), ("float8", "f8E4M3FN", "f32")]
)
def test_a_gpu_is_asked_to_multiply_codes(kind, code, total):
    """What XLA is given for CUDA; what cuBLASLt makes of it needs a GPU."""
    run, params = block_of(kind)
    x = jax.ShapeDtypeStruct((1, 64, 256), jnp.bfloat16)
    text = jax.jit(run).trace(params, x).lower(lowering_platforms=("cuda",)).as_text()
    found = re.findall(
        r"dot_general.*: \(tensor<\S*x(\w+)>, tensor<\S*x(\w+)>\) -> tensor<\S*x(\w+)>", text
    )
    assert found == [(code, code, total)] * 5
