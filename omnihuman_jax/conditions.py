"""What travels beside a clip: the conditions, their order of strength, and how one is left out."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt32

if TYPE_CHECKING:
    from jax import Array
else:
    Array = jax.Array | np.ndarray  # a host's part is numpy until it goes to the devices

# From weak to strong (OmniHuman-1, section 3.1; section 3.2 once words it the other way round, which
# contradicts its principle 2). Motion frames are context, not a driver, and have no rank.
STRENGTH = ("text", "reference", "audio", "pose")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Conditions:
    """All that may steer a clip, as the encoders give it. None means: not given to any clip.

    Attributes:
        text: UMT5 features, zero after each text's own length.
        reference: latent of the reference image, normalised by the VAE's statistics.
        audio: wav2vec 2.0 hidden states at the video's frame rate.
        pose: keypoints x, y in [0, 1] of the frame, and confidence in [0, 1].
        motion: clean latents of the last frames of the segment before (2 latent frames).
        present: for a condition that only some clips have, which; a name left out means all.
    """

    text: Float[Array, "B S E"] | None = None
    reference: Float[Array, "B 1 h w C"] | None = None
    audio: Float[Array, "B F layers A"] | None = None
    pose: Float[Array, "B F J 3"] | None = None
    motion: Float[Array, "B M H W C"] | None = None
    present: Mapping[str, Bool[Array, "B"]] = field(default_factory=dict)

    def given(self) -> frozenset[str]:
        """Names of the conditions that at least could be there."""
        return frozenset(name for name in NAMES if getattr(self, name) is not None)

    def without(self, names: Iterable[str]) -> "Conditions":
        """The same with some conditions dropped for every clip: null, as the model trained with."""
        names = tuple(names)
        _check(names)
        kept = {name: mask for name, mask in self.present.items() if name not in names}
        return dataclasses.replace(self, present=kept, **dict.fromkeys(names))

    def keep(self, name: str, clips: Bool[Array, "B"]) -> "Conditions":
        """The same with condition `name` dropped for the clips where `clips` is False."""
        _check((name,))
        if getattr(self, name) is None:
            return self
        before = self.present.get(name)
        mask = clips if before is None else before & clips
        return dataclasses.replace(self, present={**self.present, name: mask})

    def mask(self, name: str, value: jax.Array, null: jax.Array) -> jax.Array:
        """`value` for clips that have condition `name`, `null` (broadcast against it) for the others."""
        mask = self.present.get(name)
        if mask is None:
            return value
        return jnp.where(mask.reshape(-1, *[1] * (value.ndim - 1)), value, null)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """What a training step reads: clips of one grid, and what may steer them.

    Attributes:
        latents: of the clips, normalised by the VAE's statistics.
        conditions: with `present` for every condition; motion is cut from `latents` by the step.
        sample: a number a clip, from its id and the epoch it is read in: randomness is a function of
            (seed, step, sample), never of the place in the batch.
    """

    latents: Float[Array, "B T H W C"]
    conditions: Conditions
    sample: UInt32[Array, "B"]


NAMES = (*STRENGTH, "motion")


def _check(names: Iterable[str]) -> None:
    for name in names:
        if name not in NAMES:
            raise KeyError(f"No condition is called {name!r}; there are {', '.join(NAMES)}.")
