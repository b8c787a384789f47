"""Samplers converge with their order, agree with Wan's and diffusers', and step alike in scan and loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.diffusion import samplers
from omnihuman_jax.diffusion.samplers import DPMPlusPlus, Schedule, UniPC, make, sample, step
from omnihuman_jax.errors import InputError
from tests.goldens.load import load

NAMES = tuple(samplers.SAMPLERS)
MEAN, STD = 1.5, 0.5  # of the data, in the problem whose flow is known
START = jnp.linspace(-2.0, 2.0, 9)  # noise, a point in each of nine places

OURS = {
    "unipc/wan": UniPC(),
    "unipc/diffusers": UniPC(spacing=samplers.DIFFUSERS_UNIPC),
    "dpm++/wan": DPMPlusPlus(),
    "dpm++/diffusers": DPMPlusPlus(spacing=samplers.DIFFUSERS_DPM),
}


def gaussian(x, t):
    """E[noise - x0 | x_t = x] when x0 ~ N(MEAN, STD^2)."""
    variance = ((1 - t) * STD) ** 2 + t**2
    return (t - (1 - t) * STD**2) / variance * (x - (1 - t) * MEAN) - MEAN


def solution(t):
    """Where the flow that starts at START is at time t: the same number of deviations from the mean."""
    return (1 - t) * MEAN + np.sqrt(((1 - t) * STD) ** 2 + t**2) * START


@pytest.fixture(scope="module")
def golden():
    return load("samplers")


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("shift", [3.0, 5.0])
def test_schedules_are_those_of_wan_and_diffusers(golden, name, shift):
    for steps in (1, 2, 3, 10, 25, 50):
        schedule = OURS[name].schedule(steps, shift)
        np.testing.assert_array_equal(schedule.sigmas, golden[f"{name}/{shift:.0f}/{steps}/sigmas"])
        timesteps = golden[f"{name}/{shift:.0f}/{steps}/timesteps"]
        np.testing.assert_array_equal(schedule.times, timesteps / 1000)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("shift", [3.0, 5.0])
def test_every_step_is_that_of_wan_and_diffusers(golden, name, shift):
    def velocity(x, t):
        return jnp.tanh(x @ golden["weight"] + golden["drift"][None] * t)

    sampler = OURS[name]
    calls = sampler.calls(sampler.schedule(10, shift))
    state = sampler.init(jnp.asarray(golden["noise"]))
    for i, expected in enumerate(golden[f"{name}/{shift:.0f}/states"]):
        state = step(velocity, state, calls[i])
        # Their coefficients are made in float32: 3e-7 measured.
        assert np.abs(state[0] - expected).max() <= 2e-6 * np.abs(expected).max(), f"step {i}"


@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2), ("unipc", 2), ("dpm++", 2)])
def test_error_falls_with_the_order_of_the_method(name, order):
    """Halving the step divides the error by 2**order; levels even in log-SNR from 0.9 to 0.2.

    (Even levels down to 0 cost the multistep methods a logarithm: steps in log-SNR stay large there.)
    """

    def error(steps):
        sigmas = 1 / (1 + np.exp(np.linspace(np.log(1 / 9), np.log(4), steps + 1)))
        end = sample(make(name), Schedule(sigmas, sigmas[:-1]), gaussian, solution(sigmas[0]))
        return float(jnp.abs(end - solution(sigmas[-1])).max())

    assert order - 0.1 < np.log2(error(32) / error(64)) < order + 0.3


@pytest.mark.parametrize(
    "name, tolerance", [("euler", 0.03), ("heun", 0.003), ("unipc", 0.01), ("dpm++", 0.01)]
)
def test_gaussian_noise_becomes_gaussian_data(name, tolerance):
    """Tolerances are the methods' errors at 50 steps, two to three times those measured."""
    noise = jax.random.normal(jax.random.key(1), (20_000,))
    noise = (noise - noise.mean()) / noise.std()
    data = sample(make(name), make(name).schedule(50), gaussian, noise)
    assert float(data.mean()) == pytest.approx(MEAN, abs=tolerance)
    assert float(data.std()) == pytest.approx(STD, abs=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_one_step_jumps_to_the_predicted_data(name):
    """x0 = x - sigma v(x, t), which from pure noise is the one-step generator z - v(z, 1)."""
    sampler = make(name)
    schedule = sampler.schedule(1, shift=5.0)
    (sigma, end), (t,) = schedule.sigmas, schedule.times
    assert sigma == pytest.approx(1.0, abs=2.1e-4) and end == 0
    expected = START - np.float32(sigma) * gaussian(START, np.float32(t))
    np.testing.assert_allclose(sample(sampler, schedule, gaussian, START), expected, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_scan_equals_a_loop_with_one_compiled_step(name):
    sampler = make(name)
    schedule = sampler.schedule(6, shift=3.0)
    calls = sampler.calls(schedule)
    traces = []

    @jax.jit
    def compiled(state, call, gain):
        traces.append(None)
        return step(lambda x, t, gain: gain * gaussian(x, t), state, call, gain)

    gains = np.linspace(0.5, 1.5, len(calls)).astype(np.float32)
    state = sampler.init(START, [START] * sampler.fresh(6))
    for i in range(len(calls)):
        state = compiled(state, calls[i], gains[i, ...])
    whole = sample(sampler, schedule, lambda x, t, gain: gain * gaussian(x, t), START, gains)
    np.testing.assert_allclose(state[0], whole, rtol=1e-5, atol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("name, expected", [("euler", 5), ("heun", 9), ("unipc", 5), ("dpm++", 5)])
def test_calls_of_five_steps(name, expected):
    """Heun makes two calls a step and one for the step into 0. Progress follows the levels."""
    sampler = make(name)
    schedule = sampler.schedule(5, shift=3.0)
    calls = sampler.calls(schedule)
    assert len(calls) == expected
    assert calls.progress[0] == 0 and calls.progress[-1] == 1
    levels = np.rint(calls.progress * 4).astype(int)
    np.testing.assert_array_equal(calls.time, schedule.times[levels].astype(np.float32))
    assert sampler.calls(sampler.schedule(1)).progress[0] == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_method_reads_only_what_it_has_written(name):
    """Memory starts as zeros; a weight on it before anything was put there would be a mistake."""
    sampler = make(name)
    mixes = sampler.calls(sampler.schedule(5, shift=5.0)).mix
    kept = mixes.shape[1]
    known = {0, *range(kept - sampler.fresh(5), kept)}  # the latents, and noise that was given
    for i, mix in enumerate(mixes):
        # The prediction of a row that is written from unset memory is itself unset.
        useful = {k for k in range(kept) if set(np.flatnonzero(mix[k])) <= known | {kept}}
        assert 0 in useful, f"call {i}"
        known = useful


def test_a_distilled_model_jumps_to_data_and_goes_back_with_fresh_noise():
    """Two steps by hand; and with the same noise again, going back is Euler's step."""
    sampler, again = make("consistency"), START[::-1]
    schedule = sampler.schedule(2, shift=1.0)
    np.testing.assert_array_equal(schedule.sigmas, [1, 0.5, 0])
    state, calls = sampler.init(START, [again]), sampler.calls(schedule)
    for i in range(2):
        state = step(gaussian, state, calls[i])
    back = 0.5 * (START - gaussian(START, 1.0)) + 0.5 * again
    np.testing.assert_allclose(state[0], back - 0.5 * gaussian(back, 0.5), atol=1e-6)
    same, euler = (sample(make(n), schedule, gaussian, START) for n in ("consistency", "euler"))
    np.testing.assert_allclose(same, euler, atol=1e-6)
    with pytest.raises(InputError, match="1 to 8 steps, got 9"):
        sampler.schedule(9)


def test_a_step_compiles_from_shapes_alone():
    sampler = make("heun")
    call = sampler.calls(sampler.schedule(3))[0]
    shapes = jax.eval_shape(lambda *x: x, sampler.init(START), call)
    compiled = jax.jit(lambda state, call: step(gaussian, state, call)).lower(*shapes).compile()
    assert len(compiled(sampler.init(START), call)) == 3


def test_latents_stay_float32_whatever_the_network_answers():
    def bfloat16(x, t):
        assert x.dtype == t.dtype == jnp.float32 and t.shape == ()
        return gaussian(x, t).astype(jnp.bfloat16)

    sampler = make("unipc")
    noise = START.astype(jnp.bfloat16)
    assert sample(sampler, sampler.schedule(3), bfloat16, noise).dtype == jnp.float32


def test_mistakes_are_named():
    with pytest.raises(InputError, match=r"'ddim'; there are euler, heun, unipc, dpm\+\+"):
        make("ddim")
    with pytest.raises(InputError, match="at least 1 step, got 0"):
        make("euler").schedule(0)
    with pytest.raises(InputError, match="must be positive"):
        make("euler").schedule(10, shift=0.0)
