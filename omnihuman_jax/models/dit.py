"""The Wan2.1 diffusion transformer with the omni-conditions: config, blocks, network, torch names.

With the added parts at their zero initialisation and no condition but text it is Wan2.1, bit for bit.
"""

import dataclasses
from collections.abc import Mapping
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
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import PATCH, TEMPORAL
from omnihuman_jax.models.building import Precision, Remat, linear, lower, param, scan, stack
from omnihuman_jax.models.conditioner import (
    AudioConfig,
    AudioProjector,
    Heard,
    PoseConfig,
    PoseGuider,
    Tokens,
)
from omnihuman_jax.models.rope import rotate, rotations
from omnihuman_jax.weights import Rule


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
            _by_token(modulation[:, :, i], clean) for i in range(6)
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


class OmniHumanDiT(nnx.Module):
    """Latents, time and conditions -> velocity (OmniHuman-1, section 3.1, on Wan2.1)."""

    def __init__(
        self,
        config: DiTConfig,
        precision: Precision = Precision(),
        *,
        rngs: nnx.Rngs,
        remat: Remat = "none",
    ):
        self.config, self.precision, self.remat = config, precision, remat
        exact = Precision(precision.params, jnp.float32)
        width, patch = config.width, (1, PATCH, PATCH)
        fan_in = nnx.initializers.xavier_uniform()
        self.patch_embedding = param(
            (*patch, config.channels, width), "_ _ _ _ embed", precision, rngs, fan_in
        )
        self.patch_bias = param((width,), "embed", precision, rngs)
        self.text_in = linear(config.text_width, width, "_ embed", precision, rngs)
        self.text_out = linear(width, width, "embed heads", precision, rngs)
        self.time_in = linear(config.frequencies, width, "_ embed", exact, rngs)
        self.time_out = linear(width, width, "embed heads", exact, rngs)
        self.time_projection = linear(width, 6 * width, "embed heads", exact, rngs)
        self.blocks = stack(lambda r: Block(config, precision, rngs=r), config.layers, rngs)
        if precision.linears is not None:
            lower(self.blocks, precision.linears)
        spread = nnx.initializers.normal(width**-0.5)
        self.head_modulation = param((2, width), "_ embed", precision, rngs, spread)
        outputs = PATCH * PATCH * config.channels
        self.head = linear(width, outputs, "embed _", exact, rngs)
        # Tells reference tokens from a clean first frame; zero, so that Wan is unchanged at first.
        self.reference_type = param((width,), "embed", precision, rngs)
        if config.audio is not None:
            self.audio = AudioProjector(config.audio, width, precision, rngs=rngs)
        if config.pose is not None:
            self.pose = PoseGuider(config.pose, precision, rngs=rngs)
            shape = (*patch, TEMPORAL * config.pose.channels, width)
            self.pose_embedding = param(shape, "_ _ _ _ embed", precision, rngs)

    def embed(self, conditions: Conditions, clips: int, height: int, width: int) -> Tokens:
        """Everything that does not change from step to step, for `clips` clips of a latent grid.

        Raises:
            InputError: a condition is given that this network has no input for.
        """
        for name in ("audio", "pose"):
            if getattr(conditions, name) is not None and getattr(self.config, name) is None:
                raise InputError(
                    f"This model has no {name} input (it is plain Wan2.1); leave {name} away, "
                    "or use a model trained with it."
                )
        config = self.config
        text = conditions.text
        if text is None:
            text = jnp.zeros((clips, config.text_length, config.text_width), jnp.float32)
        else:
            pad = config.text_length - text.shape[1]
            text = conditions.mask("text", text, jnp.zeros((), text.dtype))
            text = jnp.pad(text, [(0, 0), (0, pad), (0, 0)])
        text = self.text_out(nnx.gelu(self.text_in(text), approximate=True))
        text = mesh.constrain(text, "batch _ width")
        audio = None
        if config.audio is not None:
            audio = self.audio(conditions)
            audio = jnp.broadcast_to(audio, (clips, *audio.shape[1:]))
            audio = mesh.constrain(audio, "batch _ _ width")
        return Tokens(
            text=text,
            audio=audio,
            pose=self.pose(conditions, height, width) if config.pose is not None else None,
            reference=conditions.reference,
            motion=conditions.motion,
            has_reference=conditions.present.get("reference"),
            has_motion=conditions.present.get("motion"),
        )

    def recall(self, tokens: Tokens) -> Tokens:
        """The same, with every layer's keys and values of text and audio: for many steps with them."""
        _, recalled = scan(self.blocks, lambda block, none: (none, block.recall(tokens)), ())
        return dataclasses.replace(tokens, recalled=recalled)

    def __call__(
        self, x: Float[Array, "B T H W C"], t: Float[Array, "B"], tokens: Tokens
    ) -> Float[Array, "B T H W C"]:
        """The velocity at noisy latents `x` and flow times `t` in [0, 1], in float32.

        Where motion latents are given, they replace the first frames of x and are marked clean; the
        velocity there means nothing.
        """
        frames, height, width = x.shape[1:4]
        rows, columns = height // PATCH, width // PATCH
        x, clean = _with_motion(x, tokens, rows * columns)
        y = self._patches(x, self.patch_embedding, self.patch_bias)
        if tokens.pose is not None:
            y = y + self._patches(tokens.pose, self.pose_embedding, None)
        video = y.shape[1]
        reference: tuple[int, int] | None = None
        lengths: Array | None = None
        if tokens.reference is not None:
            packed = self._patches(tokens.reference, self.patch_embedding, self.patch_bias)
            packed = packed + self.reference_type[...].astype(packed.dtype)[None, None]
            y = jnp.concatenate([y, packed], axis=1)
            reference = (tokens.reference.shape[2] // PATCH, tokens.reference.shape[3] // PATCH)
            still = jnp.ones(packed.shape[:2], bool)
            if clean is None:
                clean = jnp.zeros((y.shape[0], video), bool)
            clean = jnp.concatenate([clean, still], axis=1)
            if tokens.has_reference is not None:
                lengths = jnp.where(tokens.has_reference, y.shape[1], video)
        turns = rotations((frames, rows, columns), self.config.head_width, reference)
        y = mesh.constrain(y, "batch tokens width")
        # Reference and motion tokens are clean, so they carry time 0, as Wan knows clean latents.
        times = t[:, None] if clean is None else jnp.stack([t, jnp.zeros_like(t)], axis=1)
        e, projected = self._time(times)
        recalled = () if tokens.recalled is None else (tokens.recalled,)
        y, _ = scan(
            self.blocks,
            lambda block, y, *own: (
                block(y, projected, clean, tokens, turns, lengths, video, *own),
                None,
            ),
            y,
            *recalled,
            remat=self.remat,
        )
        modulation = e[:, :, None] + self.head_modulation[...].astype(jnp.float32)[None, None]
        shown = None if clean is None else clean[:, :video]
        shift, scale = (_by_token(modulation[:, :, i], shown) for i in range(2))
        y = modulate(y[:, :video].astype(jnp.float32), shift, scale, self.config.eps)
        return rearrange(
            self.head(y),
            "B (T h w) (p q C) -> B T (h p) (w q) C",
            T=frames, h=rows, w=columns, p=PATCH, q=PATCH,
        )  # fmt: skip

    def _patches(
        self, x: Float[Array, "B T H W c"], kernel: nnx.Param, bias: nnx.Param | None
    ) -> Float[Array, "B L D"]:
        """2x2 patches of each latent frame, one token each."""
        dtype = self.precision.compute
        patches = rearrange(x, "B T (h p) (w q) c -> B (T h w) (p q c)", p=PATCH, q=PATCH)
        patches = mesh.constrain(patches, "batch tokens _")
        matrix = kernel[...].reshape(-1, kernel.shape[-1])
        y = mesh.constrain(patches.astype(dtype) @ matrix.astype(dtype), "batch tokens width")
        return y if bias is None else y + bias[...].astype(dtype)[None, None]

    def _time(
        self, t: Float[Array, "B M"]
    ) -> tuple[Float[Array, "B M D"], Float[Array, "B M 6 D"]]:
        """Time embedding and its projection to six modulations, all in float32."""
        # Wan counts time from 0 to 1000: this is the network's door (DESIGN 4).
        with jax.default_matmul_precision("highest"):
            e = sinusoid(1000.0 * t.astype(jnp.float32), self.config.frequencies)
            e = self.time_out(nnx.silu(self.time_in(e)))
            projected = self.time_projection(nnx.silu(e))
        return e, rearrange(projected, "B M (s D) -> B M s D", s=6)


def sinusoid(t: Float[Array, "B M"], width: int) -> Float[Array, "B M f"]:
    """Cosines, then sines, of t at geometrically falling frequencies (research/peers.md 3.3)."""
    half = width // 2
    frequencies = (10_000.0 ** (-np.arange(half, dtype=np.float64) / half)).astype(np.float32)
    angles = t[..., None] * frequencies[None, None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


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


def _by_token(
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


def _with_motion(
    x: Float[Array, "B T H W C"], tokens: Tokens, per_frame: int
) -> tuple[Float[Array, "B T H W C"], Bool[Array, "B L"] | None]:
    """The clean latents of the last segment in place of the first noisy ones, and which tokens are."""
    if tokens.motion is None:
        return x, None
    motion, has = tokens.motion.astype(x.dtype), tokens.has_motion
    count = motion.shape[1]
    if has is None:
        has = jnp.ones((x.shape[0],), bool)
    start = jnp.where(has.reshape(-1, 1, 1, 1, 1), motion, x[:, :count])
    clean = (jnp.arange(x.shape[1] * per_frame) < count * per_frame)[None] & has[:, None]
    return jnp.concatenate([start, x[:, count:]], axis=1), clean


# --- names in torch -------------------------------------------------------------------------------

_LINEAR = (1, 0)  # torch keeps (out, in)
_TOP = {
    "wan": {
        "text_in": "text_embedding.0",
        "text_out": "text_embedding.2",
        "time_in": "time_embedding.0",
        "time_out": "time_embedding.2",
        "time_projection": "time_projection.1",
        "head": "head.head",
    },
    "diffusers": {
        "text_in": "condition_embedder.text_embedder.linear_1",
        "text_out": "condition_embedder.text_embedder.linear_2",
        "time_in": "condition_embedder.time_embedder.linear_1",
        "time_out": "condition_embedder.time_embedder.linear_2",
        "time_projection": "condition_embedder.time_proj",
        "head": "proj_out",
    },
}
_ATTENTION = {
    "wan": {name: name for name in ("q", "k", "v", "o", "norm_q", "norm_k")},
    "diffusers": {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0",
                  "norm_q": "norm_q", "norm_k": "norm_k"},
}  # fmt: skip
_BLOCK = {
    "wan": {"self_attn": "self_attn", "cross_attn": "cross_attn", "norm3": "norm3",
            "up": "ffn.0", "down": "ffn.2", "modulation": "modulation"},
    # diffusers numbers the norms in the order of use, so Wan's norm3 is its norm2.
    "diffusers": {"self_attn": "attn1", "cross_attn": "attn2", "norm3": "norm2",
                  "up": "ffn.net.0.proj", "down": "ffn.net.2", "modulation": "scale_shift_table"},
}  # fmt: skip
_HEAD_MODULATION = {"wan": "head.modulation", "diffusers": "scale_shift_table"}


def torch_rules(config: DiTConfig, layout: str) -> list[Rule]:
    """Every tensor of a Wan2.1 text-to-video DiT ("wan" or "diffusers" names): 27 a block, 15 more.

    Parameters of the omni-conditions have no rule: plain Wan does not have them.
    """
    rules = [
        Rule("patch_embedding.weight", "patch_embedding", axes=(2, 3, 4, 1, 0)),
        Rule("patch_embedding.bias", "patch_bias"),
        Rule(_HEAD_MODULATION[layout], "head_modulation", squeeze=(0,)),
    ]
    for ours, theirs in _TOP[layout].items():
        rules += _linear_rules(theirs, ours)
    block = _BLOCK[layout]
    prefix = "blocks.{}."
    rules.append(Rule(prefix + block["modulation"], "blocks/modulation", squeeze=(0,)))
    for ours in ("up", "down"):
        rules += _linear_rules(prefix + block[ours], f"blocks/{ours}")
    rules += [
        Rule(f"{prefix}{block['norm3']}.weight", "blocks/norm3/scale"),
        Rule(f"{prefix}{block['norm3']}.bias", "blocks/norm3/bias"),
    ]
    for attn in ("self_attn", "cross_attn"):
        for ours, theirs in _ATTENTION[layout].items():
            name, path = f"{prefix}{block[attn]}.{theirs}", f"blocks/{attn}/{ours}"
            if ours.startswith("norm"):
                rules.append(Rule(f"{name}.weight", f"{path}/weight"))
            else:
                rules += _linear_rules(name, path)
    return rules


def _linear_rules(name: str, path: str) -> list[Rule]:
    return [
        Rule(f"{name}.weight", f"{path}/kernel", axes=_LINEAR),
        Rule(f"{name}.bias", f"{path}/bias"),
    ]


def recognise(
    shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any]
) -> tuple[DiTConfig, str] | None:
    """The config and layout, if these torch tensors are a Wan text-to-video DiT; None if no Wan DiT.

    Raises:
        InputError: a Wan DiT of another kind (image-to-video, VACE, Wan2.2 5B).
    """
    if "patch_embedding.weight" not in shapes:
        return None
    layout = "wan" if "head.head.weight" in shapes else "diffusers"
    if "proj_out.weight" not in shapes and layout == "diffusers":
        return None
    foreign = [n for n in shapes if "img" in n or "image_embedder" in n or "add_k_proj" in n]
    foreign += [name for name in shapes if name.startswith("vace")]
    width, channels = shapes["patch_embedding.weight"][:2]
    if foreign or channels != 16:
        kind = "image-to-video" if foreign and "vace" not in foreign[0] else "VACE"
        kind = kind if foreign else f"{channels}-channel"
        raise InputError(
            f"This is a Wan {kind} transformer ({len(foreign)} tensors of its own, such as "
            f"{foreign[0] if foreign else 'patch_embedding.weight'}); OmniHuman starts from a "
            "text-to-video one, such as Wan-AI/Wan2.1-T2V-1.3B or -14B."
        )
    top = _TOP[layout]
    numbers = [int(n.split(".")[1]) for n in shapes if n.startswith("blocks.")]
    heads = settings.get("num_heads") or settings.get("num_attention_heads") or max(1, width // 128)
    text_length = settings.get("text_len") or DiTConfig.text_length
    config = DiTConfig(
        width=width,
        mlp=shapes[f"blocks.0.{_BLOCK[layout]['up']}.weight"][0],
        heads=heads,
        layers=1 + max(numbers, default=-1),
        channels=channels,
        text_width=shapes[f"{top['text_in']}.weight"][1],
        text_length=text_length,
        frequencies=shapes[f"{top['time_in']}.weight"][1],
        eps=settings.get("eps", DiTConfig.eps),
    )
    return config, layout
