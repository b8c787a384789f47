"""The Wan2.1 diffusion transformer with the omni-conditions: the network, and its names in torch.

With the added parts at their zero initialisation and no condition but text it is Wan2.1, bit for bit.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from omnihuman_jax import mesh
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import PATCH, TEMPORAL
from omnihuman_jax.models.building import Precision, Remat, linear, lower, param, scan, stack
from omnihuman_jax.models.conditioner import AudioProjector, PoseGuider, Tokens
from omnihuman_jax.models.dit_layers import Block, DiTConfig, by_token, modulate
from omnihuman_jax.models.rope import rotations
from omnihuman_jax.weights import Rule

# seen, layer, the video's tokens behind it -> seen
Look = Callable[[Any, Int[Array, ""], Float[Array, "B L D"]], Any]


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
        self.patch_dtype = precision.compute  # a discriminator looks closer
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
        y, e, shown, _ = self.trunk(x, t, tokens)
        modulation = e[:, :, None] + self.head_modulation[...].astype(jnp.float32)[None, None]
        shift, scale = (by_token(modulation[:, :, i], shown) for i in range(2))
        y = modulate(y.astype(jnp.float32), shift, scale, self.config.eps)
        return rearrange(
            self.head(y),
            "B (T h w) (p q C) -> B T (h p) (w q) C",
            T=frames, h=rows, w=columns, p=PATCH, q=PATCH,
        )  # fmt: skip

    def trunk(
        self,
        x: Float[Array, "B T H W C"],
        t: Float[Array, "B"],
        tokens: Tokens,
        look: Look | None = None,
        seen: Any = (),
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B M D"], Bool[Array, "B L"] | None, Any]:
        """The video's tokens behind the last block, the time embedding, which tokens are clean, what is seen.

        Args:
            look: `seen = look(seen, layer, y)` behind every layer, with the video's tokens y "B L D" and
                the number of the layer; its first `seen` is the one given here.
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

        def layer(block: Block, carry: Any, *own: Any) -> tuple[Any, None]:
            y, seen = carry
            y = block(y, projected, clean, tokens, turns, lengths, video, *own[1:])
            return (y, seen if look is None else look(seen, own[0], y[:, :video])), None

        numbers = jnp.arange(self.config.layers)
        (y, seen), _ = scan(self.blocks, layer, (y, seen), numbers, *recalled, remat=self.remat)
        return y[:, :video], e, None if clean is None else clean[:, :video], seen

    def _patches(
        self, x: Float[Array, "B T H W c"], kernel: nnx.Param, bias: nnx.Param | None
    ) -> Float[Array, "B L D"]:
        """2x2 patches of each latent frame, one token each."""
        dtype = self.patch_dtype
        patches = rearrange(x, "B T (h p) (w q) c -> B (T h w) (p q c)", p=PATCH, q=PATCH)
        patches = mesh.constrain(patches, "batch tokens _")
        matrix = kernel[...].reshape(-1, kernel.shape[-1])
        y = mesh.constrain(patches.astype(dtype) @ matrix.astype(dtype), "batch tokens width")
        y = y if bias is None else y + bias[...].astype(dtype)[None, None]
        return y.astype(self.precision.compute)

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
