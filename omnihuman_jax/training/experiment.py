"""The only place that says what an experiment is: one tree of settings, from data to watching."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from omnihuman_jax.errors import InputError
from omnihuman_jax.puppet_records import Rehearsal
from omnihuman_jax.training.collapse import Floor
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import Stage
from omnihuman_jax.training.step import Update


@dataclass(frozen=True, kw_only=True)
class MeshSizes:
    """How devices are shared (omnihuman_jax/mesh.py); one may be -1: what the others leave."""

    data: int = 1
    fsdp: int = -1
    context: int = 1
    tensor: int = 1


@dataclass(frozen=True, kw_only=True)
class Saving:
    """When checkpoints are written.

    Attributes:
        every: updates between two; a pulled plug loses at most that many.
        keep: checkpoints kept, the newest.
    """

    every: int = 500
    keep: int = 3

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise InputError(
                f"save.every and save.keep are at least 1, got {self.every}, {self.keep}."
            )


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the parameters that is moved by an optimizer of its own."""

    name: str
    optimizer: Optimizer


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run: what is trained, through which stages, how, and how it is watched.

    Attributes:
        task: FlowMatching, Autoencoder, …, with settings of its own.
        stages: one after the other in one run.
        optimizer: of the network, or of the part that the run is for.
        parts: optimizers of parts beside it; those that are not named are moved as it is.
        floors: numbers that must not fall: the run then stops and goes back to before.
        rehearsal: puppets to draw and train on, instead of the task's data.
    """

    name: str
    task: Any
    stages: tuple[Stage, ...]
    optimizer: Optimizer = field(default_factory=Optimizer)
    parts: tuple[Part, ...] = ()
    update: Update = field(default_factory=Update)
    mesh: MeshSizes = field(default_factory=MeshSizes)
    save: Saving = field(default_factory=Saving)
    watch: Watch = field(default_factory=Watch)
    floors: tuple[Floor, ...] = ()
    rehearsal: Rehearsal | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise InputError(f"An experiment needs stages of different names, got {names}.")
        if self.seed < 0:
            raise InputError(f"A seed is 0 or more, got {self.seed}.")

    def optimizers(self, parts: Sequence[str]) -> dict[str, Optimizer]:
        """The optimizer of each part.

        Raises:
            InputError: `self.parts` names one that is not there.
        """
        own = {part.name: part.optimizer for part in self.parts}
        if odd := own.keys() - {*parts}:
            raise InputError(
                f"There is no part {sorted(odd)[0]!r} to be trained here, but {', '.join(parts)}."
            )
        return {part: own.get(part, self.optimizer) for part in parts}
