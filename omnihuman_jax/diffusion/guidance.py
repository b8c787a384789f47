"""Classifier-free guidance: which conditions to drop in which network calls, and how to mix the answers.

Text and audio are guided, the other conditions are in every call (OmniHuman-1, section 3.4). They
are added one after the other, the weaker first, each with its own scale:

    v = v(none) + s_text (v(text) - v(none)) + s_audio (v(text, audio) - v(text))
      = (1 - s_text) v(none) + (s_text - s_audio) v(text) + s_audio v(text, audio)

This is HuMo's form (arXiv 2509.08519); MultiTalk's adds audio before text. A call whose weight is 0
is not made: equal scales are joint guidance in two calls, a text scale of 1 needs two, all 1 one.
Scales may change over the steps ("CFG annealing": high scales wrinkle faces, low ones lose the lips).
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from omnihuman_jax.errors import InputError

# Guidance scale at a progress of 0 (the first step) to 1 (the last). Any function of one's own will do.
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Constant:
    """The same scale at every step."""

    scale: float

    def __call__(self, progress: float) -> float:
        return self.scale


@dataclass(frozen=True)
class Linear:
    """From `start` at the first step to `end` at the last, evenly."""

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class Cosine:
    """From `start` to `end` along half a cosine: slow at both ends."""

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * (1 - math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Plan:
    """Network calls of a whole sampling run.

    Attributes:
        passes: for each velocity that is mixed, the names of the conditions it leaves out.
        weights: how they are mixed, a row each time the sampler asks (`samplers.Calls`).
    """

    passes: tuple[frozenset[str], ...]
    weights: Float32[np.ndarray, "calls passes"]

    @property
    def evaluations(self) -> int:
        """Velocities in all; one whose weight is 0 is not asked for."""
        return int(np.count_nonzero(self.weights))

    def stretches(self) -> Iterator[tuple[slice, "Plan"]]:
        """Neighbouring rows that need the same passes, and the smaller plan of each such stretch.

        With a guidance interval, what is outside it takes one pass instead of two or three.
        """
        needed = self.weights != 0
        stop = 0
        for row, same in groupby(needed.tolist()):
            start, stop = stop, stop + len(list(same))
            keep = np.flatnonzero(row)
            passes = tuple(self.passes[k] for k in keep)
            yield slice(start, stop), Plan(passes, self.weights[start:stop, keep])

    def velocity(
        self, network: Callable[[frozenset[str], Array, Array], Array]
    ) -> Callable[..., Array]:
        """What a sampler calls: `velocity(x, t, weights)` with a row of `weights`.

        `network(dropped, x, t)` is the velocity with the conditions named in `dropped` left out.
        """

        def guided(
            x: Float[Array, "*S"], t: Float[Array, ""], weights: Float[Array | np.ndarray, "passes"]
        ) -> Float32[Array, "*S"]:
            return mix([network(dropped, x, t) for dropped in self.passes], weights)

        return guided


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Scales of text and audio guidance, and the times between which there is any.

    The default, 6.5 for both together, is that of OmniHuman-1's later version; Wan2.1 guides text
    with 5, MultiTalk text with 5 and audio with 4. A scale of 1 is no guidance.

    Attributes:
        interval: lowest and highest flow time t with guidance; outside all scales are 1
            (Kynkäänniemi et al., arXiv 2404.07724).
    """

    text: Scale = Constant(6.5)
    audio: Scale = Constant(6.5)
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise InputError(
                f"A guidance interval is two flow times with 0 <= low <= high <= 1, got {self.interval}."
            )

    def plan(
        self,
        active: Collection[str],
        times: Float[np.ndarray, "calls"],
        progress: Float[np.ndarray, "calls"],
    ) -> Plan:
        """The passes and weights for a run in which the conditions `active` are given.

        Args:
            active: names of conditions; all but "text" and "audio" are in every pass.
            times: flow time at each call of the sampler (`samplers.Calls.time`).
            progress: 0 at the first step, 1 at the last (`samplers.Calls.progress`).

        Raises:
            InputError: a scale is not a finite number.
        """
        guided = [name for name in ("text", "audio") if name in active]
        scales = np.ones((len(times), len(guided) + 2))  # a column for "no condition": 1
        scales[:, -1] = 0
        low, high = self.interval[0] - 1e-6, self.interval[1] + 1e-6  # times are float32
        for row, t, done in zip(scales, times, progress, strict=True):
            if low <= t <= high:
                row[1:-1] = [self._scale(name, float(done)) for name in guided]
        weights = scales[:, :-1] - scales[:, 1:]
        # Pass k adds the first k names, so it drops the rest.
        passes = [frozenset(guided[k:]) for k in range(len(guided) + 1)]
        used = np.flatnonzero(weights.any(axis=0))
        return Plan(tuple(passes[k] for k in used), weights[:, used].astype(np.float32))

    def _scale(self, name: str, progress: float) -> float:
        scale = float(getattr(self, name)(progress))
        if not math.isfinite(scale):
            raise InputError(f"The {name} guidance scale must be a finite number, got {scale}.")
        return scale


def mix(
    velocities: Sequence[Float[Array, "*S"]], weights: Float[Array | np.ndarray, "passes"]
) -> Float32[Array, "*S"]:
    """The sum of `velocities`, each by its weight, in float32."""
    weights = jnp.asarray(weights, jnp.float32)
    first, *others = (weights[k] * v.astype(jnp.float32) for k, v in enumerate(velocities))
    return sum(others, start=first)
