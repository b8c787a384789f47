"""Weights that goldens need not hold: a function of names and shapes alone."""

import math
from collections.abc import Mapping

import numpy as np


def arbitrary(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors by their torch names, of a size that keeps signals through many layers.

    Every norm's numbers differ too, so that no wrong mapping can hide.
    """
    params = {}
    for name, shape in shapes.items():
        random = np.random.default_rng([seed, *name.encode()])
        value = random.standard_normal(shape, np.float32)
        if len(shape) > 1:
            value *= np.float32((2 / math.prod(shape[1:])) ** 0.5)
        elif name.endswith("running_var"):
            value = np.float32(0.5) + value**2
        elif name.endswith("weight"):
            value = 1 + np.float32(0.1) * value
        else:
            value *= np.float32(0.1)
        params[name] = value
    return params


def pixels(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Bytes of pictures: noise on smooth ramps, the same wherever it is made."""
    noise = np.random.default_rng(seed).integers(0, 96, shape, np.int64)
    ramp = sum(
        np.arange(n).reshape(-1, *[1] * (len(shape) - i - 1)) * (i + 3) for i, n in enumerate(shape)
    )
    return ((ramp + noise) % 256).astype(np.uint8)
