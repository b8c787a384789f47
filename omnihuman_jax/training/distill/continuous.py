"""The only place that distils by continuous-time consistency, with the derivative along the path (sCM, rCM).

Lu and Song (arXiv 2410.11081, section 4), Zheng et al. (arXiv 2510.08431; research/papers.md 3.6). TrigFlow
runs on the circle, x = cos(a) x0 + sin(a) noise, with a from 0 (data) to pi / 2; on rectified flow that is
the point x / (cos a + sin a) at t = sin a / (cos a + sin a).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from omnihuman_jax.attention import forward_mode
from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.errors import InputError
from omnihuman_jax.training import parts
from omnihuman_jax.training.distill.matching import Matching
from omnihuman_jax.training.distill.student import FAKE, STUDENT, TEACHER, Given, Network, mean
from omnihuman_jax.training.stages import OmniStage
from omnihuman_jax.training.task import Tallies, Turn, tally
from omnihuman_jax.training.transformer import drawn, given, learned

Latents = Float[Array, "B T H W C"]


@dataclass(frozen=True, kw_only=True)
class Continuous(Matching):
    """sCM, and a little distribution matching beside it (rCM: lambda = 0.01 of its loss).

    Attributes:
        mean, deviation: of log tan(a) when times are drawn: 0.7 and 1.6 for Wan 1.3B, 1.5 and 1.6 for 14B.
        warmup: updates in which the tangent comes in (1000 and 200 there).
        constant: c in g / (|g| + c).
        scale: weight of the sCM loss, against `matching`: 100 to 1 in rCM's repository. Both are sums over a
            clip, so the balance shifts with its size, as it does there.
        matching: weight of the distribution matching; 0 for none, without a fake network.
    """

    mean: float = 0.7
    deviation: float = 1.6
    warmup: int = 1000
    constant: float = 0.1
    scale: float = 100.0
    matching: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup < 0 or self.matching < 0 or not self.deviation > 0 or self.gan:
            raise InputError(
                f"Continuous consistency needs warmup and matching of at least 0, a positive deviation and "
                f"no gan; got warmup={self.warmup} matching={self.matching:g} "
                f"deviation={self.deviation:g} gan={self.gan:g}."
            )

    def roles(self) -> tuple[str, ...]:
        return (STUDENT, FAKE, TEACHER) if self.matching else (STUDENT, TEACHER)

    def turns(self, stage: OmniStage) -> Sequence[Turn]:
        student = Turn(functools.partial(self.consist, stage), part=STUDENT, count=True)
        if not self.matching:
            return (student,)
        fake = Turn(functools.partial(self.follow, stage), part=FAKE, times=self.fake_updates)
        return fake, student

    def consist(
        self, stage: OmniStage, params: Given, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """The student's loss."""
        x0 = batch.latents.astype(jnp.float32)
        draw, choose, match = jax.random.split(key, 3)
        conditions, shown = given(batch, stage.ratios, choose)
        angle, noise = drawn(draw, batch.sample, self._angle, x0.shape[1:])
        weight = learned(shown, x0.shape[1])
        x = beside(jnp.cos(angle)) * x0 + beside(jnp.sin(angle)) * noise
        at = flow_point(x, angle)
        taught = circular(x, angle, self.teach(params, conditions, *at))
        warm = jnp.minimum(1.0, params[parts.COUNT] / max(1, self.warmup))
        own = parts.own(STUDENT, params)
        still = parts.under(STUDENT, jax.lax.stop_gradient(own))
        now, change = self.tangent(self.rebuilt(STUDENT, still), conditions, x, angle, taught)
        g = direction(x, angle, now, change, taught, warm, weight, self.constant)
        said = self.velocity(self.rebuilt(STUDENT, params), conditions, *at)
        student = circular(x, angle, said)
        size = math.prod(x.shape[1:])
        values = size * mean((student - jax.lax.stop_gradient(now + g)) ** 2, weight)
        good = jnp.isfinite(values)  # rCM leaves out samples that are not
        value = jnp.sum(jnp.where(good, values, 0.0)) / jnp.maximum(1, jnp.sum(good))
        told = {"consistency": tally(values, good)}
        loss = self.scale * value
        if self.matching:
            step, rest = self.match(stage, params, batch, match)
            told |= {"matching": tally(step[None]), **rest}
            loss += self.matching * size * step
        return loss, told

    def tangent(
        self,
        student: Network,
        conditions: Conditions,
        x: Latents,
        angle: Float[Array, "B"],
        taught: Latents,
    ) -> tuple[Latents, Latents]:
        """F at (x, a), and cos a sin a times its derivative along the teacher's path. No gradients."""
        along = jnp.cos(angle) * jnp.sin(angle)

        def output(x: Latents, angle: Float[Array, "B"]) -> Latents:
            return circular(x, angle, self.velocity(student, conditions, *flow_point(x, angle)))

        with forward_mode():
            now, change = jax.jvp(output, (x, angle), (beside(along) * taught, along))
        return jax.lax.stop_gradient((now, change))

    def _angle(self, key: PRNGKeyArray) -> Float[Array, ""]:
        return jnp.arctan(jnp.exp(self.mean + self.deviation * jax.random.normal(key, ())))


def beside(a: Float[Array, "B"]) -> Float[Array, "B 1 1 1 1"]:
    """One number a clip, to multiply clips with."""
    return a[:, None, None, None, None]


def flow_point(x: Latents, angle: Float[Array, "B"]) -> tuple[Latents, Float[Array, "B"]]:
    """Where the point x at an angle of the circle lies on rectified flow, and its flow time."""
    both = jnp.cos(angle) + jnp.sin(angle)
    return x / beside(both), jnp.sin(angle) / both


def circular(x: Latents, angle: Float[Array, "B"], v: Latents) -> Latents:
    """F = dx/da of TrigFlow at (x, a) from rectified flow's velocity there.

    From x0 = cos(a) x - sin(a) F and x0 = x' - t v: F = ((cos a - sin a) x + v) / (cos a + sin a).
    """
    cos, sin = beside(jnp.cos(angle)), beside(jnp.sin(angle))
    return ((cos - sin) * x + v) / (cos + sin)


def direction(
    x: Latents,
    angle: Float[Array, "B"],
    now: Latents,
    change: Latents,
    taught: Latents,
    warm: Float[Array, ""],
    weight: Float[Array, "B T 1 1 1"],
    constant: float,
) -> Latents:
    """g of sCM, algorithm 1, as long as one (its terms written so that nothing is infinite).

    g = -cos(a) sqrt(1 - r^2 sin(a)^2) (F - F_teacher) - r (cos a sin a x + cos a sin a dF/da)
    """
    cos, sin = beside(jnp.cos(angle)), beside(jnp.sin(angle))
    g = -cos * jnp.sqrt(1 - (warm * sin) ** 2) * (now - taught)
    g = g - warm * (cos * sin * x + change)
    length = jnp.sqrt(math.prod(x.shape[1:]) * mean(g**2, weight))
    return g / (beside(length) + constant)
