"""Videos -> the features of DisCo's `fid-vid`: a 3-D ResNet-50 of Kinetics (Hara et al., arXiv 1711.09577).

The network of `resnet-50-kinetics.pth` (github.com/kenshohara/3D-ResNets-PyTorch, 2017, MIT), 400 classes,
shortcuts "B". DisCo (github.com/Wangt-CN/DisCo, tool/metrics) compares what it pools before the classifier,
of clips of 16 frames of 112 pixels, whose colours have Kinetics' mean taken off and are otherwise left
between 0 and 255; of a video it takes the mean over its clips, the last one filled up with its last frame.
OmniHuman-1's FVD is probably of this kind: its numbers are ten times smaller than those of I3D for the same
runs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8
from PIL import Image

from omnihuman_jax.errors import InputError
from omnihuman_jax.models import convnets
from omnihuman_jax.models.convnets import Conv, Params, Weights, convolve, max_pool
from omnihuman_jax.models.metric_files import Part, read

SIDE = 112
FRAMES = 16
WIDTH = 2048
MEAN = (114.7748, 107.7354, 99.4750)  # of Kinetics: red, green, blue
EPS = 1e-5
BATCH = 4  # clips at a time

STEM = Conv("conv1", (7, 7, 7, 3, 64), (1, 2, 2), 3, norm="bn1", bias=False)
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # inner width, blocks
GROWTH = 4  # a block's width over its inner one


def _blocks() -> tuple[tuple[Conv, ...], ...]:
    """1x1x1, 3x3x3, 1x1x1, and where width or size change a shortcut of 1x1x1."""
    blocks, size = [], 64
    for stage, (inner, count) in enumerate(STAGES, start=1):
        for number in range(count):
            name, width = f"layer{stage}.{number}", GROWTH * inner
            stride = 2 if stage > 1 and number == 0 else 1
            convs = [
                _conv(f"{name}.conv1", f"{name}.bn1", 1, (size, inner)),
                _conv(f"{name}.conv2", f"{name}.bn2", 3, (inner, inner), stride),
                _conv(f"{name}.conv3", f"{name}.bn3", 1, (inner, width)),
            ]
            if number == 0:
                short = f"{name}.downsample"
                convs.append(_conv(f"{short}.0", f"{short}.1", 1, (size, width), stride))
            blocks.append(tuple(convs))
            size = width
    return tuple(blocks)


def _conv(name: str, norm: str, size: int, width: tuple[int, int], stride: int = 1) -> Conv:
    return Conv(name, (size, size, size, *width), stride, size // 2, norm=norm, bias=False)


BLOCKS = _blocks()
LAYERS = (STEM, *(conv for block in BLOCKS for conv in block))
PARTS = (
    Part(
        "resnet-50-kinetics.pth", convnets.torch_rules(LAYERS), convnets.shapes(LAYERS), r"fc\..*"
    ),
)


class ResNet3D:
    """Pooled features of clips, with weights that the user brings."""

    def __init__(self, params: Params) -> None:
        """`params` as `PARTS` name them."""
        self._weights = convnets.folded(params, LAYERS, EPS)

    @classmethod
    def load(cls, path: str) -> "ResNet3D":
        """From a folder of `omnihuman convert`, or the released file; local or gs://.

        Raises:
            InputError: see `metric_files.read`.
        """
        return cls(read(path, "resnet3d", PARTS))

    def __call__(self, clips: UInt8[np.ndarray, "N T Y X 3"]) -> Float32[np.ndarray, "N 2048"]:
        """Features of RGB clips of 16 frames of any size; each is stretched to 112 x 112 (Pillow's bicubic).

        Raises:
            InputError: another number of frames.
        """
        if clips.shape[1] != FRAMES:
            raise InputError(f"ResNet3D looks at clips of {FRAMES} frames, got {clips.shape[1]}.")
        look = lambda some: _features(self._weights, jnp.asarray(_small(some)))
        return convnets.in_batches(look, clips, BATCH)


def _small(clips: UInt8[np.ndarray, "N T Y X 3"]) -> Float32[np.ndarray, "N T 112 112 3"]:
    """As DisCo resizes: a colour at a time, in float32 and not rounded."""
    small = np.empty((*clips.shape[:2], SIDE, SIDE, 3), np.float32)
    for at in np.ndindex(clips.shape[:2]):
        for colour in range(3):
            plane = Image.fromarray(clips[at][..., colour].astype(np.float32))
            small[at][..., colour] = plane.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return small


@jax.jit
def _features(weights: Weights, x: Float32[Array, "N T Y X 3"]) -> Float32[Array, "N 2048"]:
    x = convolve(x - jnp.array(MEAN)[None, None, None, None], STEM, weights)
    x = max_pool(x, 3, 2, 1)
    for first, middle, last, *short in BLOCKS:
        y = convolve(convolve(x, first, weights), middle, weights)
        y = convolve(y, last, weights, relu=False)
        for shortcut in short:
            x = convolve(x, shortcut, weights, relu=False)
        x = jax.nn.relu(x + y)
    return x.mean(axis=(1, 2, 3))
