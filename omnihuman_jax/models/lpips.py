"""Two pictures -> how different they look: LPIPS (Zhang et al., arXiv 1801.03924), version 0.1 of its heads.

A distance between the features of a network trained on ImageNet, AlexNet (the usual choice) or VGG16. The
backbone is torchvision's file, the heads are those inside the package `lpips` (weights/v0.1; BSD licence).
"""

import functools
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from omnihuman_jax.errors import InputError
from omnihuman_jax.models import convnets
from omnihuman_jax.models.convnets import Conv, Params, Weights, convolve, max_pool
from omnihuman_jax.models.metric_files import Part, read

Backbone = Literal["alex", "vgg"]

# What the pictures, in [-1, 1], are shifted and scaled by (lpips.ScalingLayer).
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPS = 1e-10  # added to the length of a feature
BATCH = 8  # pairs at a time


def _vgg() -> tuple[Conv, ...]:
    """Sixteen layers: 3x3 all, numbered with the ReLUs and pools between them."""
    widths = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
    widths |= dict.fromkeys((17, 19, 21, 24, 26, 28), 512)
    pairs = zip((3, *widths.values()), widths.items(), strict=False)
    return tuple(Conv(f"features.{at}", (3, 3, size, width)) for size, (at, width) in pairs)


LAYERS: Mapping[Backbone, tuple[Conv, ...]] = {
    "alex": (
        Conv("features.0", (11, 11, 3, 64), 4, 2),
        Conv("features.3", (5, 5, 64, 192)),
        Conv("features.6", (3, 3, 192, 384)),
        Conv("features.8", (3, 3, 384, 256)),
        Conv("features.10", (3, 3, 256, 256)),
    ),
    "vgg": _vgg(),
}
# The layers whose output (behind the ReLU) is compared; those with a pool before them, and its size.
TAPS: Mapping[Backbone, tuple[int, ...]] = {"alex": (0, 3, 6, 8, 10), "vgg": (2, 7, 14, 21, 28)}
POOLS: Mapping[Backbone, tuple[tuple[int, ...], int]] = {
    "alex": ((3, 6), 3),
    "vgg": ((5, 10, 17, 24), 2),
}


def _heads(backbone: Backbone) -> tuple[Conv, ...]:
    """One weight for each channel of what is compared."""
    taps = {f"features.{at}" for at in TAPS[backbone]}
    compared = [layer.kernel[-1] for layer in LAYERS[backbone] if layer.name in taps]
    return tuple(
        Conv(f"lin{i}.model.1", (1, 1, width, 1), bias=False) for i, width in enumerate(compared)
    )


def _parts(backbone: Backbone, file: str) -> tuple[Part, Part]:
    layers, heads = LAYERS[backbone], _heads(backbone)
    return (
        Part(file, convnets.torch_rules(layers), convnets.shapes(layers), r"classifier\..*"),
        Part(
            f"lpips/weights/v0.1/{backbone}.pth",
            convnets.torch_rules(heads),
            convnets.shapes(heads),
        ),
    )


PARTS: Mapping[Backbone, tuple[Part, Part]] = {
    "alex": _parts("alex", "alexnet-owt-7be5be79.pth"),
    "vgg": _parts("vgg", "vgg16-397923af.pth"),
}


class Lpips:
    """The distance, with weights that the user brings; 0 for equal pictures."""

    def __init__(self, params: Params, backbone: Backbone = "alex") -> None:
        """`params` as `PARTS` name them."""
        self.backbone: Backbone = backbone
        self._weights = convnets.folded(params, LAYERS[backbone] + _heads(backbone), 0.0)

    @classmethod
    def load(cls, path: str, backbone: Backbone = "alex") -> "Lpips":
        """From a folder of `omnihuman convert`, or one with both released files; local or gs://.

        Raises:
            InputError: see `metric_files.read`.
        """
        return cls(read(path, f"lpips ({backbone})", PARTS[backbone]), backbone)

    def __call__(
        self, one: UInt8[np.ndarray, "F Y X 3"], other: UInt8[np.ndarray, "F2 Y2 X2 3"]
    ) -> Float32[np.ndarray, "F"]:
        """Of each pair of RGB pictures of the same size.

        Raises:
            InputError: they differ in size or number, or are smaller than 32 pixels.
        """
        if one.shape != other.shape or min(one.shape[1:3]) < 32:
            raise InputError(
                f"LPIPS compares pictures of the same size, 32 pixels or more; got {one.shape} and "
                f"{other.shape}."
            )
        pairs = np.stack([one, other], axis=1)
        distance = lambda some: _distances(self.backbone, self._weights, some)
        return convnets.in_batches(distance, pairs, BATCH)


@functools.partial(jax.jit, static_argnums=0)
def _distances(
    backbone: Backbone, weights: Weights, pairs: UInt8[Array, "F 2 Y X 3"]
) -> Float32[Array, "F"]:
    x = pairs.reshape(-1, *pairs.shape[2:]).astype(jnp.float32) / 127.5 - 1
    x = (x - _colours(SHIFT)) / _colours(SCALE)
    pools, size = POOLS[backbone]
    heads = dict(zip(TAPS[backbone], _heads(backbone), strict=True))
    total = jnp.zeros(len(pairs))
    for layer in LAYERS[backbone]:
        at = int(layer.name.removeprefix("features."))
        x = convolve(max_pool(x, size, 2) if at in pools else x, layer, weights)
        if at in heads:
            length = jnp.sqrt((x**2).sum(axis=-1, keepdims=True))
            unit = (x / (length + EPS)).reshape(-1, 2, *x.shape[1:])
            squares = (unit[:, 0] - unit[:, 1]) ** 2
            total += convolve(squares, heads[at], weights, relu=False).mean(axis=(1, 2, 3))
    return total


def _colours(values: tuple[float, ...]) -> Float32[Array, "1 1 1 3"]:
    return jnp.array(values, jnp.float32)[None, None, None]
