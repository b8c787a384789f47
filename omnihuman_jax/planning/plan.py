"""The only place that puts a plan together: for each slice fit, time, use and cost of a config."""

import concurrent.futures
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnihuman_jax import config
from omnihuman_jax.errors import InputError, StoppedError
from omnihuman_jax.geometry import Grid, nearest_size
from omnihuman_jax.planning import (
    answers,
    compiler,
    estimate,
    prices,
    program,
    reading,
    search,
)
from omnihuman_jax.planning.chips import GIB, Slice
from omnihuman_jax.planning.compiler import Answer, Job
from omnihuman_jax.planning.prices import Price
from omnihuman_jax.training.distill.student import Distillation
from omnihuman_jax.training.experiment import Experiment
from omnihuman_jax.training.stages import OmniStage

NEEDED = 5 * GIB  # of the host's memory, for one compile of a 14B step (3 GB were seen)

Ask = Callable[[Job], Answer]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is planned.

    Attributes:
        size: of a clip; None: what such a model is made for.
        phase: of a distillation; None: the last.
        stage: by name; None: the one that takes most of the run.
        searching: whether mesh, remat and accumulation are looked for, or those of the config taken.
        tries: compiles of a search, at most.
        credits: dollars there are.
    """

    config: str
    changes: tuple[str, ...] = ()
    size: Grid | None = None
    phase: str | None = None
    stage: str | None = None
    searching: bool = False
    tries: int = 6
    credits: float | None = None
    prices: Mapping[str, Price] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One slice's answer. Bytes and seconds; None where there is no answer because it does not fit."""

    slice: str
    chips: int
    hosts: int
    fits: bool
    mesh: Mapping[str, int]
    remat: str
    accumulate: int
    overrides: tuple[str, ...]
    peak: int
    room: int
    largest: tuple[int, str] | None
    why: str | None
    clips: int
    tokens: int
    step_s: float | None = None
    parts: Mapping[str, float] | None = None
    mfu: float | None = None
    per_1000: Mapping[str, float] | None = None
    steps: int = 0
    hours: float | None = None
    whole: Mapping[str, float] | None = None
    reach: Mapping[str, float] | None = None
    price: str | None = None
    asked: int = 0
    known: int = 0
    seconds: float = 0.0


class Planner:
    """Plans of one request, a slice at a time."""

    def __init__(self, request: Request, ask: Ask | None = None, say: Say = lambda line: None):
        self.request, self.say = request, say
        self.ask: Ask = ask or compiler.ask
        self.experiment = self._loaded(request.changes)
        self.turns = program.turns_of(self.experiment)
        self.network = program.sizes(self.experiment)
        self.stages = program.stages_of(self.experiment)
        self.grid = request.size or usual(self.experiment)
        self.stage = self._stage()

    def __call__(self, slice_: Slice) -> Plan:
        """The plan for a slice.

        Raises:
            InputError: the config cannot be laid out over it.
            StoppedError: the compiler failed.
        """
        asked: list[tuple[Answer, bool]] = []
        if not self.request.searching:
            answer = self._answer(slice_, (), asked)
            return self._told(slice_, (), answer, asked)
        find = functools.partial(self._answer, slice_, asked=asked)
        held = program.held(self.experiment)
        choices = search.choices(slice_, self.stage, self.stages)
        work = program.work(self.network, self.grid, self.stage)
        sizes = (slice_, self.stage, self.network, self.grid, work, held)
        tried = search.best(
            [search.reckon(choice, *sizes) for choice in choices],
            slice_.chip.hbm * slice_.chip.used,
            lambda choice: find(choice.changes),
            lambda answer: self._seconds(slice_, answer).step,
            self.request.tries,
        )
        return self._told(slice_, tried[0].choice.changes, tried[0].answer, asked)

    def _stage(self) -> OmniStage:
        stages = {stage.name: stage for stage in self.stages}
        if self.request.stage is None:
            return max(stages.values(), key=self._share)
        if self.request.stage not in stages:
            raise InputError(
                f"There is no stage {self.request.stage!r}; there are {', '.join(stages)}."
            )
        return stages[self.request.stage]

    def _share(self, stage: OmniStage) -> tuple[float, float]:
        """Work of all updates of a stage, and of one."""
        work = program.work(self.network, self.grid, stage).training * stage.batch
        return work * stage.steps, work

    def _answer(
        self, slice_: Slice, changes: tuple[str, ...], asked: list[tuple[Answer, bool]]
    ) -> Answer:
        grid = self.grid
        size = (grid.frames, grid.height, grid.width)
        every = (*self.request.changes, *self._named(changes))
        found = []
        for part in self.turns:
            job = Job(self.request.config, every, slice_.name, size, self.stage.name)
            whose = ""
            if isinstance(self.experiment.task, Distillation):
                job = dataclasses.replace(job, phase=self.experiment.name, part=part)
                whose = f" ({part})"
            self.say(f"{slice_.name}{whose}: asking the compiler {' '.join(changes)}".rstrip())
            answer, known = answers.answer(job, self.ask)
            asked.append((answer, known))
            verdict = "fits" if answer.fits else "does not fit"
            took = "known from before" if known else f"{answer.seconds:.0f} s"
            self.say(f"{slice_.name}{whose}: {verdict}, {answer.peak / GIB:.1f} GiB ({took})")
            found.append(answer)
            if not answer.fits:
                break
        return together(found, list(self.turns.values()))

    def _loaded(self, changes: tuple[str, ...]) -> Experiment:
        return program.phase_of(config.load(self.request.config, changes), self.request.phase)

    def _named(self, changes: tuple[str, ...]) -> tuple[str, ...]:
        """Changes of the experiment as the config has them: those of a phase with its name before them."""
        if isinstance(config.load(self.request.config, self.request.changes), Experiment):
            return changes
        return tuple(f"phases.{self.experiment.name}.{change}" for change in changes)

    def _seconds(self, slice_: Slice, answer: Answer) -> estimate.Seconds:
        assert answer.reading is not None
        read = estimate.batch_bytes(self.network, self.grid, self.stage.batch)
        return estimate.of_program(answer.reading, slice_, read)

    def _told(
        self,
        slice_: Slice,
        changes: tuple[str, ...],
        answer: Answer,
        asked: Sequence[tuple[Answer, bool]],
    ) -> Plan:
        changes = self._named(changes)
        run = self._loaded((*self.request.changes, *changes))
        mesh = _filled(run, slice_)
        room = answer.room or int(slice_.chip.hbm * slice_.chip.used)
        own = self._named(tuple(f"mesh.{axis}={size}" for axis, size in mesh.items()))
        plan = Plan(
            slice=slice_.name,
            chips=slice_.chips,
            hosts=slice_.hosts,
            fits=answer.fits,
            mesh=mesh,
            remat=run.task.remat,
            accumulate=run.update.accumulate,
            overrides=changes or own,
            peak=answer.peak,
            room=room,
            largest=answer.largest,
            why=answer.words,
            clips=self.stage.batch,
            tokens=self.stage.batch * self.grid.tokens,
            asked=sum(not known for _, known in asked),
            known=sum(known for _, known in asked),
            seconds=round(sum(one.seconds for one, known in asked if not known), 1),
        )
        return self._priced(plan, slice_, answer) if answer.fits else plan

    def _priced(self, plan: Plan, slice_: Slice, answer: Answer) -> Plan:
        """With time, use and cost."""
        seconds = self._seconds(slice_, answer)
        distilled = isinstance(self.experiment.task, Distillation)
        work = program.work(self.network, self.grid, self.stage).training * self.stage.batch
        price = self.request.prices.get(slice_.chip.name, Price({}, "none known", ""))
        steps, whole = self._whole(seconds.step)
        credits = self.request.credits
        reach = None if credits is None else prices.reach(price, slice_, credits, seconds.step)
        return dataclasses.replace(
            plan,
            step_s=seconds.step,
            parts=seconds.parts(),
            # What a distillation's losses do beside the student's own work is not counted.
            mfu=None if distilled else work / slice_.devices / slice_.chip.peak / seconds.step,
            per_1000=prices.cost(price, slice_, 1000 * seconds.step),
            steps=steps,
            hours=whole / prices.HOUR,
            whole=prices.cost(price, slice_, whole),
            reach=reach,
            price=f"{price.source} ({price.date})",
        )

    def _whole(self, step_s: float) -> tuple[int, float]:
        """Updates and seconds of all stages; a stage's step takes as much longer as it has more to do."""
        _, one = self._share(self.stage)
        shares = [self._share(stage)[0] / one for stage in self.stages]
        return sum(stage.steps for stage in self.stages), step_s * sum(shares)


def together(found: Sequence[Answer], shares: Sequence[float]) -> Answer:
    """The answer for an average update of parts that take turns: the first that does not fit, or all as one.

    Args:
        shares: of all updates, of each part.
    """
    if len(shares) == 1 or not found[-1].fits:
        return found[-1]
    most = max(found, key=lambda answer: answer.peak)
    readings = [answer.reading for answer in found if answer.reading is not None]
    return dataclasses.replace(
        most,
        seconds=sum(answer.seconds for answer in found),
        reading=reading.mixed(list(zip(readings, shares, strict=True))),
    )


def several[T](
    planner: Callable[[Slice], T], slices: Sequence[Slice], say: Say, jobs: int | None = None
) -> list[T]:
    """Plans of all slices, as many compiles side by side as cores and free memory allow.

    Raises:
        InputError: none of them could be planned; what was wrong with the first.
    """
    plans: list[T] = []
    wrong: list[InputError] = []
    with concurrent.futures.ThreadPoolExecutor(jobs or _jobs()) as pool:
        for slice_, future in [(s, pool.submit(planner, s)) for s in slices]:
            try:
                plans.append(future.result())
            except InputError as why:
                say(f"{slice_.name}: {why}")
                wrong.append(why)
            except StoppedError as why:
                pool.shutdown(wait=False, cancel_futures=True)
                raise StoppedError(f"{slice_.name}: {why}") from why
    if not plans and wrong:
        raise wrong[0]
    return plans


def usual(experiment: Experiment) -> Grid:
    """The clip that such a model is made for: its sampling's, or 720p (14B) or 480p by Wan's 81 frames."""
    sampling: Mapping[str, Any] = experiment.task.sampling
    if "area" in sampling and "frames" in sampling:
        side = math.isqrt(sampling["area"])
        return Grid(sampling["frames"], *nearest_size(side, side, sampling["area"]))
    if program.sizes(experiment).width >= 5120:
        return Grid(81, 720, 1280)
    return Grid(81, 480, 832)


def _filled(run: Experiment, slice_: Slice) -> dict[str, int]:
    """The mesh with -1 filled in."""
    sizes: dict[str, int] = dict(vars(run.mesh))
    known = math.prod(size for size in sizes.values() if size > 0)
    return {axis: size if size > 0 else slice_.devices // known for axis, size in sizes.items()}


def _jobs() -> int:
    """Compiles side by side: one a core, and a gigabyte or five for each."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        return 1
    return max(1, min(os.cpu_count() or 1, free // NEEDED))
