"""Waveform -> features: wav2vec 2.0, its hidden states on the video's clock, and its torch names."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from omnihuman_jax import mesh
from omnihuman_jax.attention import attention
from omnihuman_jax.errors import InputError
from omnihuman_jax.models.building import Precision, linear, param, scan, stack
from omnihuman_jax.weights import Rule

SAMPLE_RATE = 16000  # Hz, mono
KERNELS = (10, 3, 3, 3, 3, 2, 2)  # of the convolutions, in every released wav2vec 2.0
STRIDES = (5, 2, 2, 2, 2, 2, 2)
STRIDE = 320  # samples from one feature to the next: 50 features a second
REACH = 400  # samples that one feature sees
EPS = 1e-5  # of every norm

WINDOW = 1200  # features of a window of long audio: 20 s kept, 2 s dropped at each side
MARGIN = 100
SHORT = 200 * STRIDE  # audio under a window is padded to a multiple of these samples, 4 s


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Sizes and norms of the encoder.

    `conv_norm`: "group" normalises each channel of the first convolution over time, "layer" each
    feature of every convolution. `pre_norm` (transformers' do_stable_layer_norm) puts a layer's norms
    in front of attention and feed-forward instead of behind them.
    """

    width: int
    layers: int
    heads: int
    mlp: int
    channels: int = 512
    position_kernel: int = 128
    position_groups: int = 16
    conv_norm: Literal["group", "layer"] = "group"
    conv_bias: bool = False
    pre_norm: bool = False

    @classmethod
    def base(cls) -> "Wav2Vec2Config":
        """facebook/wav2vec2-base and -base-960h, TencentGameMate/chinese-wav2vec2-base: 94.4 M."""
        return cls(width=768, layers=12, heads=12, mlp=3072)

    @classmethod
    def large(cls) -> "Wav2Vec2Config":
        """facebook/wav2vec2-large-lv60, -large-xlsr-53 and what is tuned from them: 315.4 M."""
        norms: dict[str, Any] = dict(conv_norm="layer", conv_bias=True, pre_norm=True)
        return cls(width=1024, layers=24, heads=16, mlp=4096, **norms)

    @classmethod
    def large_960h(cls) -> "Wav2Vec2Config":
        """facebook/wav2vec2-large and -large-960h (without lv60): large sizes, the norms of base."""
        return cls(width=1024, layers=24, heads=16, mlp=4096)

    @classmethod
    def tiny(cls, **changes: Any) -> "Wav2Vec2Config":
        """An encoder of the same shape as base that runs in a second."""
        sizes: dict[str, Any] = dict(
            width=16, layers=3, heads=2, mlp=24, channels=8, position_kernel=12, position_groups=4
        )
        return cls(**(sizes | changes))

    @classmethod
    def tiny_layer(cls, **changes: Any) -> "Wav2Vec2Config":
        """The same with the norms of `large`."""
        norms: dict[str, Any] = dict(conv_norm="layer", conv_bias=True, pre_norm=True)
        return cls.tiny(**(norms | changes))


class Norm(nnx.Module):
    """Layer norm in float32 over the last axis, or with `over_time` each channel over its clip."""

    def __init__(self, width: int, precision: Precision, rngs: nnx.Rngs, over_time: bool = False):
        self.over_time = over_time
        self.scale = param((width,), "_", precision, rngs, nnx.initializers.ones_init())
        self.bias = param((width,), "_", precision, rngs)

    def __call__(
        self, x: Float[Array, "B S D"], lengths: Int[Array, "B"] | None = None
    ) -> Float[Array, "B S D"]:
        """Over time, only the first `lengths[b]` steps of a clip count."""
        axis = 1 if self.over_time else 2
        seen = None if lengths is None or not self.over_time else _seen(x.shape[1], lengths)
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, axis, keepdims=True, where=seen)
        variance = jnp.mean(wide**2, axis, keepdims=True, where=seen)
        wide = wide * jax.lax.rsqrt(variance + EPS)
        scale, bias = (p[...].astype(jnp.float32)[None, None] for p in (self.scale, self.bias))
        return (wide * scale + bias).astype(x.dtype)


class Conv(nnx.Module):
    """One convolution of the feature extractor, its norm if it has one, exact GELU."""

    def __init__(self, config: Wav2Vec2Config, number: int, precision: Precision, rngs: nnx.Rngs):
        self.stride, self.compute = STRIDES[number], precision.compute
        inputs = config.channels if number else 1
        shape = (KERNELS[number], inputs, config.channels)
        self.kernel = param(shape, "_ _ _", precision, rngs, nnx.initializers.he_normal())
        self.bias = param(shape[-1:], "_", precision, rngs) if config.conv_bias else None
        group, normed = config.conv_norm == "group", config.conv_norm == "layer" or number == 0
        self.norm = Norm(config.channels, precision, rngs, over_time=group) if normed else None

    def __call__(
        self, x: Float[Array, "B s c"], lengths: Int[Array, "B"] | None
    ) -> Float[Array, "B S C"]:
        """`lengths` are those of the output."""
        kernel = self.kernel[...].astype(self.compute)
        x = _convolve(x, kernel, stride=self.stride)
        if self.bias is not None:
            x = x + self.bias[...].astype(self.compute)[None, None]
        if self.norm is not None:
            x = self.norm(x, lengths)
        return nnx.gelu(x, approximate=False)


class PositionConv(nnx.Module):
    """Relative positions: a wide grouped convolution whose weight is gain · direction / ‖direction‖,
    one gain for each step of the kernel (torch's weight norm over dimension 2)."""

    def __init__(self, config: Wav2Vec2Config, precision: Precision, rngs: nnx.Rngs):
        self.groups, self.compute = config.position_groups, precision.compute
        steps, width = config.position_kernel, config.width
        spread = nnx.initializers.normal(2 * (steps * width) ** -0.5)
        ones = nnx.initializers.ones_init()
        shape = (steps, width // self.groups, width)
        self.direction = param(shape, "_ _ _", precision, rngs, spread)
        self.gain = param((steps,), "_", precision, rngs, ones)
        self.bias = param((width,), "_", precision, rngs)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        direction, gain = (p[...].astype(jnp.float32) for p in (self.direction, self.gain))
        norm = jnp.sqrt(jnp.sum(direction**2, axis=(1, 2), keepdims=True))
        kernel = (gain[:, None, None] * direction / norm).astype(self.compute)
        steps = kernel.shape[0]
        # torch pads steps // 2 on both sides and drops the step too many of an even kernel.
        x = _convolve(x, kernel, padding=(steps // 2, (steps - 1) // 2), groups=self.groups)
        return nnx.gelu(x + self.bias[...].astype(self.compute)[None, None], approximate=False)


class Layer(nnx.Module):
    """Self-attention and feed-forward, with the norms behind each (post-norm) or in front of it."""

    def __init__(self, config: Wav2Vec2Config, precision: Precision, rngs: nnx.Rngs):
        width = config.width
        self.heads, self.pre_norm = config.heads, config.pre_norm
        self.q = linear(width, width, "embed heads", precision, rngs)
        self.k = linear(width, width, "embed heads", precision, rngs)
        self.v = linear(width, width, "embed heads", precision, rngs)
        self.o = linear(width, width, "heads embed", precision, rngs)
        self.norm1 = Norm(width, precision, rngs)
        self.up = linear(width, config.mlp, "embed mlp", precision, rngs)
        self.down = linear(config.mlp, width, "mlp embed", precision, rngs)
        self.norm2 = Norm(width, precision, rngs)

    def __call__(
        self, x: Float[Array, "B S D"], lengths: Int[Array, "B"] | None
    ) -> Float[Array, "B S D"]:
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), lengths)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + self._attend(x, lengths))
        return self.norm2(x + self._feed_forward(x))

    def _attend(
        self, x: Float[Array, "B S D"], lengths: Int[Array, "B"] | None
    ) -> Float[Array, "B S D"]:
        q, k, v = (
            rearrange(project(x), "B S (N K) -> B S N K", N=self.heads)
            for project in (self.q, self.k, self.v)
        )
        out = attention(q, k, v, lengths=lengths)
        return self.o(rearrange(out, "B S N K -> B S (N K)"))

    def _feed_forward(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        hidden = mesh.constrain(self.up(x), "batch tokens mlp")
        return self.down(nnx.gelu(hidden, approximate=False))


class Wav2Vec2Encoder(nnx.Module):
    """wav2vec 2.0 (arXiv:2006.11477) without its quantiser and heads."""

    def __init__(
        self, config: Wav2Vec2Config, precision: Precision = Precision(), *, rngs: nnx.Rngs
    ):
        self.config = config
        self.precision = precision
        self.convs = nnx.List([Conv(config, i, precision, rngs) for i in range(len(KERNELS))])
        self.norm_in = Norm(config.channels, precision, rngs)
        self.proj_in = linear(config.channels, config.width, "_ embed", precision, rngs)
        self.position = PositionConv(config, precision, rngs)
        self.norm = Norm(config.width, precision, rngs)
        self.layers = stack(lambda rng: Layer(config, precision, rng), config.layers, rngs)

    def __call__(
        self, waveform: Float[Array, "B samples"], lengths: Int[Array, "B"] | None = None
    ) -> Float[Array, "B frames layers A"]:
        """All hidden states, `config.layers` + 1 of them: the input of the first layer, then the output
        of each. 50 a second; feature k sees the samples 320 k to 320 k + 400.

        They are `hidden_states` of transformers 5: with `pre_norm` none of them has passed the last
        norm, for which see `last_hidden_state` (transformers 4 gave the last one normalised).

        Args:
            waveform: 16 kHz, normalised (`normalise`). Padded with silence to 400 samples.
            lengths: true samples of each clip. The `feature_count(lengths)` first features of a clip
                are then as if the rest were not there; those behind mean nothing.

        Raises:
            InputError: no samples.
        """
        if waveform.shape[1] == 0:
            raise InputError("The audio has no samples; give at least one, better 0.1 s of it.")
        x = jnp.pad(waveform, ((0, 0), (0, max(0, REACH - waveform.shape[1]))))[..., None]
        x = x.astype(self.precision.compute)
        if lengths is not None:
            lengths = jnp.maximum(lengths, REACH)
        for conv, kernel, stride in zip(self.convs, KERNELS, STRIDES, strict=True):
            lengths = None if lengths is None else (lengths - kernel) // stride + 1
            x = conv(x, lengths)
        x = self.proj_in(self.norm_in(x))
        if lengths is not None:
            # Zeros are what the convolution over positions finds beyond the end of a clip.
            x = jnp.where(_seen(x.shape[1], lengths), x, 0)
        x = x + self.position(x)
        if not self.config.pre_norm:
            x = self.norm(x)

        def apply(layer: Layer, x: Array) -> tuple[Array, Array]:
            x = mesh.constrain(layer(x, lengths), "batch tokens width")
            return x, x

        _, states = scan(self.layers, apply, x)
        return rearrange(jnp.concatenate([x[None], states]), "layers B S A -> B S layers A")

    def last_hidden_state(
        self, states: Float[Array, "B frames layers A"]
    ) -> Float[Array, "B frames A"]:
        """The last hidden state as transformers calls it: with `pre_norm`, through the last norm."""
        last = states[:, :, -1]
        return self.norm(last) if self.config.pre_norm else last


def _seen(length: int, lengths: Int[Array, "B"]) -> Array:
    """True for the first `lengths[b]` of `length` steps: [B length 1]."""
    return (jnp.arange(length)[None] < lengths[:, None])[..., None]


def _convolve(
    x: Float[Array, "B s c"],
    kernel: Float[Array, "k g C"],
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> Float[Array, "B S C"]:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride,),
        padding=(padding,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
    )


def normalise(waveform: Float[Array | np.ndarray, "B samples"]) -> Float[Array, "B samples"]:
    """Zero mean and unit variance for each clip, as every released feature extractor does."""
    wide = jnp.asarray(waveform, jnp.float32)
    wide = wide - jnp.mean(wide, axis=1, keepdims=True)
    return wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=1, keepdims=True) + 1e-7)


def feature_count(samples: int) -> int:
    """Features of so many samples: one for 400 or fewer, one more every 320."""
    return max(0, samples - REACH) // STRIDE + 1


def encode_long(
    encoder: Wav2Vec2Encoder,
    waveform: Float[Array | np.ndarray, "B samples"],
    *,
    window: int = WINDOW,
    margin: int = MARGIN,
) -> Float[Array, "B frames layers A"]:
    """All hidden states of sound of any length, in memory and time linear in it.

    Audio longer than `window` features (24 s) is encoded in windows of exactly that size, one compiled
    program for all; neighbours overlap by twice `margin` (2 s), of which each drops its outer half.
    Within the kept parts this differs from one pass over the whole only by what attention would have
    seen beyond the window and, with `conv_norm="group"`, by norms taken over the window. Shorter audio
    is padded to one of a few lengths; there the result is that of the unpadded whole.

    Args:
        waveform: 16 kHz mono, at any loudness; normalised here, over its whole length.

    Raises:
        InputError: no samples, or margins that leave nothing of a window.
    """
    samples = waveform.shape[1]
    if samples == 0:
        raise InputError("The audio has no samples; give at least one, better 0.1 s of it.")
    if not 0 <= 2 * margin < window:
        raise InputError(f"A window of {window} features has no room for two margins of {margin}.")
    graph, params = nnx.split(encoder)
    waveform, frames = normalise(waveform), feature_count(samples)
    if frames <= window:
        padded = -(-samples // SHORT) * SHORT
        lengths = jnp.full(waveform.shape[:1], samples)
        waveform = jnp.pad(waveform, ((0, 0), (0, padded - samples)))
        return _encode(graph, params, waveform, lengths)[:, :frames]

    span = (window - 1) * STRIDE + REACH  # samples of a window
    parts, done = [], 0
    while done < frames:
        # The last window is moved back to end with the audio, so that every window is full.
        start = min(max(0, done - margin), frames - window)
        stop = frames if start + window == frames else start + window - margin
        piece = waveform[:, start * STRIDE : start * STRIDE + span]
        parts.append(_encode(graph, params, piece, None)[:, done - start : stop - start])
        done = stop
    return jnp.concatenate(parts, axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    graph: Any, params: Any, waveform: Float[Array, "B samples"], lengths: Int[Array, "B"] | None
) -> Float[Array, "B frames layers A"]:
    return nnx.merge(graph, params)(waveform, lengths)


def resample(
    features: Float[Array, "B S layers A"], frames: int, fps: float, start: float = 0.0
) -> Float[Array, "B F layers A"]:
    """Features at the middle of each of `frames` video frames, start + (f + 1/2) / fps seconds; linear
    between the two nearest, whose own middles are at (320 k + 200) / 16000; the end ones held beyond
    the ends.
    """
    if frames < 1 or not fps > 0:
        raise InputError(f"Video needs frames and a frame rate, got {frames=} {fps=}.")
    # Positions are known before tracing, so float64: float32 is a sample off after 17 minutes.
    seconds = start + (np.arange(frames) + 0.5) / fps
    position = (seconds * SAMPLE_RATE - REACH / 2) / STRIDE
    position = np.clip(position, 0, features.shape[1] - 1)
    below = np.floor(position).astype(np.int32)
    above = np.minimum(below + 1, features.shape[1] - 1)
    share = (position - below).astype(np.float32)[None, :, None, None]
    left, right = (features[:, index].astype(jnp.float32) for index in (below, above))
    return (left + share * (right - left)).astype(features.dtype)


# Names in torch: layout -> the prefix of every name, and weight norm's gain and direction. "old" is the
# spelling before torch 2.1; "headed" a model saved with a head on top (CTC, pre-training).
_NEW = ("parametrizations.weight.original0", "parametrizations.weight.original1")
_OLD = ("weight_g", "weight_v")
_LAYOUTS = {
    "transformers": ("", _NEW),
    "transformers-old": ("", _OLD),
    "transformers-headed": ("wav2vec2.", _NEW),
    "transformers-headed-old": ("wav2vec2.", _OLD),
}
_LAYER = {
    "q": "attention.q_proj",
    "k": "attention.k_proj",
    "v": "attention.v_proj",
    "o": "attention.out_proj",
    "up": "feed_forward.intermediate_dense",
    "down": "feed_forward.output_dense",
    "norm1": "layer_norm",
    "norm2": "final_layer_norm",
}

# Tensors of released files that hidden states do not need: the mask embedding of pre-training, its
# quantiser and projections, the CTC head.
IGNORED = (
    r"(wav2vec2\.)?masked_spec_embed",
    r"lm_head\..*",
    r"quantizer\..*",
    r"project_(q|hid)\..*",
)


def torch_rules(config: Wav2Vec2Config, layout: str) -> list[Rule]:
    """Every tensor of transformers' Wav2Vec2Model but those of `IGNORED`.

    Layouts: "transformers", "transformers-old" (weight norm spelled weight_g, weight_v), and either
    with "-headed" after "transformers" where names begin with `wav2vec2.`.
    """
    prefix, (gain, direction) = _LAYOUTS[layout]
    rules = []
    for i in range(len(KERNELS)):
        name, path = f"{prefix}feature_extractor.conv_layers.{i}", f"convs/{i}"
        rules.append(Rule(f"{name}.conv.weight", f"{path}/kernel", axes=(2, 1, 0)))
        if config.conv_bias:
            rules.append(Rule(f"{name}.conv.bias", f"{path}/bias"))
        if config.conv_norm == "layer" or i == 0:
            rules += _pair(f"{name}.layer_norm", f"{path}/norm")
    conv = f"{prefix}encoder.pos_conv_embed.conv"
    rules += [
        *_pair(f"{prefix}feature_projection.layer_norm", "norm_in"),
        *_pair(f"{prefix}feature_projection.projection", "proj_in", matrix=True),
        Rule(f"{conv}.bias", "position/bias"),
        Rule(f"{conv}.{gain}", "position/gain", squeeze=(0, 1)),
        Rule(f"{conv}.{direction}", "position/direction", axes=(2, 1, 0)),
        *_pair(f"{prefix}encoder.layer_norm", "norm"),
    ]
    for ours, theirs in _LAYER.items():
        name, path = f"{prefix}encoder.layers.{{}}.{theirs}", f"layers/{ours}"
        rules += _pair(name, path, matrix=not ours.startswith("norm"))
    return rules


def _pair(name: str, path: str, *, matrix: bool = False) -> list[Rule]:
    """Weight and bias of a norm or, with `matrix`, of a linear layer."""
    weight = Rule(f"{name}.weight", f"{path}/{'kernel' if matrix else 'scale'}")
    if matrix:
        weight = Rule(weight.name, weight.path, axes=(1, 0))
    return [weight, Rule(f"{name}.bias", f"{path}/bias")]


def recognise(
    shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any]
) -> tuple[Wav2Vec2Config, str] | None:
    """The config and layout, if these torch tensors are a wav2vec 2.0; None if they are not.

    Shapes do not tell where a layer's norms stand: `do_stable_layer_norm` of config.json does, and
    without it "layer" convolutions are taken for pre-norm, as in every released model.
    """
    for layout, (prefix, (_, direction)) in _LAYOUTS.items():
        convs = f"{prefix}feature_extractor.conv_layers"
        kernels = [shapes.get(f"{convs}.{i}.conv.weight", (0, 0, 0)) for i in range(len(KERNELS))]
        position = shapes.get(f"{prefix}encoder.pos_conv_embed.conv.{direction}")
        up = shapes.get(f"{prefix}encoder.layers.0.{_LAYER['up']}.weight")
        if position is None or up is None or tuple(k[2] for k in kernels) != KERNELS:
            continue
        layers = 0
        while f"{prefix}encoder.layers.{layers}.{_LAYER['q']}.weight" in shapes:
            layers += 1
        by_layer = f"{convs}.1.layer_norm.weight" in shapes
        width = position[0]
        config = Wav2Vec2Config(
            width=width,
            layers=layers,
            heads=settings.get("num_attention_heads") or max(1, width // 64),
            mlp=up[0],
            channels=kernels[0][0],
            position_kernel=position[2],
            position_groups=width // position[1],
            conv_norm="layer" if by_layer else "group",
            conv_bias=f"{convs}.0.conv.bias" in shapes,
            pre_norm=settings.get("do_stable_layer_norm", by_layer),
        )
        return config, layout
    return None
