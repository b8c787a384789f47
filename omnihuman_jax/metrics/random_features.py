"""The only place that knows features of pictures that nobody had to train: random convolutions.

Random networks tell apart what training tells apart, only less finely; what they give is a distance that
anybody can compute, without weights, and that grows with damage. Their numbers stand beside no other's.
"""

import functools
import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, UInt8

from omnihuman_jax.metrics.frechet import frechet_distance

SEED, WIDTHS = 2026, (3, 32, 64, 64)
KEPT = 32  # main directions in which sets are compared


@functools.cache
def _weights() -> list[np.ndarray]:
    """Convolutions of normal weights over the root of their inputs, the same on every machine."""
    random = np.random.default_rng(SEED)
    return [
        (random.standard_normal((3, 3, a, b)) / np.sqrt(9 * a)).astype(np.float32)
        for a, b in itertools.pairwise(WIDTHS)
    ]


@jax.jit
def _seen(frames: UInt8[Array, "F Y X 3"]) -> Float32[Array, "F 320"]:
    x = frames.astype(jnp.float32) / 127.5 - 1
    seen = []
    for weights in _weights():
        x = jax.lax.conv_general_dilated(
            x, jnp.asarray(weights), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x) * np.sqrt(2)
        seen += [jnp.mean(x, axis=(1, 2)), jnp.std(x, axis=(1, 2))]
    return jnp.concatenate(seen, axis=1)


def features(frames: UInt8[np.ndarray, "F Y X 3"]) -> Float64[np.ndarray, "F 320"]:
    """Mean and spread over each picture of what random convolutions see at three scales."""
    return np.asarray(_seen(frames)).astype(np.float64)


@dataclass(frozen=True)
class Units:
    """A set's own main directions and its spread in each: the units in which others are compared to it."""

    mean: Float64[np.ndarray, "D"]
    axes: Float64[np.ndarray, "D kept"]

    @staticmethod
    def of(seen: Float[np.ndarray, "F D"], kept: int = KEPT) -> "Units":
        """Those of a set of features; at most `kept` of them."""
        mean = seen.mean(axis=0)
        _, sizes, axes = np.linalg.svd(seen - mean, full_matrices=False)
        return Units(mean, axes[:kept].T / (sizes[:kept] / np.sqrt(len(seen))))

    def __call__(self, seen: Float[np.ndarray, "F D"]) -> Float64[np.ndarray, "F kept"]:
        """Features in these units: in the set's own ones each direction has deviation 1."""
        return (seen - self.mean) @ self.axes

    def distance(self, one: Float[np.ndarray, "F D"], other: Float[np.ndarray, "F2 D"]) -> float:
        """The Fréchet distance a direction, so that it does not grow with their count.

        Raises:
            InputError: fewer than 2 samples in one of them.
        """
        return frechet_distance(self(one), self(other)) / self.axes.shape[1]
