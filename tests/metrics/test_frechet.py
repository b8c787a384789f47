"""The Fréchet distance against its formula, and what it must do."""

import numpy as np
import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.metrics.frechet import frechet_distance


def sets(seed=0, samples=300, width=5):
    random = np.random.default_rng(seed)
    a = random.standard_normal((samples, width)) @ random.standard_normal((width, width))
    return a, 0.7 * random.standard_normal((samples + 50, width)) + 0.3


def test_it_is_the_formula():
    """The root of C1 C2 by its eigenvalues, which are real and positive."""
    a, b = sets()
    one, two = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.linalg.eigvals(one @ two).real).sum()
    want = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(one + two) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-9)


def test_a_set_is_at_no_distance_from_itself_and_shifts_add_their_square():
    a, b = sets()
    assert frechet_distance(a, a) < 1e-9
    assert frechet_distance(a, a[::-1] + np.float64([2, 0, 0, 0, 1])) == pytest.approx(5, rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_more_noise_is_further_away():
    a, _ = sets()
    noise = np.random.default_rng(1).standard_normal(a.shape)
    found = [frechet_distance(a, a + s * noise) for s in (0.0, 0.1, 0.3, 1.0)]
    assert found == sorted(found)


def test_too_few_samples_are_said():
    a, b = sets(samples=4)
    with pytest.warns(UserWarning, match="biased"):
        frechet_distance(a, b)
    with pytest.raises(InputError, match="at least 2"):
        frechet_distance(a[:1], b)
    with pytest.raises(InputError):
        frechet_distance(a * np.nan, b)
