"""Videos -> the features that FVD compares: the 400 logits of I3D (Carreira & Zisserman 2017) for Kinetics.

The network of `i3d_pretrained_400.pt` (tensor names of github.com/piergiaj/pytorch-i3d, Apache-2.0). The
other common file, StyleGAN-V's i3d_torchscript.pt, is a program with tensors in it whose names we could not
look up; it is not read here. It is said to be the same network.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from omnihuman_jax.errors import InputError
from omnihuman_jax.models import convnets
from omnihuman_jax.models.convnets import Conv, Params, Weights, convolve, max_pool
from omnihuman_jax.models.metric_files import Part, read

SIDE = 224
FRAMES = 16  # of a clip
WIDTH = 400
EPS = 1e-3
BATCH = 2  # clips at a time

# Channels of a block's branches: 1x1; 1x1, 3x3x3; 1x1, 3x3x3; and the one behind the pool.
BLOCKS: dict[str, tuple[int, tuple[int, ...]]] = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
POOLS: dict[str, tuple[int | tuple[int, ...], int | tuple[int, ...]]] = {
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": (3, 2),
    "Mixed_5b": (2, 2),
}  # before it


def _conv(name: str, size: int, kernel: tuple[int, int], stride: int = 1) -> Conv:
    along, width = (size,) * 3, kernel
    return Conv(f"{name}.conv3d", (*along, *width), stride, norm=f"{name}.bn", bias=False)


STEM = (
    _conv("Conv3d_1a_7x7", 7, (3, 64), 2),
    _conv("Conv3d_2b_1x1", 1, (64, 64)),
    _conv("Conv3d_2c_3x3", 3, (64, 192)),
)


def _branches(block: str) -> tuple[tuple[Conv, ...], ...]:
    size, (one, inner, two, little, three, pooled) = BLOCKS[block]
    return (
        (_conv(f"{block}.b0", 1, (size, one)),),
        (_conv(f"{block}.b1a", 1, (size, inner)), _conv(f"{block}.b1b", 3, (inner, two))),
        (_conv(f"{block}.b2a", 1, (size, little)), _conv(f"{block}.b2b", 3, (little, three))),
        (_conv(f"{block}.b3b", 1, (size, pooled)),),
    )


HEAD = Conv("logits.conv3d", (1, 1, 1, 1024, WIDTH))
LAYERS = (
    *STEM,
    *(conv for block in BLOCKS for branch in _branches(block) for conv in branch),
    HEAD,
)
PARTS = (Part("i3d_pretrained_400.pt", convnets.torch_rules(LAYERS), convnets.shapes(LAYERS)),)


class I3D:
    """Logits of clips, with weights that the user brings."""

    def __init__(self, params: Params) -> None:
        """`params` as `PARTS` name them."""
        self._weights = convnets.folded(params, LAYERS, EPS)

    @classmethod
    def load(cls, path: str) -> "I3D":
        """From a folder of `omnihuman convert`, or the released file; local or gs://.

        Raises:
            InputError: see `metric_files.read`.
        """
        return cls(read(path, "i3d", PARTS))

    def __call__(self, clips: UInt8[np.ndarray, "N T Y X 3"]) -> Float32[np.ndarray, "N 400"]:
        """Logits of RGB clips of 16 frames of any size; each is stretched to 224 x 224 (bilinear).

        Raises:
            InputError: another number of frames.
        """
        if clips.shape[1] != FRAMES:
            raise InputError(f"I3D looks at clips of {FRAMES} frames here, got {clips.shape[1]}.")
        return convnets.in_batches(lambda some: _seen(self._weights, some), clips, BATCH)


@jax.jit
def _seen(weights: Weights, clips: UInt8[Array, "N 16 Y X 3"]) -> Float32[Array, "N 400"]:
    x = convnets.resize(clips.astype(jnp.float32), SIDE)
    return _logits(weights, x / 127.5 - 1)


def _logits(weights: Weights, x: Float32[Array, "N T Y X 3"]) -> Float32[Array, "N 400"]:
    """The mean over all places: 2 x 7 x 7 of 16 frames of 224 pixels, the published pool's window."""
    x = max_pool(convolve(x, STEM[0], weights), (1, 3, 3), (1, 2, 2), "SAME")
    for layer in STEM[1:]:
        x = convolve(x, layer, weights)
    for block in BLOCKS:
        if block in POOLS:
            x = max_pool(x, *POOLS[block], "SAME")
        found = []
        for branch in _branches(block):
            y = max_pool(x, 3, 1, "SAME") if branch[0].name.endswith("b3b.conv3d") else x
            for layer in branch:
                y = convolve(y, layer, weights)
            found.append(y)
        x = jnp.concatenate(found, axis=-1)
    x = x.mean(axis=(1, 2, 3), keepdims=True)
    return convolve(x, HEAD, weights, relu=False)[:, 0, 0, 0]
