"""The transformer is Wan2.1's, and each omni-condition enters as DESIGN section 5 says."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from omnihuman_jax import mesh
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.errors import InputError
from omnihuman_jax.models import dit_layers
from omnihuman_jax.models.building import FLOAT32, Precision, arbitrary, create, flat, with_params
from omnihuman_jax.models.conditioner import AudioConfig, PoseConfig
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT, recognise, torch_rules
from omnihuman_jax.models.rope import rotate, rotations
from tests.goldens.load import load, params_of

AUDIO = AudioConfig(width=6, layers=3, window=3, hidden=16)
POSE = PoseConfig(joints=4, hidden=8, channels=2)
T, H, W = 3, 8, 12


def error(a, b):
    return float(np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b))


@functools.cache
def plain(precision=FLOAT32):
    golden = load("dit")
    golden |= {name: jnp.asarray(golden[name]) for name in ("x", "t", "text", "out")}
    config = DiTConfig.tiny()
    module = nnx.eval_shape(lambda: OmniHumanDiT(config, precision, rngs=nnx.Rngs(0)))
    params = params_of(golden, torch_rules(config, "diffusers"))
    params["reference_type"] = np.zeros(config.width, np.float32)
    cast = {k: jnp.asarray(v, precision.params) for k, v in params.items()}
    return with_params(module, cast), golden


@functools.cache
def omni(trained=False):
    """The golden Wan with all omni-conditions added; `trained` makes the zero parts random."""
    wan, golden = plain()
    config = dataclasses.replace(wan.config, audio=AUDIO, pose=POSE)
    model = arbitrary(lambda rngs: OmniHumanDiT(config, FLOAT32, rngs=rngs))
    params = flat(model)
    if trained:
        params["reference_type"] = 6.0 * params["reference_type"]
    else:
        silent = (
            "reference_type",
            "pose_embedding",
            "blocks/audio_attn/o/kernel",
            "blocks/audio_attn/o/bias",
        )
        params |= {path: jnp.zeros_like(params[path]) for path in silent}
    params |= {k: v for k, v in flat(wan).items() if k != "reference_type"}
    return with_params(model, params), golden


def conditions(golden, *names, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    everything = {
        "text": jnp.asarray(golden["text"]),
        "reference": draw(2, 1, H, W, 16),
        "audio": draw(2, 4 * (T - 1) + 1, AUDIO.layers, AUDIO.width),
        "pose": jnp.abs(jnp.tanh(draw(2, 4 * (T - 1) + 1, POSE.joints, 3))),
        "motion": draw(2, 2, H, W, 16),
    }
    return Conditions(**{name: everything[name] for name in names})


@jax.jit
def run(model, x, t, given):
    return model(x, t, model.embed(given, *x.shape[:1], *x.shape[2:4]))


@pytest.mark.parametrize(
    "precision, tolerance",
    [
        (FLOAT32, 1e-5),
        (Precision(jnp.float32, jnp.bfloat16), 2e-2),
        (Precision(jnp.bfloat16), 2e-2),
    ],
)
def test_output_equals_diffusers(precision, tolerance):
    model, golden = plain(precision)
    out = run(model, golden["x"], golden["t"] / 1000, Conditions(text=golden["text"]))
    assert out.dtype == jnp.float32
    assert error(out, golden["out"]) <= tolerance


def test_with_added_parts_at_zero_it_is_wan_to_the_bit():
    wan, golden = plain()
    model, _ = omni()
    x, t, text = golden["x"], golden["t"] / 1000, Conditions(text=golden["text"])
    np.testing.assert_array_equal(run(model, x, t, text), run(wan, x, t, text))
    heard = conditions(golden, "text", "audio", "pose")
    np.testing.assert_array_equal(run(model, x, t, heard), run(wan, x, t, text))


@pytest.mark.slow
def test_the_initialisation_is_silent_where_it_must_be():
    config = dataclasses.replace(DiTConfig.tiny(layers=1), audio=AUDIO, pose=POSE)
    model = create(lambda rngs: OmniHumanDiT(config, FLOAT32, rngs=rngs))
    silent = {path for path, value in flat(model).items() if not np.any(value)}
    assert {path for path in silent if not path.endswith("bias")} == {
        "reference_type", "pose_embedding", "blocks/audio_attn/o/kernel", "audio/mix",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "reference", "audio", "pose", "motion"])
def test_each_condition_changes_the_output_and_dropping_it_for_one_clip_is_not_having_it(name):
    model, golden = omni(trained=True)
    x, t = golden["x"], golden["t"] / 1000
    everything = conditions(golden, "text", "reference", "audio", "pose", "motion")
    full, without = run(model, x, t, everything), run(model, x, t, everything.without({name}))
    assert error(full, np.asarray(without)) > 1e-3
    mixed = run(model, x, t, everything.keep(name, jnp.array([True, False])))
    np.testing.assert_allclose(mixed[0], full[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mixed[1], without[1], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_latent_frame_hears_its_own_pixel_frames_and_the_window_around_them():
    """One block and no self-attention path between frames: gradients show who hears whom."""
    model, golden = omni(trained=True)
    given = conditions(golden, "audio")
    tokens = lambda audio: model.audio(dataclasses.replace(given, audio=audio))
    jacobian = jax.jacobian(lambda audio: tokens(audio).sum((0, 2, 3)))(given.audio)
    heard = np.abs(jacobian).sum((1, 3, 4)) > 0  # [T F]; LayerNorm and tanh leave no exact zeros
    for latent, own in enumerate([{0}, {1, 2, 3, 4}, {5, 6, 7, 8}]):
        reach = AUDIO.window // 2
        wide = {f + d for f in own for d in range(-reach, reach + 1)} & set(range(9))
        assert set(np.flatnonzero(heard[latent])) == wide


@pytest.mark.slow
def test_audio_of_one_latent_frame_moves_no_other_before_self_attention():
    model, golden = omni(trained=True)
    graph, params = nnx.split(model.blocks)
    block = nnx.merge(graph, jax.tree.map(lambda p: p[0], params))
    x = jnp.asarray(golden["x"].reshape(2, T, -1)[:, :, : 24 * 48].reshape(2, T * 24, 48))
    audio = model.audio(conditions(golden, "audio"))
    hear = lambda audio: block._hear(
        x, block.audio_attn.recall(audio.reshape(2, -1, 48)), T, T * 24
    )
    moved = hear(audio.at[:, 1].add(1.0)) - hear(audio)
    changed = np.abs(moved).reshape(2, T, -1).max((0, 2)) > 0
    assert changed.tolist() == [False, True, False]


def test_keys_and_values_kept_for_a_generation_are_those_of_every_step():
    model, golden = omni(trained=True)
    given = conditions(golden, "audio")
    tokens = model.embed(given, 2, H, W)
    want = model(golden["x"], golden["t"], tokens)
    assert np.array_equal(model(golden["x"], golden["t"], model.recall(tokens)), want)


def test_reference_tokens_stand_at_time_zero_and_keep_their_place():
    turns = rotations((3, 2, 2), 128, reference=(2, 2))
    cos, sin = turns[:, 12:]
    assert np.all(cos[:, :22] == 1) and np.all(sin[:, :22] == 0)
    np.testing.assert_array_equal(turns[:, 12:, 22:], turns[:, 4:8, 22:])
    assert not np.array_equal(turns[:, 4:8, :22], turns[:, 12:, :22])


def test_a_reference_is_the_same_picture_at_time_zero():
    """A reference equal to a one-frame video has the same tokens, places and, at t = 0, modulation, and
    attention over doubled keys is attention. At any other t the video is noisy and the reference is not.
    """
    model, golden = plain()
    x = golden["x"][:, :1]
    for t, same in ((jnp.zeros(2), True), (jnp.full(2, 0.5), False)):
        got = run(model, x, t, Conditions(text=golden["text"], reference=x))
        want = np.asarray(run(model, x, t, Conditions(text=golden["text"])))
        assert (error(got, want) < 1e-5) == same


def test_motion_latents_are_clean_latents_at_time_zero():
    model, golden = plain()
    x, motion = golden["x"], golden["x"][::-1, :2]
    for t, same in ((jnp.zeros(2), True), (jnp.full(2, 0.5), False)):
        got = run(model, x, t, Conditions(motion=motion))
        want = np.asarray(run(model, jnp.concatenate([motion, x[:, 2:]], 1), t, Conditions()))
        assert (error(got, want) < 1e-5) == same


def test_motion_latents_stand_in_for_the_first_noise():
    model, golden = omni(trained=True)
    given = conditions(golden, "text", "motion")
    x, t = jnp.asarray(golden["x"]), golden["t"] / 1000
    other = x.at[:, :2].set(7.0)
    np.testing.assert_array_equal(run(model, x, t, given), run(model, other, t, given))


@pytest.mark.slow
def test_remat_changes_memory_not_gradients():
    model, golden = omni(trained=True)
    given = conditions(golden, "text", "reference", "audio", "pose")
    graph, params = nnx.split(model)

    def loss(params, remat):
        net = nnx.merge(graph, params)
        net.remat = remat
        tokens = net.embed(given, 2, H, W)
        return jnp.mean(net(golden["x"], golden["t"] / 1000, tokens) ** 2)

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    want, got = grad(params, "none"), grad(params, "full")
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    idle = {path for path, leaf in flat(want).items() if not np.any(leaf)}
    assert idle == {"audio/null"}  # audio is given


@pytest.mark.parametrize(
    "config, tensors, total",
    [(DiTConfig(), 825, 1_418_996_800), (DiTConfig.large(), 1_095, 14_288_491_584)],
)
@pytest.mark.parametrize("layout", ["wan", "diffusers"])
def test_sizes_are_those_released_and_every_tensor_has_one_rule(config, tensors, total, layout):
    module = nnx.eval_shape(lambda: OmniHumanDiT(config, rngs=nnx.Rngs(0)))
    params = flat(module)
    rules = torch_rules(config, layout)
    assert {rule.path for rule in rules} == params.keys() - {"reference_type"}
    names = {r.name.format(i) for r in rules for i in range(config.layers if "{}" in r.name else 1)}
    assert len(names) == tensors
    assert sum(p.size for k, p in params.items() if k != "reference_type") == total


def test_an_image_to_video_checkpoint_is_refused_by_name():
    shapes = {"patch_embedding.weight": (5120, 36, 1, 2, 2), "head.head.weight": (64, 5120)}
    shapes["blocks.0.cross_attn.k_img.weight"] = (5120, 5120)
    with pytest.raises(InputError, match="image-to-video"):
        recognise(shapes, {})


def test_plain_wan_refuses_audio():
    model, golden = plain()
    with pytest.raises(InputError, match="no audio input"):
        model.embed(conditions(golden, "audio"), 2, H, W)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_way_of_a_tpu_turns_and_parts_heads_alike(dtype, monkeypatch):
    """A pair changes places exactly in the matrix unit; heads taken apart one by one are the same heads."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 12, 96)), dtype)
    ways = []
    for platform in ("cpu", "tpu"):
        monkeypatch.setattr(mesh, "target", lambda platform=platform: (platform, "any"))
        turned = rotate(dit_layers.parted(x, 3), rotations((3, 2, 2), 32))
        ways.append((turned, dit_layers.joined(turned)))
    for here, there in zip(*ways, strict=True):
        # Two products and a sum, fused or not; at an edge of bfloat16 that is one place of 8 bits.
        near = 2e-7 if dtype == jnp.float32 else 2.0**-7
        there, here = np.asarray(there, np.float32), np.asarray(here, np.float32)
        np.testing.assert_allclose(there, here, atol=2e-7, rtol=near)
