"""The only place that runs training: the one loop, for every task and stage.

    restore or create -> for each update: batch, step, report -> save now and then -> export

Whoever pulls the plug loses at most the updates since the last checkpoint, and the run ends in the same
bits. SIGTERM (pre-emption) and Ctrl-C finish the update at hand, save, and leave.
"""

import contextlib
import dataclasses
import logging
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from omnihuman_jax import mesh as meshes
from omnihuman_jax import processes, storage
from omnihuman_jax.errors import InputError, StoppedError
from omnihuman_jax.health import Health, Whole
from omnihuman_jax.settings import described
from omnihuman_jax.training import parts, stages, state
from omnihuman_jax.training.checkpoints import Checkpoints, Restored
from omnihuman_jax.training.collapse import Collapse
from omnihuman_jax.training.experiment import Experiment
from omnihuman_jax.training.movers import Mover
from omnihuman_jax.training.report import Report, Watch
from omnihuman_jax.training.state import State
from omnihuman_jax.training.step import Step, make_step
from omnihuman_jax.training.task import Params, Stream, Tallies, Trainee, Turn, cycle

log = logging.getLogger(__name__)

REHEARSAL = 3600  # seconds that processes wait for the puppets of a rehearsal
TRIALS = "trials"  # that of intermediate models' videos and their evaluations
MODEL = "model"  # the folder of the workdir that holds the model directory at the end


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        step: updates tried so far, in all calls.
        finished: whether that is all of them.
        model: the model directory that was written, or None.
        asked: whether a signal asked to stop, be it at the very end.
    """

    step: int
    finished: bool
    model: str | None
    asked: bool = False


def train(experiment: Experiment, workdir: str, whole: Whole | None = None) -> Outcome:
    """Run the experiment from where `workdir` (local or gs://) stands to its end, or to a signal.

    Args:
        whole: of what it is a part, for health.json; None: it is all.

    Raises:
        InputError: settings, data or checkpoints that do not fit.
        StoppedError: too many updates in a row had no use; the last checkpoint is good.
    """
    mesh = meshes.make_mesh(**vars(experiment.mesh))
    experiment = _rehearsed(experiment, workdir)
    with jax.set_mesh(mesh), _Signals() as signals:
        run = _Run(experiment, workdir, mesh, whole)
        try:
            return run(signals)
        except Exception as why:
            processes.leave_if_lost(why)  # to close would be to wait for it
            raise
        finally:
            run.close()


def export(experiment: Experiment, workdir: str, path: str) -> Outcome:
    """Write the model directory of the newest checkpoint to `path`; the run itself is left as it is.

    Raises:
        InputError: there is no checkpoint, or it is not of this experiment.
    """
    mesh = meshes.make_mesh(**vars(experiment.mesh))
    with jax.set_mesh(mesh):
        run = _Run(_with_records(experiment, workdir), workdir, mesh)
        try:
            return run.export(path)
        finally:
            run.close()


def _with_records(experiment: Experiment, workdir: str) -> Experiment:
    """With the records of its rehearsal, if it has one, as data."""
    if experiment.rehearsal is None:
        return experiment
    task = dataclasses.replace(experiment.task, data=experiment.rehearsal.records(workdir))
    return dataclasses.replace(experiment, task=task)


def _rehearsed(experiment: Experiment, workdir: str) -> Experiment:
    """With the records of its rehearsal as data; one process makes them for all."""
    rehearsal, task = experiment.rehearsal, experiment.task
    if rehearsal is None:
        return experiment
    if jax.process_index() == 0:
        rehearsal(workdir, task.model)
    if jax.process_count() > 1:
        processes.barrier("rehearsal", REHEARSAL)
    return _with_records(experiment, workdir)


class _Run:
    """One call of `train`."""

    def __init__(
        self, experiment: Experiment, workdir: str, mesh: Mesh, whole: Whole | None = None
    ) -> None:
        self.experiment, self.workdir, self.mesh = experiment, workdir, mesh
        self.total = stages.total(experiment.stages)
        self.whole = whole or Whole(workdir, 0, self.total)
        self.trainee: Trainee = experiment.task.prepare(experiment.stages, mesh, experiment.seed)
        _check_samples(experiment.watch, self.trainee, workdir)
        self.movers = {
            part: Mover.of(part, optimizer, self.trainee, experiment.stages)
            for part, optimizer in experiment.optimizers(self.trainee.parts).items()
        }
        self.trained = {
            path: shape
            for part, mover in self.movers.items()
            for path, shape in parts.under(part, mover.shapes).items()
        }
        self.fixed = [path for path in self.trainee.shapes if path not in self.trained]
        self.collapse = Collapse(experiment.floors)
        self.config = described(experiment)
        self.checkpoints = Checkpoints(
            storage.join(workdir, "checkpoints"), keep=experiment.save.keep
        )
        self.stream: Stream | None = None
        self.report: Report | None = None
        self.health: Health | None = None

    def __call__(self, signals: "_Signals") -> Outcome:
        began = time.perf_counter()
        restored = self.checkpoints.restore(self._abstract())
        self.report = Report(
            self.workdir,
            self.experiment.watch,
            name=self.experiment.name,
            config=self.config,
            resumed_at=restored.step if restored else None,
            total=self.total,
            began=began,
        )
        now, frozen = self._begin(restored)
        step = int(now.step)
        whole = self.whole
        self.health = Health(whole.folder, whole.before + step, whole.total)
        key = jax.random.key(self.experiment.seed)
        stopped = False
        while step < self.total and not stopped:
            number, first = stages.at(self.experiment.stages, step)
            stage = self.experiment.stages[number]
            place = self._place(restored, stage.name)
            restored = None
            stream = self._open(stage, place)
            turns = self._compiled(stage.name)
            before: Tallies | None = None
            while step < first + stage.steps and not stopped:
                with self.report.spent("data"):
                    host = next(stream)
                batch = self._put(host)
                turn = step - first
                advance = turns[turn % len(turns)]
                new = before is None or advance not in [turns[n % len(turns)] for n in range(turn)]
                with self.report.spent("compile") if new else contextlib.nullcontext():
                    now, tallies = advance(now, frozen, batch, key)
                step += 1
                self.report.step(step, tallies, self.trainee.cost(batch), extra=self._extra(step))
                self._check(step - 1, before)
                before = tallies
                self._watch(step, now, frozen)
                with self.health.step(whole.before + step):
                    stopped = signals.asked(step)
                if step % self.experiment.save.every == 0 or stopped or step == self.total:
                    self._check(step, before)
                    self._save(step, now, stage.name, stream)
            self._close_stream()
        outcome = self._end(step, now, frozen, stopped)
        return dataclasses.replace(outcome, asked=stopped or signals.asked(step))

    def _begin(self, restored: Restored | None) -> tuple[State, Params]:
        """State and frozen parameters: from the checkpoint, or new."""
        ema = self.experiment.update.ema is not None
        if restored is None or self.fixed:
            params = self.trainee.init()
            frozen = {path: params.pop(path) for path in self.fixed}
            if restored is None:
                init = {part: mover.transform.init for part, mover in self.movers.items()}
                return state.create(params, init, self._opt_shapes(), ema), frozen
        else:
            frozen = {}
        if self.report is not None:
            self.report.message(f"Going on from step {restored.step} of {self.total}.")
        return restored.state, frozen

    def _abstract(self) -> State:
        ema = self.experiment.update.ema is not None
        return state.abstract(self.trained, self._opt_shapes(), ema)

    def _opt_shapes(self) -> dict[str, Any]:
        return {part: mover.opt_shapes for part, mover in self.movers.items()}

    def _place(self, restored: Restored | None, stage: str) -> Mapping[str, Any] | None:
        """The saved place in the data, if the stage is still the one it was saved in."""
        if restored is None or restored.data.get("stage") != stage:
            return None
        return restored.data["stream"]

    def _open(self, stage: stages.Stage, place: Mapping[str, Any] | None) -> Stream:
        self.stream = self.trainee.stream(stage)
        if place is not None:
            self.stream.set_state(place)
        return self.stream

    def _close_stream(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.stream = None

    def _compiled(self, stage: str) -> list[Step]:
        """The steps of a stage, one an update before it begins again with the first."""
        where = jax.tree.map(lambda leaf: leaf.sharding, self._abstract())
        made: dict[Turn, Step] = {}
        turns = cycle(self.trainee.losses[stage])
        for turn in turns:
            if turn not in made:
                step = make_step(
                    turn.loss,
                    self.movers[turn.part].transform,
                    self.experiment.update,
                    part=turn.part,
                    average=turn.average,
                    count=turn.count,
                    label="" if turn.part == self.trainee.parts[0] else f"{turn.part}/",
                )
                made[turn] = jax.jit(step, donate_argnums=0, out_shardings=(where, None))
        return [made[turn] for turn in turns]

    def _put(self, host: Any) -> Any:
        """This host's rows of a batch, on its devices, as part of the whole batch."""
        return meshes.rows(host, self.mesh)

    def _extra(self, step: int) -> dict[str, float]:
        first = self.movers[self.trainee.parts[0]]
        return {
            "learning rate": first.learning_rate(step),
            "stage": float(stages.at(self.experiment.stages, step - 1)[0] + 1),
        }

    def _check(self, step: int, tallies: Tallies | None) -> None:
        """Stop when too many updates in a row had no use, or a floor is broken.

        `tallies` are those of update `step`, counted from 1, which is over.
        """
        if tallies is None:
            return
        rows = [each for name, each in tallies.items() if name.endswith("skipped in a row")]
        row = max(int(np.asarray(each)[0]) for each in rows)
        if row >= self.experiment.update.patience:
            self.checkpoints.wait()
            last = self.checkpoints.steps()
            raise StoppedError(
                f"{row} updates in a row had a loss or gradient that is not finite or far too large. "
                f"The last checkpoint is of step {last[-1] if last else 'none'}; look at the data and "
                "metrics.jsonl, lower optimizer.learning_rate, and run the same command to go on."
            )
        if (broken := self.collapse.see(step, tallies)) is not None:
            floor, mean, good = broken
            last = self.checkpoints.back_to(good)
            raise StoppedError(
                f"{floor.name} is {mean:.4g}, the mean of {floor.over} updates up to step {step}, and "
                f"must not be below {floor.least:g}: the run has collapsed. It is set back to the "
                f"checkpoint of step {last[-1] if last else 'none'}, whose model --export writes; to "
                "train on from there, change settings (a lower learning rate, a larger batch)."
            )

    def _watch(self, step: int, now: State, frozen: Params) -> None:
        self._sample(step, now, frozen)
        every = self.experiment.watch.trial_every
        if not every or step % every or self.trainee.trial is None or self.report is None:
            return
        folder = f"{TRIALS}/step-{step:08}"
        with self.report.spent("sample"):
            params = {**frozen, **now.best}
            found = self.trainee.trial(params, storage.join(self.workdir, folder))
        self.report.trial(step, folder, found)

    def _sample(self, step: int, now: State, frozen: Params) -> None:
        every = self.experiment.watch.sample_every
        if not every or step % every or self.trainee.sample is None or self.report is None:
            return
        with self.report.spent("sample"):
            sample = self.trainee.sample({**frozen, **now.best}, step)
        self.report.sample(step, sample)

    def _save(self, step: int, now: State, stage: str, stream: Stream) -> None:
        assert self.report is not None
        with self.report.spent("save"):
            place = {"stage": stage, "stream": stream.get_state()}
            self.checkpoints.save(step, now, place, self.config)

    def _end(self, step: int, now: State, frozen: Params, stopped: bool) -> Outcome:
        assert self.report is not None
        with self.report.spent("save"):
            self.checkpoints.wait()
        if stopped and step < self.total:
            self.report.message(f"Stopped by a signal at step {step} of {self.total}, saved.")
            return Outcome(step, False, None)
        path = storage.join(self.workdir, MODEL)
        self._write(path, step, now, frozen)
        return Outcome(step, True, path)

    def export(self, path: str) -> Outcome:
        """The newest checkpoint as a model directory."""
        restored = self.checkpoints.restore(self._abstract())
        if restored is None:
            raise InputError(f"There is no finished checkpoint in {self.workdir} yet.")
        now, frozen = self._begin(restored)
        step = int(now.step)
        self._write(path, step, now, frozen)
        return Outcome(step, step >= self.total, path)

    def _write(self, path: str, step: int, now: State, frozen: Params) -> None:
        provenance = {
            "trained": {
                "experiment": self.experiment.name,
                "steps": step,
                "average": now.ema is not None,
                "skipped": sum(int(guard.skipped) for guard in now.guard.values()),
            }
        }
        self.trainee.export(path, {**frozen, **now.best}, provenance)

    def close(self) -> None:
        self._close_stream()
        if self.report is not None:
            self.report.close()
        if self.health is not None:
            self.health.close()
        self.checkpoints.close()


def _check_samples(watch: Watch, trainee: Trainee, workdir: str) -> None:
    """Refuse sample videos and trials that nobody could make."""
    if watch.trial_every and trainee.trial is None:
        raise InputError(
            f"watch.trial_every={watch.trial_every}, and the task has nothing to be tried on; give it a "
            "test set (task.trial), or watch.trial_every=0."
        )
    if watch.trial_every and (jax.process_count() > 1 or storage.is_remote(workdir)):
        raise InputError(
            "Trials are made by runs of one process with a local workdir; give watch.trial_every=0."
        )
    if not watch.sample_every:
        return
    if trainee.sample is None:
        raise InputError(
            f"watch.sample_every={watch.sample_every}, and the task has nothing to show; give it a "
            "scene (task.scene), or watch.sample_every=0."
        )
    if jax.process_count() > 1:
        raise InputError(
            "Sample videos are made by runs of one process only; give watch.sample_every=0."
        )


class _Signals:
    """Whether somebody wants us to stop: SIGTERM, SIGINT, or, on a pod, pre-emption of any host."""

    def __init__(self) -> None:
        self._seen = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self._seen.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once
        self._seen.set()

    def asked(self, step: int) -> bool:
        """The same answer on every host."""
        if jax.process_count() == 1:
            return self._seen.is_set()
        own = np.array(self._seen.is_set())
        del step
        return bool(np.any(multihost_utils.process_allgather(own)))
