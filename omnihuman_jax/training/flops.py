"""The only place that counts floating-point operations: of a network, of a device's best second.

Matrix multiplications and convolutions alone, 2 per multiply-and-add, as model-FLOP utilisation (MFU) is
counted everywhere (PaLM, arXiv 2204.02311, appendix B); norms, softmax and rotations are not in it. What
padding adds is: the network computes it. Keys and values of text and sound are made of their own tokens,
once a layer, never of the video's.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import PATCH, TEMPORAL, Grid
from omnihuman_jax.models.building import Remat
from omnihuman_jax.models.dit import DiTConfig

TERA = 1e12
# Dense bfloat16 operations a second of one JAX device, by its `device_kind`. TPUs by the pages
# docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, read 2026-11; NVIDIA's by the data sheets of A100,
# H100 and H200, whose figures "with sparsity" are twice these.
PEAKS = {
    "TPU v4": 275 * TERA,  # a chip is one device (megacore)
    "TPU v5 lite": 197 * TERA,  # what JAX calls v5e
    "TPU v5e": 197 * TERA,
    "TPU v5": 459 * TERA,  # v5p, a chip is one device
    "TPU v5p": 459 * TERA,
    "TPU v6 lite": 918 * TERA,  # v6e
    "TPU v6e": 918 * TERA,
    "TPU7x": 2307 / 2 * TERA,  # a chip of 2307 is two devices
    "NVIDIA A100-SXM4-40GB": 312 * TERA,
    "NVIDIA A100-SXM4-80GB": 312 * TERA,
    "NVIDIA A100-PCIE-40GB": 312 * TERA,
    "NVIDIA A100 80GB PCIe": 312 * TERA,
    "NVIDIA H100 80GB HBM3": 989.4 * TERA,  # SXM
    "NVIDIA H100 PCIe": 756 * TERA,
    "NVIDIA H100 NVL": 835 * TERA,
    "NVIDIA H200": 989.4 * TERA,  # SXM
    "NVIDIA H200 NVL": 835 * TERA,
}


def peak(device_kind: str) -> float | None:
    """Dense bfloat16 operations a second of such a device; None where it is not known (a CPU)."""
    return PEAKS.get(device_kind)


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass for one clip, by part.

    Attributes:
        scores, text_scores, audio_scores: q kᵀ and the weights times v, of self-attention and of
            cross-attention to text and to sound.
        projections, text, audio: q, k, v and output of the three.
        feed_forward: both matrices.
        embeddings: patches, text, time, sound and pose, before the first layer.
        head: velocities from tokens.
    """

    scores: float
    text_scores: float
    audio_scores: float
    projections: float
    text: float
    audio: float
    feed_forward: float
    embeddings: float
    head: float

    @property
    def forward(self) -> float:
        return sum(asdict(self).values())

    @property
    def layers(self) -> float:
        """The part of `forward` that the layers do, and that is recomputed when they are."""
        return self.forward - self.embeddings - self.head

    @property
    def training(self) -> float:
        """Forward and backward, nothing twice: what MFU counts. The backward pass is two forwards."""
        return 3 * self.forward

    def hardware(self, remat: Remat) -> float:
        """As `training`, with what the backward pass computes again (`building.scan`)."""
        attention = self.scores + self.text_scores + self.audio_scores
        rest = self.layers - self.scores
        again = {"none": 0.0, "full": self.layers, "dots": attention, "attention": rest}
        return self.training + again[remat]


def dit_flops(
    config: DiTConfig,
    grid: Grid,
    *,
    reference: bool = True,
    audio: bool = True,
    pose: bool = True,
    motion: bool = False,
) -> Flops:
    """Operations of `OmniHumanDiT` for one clip of `grid`, with the conditions it is given.

    `audio` and `pose` count only where the network has them; a network that hears still attends to its
    null tokens where `audio` is false. A reference image has the clip's size. Motion frames take the
    place of video tokens and cost a second time embedding.
    """
    width, layers, video = config.width, config.layers, grid.tokens
    frames = grid.latent_shape[0]
    tokens = video + reference * (video // frames)
    square = 2.0 * width * width  # of one token through one matrix
    sounds = TEMPORAL * (frames if audio else 1) if config.audio is not None else 0
    return Flops(
        scores=layers * 4.0 * tokens**2 * width,
        text_scores=layers * 4.0 * tokens * config.text_length * width,
        audio_scores=layers * 4.0 * video * TEMPORAL * width if sounds else 0.0,
        projections=layers * 4 * tokens * square,
        text=layers * 2 * (tokens + config.text_length) * square,
        audio=layers * 2 * (video + sounds) * square if sounds else 0.0,
        feed_forward=layers * 4.0 * tokens * width * config.mlp,
        embeddings=_patches(config, tokens)
        + _text(config)
        + _time(config, 2 if reference or motion else 1)
        + (_sound(config, grid) if audio else 0.0)
        + (_pose(config, grid) if pose else 0.0),
        head=2.0 * video * width * PATCH * PATCH * config.channels,
    )


def _patches(config: DiTConfig, tokens: int) -> float:
    return 2.0 * tokens * PATCH * PATCH * config.channels * config.width


def _text(config: DiTConfig) -> float:
    return 2.0 * config.text_length * config.width * (config.text_width + config.width)


def _time(config: DiTConfig, times: int) -> float:
    return 2.0 * times * config.width * (config.frequencies + 7 * config.width)


def _sound(config: DiTConfig, grid: Grid) -> float:
    """The projector, at the frame rate: the mix of hidden states and an MLP over neighbours."""
    sizes = config.audio
    if sizes is None:
        return 0.0
    inputs = sizes.width * sizes.window
    a_frame = sizes.width * sizes.layers + sizes.hidden * (inputs + config.width)
    return 2.0 * grid.frames * a_frame


def _pose(config: DiTConfig, grid: Grid) -> float:
    """Three 3x3 convolutions over heatmaps of 4x4 pixels, the second to latents, and the embedding."""
    sizes = config.pose
    if sizes is None:
        return 0.0
    _, height, width = grid.latent_shape
    cells = 4 * sizes.joints + sizes.hidden + sizes.channels
    guider = 2.0 * 9 * grid.frames * height * width * sizes.hidden * cells
    channels = PATCH * PATCH * TEMPORAL * sizes.channels
    return guider + 2.0 * grid.tokens * channels * config.width


def traced_flops(function: Callable[..., Any], *shapes: Any) -> float:
    """Operations of matrix products and convolutions in `function`, counted in its program.

    For networks without a formula here, and gradients: `traced_flops(jax.grad(loss), params, batch)`.
    `shapes` are arrays or `jax.ShapeDtypeStruct`s (pytrees of them); nothing is computed or compiled.
    Unlike XLA's own cost analysis, the body of a scan counts as often as it runs. Of the branches of a
    condition the dearest counts. A recomputation (`jax.checkpoint`) counts.

    Raises:
        InputError: a product inside a while loop, which runs nobody knows how often.
    """
    return _program(jax.make_jaxpr(function)(*shapes).jaxpr)


def _program(jaxpr: Jaxpr) -> float:
    return sum(_operation(equation) for equation in jaxpr.eqns)


def _operation(equation: JaxprEqn) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        left, contracted = _shape(equation.invars[0]), params["dimension_numbers"][0][0]
        return 2.0 * _size(equation) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, layout = _shape(equation.invars[1]), params["dimension_numbers"].rhs_spec
        return 2.0 * _size(equation) * math.prod(kernel) / kernel[layout[0]]
    inner = [_program(sub) for value in params.values() for sub in _programs(value)]
    total = float(sum(inner))
    if name == "scan":
        return params["length"] * total
    if name == "while" and total:
        raise InputError(
            "There is a matrix product in a while loop, whose rounds cannot be counted; "
            "use jax.lax.scan, or count one round."
        )
    return max(inner, default=0.0) if name == "cond" else total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _size(equation: JaxprEqn) -> int:
    return math.prod(_shape(equation.outvars[0]))


def _programs(value: Any) -> list[Jaxpr]:
    """The programs in a parameter of an operation."""
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [sub for one in value for sub in _programs(one)]
    return []
