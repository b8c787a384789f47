"""The only place that distils by discrete consistency: neighbours on the teacher's path jump to one place.

Song et al. (arXiv 2303.01469), algorithm 2, on rectified flow. Seaweed-APT (arXiv 2501.08316, section 3.1)
starts from such a student and tells guidance only; the rest is its successor's (AAPT, arXiv 2506.09350;
research/papers.md 3.4).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.diffusion import flow
from omnihuman_jax.errors import InputError
from omnihuman_jax.training import parts
from omnihuman_jax.training.distill.student import (
    STUDENT,
    TEACHER,
    Distillation,
    Given,
    mean,
)
from omnihuman_jax.training.stages import OmniStage
from omnihuman_jax.training.task import Tallies, Turn, tally
from omnihuman_jax.training.transformer import drawn, given, learned

BINS = 4  # of noise level, for reports


@dataclass(frozen=True, kw_only=True)
class Consistency(Distillation):
    """f(x_t, t) = x_t - t v(x_t, t) is drawn to f(x_s, s), where the teacher steps from x_t to x_s (Euler).

    Attributes:
        levels: steps between noise and data: 32 in AAPT.
        level_shift: of the levels, even before, towards noise: 24 in AAPT, for 5 s of 736x416 and longer.
            Short small clips need less (`diffusion.flow.shift_for`).
        target: whose f(x_s, s): the student's as it is ("student": AAPT, "no EMA"), or its moving
            average's ("average": Song et al.).
    """

    levels: int = 32
    level_shift: float = 24.0
    target: Literal["student", "average"] = "student"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels < 1:
            raise InputError(f"Consistency needs at least 1 level, got levels={self.levels}.")

    def roles(self) -> tuple[str, ...]:
        return STUDENT, TEACHER

    def turns(self, stage: OmniStage) -> Sequence[Turn]:
        loss = functools.partial(self.loss, stage)
        return (Turn(loss, part=STUDENT, average=self.target == "average"),)

    def grid(self) -> Float[np.ndarray, "times"]:
        """Flow times from 1 down to 0."""
        return flow.shift(np.linspace(1.0, 0.0, self.levels + 1), self.level_shift)

    def loss(
        self, stage: OmniStage, params: Given, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """Squared distance of the two jumps' ends, a mean over clips."""
        x0 = batch.latents.astype(jnp.float32)
        draw, choose = jax.random.split(key)
        conditions, shown = given(batch, stage.ratios, choose)
        number, noise = drawn(
            draw, batch.sample, lambda k: jax.random.randint(k, (), 0, self.levels), x0.shape[1:]
        )
        times = jnp.asarray(self.grid(), jnp.float32)
        t, s = times[number], times[number + 1]
        x = flow.interpolate(x0, noise, t)
        taught = self.teach(params, conditions, x, t)
        return self.between(params, conditions, shown, x, taught, t, s)

    def between(
        self,
        params: Given,
        conditions: Conditions,
        shown: Bool[Array, "B"],
        x: Float[Array, "B T H W C"],
        taught: Float[Array, "B T H W C"],
        t: Float[Array, "B"],
        s: Float[Array, "B"],
    ) -> tuple[Float[Array, ""], Tallies]:
        """The loss between times t and s, where the teacher's velocity at x_t is `taught`."""
        own = parts.own(STUDENT, params)
        student = self.rebuilt(STUDENT, params)
        still = parts.own(parts.AVERAGE, params)
        still = parts.own(STUDENT, still) if self.target == "average" else own
        target = self.rebuilt(STUDENT, parts.under(STUDENT, jax.lax.stop_gradient(still)))
        nearer = x + (s - t)[:, None, None, None, None] * taught
        end = flow.data_from(nearer, self.velocity(target, conditions, nearer, s), s)
        start = flow.data_from(x, self.velocity(student, conditions, x, t), t)
        error = (start - jax.lax.stop_gradient(end)) ** 2
        values = mean(error, learned(shown, x.shape[1]))
        found = {"ratio/motion": tally(shown.astype(jnp.float32))}
        level = jnp.minimum((t * BINS).astype(jnp.int32), BINS - 1)
        for i in range(BINS):
            found[f"loss/time/{i / BINS:.2f}-{(i + 1) / BINS:.2f}"] = tally(values, level == i)
        return jnp.mean(values), found
