"""The layers of the diffusion transformer: its sizes, norm, attention, block; and modulation by time."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from omnihuman_jax import mesh
from omnihuman_jax.attention import attention, shares_context
from omnihuman_jax.models.building import Precision, linear, param
from omnihuman_jax.models.conditioner import AudioConfig, Heard, PoseConfig, Tokens
from omnihuman_jax.models.rope import rotate


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the transformer; the defaults are Wan2.1-T2V-1.3B (research/peers.md 3.2).

    Without `audio` and `pose` (None) it has Wan's parameters and `reference_type` alone.
    """

    width: int = 1536
    mlp: int = 8960
    heads: int = 12
    layers: int = 30
    channels: int = 16
    text_width: int = 4096
    text_length: int = 512
    frequencies: int = 256
    eps: float = 1e-6
    audio: AudioConfig | None = None
    pose: PoseConfig | None = None

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"Heads need an even width each: {self.width=} does not divide so by {self.heads=}."
            )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @classmethod
    def tiny(cls, **changes: Any) -> "DiTConfig":
        """A network of the same shape that runs in a second."""
        sizes: dict[str, Any] = dict(
            width=48, mlp=64, heads=2, layers=2, text_width=24, text_length=12, frequencies=16
        )
        return cls(**(sizes | changes))

    @classmethod
    def large(cls, **changes: Any) -> "DiTConfig":
        """Wan2.1-T2V-14B."""
        sizes: dict[str, Any] = dict(width=5120, mlp=13824, heads=40, layers=40)
        return cls(**(sizes | changes))


class RMSNorm(nnx.Module):
    """x / rms(x), cast to x's dtype, then times the weight; over the whole width, before heads split."""

    def __init__(self, width: int, eps: float, precision: Precision, *, rngs: nnx.Rngs):
        self.eps = eps
        self.weight = param((width,), "heads", precision, rngs, nnx.initializers.ones_init())

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        wide = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.eps)
        return (wide * scale).astype(x.dtype) * self.weight[...].astype(x.dtype)[None, None]


class Attention(nnx.Module):
    """Multi-head attention with RMS-normalised queries and keys: self-attention, text, or audio."""

    def __init__(
        self, config: DiTConfig, precision: Precision, *, rngs: nnx.Rngs, silent: bool = False
    ):
        width = config.width
        zero = nnx.initializers.zeros_init() if silent else None
        self.heads = config.heads
        self.q = linear(width, width, "embed heads", precision, rngs)
        self.k = linear(width, width, "embed heads", precision, rngs)
        self.v = linear(width, width, "embed heads", precision, rngs)
        self.o = linear(width, width, "heads embed", precision, rngs, init=zero)
        self.norm_q = RMSNorm(width, config.eps, precision, rngs=rngs)
        self.norm_k = RMSNorm(width, config.eps, precision, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        turns: Float[Array, "2 L _"],
        lengths: Int[Array, "B"] | None,
    ) -> Float[Array, "B L D"]:
        """Self-attention: queries, keys and values from x, the first two rotated by `turns`."""
        q, (k, v) = self.queries(x), self.recall(x, "tokens")
        out = attention(rotate(q, turns), rotate(k, turns), v, lengths=lengths)
        return self.o(joined(out))

    def look(
        self,
        x: Float[Array, "B L D"],
        heard: Heard,
        segments: tuple[Int[Array, "B L"], Int[Array, "B S"]] | None = None,
    ) -> Float[Array, "B L D"]:
        """Cross-attention from x to keys and values that `recall` made."""
        out = attention(self.queries(x), *heard, segments=segments)
        return self.o(joined(out))

    def queries(self, x: Float[Array, "B L D"]) -> Float[Array, "B L N K"]:
        return self._split(self.norm_q(self.q(x)), "tokens")

    def recall(self, context: Float[Array, "B S D"], axis: str = "_") -> Heard:
        """Keys and values; `axis` is the logical axis of their length."""
        k, v = self.norm_k(self.k(context)), self.v(context)
        return self._split(k, axis), self._split(v, axis)

    def _split(self, y: Float[Array, "B L D"], axis: str) -> Float[Array, "B L N K"]:
        return mesh.constrain(parted(y, self.heads), f"batch {axis} heads _")


def parted(x: Float[Array, "B L D"], heads: int) -> Float[Array, "B L N K"]:
    """The part of each head. On a TPU a head at a time: XLA's own way there turns rows into columns and
    back, at a third of the price of the whole self-attention around the kernel (docs/log.md)."""
    if _head_by_head():
        return jnp.moveaxis(jnp.stack(jnp.split(x, heads, axis=-1), axis=1), 1, 2)
    return rearrange(x, "B L (N K) -> B L N K", N=heads)


def joined(x: Float[Array, "B L N K"]) -> Float[Array, "B L D"]:
    """Heads beside each other again."""
    if _head_by_head():
        return jnp.concatenate([x[:, :, head] for head in range(x.shape[2])], axis=-1)
    return rearrange(x, "B L N K -> B L (N K)")


def _head_by_head() -> bool:
    """Whether heads are worth taking apart one by one: on a TPU, unless they lie on several devices."""
    shared = jax.sharding.get_abstract_mesh().shape.get("tensor", 1) > 1
    return mesh.target()[0] == "tpu" and not shared


class Block(nnx.Module):
    """One layer: self-attention, text cross-attention, audio cross-attention, feed-forward."""

    def __init__(self, config: DiTConfig, precision: Precision, *, rngs: nnx.Rngs):
        self.eps = config.eps
        spread = nnx.initializers.normal(config.width**-0.5)
        self.modulation = param((6, config.width), "_ embed", precision, rngs, spread)
        self.self_attn = Attention(config, precision, rngs=rngs)
        self.norm3 = _affine_norm(config, precision, rngs)
        self.cross_attn = Attention(config, precision, rngs=rngs)
        self.up = linear(config.width, config.mlp, "embed mlp", precision, rngs)
        self.down = linear(config.mlp, config.width, "mlp embed", precision, rngs)
        if config.audio is not None:
            self.audio_norm = _affine_norm(config, precision, rngs)
            self.audio_attn = Attention(config, precision, rngs=rngs, silent=True)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        times: Float[Array, "B M 6 D"],
        clean: Bool[Array, "B L"] | None,
        tokens: Tokens,
        turns: Float[Array, "2 L _"],
        lengths: Int[Array, "B"] | None,
        video: int,
        recalled: tuple[Heard, ...] | None = None,
    ) -> Float[Array, "B L D"]:
        """`times` is the projected time (and, where some tokens are `clean`, that of time 0 behind it);
        the first `video` of the L tokens are the video's; `recalled` is this layer's."""
        text, *audio = self.recall(tokens) if recalled is None else recalled
        modulation = times + self.modulation[...].astype(jnp.float32)[None, None]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
            by_token(modulation[:, :, i], clean) for i in range(6)
        )
        y = modulate(x, shift_a, scale_a, self.eps)
        x = _add(x, self.self_attn(y, turns, lengths), gate_a)
        x = x + self.cross_attn.look(self.norm3(x).astype(x.dtype), text)
        if tokens.audio is not None:
            x = self._hear(x, audio[0], tokens.audio.shape[1], video)
        y = modulate(x, shift_m, scale_m, self.eps)
        hidden = mesh.constrain(nnx.gelu(self.up(y), approximate=True), "batch tokens mlp")
        x = _add(x, self.down(hidden), gate_m)
        return mesh.constrain(x, "batch tokens width")

    def recall(self, tokens: Tokens) -> tuple[Heard, ...]:
        """Keys and values of text and audio, which do not change from step to step."""
        text = self.cross_attn.recall(tokens.text)
        if tokens.audio is None:
            return (text,)
        return text, self.audio_attn.recall(rearrange(tokens.audio, "B T s D -> B (T s) D"))

    def _hear(
        self, x: Float[Array, "B L D"], heard: Heard, frames: int, video: int
    ) -> Float[Array, "B L D"]:
        """Each latent frame's tokens attend to its own sounds; reference tokens hear nothing."""
        if shares_context():  # a frame's tokens need not be on one device
            seen = self.audio_norm(x).astype(x.dtype)
            of = np.full(x.shape[1], -1, np.int32)
            of[:video] = np.arange(video) // (video // frames)
            whose = np.repeat(np.arange(frames, dtype=np.int32), heard[0].shape[1] // frames)
            every = lambda row: jnp.broadcast_to(row, (x.shape[0], len(row)))
            y = self.audio_attn.look(seen, heard, (every(of), every(whose)))
            return x + jnp.where(of[None, :, None] >= 0, y, 0)
        seen = self.audio_norm(x[:, :video]).astype(x.dtype)
        seen = rearrange(seen, "B (T n) D -> (B T) n D", T=frames)
        k, v = (rearrange(y, "B (T s) N K -> (B T) s N K", T=frames) for y in heard)
        y = rearrange(self.audio_attn.look(seen, (k, v)), "(B T) n D -> B (T n) D", T=frames)
        return jnp.concatenate([x[:, :video] + y, x[:, video:]], axis=1)


def modulate(
    x: Float[Array, "B L D"], shift: Float[Array, "B l D"], scale: Float[Array, "B l D"], eps: float
) -> Float[Array, "B L D"]:
    """LayerNorm without parameters, then scale and shift, in float32; the result has x's dtype."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    spread = jnp.mean((wide - mean) ** 2, axis=-1, keepdims=True)
    normed = (wide - mean) * jax.lax.rsqrt(spread + eps)
    return (normed * (1 + scale) + shift).astype(x.dtype)


def _affine_norm(config: DiTConfig, precision: Precision, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.width,
        epsilon=config.eps,
        dtype=jnp.float32,
        param_dtype=precision.params,
        use_fast_variance=False,
        rngs=rngs,
    )


def by_token(
    modulation: Float[Array, "B M D"], clean: Bool[Array, "B L"] | None
) -> Float[Array, "B l D"]:
    """That of time t for noisy tokens and of time 0 for clean ones; l is 1 when all are noisy."""
    if clean is None:
        return modulation
    return jnp.where(clean[:, :, None], modulation[:, 1:], modulation[:, :1])


def _add(
    x: Float[Array, "B L D"], y: Float[Array, "B L D"], gate: Float[Array, "B l D"]
) -> Float[Array, "B L D"]:
    return (x.astype(jnp.float32) + y.astype(jnp.float32) * gate).astype(x.dtype)
