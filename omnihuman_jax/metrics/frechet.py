"""The only place that knows the Fréchet distance of two sets of features, taken for Gaussians.

Heusel et al. (arXiv 1706.08500, eq. 6): |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
"""

import warnings

import numpy as np
from jaxtyping import Float, Float64

from omnihuman_jax.errors import InputError


def frechet_distance(
    one: Float[np.ndarray, "samples D"], other: Float[np.ndarray, "samples2 D"]
) -> float:
    """The distance, in float64 and through eigenvalues, so that it is stable for few samples too.

    tr (C1 C2)^(1/2) is the sum of the singular values of A1 A2^T, where A^T A = C for each set: A is the set
    without its mean, over the root of the number of samples less one. Nothing is inverted or rooted.

    Warns where a set has no more samples than features have numbers: the distance is then far too large.

    Raises:
        InputError: fewer than two samples, or values that are not finite.
    """
    a, mean_a = _centred(one)
    b, mean_b = _centred(other)
    if min(len(one), len(other)) <= one.shape[1]:
        warnings.warn(
            f"The Fréchet distance of {len(one)} and {len(other)} samples with {one.shape[1]} numbers each "
            "is biased upwards; it needs many more samples than numbers.",
            stacklevel=2,
        )
    covariance = np.sum(a**2) + np.sum(b**2)
    # The singular values of A B^T, from the smaller of the two products.
    left: np.ndarray = np.linalg.qr(a, mode="r")  # type: ignore[assignment]
    right: np.ndarray = np.linalg.qr(b, mode="r")  # type: ignore[assignment]
    common = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    distance = np.sum((mean_a - mean_b) ** 2) + covariance - 2 * common
    return float(max(distance, 0.0))


def _centred(
    features: Float[np.ndarray, "samples D"],
) -> tuple[Float64[np.ndarray, "samples D"], Float64[np.ndarray, "D"]]:
    """A with A^T A the (unbiased) covariance, and the mean."""
    wide = features.astype(np.float64)
    if len(wide) < 2 or not np.isfinite(wide).all():
        raise InputError(
            f"A Fréchet distance needs at least 2 samples of finite numbers, got {len(wide)}."
        )
    mean = wide.mean(axis=0)
    return (wide - mean) / np.sqrt(len(wide) - 1), mean
