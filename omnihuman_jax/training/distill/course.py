"""The only place that runs a distillation whole: phase after phase, each from where the one before ended.

A phase is an experiment of its own in a folder of its own: WORKDIR/NAME has its checkpoints, metrics and, at
its end, the model directory with the student's average. There the next phase starts. A phase that has one
is over.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
from jax.experimental import multihost_utils

from omnihuman_jax import mesh as meshes
from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.health import Health, Whole
from omnihuman_jax.models.manifest import FILE
from omnihuman_jax.puppet_records import Rehearsal
from omnihuman_jax.training import loop, stages
from omnihuman_jax.training.distill.consistency import Consistency
from omnihuman_jax.training.distill.student import Distillation
from omnihuman_jax.training.experiment import Experiment
from omnihuman_jax.training.loop import MODEL, Outcome
from omnihuman_jax.training.stages import OmniStage


@dataclass(frozen=True, kw_only=True)
class Course:
    """A distillation from teacher to the last student.

    Attributes:
        phases: experiments whose task is a Distillation, in order, by different names.
        rehearsal: puppets to draw and train on, instead of the tasks' data.
    """

    name: str
    phases: tuple[Experiment, ...]
    rehearsal: Rehearsal | None = None

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        if not names or len(set(names)) < len(names):
            raise InputError(f"A distillation needs phases of different names, got {names}.")
        for phase in self.phases:
            if not isinstance(phase.task, Distillation):
                raise InputError(
                    f"The phase {phase.name!r} trains a {type(phase.task).__name__} and distils "
                    "nothing; `omnihuman train` runs such experiments."
                )

    @classmethod
    def of(cls, experiment: Any) -> "Course":
        """A course of one phase, if the experiment is none already.

        Raises:
            InputError: it distils nothing.
        """
        if isinstance(experiment, Course):
            return experiment
        alone = dataclasses.replace(experiment, rehearsal=None)
        return cls(name=experiment.name, phases=(alone,), rehearsal=experiment.rehearsal)

    def at(self, workdir: str) -> list[tuple[Experiment, str]]:
        """Each phase as it is run, and its folder: the student starts where the phase before ends."""
        found: list[tuple[Experiment, str]] = []
        before: str | None = None
        for phase in self.phases:
            task = phase.task
            if task.student is None:
                task = dataclasses.replace(task, student=before)
            if self.rehearsal is not None:
                task = dataclasses.replace(task, data=self.rehearsal.records(workdir))
            folder = storage.join(workdir, phase.name)
            found.append((dataclasses.replace(phase, task=task), folder))
            before = storage.join(folder, MODEL)
        return found


def run(
    course: Course,
    workdir: str,
    say: Callable[[str], None] = lambda line: None,
    dump_only: bool = False,
) -> Outcome:
    """All phases from where `workdir` (local or gs://) stands to the end, or to a signal.

    Args:
        dump_only: make the teacher's dumps that phases learn from, and nothing else.

    Returns:
        The steps of all phases together, and the last one's model.

    Raises:
        InputError, StoppedError: as `loop.train`.
    """
    if course.rehearsal is not None:
        if jax.process_index() == 0:
            course.rehearsal(workdir, course.phases[0].task.model)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("rehearsal")
    steps, over, outcome = 0, 0, Outcome(0, False, None)
    phases = course.at(workdir)
    total = sum(stages.total(phase.stages) for phase in course.phases)
    for number, (phase, folder) in enumerate(phases, 1):
        model = storage.join(folder, MODEL)
        if storage.is_file(storage.join(model, FILE)):
            say(f"{phase.name} ({number} of {len(phases)}) is done: {model}")
            outcome = Outcome(stages.total(phase.stages), True, model)
        else:
            say(f"{phase.name} ({number} of {len(phases)}): {_told(phase)}")
            whole = Whole(workdir, steps, total)
            phase = _taught(phase, folder, say, whole)
            if dump_only:
                continue
            outcome = loop.train(phase, folder, whole)
        steps += outcome.step
        over += outcome.finished
        if outcome.asked or not outcome.finished:
            break
    finished = over == len(phases)
    return Outcome(steps, finished, outcome.model if finished else None, outcome.asked)


def _taught(phase: Experiment, folder: str, say: Callable[[str], None], whole: Whole) -> Experiment:
    """With the teacher's dump that it learns from, if it does, made or completed."""
    task = phase.task
    if not isinstance(task, Consistency) or not task.taught:
        return phase
    dump = task.dump or storage.join(folder, "dump")
    task = dataclasses.replace(task, dump=dump)
    taught = cast(tuple[OmniStage, ...], phase.stages)
    mesh = meshes.make_mesh(**vars(phase.mesh))
    health = Health(whole.folder, whole.before, whole.total)

    def said(line: str) -> None:
        say(line)
        health.piece()

    try:
        with jax.set_mesh(mesh):
            task.dump_lessons(taught, mesh, phase.seed, dump, said)
    finally:
        health.close()
    return dataclasses.replace(phase, task=task)


def export(course: Course, workdir: str, path: str, phase: str | None = None) -> Outcome:
    """Write the model of the newest checkpoint of a phase (None: the last that has begun) to `path`.

    Raises:
        InputError: no such phase, or none that has begun.
    """
    phases = {each.name: (each, folder) for each, folder in course.at(workdir)}
    if phase is not None and phase not in phases:
        raise InputError(f"There is no phase {phase!r}, but {', '.join(phases)}.")
    begun = [name for name, (_, folder) in phases.items() if storage.files(folder)]
    if phase is None and not begun:
        raise InputError(f"No phase of {course.name} has begun in {workdir}.")
    experiment, folder = phases[phase or begun[-1]]
    return loop.export(experiment, folder, path)


def _told(phase: Experiment) -> str:
    """What a phase is, in a few words."""
    return f"{type(phase.task).__name__}, {stages.total(phase.stages)} updates"
