"""The only place that knows adversarial post-training: a one-step generator against a discriminator.

Seaweed-APT (arXiv 2501.08316, section 3; research/papers.md 3.1).
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.diffusion import flow
from omnihuman_jax.errors import InputError
from omnihuman_jax.training.distill.consistency import Consistency
from omnihuman_jax.training.distill.student import (
    CRITIC,
    STUDENT,
    TEACHER,
    Distillation,
    Given,
    Network,
    diversity,
)
from omnihuman_jax.training.stages import OmniStage
from omnihuman_jax.training.task import Tallies, Turn, tally
from omnihuman_jax.training.transformer import drawn, given


@dataclass(frozen=True, kw_only=True)
class Critique:
    """How the discriminator is taught and asked. Section 3.3; the defaults are those for video.

    Attributes:
        shift: of the times t, drawn evenly in [0, 1], at which it looks, one a sample: 12 for videos, 1 for
            images (eq. 7). At t = 0 alone the generator collapses.
        r1: weight of the approximated R1, (D(x) - D(x + sigma n))^2 (eq. 8 to 10).
        sigma: standard deviation of that noise: 0.1 for videos, 0.01 for images. (The paper writes
            N(x, sigma I); public code takes sigma for the deviation, as we do.)
        mismatched: weight of real clips with another clip's sound, which the discriminator has to tell from
            those with their own (Reed et al., arXiv 1605.05396, section 4.1). 0 in the paper.
    """

    shift: float = 12.0
    r1: float = 100.0
    sigma: float = 0.1
    mismatched: float = 0.0

    def __post_init__(self) -> None:
        if not self.shift > 0 or min(self.r1, self.sigma, self.mismatched) < 0:
            raise InputError(
                "A discriminator needs a positive shift, and r1, sigma and mismatched of at least 0; got "
                f"shift={self.shift:g} r1={self.r1:g} sigma={self.sigma:g} "
                f"mismatched={self.mismatched:g}."
            )

    def loss(
        self,
        critic: Network,
        conditions: Conditions,
        real: Float[Array, "B T H W C"],
        made: Float[Array, "B T H W C"],
        key: PRNGKeyArray,
        sample: Array,
    ) -> tuple[Float[Array, ""], Tallies]:
        """softplus(-D(x)) + softplus(D(G)) + r1 (D(x) - D(x + sigma n))^2, a mean (eq. 1, 2, 9)."""
        t, noise = self._look(key, sample, real.shape[1:])
        of_real = _said(critic, conditions, real, t)
        of_made = _said(critic, conditions, made, t)
        beside = _said(critic, conditions, real + self.sigma * noise, t)
        r1 = (of_real - beside) ** 2
        wrong = jax.nn.softplus(of_made)
        told = {
            "critic/real": tally(of_real),
            "critic/made": tally(of_made),
            "critic/right": tally(0.5 * ((of_real > 0).astype(jnp.float32) + (of_made < 0))),
            "critic/r1": tally(r1),
        }
        if self.mismatched and conditions.audio is not None and real.shape[0] > 1:
            other, has = _with_other_sound(conditions)
            of_other = _said(critic, other, real, t)
            wrong += self.mismatched * jnp.where(has, jax.nn.softplus(of_other), 0.0)
            told["critic/mismatched"] = tally(of_other, has)
        main = jax.nn.softplus(-of_real) + wrong
        told["critic/adversarial"] = tally(jax.nn.softplus(-of_real) + jax.nn.softplus(of_made))
        return jnp.mean(main + self.r1 * r1), told

    def wish(
        self,
        critic: Network,
        conditions: Conditions,
        made: Float[Array, "B T H W C"],
        key: PRNGKeyArray,
        sample: Array,
    ) -> Float[Array, "B"]:
        """What the generator wants small: softplus(-D(G)) (eq. 2)."""
        t, _ = self._look(key, sample, ())
        return jax.nn.softplus(-_said(critic, conditions, made, t))

    def _look(
        self, key: PRNGKeyArray, sample: Array, shape: tuple[int, ...]
    ) -> tuple[Float[Array, "B"], Array]:
        """At which time each sample is looked at, and noise of that shape."""
        return drawn(key, sample, lambda k: flow.Uniform(shift=self.shift)(k, ()), shape)


@dataclass(frozen=True, kw_only=True)
class Adversarial(Distillation):
    """Discriminator and generator in turn, both starting from diffusion weights.

    The generator starts where `student` says (a consistency student, then the average of the image phase),
    the discriminator from the teacher's weights, anew in every phase.

    Attributes:
        critic_updates: of the discriminator for each of the generator's; 1 in the paper.
        keep: weight of the consistency loss beside the adversarial one, which keeps what the student knows
            of its conditions where batches are small; 0 in the paper. The teacher is then in memory too.
        levels, level_shift: of that loss (`Consistency`).
    """

    critique: Critique = field(default_factory=Critique)
    critic_updates: int = 1
    keep: float = 0.0
    levels: int = 32
    level_shift: float = 24.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic_updates < 1 or self.keep < 0:
            raise InputError(
                "A discriminator needs at least 1 update for each of the generator's, and keep is 0 or "
                f"more; got critic_updates={self.critic_updates} keep={self.keep:g}."
            )

    def roles(self) -> tuple[str, ...]:
        return (STUDENT, CRITIC, TEACHER) if self.keep else (STUDENT, CRITIC)

    def turns(self, stage: OmniStage) -> Sequence[Turn]:
        return (
            Turn(functools.partial(self.criticise, stage), part=CRITIC, times=self.critic_updates),
            Turn(functools.partial(self.please, stage), part=STUDENT),
        )

    def criticise(
        self, stage: OmniStage, params: Given, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """The discriminator's loss."""
        conditions, made, of_look = self._made(stage, params, batch, key)
        return self.critique.loss(
            self.rebuilt(CRITIC, params),
            conditions,
            batch.latents.astype(jnp.float32),
            jax.lax.stop_gradient(made),
            of_look,
            batch.sample,
        )

    def please(
        self, stage: OmniStage, params: Given, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """The generator's loss."""
        conditions, made, of_look = self._made(stage, params, batch, key)
        values = self.critique.wish(
            self.rebuilt(CRITIC, params), conditions, made, of_look, batch.sample
        )
        real = batch.latents.astype(jnp.float32)
        told = {
            "adversarial": tally(values),
            "diversity": diversity(made, real),
        }
        loss = jnp.mean(values)
        if self.keep:
            kept, _ = self._consistency().loss(stage, params, batch, jax.random.fold_in(key, 1))
            told["consistency"] = tally(kept[None])
            loss += self.keep * kept
        return loss, told

    def _made(
        self, stage: OmniStage, params: Given, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Conditions, Float[Array, "B T H W C"], PRNGKeyArray]:
        """Conditions, what the student makes under them, and a key to look at it."""
        choose, draw, again, look = jax.random.split(key, 4)
        conditions, _ = given(batch, stage.ratios, choose)
        _, noise = drawn(draw, batch.sample, lambda k: jnp.zeros(()), batch.latents.shape[1:])
        student = self.rebuilt(STUDENT, params)
        return conditions, self.made(student, conditions, noise, again, batch.sample), look

    def _consistency(self) -> Consistency:
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(Distillation)}
        return Consistency(**own, levels=self.levels, level_shift=self.level_shift)


def _said(
    critic: Network, conditions: Conditions, x: Float[Array, "B T H W C"], t: Float[Array, "B"]
) -> Float[Array, "B"]:
    """The logits of clips under conditions.

    A discriminator is asked three times in one loss. Where it recomputes at all, each answer is recomputed
    on its own in the backward pass, so that what one pass holds is all that is held.
    """
    clips, _, height, width, _ = x.shape

    def ask(critic: Network, conditions: Conditions, x: Array, t: Array) -> Array:
        return critic(x, t, critic.embed(conditions, clips, height, width))

    if getattr(critic, "remat", "none") == "none":
        return ask(critic, conditions, x, t)
    return nnx.remat(ask)(critic, conditions, x, t)


def _with_other_sound(conditions: Conditions) -> tuple[Conditions, Array]:
    """Every clip with the sound of the one before it, and which clips have both their own and that one."""
    sound = conditions.audio
    assert sound is not None
    has = conditions.present.get("audio")
    if has is None:
        has = jnp.ones((sound.shape[0],), bool)
    other = dataclasses.replace(conditions, audio=jnp.roll(sound, 1, axis=0))
    return other.keep("audio", jnp.roll(has, 1)), has & jnp.roll(has, 1)
