"""The only place that distils by matching distributions: DMD2, the baseline of few-step distillation.

Yin et al. (arXiv 2311.18828, eq. 7 and 8; arXiv 2405.14867; research/papers.md 3.6 and 3.7). A second
network, `fake`, learns the velocity of what the student makes; where it and the teacher disagree the student
has to go.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.diffusion import flow
from omnihuman_jax.errors import InputError
from omnihuman_jax.training.distill.adversarial import Critique
from omnihuman_jax.training.distill.student import (
    CRITIC,
    FAKE,
    STUDENT,
    TEACHER,
    Distillation,
    Given,
    diversity,
    mean,
)
from omnihuman_jax.training.stages import OmniStage
from omnihuman_jax.training.task import Tallies, Turn, tally
from omnihuman_jax.training.transformer import drawn, given, learned


@dataclass(frozen=True, kw_only=True)
class Matching(Distillation):
    """The student's distribution is drawn to the teacher's: the gradient of their reverse KL divergence.

    Attributes:
        fake_updates: of the fake network for each of the student's (DMD2, section 4.2: 5).
        time_shift: of the times at which the two are compared, even before: 5 in rCM's repository for Wan.
        gan: weight of an adversarial term beside it (DMD2, section 4.3); 0 for none. The discriminator is
            Seaweed-APT's.
    """

    fake_updates: int = 5
    time_shift: float = 5.0
    gan: float = 0.0
    critique: Critique = field(default_factory=Critique)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fake_updates < 1 or self.gan < 0:
            raise InputError(
                f"The fake network needs at least 1 update, and gan is 0 or more; got "
                f"fake_updates={self.fake_updates} gan={self.gan:g}."
            )

    def roles(self) -> tuple[str, ...]:
        return (STUDENT, FAKE, CRITIC, TEACHER) if self.gan else (STUDENT, FAKE, TEACHER)

    def turns(self, stage: OmniStage) -> Sequence[Turn]:
        fake = Turn(functools.partial(self.follow, stage), part=FAKE, times=self.fake_updates)
        student = Turn(functools.partial(self.match, stage), part=STUDENT)
        if not self.gan:
            return fake, student
        return fake, Turn(functools.partial(self.criticise, stage), part=CRITIC), student

    def follow(
        self, stage: OmniStage, params: Given, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """The fake network's loss: flow matching on what the student makes."""
        conditions, weight, made, key = self._made(stage, params, batch, key)
        made = jax.lax.stop_gradient(made)
        t, noise = self._noised(key, batch.sample, made)
        x = flow.interpolate(made, noise, t)
        said = self.velocity(self.rebuilt(FAKE, params), conditions, x, t)
        return jnp.mean(mean((said - flow.target(made, noise)) ** 2, weight)), {}

    def match(
        self, stage: OmniStage, params: Given, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """The student's loss, whose gradient is that of the divergence, and the adversarial term's."""
        conditions, weight, made, key = self._made(stage, params, batch, key)
        compare, look = jax.random.split(key)
        value = self.divergence(params, conditions, weight, made, compare, batch.sample)
        told = {"diversity": diversity(made, batch.latents.astype(jnp.float32))}
        if self.gan:
            critic = self.rebuilt(CRITIC, params)
            wish = self.critique.wish(critic, conditions, made, look, batch.sample)
            told["adversarial"] = tally(wish)
            value += self.gan * jnp.mean(wish)
        return value, told

    def criticise(
        self, stage: OmniStage, params: Given, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """The discriminator's loss."""
        conditions, _, made, key = self._made(stage, params, batch, key)
        real, made = batch.latents.astype(jnp.float32), jax.lax.stop_gradient(made)
        critic = self.rebuilt(CRITIC, params)
        return self.critique.loss(critic, conditions, real, made, key, batch.sample)

    def divergence(
        self,
        params: Given,
        conditions: Conditions,
        weight: Float[Array, "B T 1 1 1"],
        made: Float[Array, "B T H W C"],
        key: PRNGKeyArray,
        sample: UInt32[Array, "B"],
    ) -> Float[Array, ""]:
        """Half the squared distance to where fake and teacher point, a constant (DMD, eq. 7 and 8)."""
        still = jax.lax.stop_gradient(made)
        t, noise = self._noised(key, sample, still)
        x = flow.interpolate(still, noise, t)
        real = flow.data_from(x, self.teach(params, conditions, x, t), t)
        said = self.velocity(self.rebuilt(FAKE, params), conditions, x, t)
        fake = jax.lax.stop_gradient(flow.data_from(x, said, t))
        size = mean(jnp.abs(still - real), weight)[:, None, None, None, None]
        aim = still - (fake - real) / jnp.maximum(size, 1e-6)
        return 0.5 * jnp.mean(mean((made - aim) ** 2, weight))

    def _made(
        self, stage: OmniStage, params: Given, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Conditions, Float[Array, "B T 1 1 1"], Float[Array, "B T H W C"], PRNGKeyArray]:
        """Conditions, what of a clip counts, what the student makes, and a key for the rest."""
        choose, draw, again, rest = jax.random.split(key, 4)
        conditions, shown = given(batch, stage.ratios, choose)
        _, noise = drawn(draw, batch.sample, lambda k: jnp.zeros(()), batch.latents.shape[1:])
        student = self.rebuilt(STUDENT, params)
        made = self.made(student, conditions, noise, again, batch.sample)
        return conditions, learned(shown, made.shape[1]), made, rest

    def _noised(
        self, key: PRNGKeyArray, sample: UInt32[Array, "B"], made: Float[Array, "B T H W C"]
    ) -> tuple[Float[Array, "B"], Float[Array, "B T H W C"]]:
        """Times and noise at which what was made is looked at."""
        times = flow.Uniform(shift=self.time_shift)
        return drawn(key, sample, lambda k: times(k, ()), made.shape[1:])
