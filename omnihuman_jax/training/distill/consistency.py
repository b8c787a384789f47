"""The only place that distils by discrete consistency: neighbours on the teacher's path jump to one place.

Song et al. (arXiv 2303.01469), algorithm 2, on rectified flow. Seaweed-APT (arXiv 2501.08316, section 3.1)
starts from such a student and tells guidance only; the rest is its successor's (AAPT, arXiv 2506.09350;
research/papers.md 3.4).
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from omnihuman_jax import mesh as meshes
from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.diffusion import flow
from omnihuman_jax.errors import InputError
from omnihuman_jax.training import parts
from omnihuman_jax.training.distill import dumping
from omnihuman_jax.training.distill.student import (
    NEGATIVE,
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
        taught: batches of each stage that the teacher makes ahead, once, and that are then learned from again
            and again without it (dumping.py); 0: it teaches every update as it comes.
        dump: where they are; None for the folder "dump" of the phase.
    """

    levels: int = 32
    level_shift: float = 24.0
    target: Literal["student", "average"] = "student"
    taught: int = 0
    dump: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels < 1 or self.taught < 0:
            raise InputError(
                f"Consistency needs at least 1 level and taught of at least 0, got levels={self.levels} "
                f"taught={self.taught}."
            )

    def roles(self) -> tuple[str, ...]:
        return (STUDENT,) if self.taught else (STUDENT, TEACHER)

    def stream(self, seed: int, stage: OmniStage) -> Any:
        if not self.taught:
            return super().stream(seed, stage)
        if self.dump is None:
            raise InputError("There is no dump to be taught from; `omnihuman distill` makes one.")
        return dumping.stream(self.dump, seed, stage)

    def dump_lessons(
        self,
        stages: Sequence[OmniStage],
        mesh: Mesh,
        seed: int,
        dump: str,
        say: Callable[[str], None],
    ) -> None:
        """Make the teacher's dump of every stage, from where it was left; needs the mesh to be set.

        Raises:
            InputError: as `dumping.make`.
        """
        teacher = dataclasses.replace(self, taught=0)
        params = parts.others(STUDENT, teacher.initial(mesh, seed, only=(TEACHER,)))
        negative = params.get(NEGATIVE)
        absent = np.zeros((0, self.sizes().text_width), np.float32)
        for number, stage in enumerate(stages):
            lesson = jax.jit(functools.partial(teacher.lesson, stage))

            def lessons(
                first: int, stage: OmniStage = stage, lesson: Any = lesson, number: int = number
            ) -> Iterator[dumping.Lesson]:
                batches = teacher.stream(seed, stage)
                batches.set_state({**batches.get_state(), "batches": first})
                key = jax.random.fold_in(jax.random.key(seed), number)
                with contextlib.closing(batches):
                    for n in itertools.count(first):
                        batch = meshes.rows(next(batches), mesh)
                        yield lesson(params, batch, jax.random.fold_in(key, n))

            dumping.make(
                dumping.folder_of(dump, stage),
                lessons,
                self.taught,
                channels=self.sizes().channels,
                negative=absent if negative is None else np.asarray(negative),
                times=self.grid(),
                guidance=self.guidance,
                settings={
                    "batch": stage.batch,
                    "seed": seed,
                    "model": self.model,
                    "levels": self.levels,
                    "level_shift": self.level_shift,
                    "audio_guidance": self.audio_guidance,
                },
                say=say,
            )

    def turns(self, stage: OmniStage) -> Sequence[Turn]:
        loss: Any = self.learn if self.taught else functools.partial(self.loss, stage)
        return (Turn(loss, part=STUDENT, average=self.target == "average"),)

    def grid(self) -> Float[np.ndarray, "times"]:
        """Flow times from 1 down to 0."""
        return flow.shift(np.linspace(1.0, 0.0, self.levels + 1), self.level_shift)

    def loss(
        self, stage: OmniStage, params: Given, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """Squared distance of the two jumps' ends, a mean over clips."""
        lesson = self.lesson(stage, params, batch, key)
        return self.learn(params, lesson, key)

    def lesson(
        self, stage: OmniStage, params: Given, batch: Batch, key: PRNGKeyArray
    ) -> dumping.Lesson:
        """What the teacher says of a batch: of each clip at one level, under the conditions it is given."""
        x0 = batch.latents.astype(jnp.float32)
        draw, choose = jax.random.split(key)
        conditions, shown = given(batch, stage.ratios, choose)
        number, noise = drawn(
            draw, batch.sample, lambda k: jax.random.randint(k, (), 0, self.levels), x0.shape[1:]
        )
        x = flow.interpolate(x0, noise, self._at(number))
        taught = self.teach(params, conditions, x, self._at(number))
        return dumping.Lesson(
            batch=Batch(latents=x0, conditions=conditions, sample=batch.sample),
            shown=shown,
            level=number,
            x=x,
            velocity=taught,
        )

    def learn(
        self, params: Given, lesson: dumping.Lesson, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """The loss of a lesson, in which nothing is drawn any more."""
        t, s = self._at(lesson.level), self._at(lesson.level + 1)
        given = lesson.batch.conditions
        return self.between(params, given, lesson.shown, lesson.x, lesson.velocity, t, s)

    def _at(self, level: Int[Array, "B"]) -> Float[Array, "B"]:
        return jnp.asarray(self.grid(), jnp.float32)[level]

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
