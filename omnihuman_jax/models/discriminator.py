"""The discriminator of adversarial post-training: the transformer's trunk, looked at from three depths.

Seaweed-APT (arXiv 2501.08316, section 3.3, research/papers.md 3.1).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from omnihuman_jax import mesh
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.models.building import Precision, Remat, linear, param, stack
from omnihuman_jax.models.conditioner import Tokens
from omnihuman_jax.models.dit import OmniHumanDiT
from omnihuman_jax.models.dit_layers import DiTConfig, RMSNorm

# Behind layers 16, 26 and 36 of 36 in the paper.
DEPTHS = (16 / 36, 26 / 36, 1.0)


def taps(layers: int, depths: Sequence[float] = DEPTHS) -> tuple[int, ...]:
    """How many layers are behind the discriminator's eyes, for a trunk of so many.

    1.3B: 13, 22, 30; 14B: 18, 29, 40. A trunk with fewer layers than eyes has an eye behind each.
    """
    found: list[int] = []
    for left, depth in zip(range(len(depths) - 1, -1, -1), depths, strict=True):
        least = 1 + (found[-1] if found else 0)
        found.append(max(1, min(max(round(layers * depth), least), layers - left)))
    return tuple(dict.fromkeys(found))


class Eye(nnx.Module):
    """A block of cross-attention alone: one learned query looks at all of a layer's tokens (Fig. 1).

    RMSNorm, then attention with RMS-normalised queries and keys; then the MLP: linear, GELU, linear.
    """

    def __init__(self, config: DiTConfig, precision: Precision, *, rngs: nnx.Rngs):
        width = config.width
        self.heads = config.heads
        small = nnx.initializers.normal(0.02)
        self.query = param((width,), "embed", precision, rngs, small)
        self.norm = RMSNorm(width, config.eps, precision, rngs=rngs)
        self.norm_query = RMSNorm(width, config.eps, precision, rngs=rngs)
        self.q = linear(width, width, "embed heads", precision, rngs)
        self.k = linear(width, width, "embed heads", precision, rngs)
        self.v = linear(width, width, "embed heads", precision, rngs)
        self.o = linear(width, width, "heads embed", precision, rngs)
        self.norm_q = RMSNorm(width, config.eps, precision, rngs=rngs)
        self.norm_k = RMSNorm(width, config.eps, precision, rngs=rngs)
        self.norm_up = RMSNorm(width, config.eps, precision, rngs=rngs)
        self.up = linear(width, 4 * width, "embed mlp", precision, rngs)
        self.down = linear(4 * width, width, "mlp embed", precision, rngs)

    def __call__(self, tokens: Float[Array, "B L D"]) -> Float[Array, "B D"]:
        """What it sees of each clip."""
        clips = tokens.shape[0]
        query = jnp.broadcast_to(self.query[...].astype(tokens.dtype), (clips, 1, len(self.query)))
        seen = mesh.constrain(self.norm(tokens), "batch tokens width")
        q = self.norm_q(self.q(self.norm_query(query)))
        k, v = (mesh.constrain(y, "batch tokens heads") for y in (self.k(seen), self.v(seen)))
        k = self.norm_k(k)
        # One query: a weighted mean, which needs no kernel; in float32, since it is summed over all tokens.
        q, k, v = (rearrange(y, "B L (N K) -> B L N K", N=self.heads) for y in (q, k, v))
        scores = jnp.einsum("BQNK,BLNK->BNQL", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), axis=-1).astype(v.dtype)
        mean = jnp.einsum("BNQL,BLNK->BQNK", weights, v)
        y = query + self.o(rearrange(mean, "B Q N K -> B Q (N K)"))
        y = y + self.down(nnx.gelu(self.up(self.norm_up(y)), approximate=True))
        return mesh.constrain(y[:, 0], "batch width")


class Discriminator(nnx.Module):
    """Latents, a time and conditions -> one logit a clip: large for real ones.

    The trunk is the diffusion transformer without its head, all of it trained; three eyes look at the tokens
    behind three of its layers; what they see is put side by side, normalised and made one number.
    """

    def __init__(
        self,
        config: DiTConfig,
        precision: Precision = Precision(),
        *,
        rngs: nnx.Rngs,
        remat: Remat = "none",
    ):
        exact = Precision(precision.params, jnp.float32)
        self.taps, self.remat = taps(config.layers), remat
        self.trunk = OmniHumanDiT(config, precision, rngs=rngs, remat=remat)
        del self.trunk.head, self.trunk.head_modulation
        # bfloat16 would round away the noise of the approximated R1, of 0.01 (research/papers.md 3.1).
        self.trunk.patch_dtype = jnp.float32
        self.eyes = stack(lambda r: Eye(config, precision, rngs=r), len(self.taps), rngs)
        joined = len(self.taps) * config.width
        self.norm = nnx.LayerNorm(
            joined, epsilon=1e-6, dtype=jnp.float32, param_dtype=precision.params, rngs=rngs
        )
        self.logit = linear(joined, 1, "embed _", exact, rngs)

    def embed(self, conditions: Conditions, clips: int, height: int, width: int) -> Tokens:
        """As the trunk's."""
        return self.trunk.embed(conditions, clips, height, width)

    def __call__(
        self, x: Float[Array, "B T H W C"], t: Float[Array, "B"], tokens: Tokens
    ) -> Float[Array, "B"]:
        """The logits, float32. `x` is a sample as it is, without noise; `t` only says how to look at it."""
        graph, eyes = nnx.split(self.eyes)
        count, width = len(self.taps), self.trunk.config.width

        def look(
            seen: Float[Array, "B taps D"], layer: Int[Array, ""], y: Float[Array, "B L D"]
        ) -> Float[Array, "B taps D"]:
            behind = jnp.asarray(self.taps) == layer + 1

            def open_(y: Float[Array, "B L D"]) -> Float[Array, "B taps D"]:
                eye = jax.tree.map(lambda leaf: leaf[jnp.argmax(behind)], eyes)
                new = nnx.merge(graph, eye)(y).astype(jnp.float32)
                return jnp.where(behind[None, :, None], new[:, None], 0.0)

            def shut(y: Float[Array, "B L D"]) -> Float[Array, "B taps D"]:
                return jnp.zeros((y.shape[0], count, width), jnp.float32)

            new = jax.lax.cond(jnp.any(behind), open_, shut, y)
            return mesh.constrain(seen + new, "batch _ width")

        nothing = mesh.constrain(
            jnp.zeros((x.shape[0], count, width), jnp.float32), "batch _ width"
        )
        *_, seen = self.trunk.trunk(x, t, tokens, look, nothing)
        joined = self.norm(rearrange(seen, "B taps D -> B (taps D)"))
        return self.logit(joined)[:, 0]
