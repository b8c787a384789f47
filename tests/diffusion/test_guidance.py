"""Guidance equals its definition worked out by hand, makes no call it does not need, and anneals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.diffusion.guidance import Constant, Cosine, Guidance, Linear, mix
from omnihuman_jax.diffusion.samplers import make, run, sample
from omnihuman_jax.errors import InputError

ALL = frozenset()
NO_AUDIO, NO_TEXT, NEITHER = map(frozenset, [{"audio"}, {"text"}, {"text", "audio"}])
# What a network might answer when these conditions are dropped.
ANSWERS = {ALL: 7.0, NO_AUDIO: 4.0, NO_TEXT: 5.0, NEITHER: 2.0}
DRIVEN = ("text", "reference", "audio")


def guided(guidance, active=DRIVEN, t=0.5, progress=0.0):
    """The mixed velocity at one step, and the conditions dropped in each of its calls."""
    asked = []

    def network(dropped, x, t):
        asked.append(dropped)
        return jnp.full((2,), ANSWERS[dropped], jnp.bfloat16)

    plan = guidance.plan(active, np.array([t]), np.array([progress]))
    ((_, plan),) = plan.stretches()
    v = plan.velocity(network)(jnp.zeros(2), jnp.float32(t), plan.weights[0])
    assert v.dtype == jnp.float32
    return float(v[0]), asked


def scales(text, audio):
    return Guidance(text=Constant(text), audio=Constant(audio))


def test_text_and_audio_each_have_their_scale():
    # 2 + 3 * (4 - 2) + 5 * (7 - 4) = 2 + 6 + 15 = 23
    assert guided(scales(3.0, 5.0)) == (23.0, [NEITHER, NO_AUDIO, ALL])


def test_equal_scales_are_joint_guidance_in_two_calls():
    # 2 + 3 * (7 - 2) = 17
    assert guided(scales(3.0, 3.0)) == (17.0, [NEITHER, ALL])


def test_audio_guidance_alone_takes_two_calls():
    # 4 + 5 * (7 - 4) = 19
    assert guided(scales(1.0, 5.0)) == (19.0, [NO_AUDIO, ALL])


def test_text_guidance_alone_takes_three_calls_while_audio_is_there():
    # 2 + 3 * (4 - 2) + (7 - 4) = 11
    assert guided(scales(3.0, 1.0)) == (11.0, [NEITHER, NO_AUDIO, ALL])


def test_without_guidance_there_is_one_call():
    assert guided(scales(1.0, 1.0)) == (7.0, [ALL])


def test_audio_at_scale_zero_is_not_evaluated():
    # 2 + 3 * (4 - 2) = 8
    assert guided(scales(3.0, 0.0)) == (8.0, [NEITHER, NO_AUDIO])


@pytest.mark.parametrize(
    "active, expected",
    [
        (("text", "reference"), (11.0, [NO_TEXT, ALL])),  # 5 + 3 * (7 - 5)
        (("audio", "pose"), (19.0, [NO_AUDIO, ALL])),  # 4 + 5 * (7 - 4)
        (("reference",), (7.0, [ALL])),
    ],
)
def test_only_what_is_given_is_dropped(active, expected):
    assert guided(scales(3.0, 5.0), active) == expected


@pytest.mark.parametrize("text, audio", [*itertools.product([0.0, 1.0, 2.0, 5.0], repeat=2)])
def test_no_call_can_be_spared(text, audio):
    """As many calls as the definition, multiplied out, has weights that are not 0."""
    weights = [1 - text, text - audio, audio]
    velocity, asked = guided(scales(text, audio))
    assert len(asked) == np.count_nonzero(weights)
    assert velocity == pytest.approx(weights[0] * 2 + weights[1] * 4 + weights[2] * 7)


@pytest.mark.parametrize(
    "anneal, expected",
    [
        (Constant(6.0), [6.0, 6.0, 6.0, 6.0]),
        (Linear(6.0, 2.0), [6.0, 5.0, 4.0, 2.0]),
        # 6 - 4 * (1 - cos(pi / 4)) / 2 = 5.414
        (Cosine(6.0, 2.0), [6.0, 6.0 - 2.0 * (1 - 0.5**0.5), 4.0, 2.0]),
        (lambda progress: 6.0 - 4.0 * progress**2, [6.0, 5.75, 5.0, 2.0]),
    ],
)
def test_a_scale_may_change_over_the_steps(anneal, expected):
    progress = np.array([0.0, 0.25, 0.5, 1.0])
    plan = Guidance(text=anneal, audio=anneal).plan(DRIVEN, np.full(4, 0.5), progress)
    assert plan.passes == (NEITHER, ALL)
    np.testing.assert_allclose(plan.weights[:, 1], expected, rtol=1e-6)
    np.testing.assert_allclose(plan.weights.sum(1), 1.0, rtol=1e-6)


def test_outside_the_interval_there_is_no_guidance_and_one_call():
    guidance = Guidance(text=Constant(3.0), audio=Constant(5.0), interval=(0.3, 0.9))
    assert guided(guidance, t=0.95) == (7.0, [ALL])
    # Its ends belong to it, in the float32 of the sampler's times too.
    assert guided(guidance, t=float(np.float32(0.3))) == guided(guidance, t=float(np.float32(0.9)))
    times = np.array([1.0, 0.9, 0.5, 0.2, 0.1])
    plan = guidance.plan(DRIVEN, times, np.linspace(0.0, 1.0, 5))
    stretches = [(part, smaller.passes) for part, smaller in plan.stretches()]
    assert stretches == [
        (slice(0, 1), (ALL,)),
        (slice(1, 3), (NEITHER, NO_AUDIO, ALL)),
        (slice(3, 5), (ALL,)),
    ]


def test_stretches_and_the_whole_plan_give_the_same_video():
    """One scan with every pass at every step, or a scan a stretch with the passes it needs."""

    def network(dropped, x, t):
        return jnp.tanh(x * ANSWERS[dropped] + t)

    sampler = make("unipc")
    calls = sampler.calls(schedule := sampler.schedule(8, shift=5.0))
    guidance = Guidance(text=Linear(6.0, 2.0), audio=Constant(4.0), interval=(0.6, 0.95))
    plan = guidance.plan(DRIVEN, calls.time, calls.progress)
    noise = jnp.linspace(-2.0, 2.0, 7)
    whole = sample(sampler, schedule, plan.velocity(network), noise, plan.weights)
    state = sampler.init(noise)
    for part, smaller in plan.stretches():
        state = run(smaller.velocity(network), state, calls[part], smaller.weights)
    np.testing.assert_allclose(state[0], whole, rtol=1e-5, atol=1e-6)


def test_mixing_is_float32_and_compiles_once_for_all_scales():
    traces = []

    @jax.jit
    def mixed(velocities, weights):
        traces.append(None)
        return mix(velocities, weights)

    velocities = [jnp.full((3,), 1.0, jnp.bfloat16), jnp.full((3,), 1.0078125, jnp.bfloat16)]
    # 1 + 6.5 * 0.0078125 = 1.05078125; bfloat16 near 1 has steps of 0.0078125.
    np.testing.assert_allclose(mixed(velocities, jnp.array([-5.5, 6.5])), 1.05078125, rtol=1e-6)
    np.testing.assert_allclose(mixed(velocities, jnp.array([0.0, 1.0])), 1.0078125, rtol=1e-6)
    assert len(traces) == 1


def test_mistakes_are_named():
    with pytest.raises(InputError, match="0 <= low <= high <= 1"):
        Guidance(interval=(0.9, 0.3))
    with pytest.raises(InputError, match="audio guidance scale must be a finite number, got nan"):
        guided(scales(3.0, float("nan")))
