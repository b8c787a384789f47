"""The path and its velocity agree with each other; training times follow their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.diffusion import flow
from omnihuman_jax.errors import InputError

KEY = jax.random.key(0)
X0, NOISE = jax.random.normal(KEY, (2, 3, 2, 4, 4, 5))
T = jnp.array([0.0, 0.25, 1.0])


def test_the_path_leads_from_data_to_noise():
    x = flow.interpolate(X0, NOISE, T)
    np.testing.assert_array_equal(x[0], X0[0])
    np.testing.assert_array_equal(x[2], NOISE[2])
    # A quarter of the way: 0.75 * 4 + 0.25 * 8 = 5.
    four, eight = jnp.full((1, 2), 4.0), jnp.full((1, 2), 8.0)
    np.testing.assert_array_equal(flow.interpolate(four, eight, jnp.array([0.25])), [[5.0, 5.0]])


def test_the_target_is_the_derivative_of_the_path():
    _, slope = jax.jvp(lambda t: flow.interpolate(X0, NOISE, t), (T,), (jnp.ones_like(T),))
    np.testing.assert_allclose(flow.target(X0, NOISE), slope, atol=1e-6)


def test_the_velocity_gives_back_both_ends():
    x, v = flow.interpolate(X0, NOISE, T), flow.target(X0, NOISE)
    np.testing.assert_allclose(flow.data_from(x, v, T), X0, atol=1e-6)
    np.testing.assert_allclose(flow.noise_from(x, v, T), NOISE, atol=1e-6)


def test_bfloat16_latents_are_mixed_in_float32():
    x0, noise = X0.astype(jnp.bfloat16), NOISE.astype(jnp.bfloat16)
    x = flow.interpolate(x0, noise, T)
    assert x.dtype == flow.target(x0, noise).dtype == jnp.float32
    expected = flow.interpolate(x0.astype(jnp.float32), noise.astype(jnp.float32), T)
    np.testing.assert_array_equal(x, expected)


def test_a_shift_moves_times_towards_noise_and_can_be_undone():
    t = jnp.linspace(0.0, 1.0, 11)
    # 5 * 0.5 / (1 + 4 * 0.5) = 2.5 / 3
    assert flow.shift(t, 5.0)[5] == pytest.approx(2.5 / 3)
    np.testing.assert_allclose(flow.shift(flow.shift(t, 5.0), 0.2), t, atol=1e-6)
    np.testing.assert_allclose(flow.shift(flow.shift(t, 3.0), 2.0), flow.shift(t, 6.0), atol=1e-6)
    np.testing.assert_array_equal(flow.shift(t, 1.0), t)


def test_the_shift_grows_with_the_square_root_of_the_tokens():
    assert flow.shift_for(32_760) == 3.0
    assert flow.shift_for(4 * 32_760) == pytest.approx(6.0)
    assert flow.shift_for(75_600) == pytest.approx(4.56, abs=0.01)
    assert flow.shift_for(10) == 1.0


@pytest.mark.parametrize("amount", [1.0, 3.0])
@pytest.mark.parametrize("sampler", [flow.Uniform, flow.LogitNormal])
def test_training_times_have_the_median_of_their_law(sampler, amount):
    """Both laws have median 1/2, and shift is monotone: the median after it is shift(1/2)."""
    times = sampler(shift=amount)(KEY, (20_000,))
    assert times.dtype == jnp.float32 and times.min() >= 0 and times.max() <= 1
    # The median of 20,000 draws is known to 1 / (2 sqrt(20000) density), under 0.005 here.
    assert float(jnp.median(times)) == pytest.approx(amount / (1 + amount), abs=0.015)


def test_logits_of_logit_normal_times_are_normal():
    times = flow.LogitNormal(mean=-0.5, std=0.8)(KEY, (20_000,))
    logits = jnp.log(times) - jnp.log1p(-times)
    assert float(logits.mean()) == pytest.approx(-0.5, abs=0.02)
    assert float(logits.std()) == pytest.approx(0.8, abs=0.02)


def test_one_key_gives_the_same_times_in_any_compilation():
    draw = flow.LogitNormal(shift=3.0)
    jitted = jax.jit(draw, static_argnums=1)
    np.testing.assert_allclose(draw(KEY, (4, 2)), jitted(KEY, (4, 2)), rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: flow.Uniform(shift=0.0),
        lambda: flow.LogitNormal(std=0.0),
        lambda: flow.LogitNormal(mean=float("nan")),
        lambda: flow.shift_for(0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(InputError, match="positive"):
        make()
