"""Frames -> the features that FID compares: TensorFlow's Inception of 2015, as pytorch-fid runs it.

It is `pt_inception-2015-12-05` (github.com/mseitzer/pytorch-fid, Apache-2.0), which differs from
torchvision's Inception v3: mean pools do not count what is padded, and the last block pools the largest
values.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from omnihuman_jax.models import convnets
from omnihuman_jax.models.convnets import Conv, Params, Weights, convolve, max_pool, mean_pool
from omnihuman_jax.models.metric_files import Part, read

SIDE = 299  # pixels that it looks at
WIDTH = 2048
EPS = 1e-3  # of the batch norms
BATCH = 16  # frames at a time


def _conv(name: str, kernel: tuple[int, ...], stride: int = 1, pad: str = "SAME") -> Conv:
    return Conv(f"{name}.conv", kernel, stride, pad, norm=f"{name}.bn", bias=False)


def _branch(block: str, *convs: tuple[str, tuple[int, ...]]) -> tuple[Conv, ...]:
    """Convolutions one after the other; where the name ends in "_down" they halve the picture."""
    return tuple(
        _conv(f"{block}.branch{name.removesuffix('_down')}", kernel, 2, "VALID")
        if name.endswith("_down")
        else _conv(f"{block}.branch{name}", kernel)
        for name, kernel in convs
    )


STEM = (
    _conv("Conv2d_1a_3x3", (3, 3, 3, 32), 2, "VALID"),
    _conv("Conv2d_2a_3x3", (3, 3, 32, 32), 1, "VALID"),
    _conv("Conv2d_2b_3x3", (3, 3, 32, 64)),
    _conv("Conv2d_3b_1x1", (1, 1, 64, 80), 1, "VALID"),
    _conv("Conv2d_4a_3x3", (3, 3, 80, 192), 1, "VALID"),
)


def _small(block: str, size: int, pooled: int) -> tuple[tuple[Conv, ...], ...]:
    """Of 35 x 35: 1x1, 5x5, twice 3x3, and the one behind the pool."""
    return (
        _branch(block, ("1x1", (1, 1, size, 64))),
        _branch(block, ("5x5_1", (1, 1, size, 48)), ("5x5_2", (5, 5, 48, 64))),
        _branch(
            block,
            ("3x3dbl_1", (1, 1, size, 64)),
            ("3x3dbl_2", (3, 3, 64, 96)),
            ("3x3dbl_3", (3, 3, 96, 96)),
        ),
        _branch(block, ("_pool", (1, 1, size, pooled))),
    )


def _long(block: str, inner: int) -> tuple[tuple[Conv, ...], ...]:
    """Of 17 x 17: kernels of seven, along one axis and then the other."""
    size, along, down = 768, (1, 7), (7, 1)
    return (
        _branch(block, ("1x1", (1, 1, size, 192))),
        _branch(
            block,
            ("7x7_1", (1, 1, size, inner)),
            ("7x7_2", (*along, inner, inner)),
            ("7x7_3", (*down, inner, 192)),
        ),
        _branch(
            block,
            ("7x7dbl_1", (1, 1, size, inner)),
            ("7x7dbl_2", (*down, inner, inner)),
            ("7x7dbl_3", (*along, inner, inner)),
            ("7x7dbl_4", (*down, inner, inner)),
            ("7x7dbl_5", (*along, inner, 192)),
        ),
        _branch(block, ("_pool", (1, 1, size, 192))),
    )


def _wide(block: str, size: int) -> tuple[tuple[Conv, ...], ...]:
    """Of 8 x 8; the last two of the second and third branch lie beside each other."""
    return (
        _branch(block, ("1x1", (1, 1, size, 320))),
        _branch(
            block,
            ("3x3_1", (1, 1, size, 384)),
            ("3x3_2a", (1, 3, 384, 384)),
            ("3x3_2b", (3, 1, 384, 384)),
        ),
        _branch(
            block,
            ("3x3dbl_1", (1, 1, size, 448)),
            ("3x3dbl_2", (3, 3, 448, 384)),
            ("3x3dbl_3a", (1, 3, 384, 384)),
            ("3x3dbl_3b", (3, 1, 384, 384)),
        ),
        _branch(block, ("_pool", (1, 1, size, 192))),
    )


BLOCKS = {
    "Mixed_5b": _small("Mixed_5b", 192, 32),
    "Mixed_5c": _small("Mixed_5c", 256, 64),
    "Mixed_5d": _small("Mixed_5d", 288, 64),
    "Mixed_6a": (
        _branch("Mixed_6a", ("3x3_down", (3, 3, 288, 384))),
        _branch(
            "Mixed_6a",
            ("3x3dbl_1", (1, 1, 288, 64)),
            ("3x3dbl_2", (3, 3, 64, 96)),
            ("3x3dbl_3_down", (3, 3, 96, 96)),
        ),
    ),
    "Mixed_6b": _long("Mixed_6b", 128),
    "Mixed_6c": _long("Mixed_6c", 160),
    "Mixed_6d": _long("Mixed_6d", 160),
    "Mixed_6e": _long("Mixed_6e", 192),
    "Mixed_7a": (
        _branch("Mixed_7a", ("3x3_1", (1, 1, 768, 192)), ("3x3_2_down", (3, 3, 192, 320))),
        _branch(
            "Mixed_7a",
            ("7x7x3_1", (1, 1, 768, 192)),
            ("7x7x3_2", (1, 7, 192, 192)),
            ("7x7x3_3", (7, 1, 192, 192)),
            ("7x7x3_4_down", (3, 3, 192, 192)),
        ),
    ),
    "Mixed_7b": _wide("Mixed_7b", 1280),
    "Mixed_7c": _wide("Mixed_7c", 2048),
}
LAYERS = STEM + tuple(conv for block in BLOCKS.values() for branch in block for conv in branch)
PARTS = (  # its classifier is for the 1008 classes of that release
    Part(
        "pt_inception-2015-12-05-6726825d.pth",
        convnets.torch_rules(LAYERS),
        convnets.shapes(LAYERS),
        r"fc\..*",
    ),
)


class Inception:
    """pool3 of FID's Inception, with weights that the user brings."""

    def __init__(self, params: Params) -> None:
        """`params` as `PARTS` name them."""
        self._weights = convnets.folded(params, LAYERS, EPS)

    @classmethod
    def load(cls, path: str) -> "Inception":
        """From a folder of `omnihuman convert`, or the released file; local or gs://.

        Raises:
            InputError: see `metric_files.read`.
        """
        return cls(read(path, "inception", PARTS))

    def __call__(self, frames: UInt8[np.ndarray, "F Y X 3"]) -> Float32[np.ndarray, "F 2048"]:
        """Features of RGB frames of any size; each is stretched to 299 x 299 (bilinear), as published."""
        return convnets.in_batches(lambda some: _features(self._weights, some), frames, BATCH)


@jax.jit
def _features(weights: Weights, frames: UInt8[Array, "F Y X 3"]) -> Float32[Array, "F 2048"]:
    x = convnets.resize(frames.astype(jnp.float32) / 255, SIDE) * 2 - 1
    for layer in STEM[:3]:
        x = convolve(x, layer, weights)
    x = max_pool(x, 3, 2)
    for layer in STEM[3:]:
        x = convolve(x, layer, weights)
    x = max_pool(x, 3, 2)
    for name, branches in BLOCKS.items():
        x = jnp.concatenate(_block(name, branches, weights, x), axis=-1)
    return x.mean(axis=(1, 2))


def _block(
    name: str,
    branches: tuple[tuple[Conv, ...], ...],
    weights: Weights,
    x: Float32[Array, "F Y X C"],
) -> list[Float32[Array, "F y x D"]]:
    """What each branch makes of x, in the order of torchvision's Inception."""
    found = []
    for branch in branches:
        y = x
        if branch[0].name.endswith("branch_pool.conv"):
            largest = name == "Mixed_7c"  # an oddity of the 2015 release
            y = max_pool(x, 3, 1, "SAME") if largest else mean_pool(x, 3, 1, "SAME")
        forked = branch[-1].name.endswith("b.conv")
        for layer in branch[:-2] if forked else branch:
            y = convolve(y, layer, weights)
        found += [convolve(y, layer, weights) for layer in branch[-2:]] if forked else [y]
    if name in ("Mixed_6a", "Mixed_7a"):
        found.append(max_pool(x, 3, 2))
    return found
