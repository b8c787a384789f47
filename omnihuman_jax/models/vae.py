"""The causal 3-D VAE of Wan2.1: video to latents and back, whole, streamed in time, or in tiles."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32

from omnihuman_jax import mesh
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import CELL, SPATIAL, TEMPORAL, Grid
from omnihuman_jax.models.building import FLOAT32, Precision, linear
from omnihuman_jax.models.tiling import in_tiles
from omnihuman_jax.models.vae_layers import (
    Cache,
    CausalConv,
    Downsample,
    FrameAttention,
    Norm,
    Residual,
    Upsample,
)
from omnihuman_jax.weights import Rule

# Per channel, over Wan's training data (Wan2.1, wan/modules/vae.py).
WAN_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
            0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)  # fmt: skip
WAN_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
           3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)  # fmt: skip


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the VAE; the defaults are Wan2.1's, 126.9 million parameters."""

    dim: int = 96  # width of the stage at full size
    channels: int = 16  # latent channels
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # width of each stage, in units of dim
    blocks: int = 2  # residual blocks a stage; the decoder has one more
    temporal: tuple[bool, ...] = (False, True, True)  # which of the halvings also halve time
    patch: int = 1  # side of the square of pixels that enters as one; Wan2.2's larger VAE takes 2
    mean: tuple[float, ...] = WAN_MEAN  # of the latents, a number a channel
    std: tuple[float, ...] = WAN_STD

    def __post_init__(self) -> None:
        halvings = len(self.multipliers) - 1
        shrunk = self.patch * 2**halvings, 2 ** sum(self.temporal), len(self.temporal)
        if shrunk != (SPATIAL, TEMPORAL, halvings):
            raise InputError(
                f"The VAE must shrink space {SPATIAL} and time {TEMPORAL} times, got "
                f"{len(self.multipliers)} stages, temporal={self.temporal} and patch={self.patch}; use "
                "4 stages, 3 flags and patch=1, or 3 stages, 2 flags and patch=2, two of them true."
            )
        if {len(self.mean), len(self.std)} != {self.channels}:
            raise InputError(
                f"A VAE of {self.channels} latent channels needs as many means and deviations, "
                f"got {len(self.mean)} and {len(self.std)}."
            )

    @classmethod
    def tiny(cls, **changes: Any) -> "VAEConfig":
        """Every kind of layer at widths of 4 and 8; runs in a second on a CPU."""
        sizes: dict[str, Any] = dict(dim=4, multipliers=(1, 2, 2, 2), blocks=1)
        return cls(**(sizes | changes))


def usual_precision() -> Precision:
    """That of making videos: float32 on CPUs, else bfloat16 compute.

    Between the two are 55 dB for the small model (at most 2 steps of 255; the model itself is 26 dB from
    what it encoded) and 1.6e-2 of the frames for random weights. Parameters stay float32: for the norms,
    and for taps that are summed.
    """
    return FLOAT32 if mesh.target()[0] == "cpu" else Precision()


_Kind = Literal["residual", "attention", "down", "up"]


@dataclass(frozen=True)
class _Layer:
    """One layer between the first convolution and the last norm, with its torch names."""

    kind: _Kind
    inputs: int
    outputs: int
    time: bool
    wan: str
    diffusers: str

    def make(self, precision: Precision, rngs: nnx.Rngs) -> nnx.Module:
        match self.kind:
            case "residual":
                return Residual(self.inputs, self.outputs, precision, rngs)
            case "attention":
                return FrameAttention(self.inputs, precision, rngs)
            case "down":
                return Downsample(self.inputs, self.time, precision, rngs)
            case "up":
                return Upsample(self.inputs, self.time, precision, rngs)


def _middle(side: str, width: int) -> list[_Layer]:
    kinds: tuple[_Kind, ...] = ("residual", "attention", "residual")
    names = ("resnets.0", "attentions.0", "resnets.1")
    return [
        _Layer(kind, width, width, False, f"{side}.middle.{i}", f"{side}.mid_block.{name}")
        for i, (kind, name) in enumerate(zip(kinds, names, strict=True))
    ]


def _encoder_layers(config: VAEConfig) -> Iterator[_Layer]:
    width, number = config.dim, count()

    def layer(kind: _Kind, outputs: int, time: bool = False) -> _Layer:
        i = next(number)
        wan, diffusers = f"encoder.downsamples.{i}", f"encoder.down_blocks.{i}"
        return _Layer(kind, width, outputs, time, wan, diffusers)

    for stage, multiplier in enumerate(config.multipliers):
        for _ in range(config.blocks):
            yield layer("residual", config.dim * multiplier)
            width = config.dim * multiplier
        if stage < len(config.temporal):
            yield layer("down", width, config.temporal[stage])
    yield from _middle("encoder", width)


def _decoder_layers(config: VAEConfig) -> Iterator[_Layer]:
    width, number = config.dim * config.multipliers[-1], count()

    def layer(kind: _Kind, outputs: int, diffusers: str, time: bool = False) -> _Layer:
        wan = f"decoder.upsamples.{next(number)}"
        return _Layer(kind, width, outputs, time, wan, f"decoder.up_blocks.{diffusers}")

    yield from _middle("decoder", width)
    for stage, multiplier in enumerate(reversed(config.multipliers)):
        for block in range(config.blocks + 1):
            yield layer("residual", config.dim * multiplier, f"{stage}.resnets.{block}")
            width = config.dim * multiplier
        if stage < len(config.temporal):
            yield layer("up", width // 2, f"{stage}.upsamplers.0", config.temporal[-1 - stage])
            width //= 2


ROWS = "batch _ rows _ _"  # how activations lie on a mesh


class Coder(nnx.Module):
    """A convolution in, layers, norm, a convolution out: the encoder and the decoder both."""

    def __init__(
        self, inputs: int, layers: list[_Layer], outputs: int, precision: Precision, rngs: nnx.Rngs
    ):
        self.conv_in = CausalConv(inputs, layers[0].inputs, precision, rngs)
        self.layers = nnx.List([layer.make(precision, rngs) for layer in layers])
        self.norm_out = Norm(layers[-1].outputs, precision, rngs)
        self.conv_out = CausalConv(layers[-1].outputs, outputs, precision, rngs)

    def __call__(
        self, x: Float[Array, "B _ _ _ I"], cache: Cache = None
    ) -> tuple[Float[Array, "B _ _ _ O"], Cache]:
        first, *pasts, last = cache or [None] * (len(self.layers) + 2)
        x, first = self.conv_in(mesh.constrain(x, ROWS), first)
        kept = []
        for layer, past in zip(self.layers, pasts, strict=True):
            x, past = layer(mesh.constrain(x, ROWS), past)
            kept.append(past)
        x, last = self.conv_out(jax.nn.silu(self.norm_out(x)), last)
        return x, (first, *kept, last)


class CausalVAE(nnx.Module):
    """Video in [-1, 1] to normalised latents and back: 8 times smaller in space, 4 times in time.

    The first frame stands alone and every later latent frame is four pixel frames, so clips have
    4n+1 frames; no frame sees a later one. Every method is one pass of the same two networks:
    `encode` and `decode` take a whole clip, the `_step` methods the next piece of it with what they
    returned for the piece before, the `_tiled` methods drive the steps over overlapping tiles.
    Results do not depend on how a clip is cut in time. On a mesh (`jax.set_mesh`) rows are split over its
    context axis, and neighbours exchange the rows at their borders. Latents are the mean of the posterior,
    never a sample of it. After Wan2.1 (arXiv 2503.20314, section 4.1), whose weights it takes.
    """

    def __init__(self, config: VAEConfig, precision: Precision = FLOAT32, *, rngs: nnx.Rngs):
        latent, colours = config.channels, 3 * config.patch**2
        encoder, decoder = list(_encoder_layers(config)), list(_decoder_layers(config))
        self.config, self.precision = config, precision
        self.encoder = Coder(colours, encoder, 2 * latent, precision, rngs)
        self.to_moments = linear(2 * latent, 2 * latent, "channels channels", precision, rngs)
        self.from_latents = linear(latent, latent, "channels channels", precision, rngs)
        self.decoder = Coder(latent, decoder, colours, precision, rngs)

    def encode(self, video: Float[Array, "B F Y X 3"]) -> Float[Array, "B T H W C"]:
        """The latents of a whole clip of 4n+1 frames, height and width multiples of 16.

        Raises:
            InputError: a length or size that has no latents.
        """
        return self.encode_step(video)[0]

    def decode(self, latents: Float[Array, "B T H W C"]) -> Float[Array, "B F Y X 3"]:
        """The video of a whole clip, float32, clamped to [-1, 1]: 4(T-1)+1 frames of 8H x 8W."""
        return self.decode_step(latents)[0]

    def encode_step(
        self, frames: Float[Array, "B F Y X 3"], cache: Cache = None
    ) -> tuple[Float[Array, "B T H W C"], Cache]:
        """Encode the next frames: 4n+1 when `cache` is None, then 4n with the cache returned before.

        Memory is that of one step, however long the clip. Jit it; a cache keeps its shapes.

        Raises:
            InputError: a length or size that has no latents.
        """
        _, length, height, width, _ = frames.shape
        if cache is not None and (length < TEMPORAL or length % TEMPORAL):
            raise InputError(
                f"After the first piece the VAE takes frames by {TEMPORAL}, got {length}; "
                f"use {length + -length % TEMPORAL or TEMPORAL}."
            )
        Grid(length + (cache is not None), height, width)
        (mu, _), cache = self.posterior_step(frames, cache)
        mean, std = self._statistics()
        return (mu - mean) / std, cache

    def decode_step(
        self, latents: Float[Array, "B T H W C"], cache: Cache = None
    ) -> tuple[Float[Array, "B F Y X 3"], Cache]:
        """Decode the next T >= 1 latent frames: 4T pixel frames, or 4(T-1)+1 when `cache` is None.

        Memory is that of one step, however long the clip. Jit it; a cache keeps its shapes.
        """
        mean, std = self._statistics()
        x = latents.astype(jnp.float32) * std + mean
        frames, cache = self.likeness_step(x, cache)
        return jnp.clip(frames, -1.0, 1.0), cache

    def posterior_step(
        self, frames: Float[Array, "B F Y X 3"], cache: Cache = None
    ) -> tuple[tuple[Float32[Array, "B T H W C"], Float32[Array, "B T H W C"]], Cache]:
        """Mean and logarithm of the variance of the latents, before normalising; for training."""
        moments, cache = self.encoder(_patches(frames, self.config.patch), cache)
        mu, log_variance = jnp.split(self.to_moments(moments).astype(jnp.float32), 2, axis=-1)
        return (mu, log_variance), cache

    def likeness_step(
        self, latents: Float[Array, "B T H W C"], cache: Cache = None
    ) -> tuple[Float32[Array, "B F Y X 3"], Cache]:
        """The video of latents as `posterior_step` gives them, not clamped; for training."""
        frames, cache = self.decoder(self.from_latents(latents), cache)
        return _pixels(frames.astype(jnp.float32), self.config.patch), cache

    def _statistics(self) -> tuple[Float[Array, "1 1 1 1 C"], Float[Array, "1 1 1 1 C"]]:
        mean, std = jnp.float32([self.config.mean, self.config.std])[:, None, None, None, None]
        return mean, std

    def encode_tiled(
        self,
        video: Float[Array | np.ndarray, "B F Y X 3"],
        *,
        tile: int = 512,
        overlap: int = 128,
        chunk: int = 1,
    ) -> Float[np.ndarray, "B T H W C"]:
        """`encode` for clips that do not fit: tiles of `tile` pixels, `chunk` latent frames at a time.

        Neighbours share `overlap` pixels, over which one fades linearly into the other. With one
        tile the result is that of `encode`. With several it is close, not equal: in Wan's sizes a
        latent depends on about 100 pixels to each side and, through the attention in the middle, on
        all of its frame, and no tile shows what is beyond its edge. The result is collected on the
        host.

        Raises:
            InputError: a clip that `encode` refuses, or tiles that do not lie on the latent grid.
        """
        _, frames, height, width, _ = video.shape
        grid = Grid(frames, height, width)
        if tile % CELL or overlap % SPATIAL:
            raise InputError(
                f"Tiles must be multiples of {CELL} pixels and overlap by multiples of {SPATIAL}, "
                f"got {tile=} {overlap=}; use tile={max(1, tile // CELL) * CELL} "
                f"overlap={overlap // SPATIAL * SPATIAL}."
            )
        shape = (video.shape[0], *grid.latent_shape, self.config.channels)
        ends = [TEMPORAL * end - 3 for end in _ends(shape[1], chunk)]
        step = partial(_encode_step, self)
        return in_tiles(step, video, shape, tile=tile, overlap=overlap, ends=ends)

    def decode_tiled(
        self,
        latents: Float[Array | np.ndarray, "B T H W C"],
        *,
        tile: int = 64,
        overlap: int = 16,
        chunk: int = 1,
    ) -> Float[np.ndarray, "B F Y X 3"]:
        """`decode` for clips that do not fit: tiles of `tile` latents, `chunk` latent frames at a time.

        Neighbours share `overlap` latents, over whose pixels one fades linearly into the other.
        With one tile the result is that of `decode`. With several it is close, not equal: in Wan's
        sizes a pixel depends on about 17 latents to each side and, through the attention in the
        middle, on all of its frame, and no tile shows what is beyond its edge. The result is
        collected on the host.

        Raises:
            InputError: tiles that overlap wholly.
        """
        batch, length, rows, columns, _ = latents.shape
        shape = (batch, TEMPORAL * length - 3, rows * SPATIAL, columns * SPATIAL, 3)
        step, ends = partial(_decode_step, self), _ends(length, chunk)
        return in_tiles(step, latents, shape, tile=tile, overlap=overlap, ends=ends)


def _patches(frames: Float[Array, "B F Y X C"], side: int) -> Float[Array, "B F _ _ D"]:
    """Squares of `side` pixels as channels: column, row and then colour, colour slowest (as Wan2.2)."""
    batch, length, height, width, colours = frames.shape
    x = frames.reshape(batch, length, height // side, side, width // side, side, colours)
    return x.transpose(0, 1, 2, 4, 6, 5, 3).reshape(*x.shape[:3], width // side, -1)


def _pixels(patches: Float[Array, "B F H W D"], side: int) -> Float[Array, "B F _ _ C"]:
    """What `_patches` made patches of."""
    batch, length, rows, columns, channels = patches.shape
    x = patches.reshape(batch, length, rows, columns, channels // side**2, side, side)
    return x.transpose(0, 1, 2, 6, 3, 5, 4).reshape(batch, length, rows * side, columns * side, -1)


@nnx.jit
def _encode_step(vae: CausalVAE, frames: Array, cache: Cache) -> tuple[Array, Cache]:
    return vae.encode_step(frames, cache)


@nnx.jit
def _decode_step(vae: CausalVAE, latents: Array, cache: Cache) -> tuple[Array, Cache]:
    return vae.decode_step(latents, cache)


def _ends(length: int, chunk: int) -> list[int]:
    """Where pieces of `chunk` latent frames end in a clip of `length`."""
    if chunk < 1:
        raise InputError(f"A piece of time has at least one latent frame, got {chunk=}; use 1.")
    return [*range(chunk, length, chunk), length]


LAYOUTS = ("wan", "diffusers")  # Wan2.1_VAE.pth; the vae folder of a diffusers release

# Where the axes of a torch tensor go: those of size 1 that we drop, then the order of the others.
_FORMS: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "3x3x3": ((), (2, 3, 4, 1, 0)),
    "3x3": ((), (2, 3, 1, 0)),
    "3x1x1": ((3, 4), (2, 1, 0)),
    "1x1x1": ((2, 3, 4), (1, 0)),
    "1x1": ((2, 3), (1, 0)),
    "norm3d": ((1, 2, 3), None),
    "norm2d": ((1, 2), None),
}
# Our name, Wan's, that of diffusers, and the form of the weight.
_OUTER = (
    ("encoder/conv_in", "encoder.conv1", "encoder.conv_in", "3x3x3"),
    ("encoder/norm_out", "encoder.head.0", "encoder.norm_out", "norm3d"),
    ("encoder/conv_out", "encoder.head.2", "encoder.conv_out", "3x3x3"),
    ("to_moments", "conv1", "quant_conv", "1x1x1"),
    ("from_latents", "conv2", "post_quant_conv", "1x1x1"),
    ("decoder/conv_in", "decoder.conv1", "decoder.conv_in", "3x3x3"),
    ("decoder/norm_out", "decoder.head.0", "decoder.norm_out", "norm3d"),
    ("decoder/conv_out", "decoder.head.2", "decoder.conv_out", "3x3x3"),
)
_RESIDUAL = (
    ("norm1", "residual.0", "norm1", "norm3d"),
    ("conv1", "residual.2", "conv1", "3x3x3"),
    ("norm2", "residual.3", "norm2", "norm3d"),
    ("conv2", "residual.6", "conv2", "3x3x3"),
)
_SHORTCUT = ("shortcut", "shortcut", "conv_shortcut", "1x1x1")
_ATTENTION = (
    ("norm", "norm", "norm", "norm2d"),
    ("qkv", "to_qkv", "to_qkv", "1x1"),
    ("proj", "proj", "proj", "1x1"),
)
_SPACE = ("space", "resample.1", "resample.1", "3x3")
_TIME = ("time", "time_conv", "time_conv", "3x1x1")


def torch_rules(config: VAEConfig, layout: str) -> list[Rule]:
    """Every tensor of the VAE, by Wan's names ("wan") or those of "diffusers": 194 at Wan's size."""
    rules: list[Rule] = []

    def add(part: tuple[str, str, str, str], path: str = "", name: str = "") -> None:
        squeeze, axes = _FORMS[part[3]]
        path, name = path + part[0], name + part[1 + LAYOUTS.index(layout)]
        if part[3].startswith("norm"):
            rules.append(Rule(f"{name}.gamma", f"{path}/gamma", axes, squeeze))
        else:
            rules.append(Rule(f"{name}.weight", f"{path}/kernel", axes, squeeze))
            rules.append(Rule(f"{name}.bias", f"{path}/bias"))

    for part in _OUTER:
        add(part)
    for side, layers in (("encoder", _encoder_layers), ("decoder", _decoder_layers)):
        for i, layer in enumerate(layers(config)):
            for part in _parts(layer):
                add(part, f"{side}/layers/{i}/", f"{getattr(layer, layout)}.")
    return rules


def _parts(layer: _Layer) -> list[tuple[str, str, str, str]]:
    if layer.kind == "residual":
        return [*_RESIDUAL, *([_SHORTCUT] if layer.inputs != layer.outputs else [])]
    if layer.kind == "attention":
        return [*_ATTENTION]
    return [_SPACE, *([_TIME] if layer.time else [])]


def recognise(
    shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any]
) -> tuple[VAEConfig, str] | None:
    """The config and layout, if these torch tensors are a Wan2.1 VAE; None if not (Wan2.2's is not).

    The statistics of the latents are in no tensor: they come from `settings` ("latents_mean" and
    "latents_std", as in diffusers' config.json); without them they are Wan's.
    """
    for column, layout in enumerate(LAYOUTS, start=1):
        conv_in, moments, last = (part[column] for part in (_OUTER[0], _OUTER[3], _RESIDUAL[3]))
        if f"{conv_in}.weight" not in shapes or f"{moments}.weight" not in shapes:
            continue
        down = ("encoder.downsamples", "encoder.down_blocks")[column - 1]
        dim, widths, temporal, blocks = shapes[f"{conv_in}.weight"][0], [0], [], 0
        for i in count():
            if kernel := shapes.get(f"{down}.{i}.{last}.weight"):
                widths[-1] = kernel[0]
                blocks += 1
            elif f"{down}.{i}.{_SPACE[column]}.weight" in shapes:
                temporal.append(f"{down}.{i}.{_TIME[column]}.weight" in shapes)
                widths.append(0)
            else:
                break
        if len(temporal) != 3 or sum(temporal) != 2:
            continue
        config = VAEConfig(
            dim=dim,
            channels=shapes[f"{moments}.weight"][0] // 2,
            multipliers=tuple(width // dim for width in widths),
            blocks=blocks // len(widths),
            temporal=tuple(temporal),
            mean=tuple(settings.get("latents_mean") or WAN_MEAN),
            std=tuple(settings.get("latents_std") or WAN_STD),
        )
        if {rule.name for rule in torch_rules(config, layout)} == shapes.keys():
            return config, layout
    return None
