"""Conditions -> Tokens: audio projector, pose guider, and the heatmaps they start from."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float

from omnihuman_jax.conditions import Conditions
from omnihuman_jax.geometry import SPATIAL, TEMPORAL
from omnihuman_jax.models.building import Precision, linear, param


@dataclass(frozen=True)
class AudioConfig:
    """The audio projector (OmniHuman-1, section 3.1: wav2vec features, neighbours concatenated, MLP)."""

    width: int = 768  # of the wav2vec 2.0 features: 768 base, 1024 large
    layers: int = 13  # hidden states mixed: transformer layers + 1
    window: int = 5  # video frames whose features are concatenated; the paper gives no number
    hidden: int = 2048

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(
                f"The audio window is centred on its frame, so odd; got {self.window}."
            )


@dataclass(frozen=True)
class PoseConfig:
    """The pose guider (OmniHuman-1, section 3.1: heatmaps -> features -> channels beside the noise)."""

    joints: int = 133  # COCO-WholeBody: body, feet, face, hands
    hidden: int = 128
    channels: int = 16  # a pixel frame's features at latent resolution
    sigma: float = 1.0  # of a joint's spot, in heatmap cells of 4x4 pixels


Heard = tuple[Float[Array, "*layers B _ N K"], Float[Array, "*layers B _ N K"]]  # keys and values


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """Conditions as the blocks take them; made once a generation, used at every step.

    Attributes:
        text: embedded text, padding included, as Wan attends to it.
        audio: for latent frame i its TEMPORAL tokens; Ta is 1 when there is no audio at all, else T.
        pose: channels to stack on the noise; of latent frame i, its own pixel frames side by side.
        reference, motion: clean latents; `has_reference`, `has_motion`: which clips have them
            (None: all).
        recalled: keys and values of text, and of audio if there is any, in every layer (stacked); None
            to compute them when they are needed.
    """

    text: Float[Array, "B S D"]
    audio: Float[Array, "B Ta s D"] | None
    pose: Float[Array, "B T H W P"] | None
    reference: Float[Array, "B 1 h w C"] | None
    motion: Float[Array, "B M H W C"] | None
    has_reference: Bool[Array, "B"] | None
    has_motion: Bool[Array, "B"] | None
    recalled: tuple[Heard, ...] | None = None


class AudioProjector(nnx.Module):
    """wav2vec features at the frame rate -> TEMPORAL tokens of width D for every latent frame."""

    def __init__(self, config: AudioConfig, width: int, precision: Precision, *, rngs: nnx.Rngs):
        self.config = config
        self.mix = param((config.layers,), "_", precision, rngs)
        inputs = config.width * config.window
        self.norm = nnx.LayerNorm(
            inputs, dtype=jnp.float32, param_dtype=precision.params, rngs=rngs, epsilon=1e-5
        )
        self.up = linear(inputs, config.hidden, "_ mlp", precision, rngs)
        self.down = linear(config.hidden, width, "mlp embed", precision, rngs)
        small = nnx.initializers.normal(0.02)
        # Attention has no order of its own: this tells the sounds of one latent frame apart in time.
        self.position = param((TEMPORAL, width), "_ embed", precision, rngs, small)
        self.null = param((width,), "embed", precision, rngs, small)

    def __call__(self, conditions: Conditions) -> Float[Array, "B T s D"]:
        """Latent frame 0 hears its one pixel frame, latent frame i > 0 its own four (peers.md 3.6).

        The one frame is repeated: attention over equal keys is attention over one.
        """
        audio = conditions.audio
        null = self.null[...].astype(jnp.float32)
        if audio is None:
            tokens = null[None, None, None]
        else:
            mix = jax.nn.softmax(self.mix[...].astype(jnp.float32))
            mixed = jnp.einsum("BFlA,l->BFA", audio.astype(jnp.float32), mix)
            tokens = self.down(nnx.gelu(self.up(self.norm(_neighbours(mixed, self.config.window)))))
            tokens = conditions.mask("audio", tokens.astype(jnp.float32), null[None, None])
            tokens = by_latent_frame(tokens)
        tokens = tokens + self.position[...].astype(jnp.float32)[None, None]
        return tokens.astype(self.up.dtype)


class PoseGuider(nnx.Module):
    """Keypoints -> heatmaps -> features at latent resolution, pixel frames of a latent frame side by side."""

    def __init__(self, config: PoseConfig, precision: Precision, *, rngs: nnx.Rngs):
        self.config = config

        def conv(inputs: int, outputs: int, stride: int = 1) -> nnx.Conv:
            return nnx.Conv(
                inputs,
                outputs,
                (3, 3),
                strides=stride,
                padding=1,
                dtype=precision.compute,
                param_dtype=precision.params,
                rngs=rngs,
            )

        self.enter = conv(config.joints, config.hidden)
        self.halve = conv(config.hidden, config.hidden, stride=2)
        self.leave = conv(config.hidden, config.channels)

    def __call__(
        self, conditions: Conditions, height: int, width: int
    ) -> Float[Array, "B T H W P"] | None:
        """Channels for a latent grid of `height` x `width`; zero for clips without pose."""
        pose = conditions.pose
        if pose is None:
            return None
        scale = SPATIAL // 4
        spots = heatmaps(pose, height * scale, width * scale, self.config.sigma)
        frames = pose.shape[1]
        x = rearrange(spots, "B F Y X J -> (B F) Y X J")
        x = self.leave(nnx.silu(self.halve(nnx.silu(self.enter(x)))))
        x = by_latent_frame(rearrange(x, "(B F) H W P -> B F H W P", F=frames))
        x = rearrange(x, "B T s H W P -> B T H W (s P)")
        return conditions.mask("pose", x, jnp.zeros((), x.dtype))


def heatmaps(
    pose: Float[Array, "B F J 3"], height: int, width: int, sigma: float
) -> Float[Array, "B F Y X J"]:
    """A Gaussian spot for each joint, as high as its confidence, on a grid of `height` x `width` cells.

    A cell's value is taken at its centre, so a spot keeps its place below one cell. `sigma` in cells.
    """
    x, y, confidence = (pose[..., i].astype(jnp.float32) for i in range(3))

    def along(at: Array, cells: int) -> Array:
        offset = (jnp.arange(cells) + 0.5)[None, None, :, None] - at[:, :, None, :] * cells
        return jnp.exp(-0.5 * (offset / sigma) ** 2)

    rows = along(y, height) * confidence[:, :, None, :]
    return rows[:, :, :, None, :] * along(x, width)[:, :, None, :, :]


def by_latent_frame(x: Float[Array, "B F *rest"]) -> Float[Array, "B T s *rest"]:
    """Group 4n+1 pixel frames by latent frame: frame 0 four times over, then four and four."""
    first = jnp.repeat(x[:, :1], TEMPORAL, axis=1)
    x = jnp.concatenate([first, x[:, 1:]], axis=1)
    return x.reshape(x.shape[0], -1, TEMPORAL, *x.shape[2:])


def _neighbours(x: Float[Array, "B F A"], window: int) -> Float[Array, "B F wA"]:
    """Each frame's features beside those of its neighbours; the ends are repeated outwards."""
    reach = window // 2
    padded = jnp.pad(x, [(0, 0), (reach, reach), (0, 0)], mode="edge")
    return jnp.concatenate([padded[:, i : i + x.shape[1]] for i in range(window)], axis=-1)
