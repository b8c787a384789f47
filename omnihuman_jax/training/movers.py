"""The only place that knows what moves a part of the parameters: its optimizer, and when it is its turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax

from omnihuman_jax.training import optimizers, parts, stages
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.stages import Stage
from omnihuman_jax.training.step import check_unused
from omnihuman_jax.training.task import Trainee, cycle


@dataclass(frozen=True)
class Mover:
    """The optimizer of a part in a run.

    Attributes:
        shapes: what it moves, by the names in the part's own network.
        opt_shapes: shape, dtype and place of its state.
        counts: updates of the part before each stage, and of all stages; with the stages' cycles of turns.
    """

    part: str
    optimizer: Optimizer
    shapes: dict[str, jax.ShapeDtypeStruct]
    transform: optax.GradientTransformation
    opt_shapes: Any
    _stages: tuple[tuple[int, tuple[bool, ...]], ...]  # updates, and whose turn in a cycle is ours

    @classmethod
    def of(
        cls, part: str, optimizer: Optimizer, trainee: Trainee, through: Sequence[Stage]
    ) -> "Mover":
        """The mover of a part of what a trainee trains.

        Raises:
            InputError: a pattern of the optimizer fits no parameter, or nothing is trained.
        """
        trains = trainee.trains
        shapes, frozen = optimizers.split(
            optimizer,
            parts.own(part, trainee.shapes),
            None if trains is None else lambda path: trains(*parts.under(part, {path: None})),
        )
        check_unused(frozen, shapes)
        taken = tuple(
            (stage.steps, tuple(turn.part == part for turn in cycle(trainee.losses[stage.name])))
            for stage in through
        )
        transform = optimizer.make(shapes, max(1, _count(taken, stages.total(through))))
        opt_shapes = optimizers.state_shapes(transform, shapes)
        return cls(part, optimizer, shapes, transform, opt_shapes, taken)

    def learning_rate(self, step: int) -> float:
        """That of the part's last update up to update `step` of the run, counted from 1."""
        last = max(0, _count(self._stages, step) - 1)
        total = _count(self._stages, sum(steps for steps, _ in self._stages))
        return self.optimizer.learning_rate_at(last, max(1, total))


def _count(taken: Sequence[tuple[int, tuple[bool, ...]]], steps: int) -> int:
    """How many of the first `steps` updates are the part's."""
    count = 0
    for length, ours in taken:
        here = min(steps, length)
        whole, rest = divmod(here, len(ours))
        count += whole * sum(ours) + sum(ours[:rest])
        steps -= here
    return count
