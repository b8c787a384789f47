"""A video is the same alone and beside others, on one device and on eight, whatever calls guidance takes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax import mesh
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference import denoising, segments
from tests.inference.test_generator import ALL, generator  # noqa: F401

OTHER = dataclasses.replace(
    ALL,
    seed=5,
    text="another text",
    reference=ALL.reference[::-1],
    audio=ALL.audio[::-1],
    pose=1 - ALL.pose,
)


def alone(generator, request):  # noqa: F811
    return np.concatenate(list(generator(request))).astype(int)


@pytest.fixture(scope="module")
def both(generator):  # noqa: F811
    apart = dataclasses.replace(generator, joint=False)
    return [alone(apart, request) for request in (ALL, OTHER)]


@pytest.mark.slow
def test_guidance_in_one_call_is_guidance_in_three(generator, both):  # noqa: F811
    joint = dataclasses.replace(generator, joint=True)
    # Sums of float32 in another order: one step of 255 where a pixel lies at the edge of two.
    assert np.abs(alone(joint, ALL) - both[0]).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [None, dict(data=2, context=4)], ids=["one", "eight"])
def test_videos_made_together_are_those_made_alone(generator, both, sizes):  # noqa: F811
    """On eight devices: the two videos side by side, the tokens of each over four."""
    devices = None if sizes is None else mesh.for_videos(2, sizes)
    crowd = dataclasses.replace(generator, mesh=devices)
    made = np.concatenate(list(crowd.together([ALL, OTHER])), axis=1).astype(int)
    assert jax.sharding.get_abstract_mesh().empty, "the caller does not see the mesh"
    for got, want in zip(made, both, strict=True):
        # Sums over devices are in another order, through two steps with guidance of 3: a few of 255.
        assert np.abs(got - want).max() <= 3 and np.abs(got - want).mean() < 0.05
    assert np.abs(made[0] - made[1]).mean() > 1, "they are two videos"


def test_videos_that_are_not_alike_are_refused(generator):  # noqa: F811
    for change in (dict(steps=3), dict(pose=None), dict(frames=21)):
        with pytest.raises(InputError, match="alike"):
            generator.together([ALL, dataclasses.replace(OTHER, **change)])


def test_passes_of_one_call_read_what_each_would_alone():
    """Rows of the joined conditions are those of each pass, one after another."""
    text, negative = jnp.ones((2, 3, 4)), jnp.full((2, 3, 4), 7.0)
    sound = jnp.ones((2, 5, 2, 6))
    given = Conditions(text=text, audio=sound, reference=jnp.ones((2, 1, 2, 2, 3)))
    nothing, no_sound, all_ = frozenset({"text", "audio"}), frozenset({"audio"}), frozenset()
    joined = denoising.joined(given, negative, (nothing, no_sound, all_))
    np.testing.assert_array_equal(joined.text[:, 0, 0], [7, 7, 1, 1, 1, 1])
    np.testing.assert_array_equal(joined.present["audio"], [False] * 4 + [True] * 2)
    assert joined.reference.shape[0] == 6 and "text" not in joined.present
    without = denoising.joined(given, None, (nothing, all_))
    np.testing.assert_array_equal(without.present["text"], [False, False, True, True])
    only = denoising.joined(given, negative, (nothing,))
    assert only.audio is None and only.text is negative and not only.present


def test_calls_are_joined_while_they_fit(generator):  # noqa: F811
    config = generator.model.config("dit")
    each = 4 * (8 * config.width + 2 * config.mlp)
    fits = lambda clips, memory: denoising.fits_together(config, clips, 10, 4, memory)
    assert fits(3, 4 * 30 * each) and not fits(4, 4 * 30 * each)
    assert not fits(2**28, None)


def test_anchored_latents_have_the_first_ones_colours():
    random = np.random.default_rng(0)
    motion = jnp.asarray(random.normal(2.0, 3.0, (1, 2, 4, 4, 5)), jnp.float32)
    anchor = jnp.asarray(random.normal(-1.0, 0.5, (1, 2, 4, 4, 5)), jnp.float32)
    np.testing.assert_array_equal(segments.anchored(motion, anchor, 0.0), motion)
    moved = segments.anchored(motion, anchor, 1.0)
    for of in (jnp.mean, jnp.std):
        np.testing.assert_allclose(of(moved, (1, 2, 3)), of(anchor, (1, 2, 3)), atol=1e-5)
    half = segments.anchored(motion, anchor, 0.5)
    np.testing.assert_allclose(half, (motion + moved) / 2, atol=1e-5)


@pytest.mark.slow
def test_an_anchor_changes_what_follows_and_not_the_first_segment(generator):  # noqa: F811
    long = dataclasses.replace(ALL, frames=14)
    free, held = alone(generator, long), alone(generator, dataclasses.replace(long, anchor=1.0))
    np.testing.assert_array_equal(free[:9], held[:9])
    assert (free[9:] != held[9:]).any()


@pytest.mark.parametrize("videos, data", [(1, 1), (2, 2), (3, 2), (100, 8)])
def test_the_rule_for_devices(monkeypatch, videos, data):
    """Videos side by side as far as they divide the devices, the others share the tokens of each."""
    assert mesh.for_videos(videos) is None, "a CPU's devices share its cores"
    real = jax.devices()

    class Chips(list):
        """Eight devices that say that they are TPUs."""

        def __getitem__(self, index):
            return type("Chip", (), {"platform": "tpu"})

    monkeypatch.setattr(jax, "devices", lambda: Chips(real))
    found = mesh.for_videos(videos)
    assert (found.shape["data"], found.shape["context"]) == (data, 8 // data)
